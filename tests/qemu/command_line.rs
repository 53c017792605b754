//! The command line that `qemu-args` prints, run as a person would run it.

use std::fmt::Display;
use std::process::Command;

use crate::rig::process;
use crate::rig::require;
use crate::rig::{Accelerator, Guest, Qemu, RigError, Server};
use crate::stage::LIMIT;

/// How QEMU ends when all tests of the guest have passed.
const PASSED: u8 = 33;

fn failed(error: impl Display) -> RigError {
    RigError::failed("cannot run the command line", error)
}

#[test]
fn the_line_that_qemu_args_prints_boots_a_guest_with_the_device() {
    let run = || -> Result<String, RigError> {
        let server = Server::start(&["stub"])?;
        let printed = Command::new(env!("CARGO_BIN_EXE_vgpu-stub"))
            .args(["qemu-args", "--memory=128", "--socket-path"])
            .arg(server.socket(0))
            .output()
            .map_err(failed)?;
        let line = String::from_utf8(printed.stdout).map_err(failed)?;

        let directory = tempfile::tempdir().map_err(failed)?;
        Qemu::new(Accelerator::Tcg)?.launcher(&directory.path().join("qemu-system-x86_64"))?;
        let image = Guest::build("tests/guest")?.image().to_owned();
        let script = format!(
            "{} -nodefaults -display none -serial stdio -no-reboot \
             -device isa-debug-exit,iobase=0xf4,iosize=4 \
             -kernel '{}' -append 'identity registers dma-copy irq-msix'; [ $? = {PASSED} ]",
            line.trim_end(),
            image.display(),
        );
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &script]).env("PATH", directory.path());
        let said = process::run(&mut shell, LIMIT, "install a shell")?;
        server.stop()?;
        Ok(said)
    };
    let said = require!(run());
    assert!(said.contains("done passed=4 failed=0"), "{said}");
}
