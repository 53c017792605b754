//! A real Linux guest: Debian's cloud kernel and an initramfs made here.
//!
//! The initramfs holds busybox, `lspci`, `bar` (`linux/bar.c`: reads and
//! writes registers), `drive` (`linux/drive.c`: drives the stub) and the script
//! of the test. PCI and the serial port are built in, so the only modules are
//! those that `drive` needs, in `/modules`. There is no `pci.ids`: numbers do
//! not change when Debian updates its list, so the output of `lspci -nn` can be
//! compared with a file.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::{NamedTempFile, TempPath};
use vgpu_stub::debian::{Recipe, Tree};

use super::cache::io_failed;
use super::cpio::Archive;
use super::guest::compile;
use super::{Accelerator, Qemu, RigError, process};

const BUSYBOX: &str = "usr/bin/busybox";
const LSPCI: &str = "usr/bin/lspci";
const KERNEL: &str = "vmlinuz-";

const RECIPE: Recipe = Recipe {
    name: "linux",
    backports: false,
    packages: &["busybox-static", "pciutils"],
    alone: Some(("linux-image-cloud-amd64", "linux-image-")),
    programs: &[(LSPCI, "--version")],
};

/// Debian's default loader looks here without being told.
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "lib/x86_64-linux-gnu";

/// `lspci -v` complains without these (libkmod, `kmod_load_resources`).
const MODULE_INDEXES: [&str; 5] = ["dep", "alias", "symbols", "builtin.alias", "builtin"];

/// An index with nothing in it: magic, version 2.1, no root node.
const EMPTY_INDEX: [u8; 12] = [0xb0, 0x07, 0xf4, 0x57, 0, 2, 0, 1, 0, 0, 0, 0];

const BEGIN: &str = "=== vgpu-stub: begin";
const END: &str = "=== vgpu-stub: end ";

/// Under TCG it boots in seconds; a loaded machine may need more.
const RUN_LIMIT: Duration = Duration::from_secs(120);

/// What gives a function's interrupts to a program, in this order.
const MODULES: [&str; 2] = ["uio", "uio_pci_generic"];

/// Says nothing on the serial port unless it fails, then ends QEMU.
pub(crate) const COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=1 panic=-1 nokaslr mitigations=off \
    8250.nr_uarts=1 no_timer_check rcupdate.rcu_expedited=1 i8042.noaux i8042.nokbd";

/// A Linux that can be booted any number of times.
#[derive(Debug)]
pub(crate) struct Linux {
    tree: Tree,
    kernel: PathBuf,
    bar: PathBuf,
    drive: PathBuf,
}

impl Linux {
    /// Finds or fetches all that is needed.
    pub(crate) fn ready() -> Result<&'static Self, RigError> {
        static READY: OnceLock<Result<Linux, RigError>> = OnceLock::new();
        READY
            .get_or_init(Self::prepare)
            .as_ref()
            .map_err(Clone::clone)
    }

    fn prepare() -> Result<Self, RigError> {
        let tree = Tree::obtain(&RECIPE, process::NEVER)?;
        let kernel = kernel_in(&tree.path("boot"))?;
        Ok(Self {
            tree,
            kernel,
            bar: program("bar")?,
            drive: program("drive")?,
        })
    }

    /// The kernel's image.
    pub(crate) fn kernel(&self) -> &Path {
        &self.kernel
    }

    /// Debian's `lspci`, to be run on this machine.
    pub(crate) fn lspci(&self) -> Command {
        self.tree.command(LSPCI)
    }

    /// Boots a machine that `configure` has given devices and runs a shell
    /// script in it. Returns what the script wrote. A script that ends with
    /// another status than 0 is a failure.
    pub(crate) fn run(
        &self,
        script: &str,
        configure: impl FnOnce(Qemu) -> Qemu,
    ) -> Result<Vec<String>, RigError> {
        self.run_with(&[], script, configure)
    }

    /// The same, with further static programs that the script can call by
    /// their names.
    pub(crate) fn run_with(
        &self,
        programs: &[(&str, &Path)],
        script: &str,
        configure: impl FnOnce(Qemu) -> Qemu,
    ) -> Result<Vec<String>, RigError> {
        let qemu = configure(self.boot(programs, script)?);
        let outcome = qemu.start()?.wait(RUN_LIMIT)?;
        transcript(&outcome.console).ok_or_else(|| {
            let mut heard = outcome.console;
            heard.extend(outcome.errors);
            RigError::failed(
                "the Linux guest did not finish its script",
                heard.join("\n"),
            )
        })
    }

    /// A machine under TCG that runs the script and turns itself off.
    fn boot(&self, programs: &[(&str, &Path)], script: &str) -> Result<Qemu, RigError> {
        let failed = |error| RigError::failed("cannot write the initramfs", error);
        let mut initramfs = NamedTempFile::new().map_err(failed)?;
        initramfs
            .write_all(&self.initramfs(programs, script)?)
            .map_err(failed)?;
        let initramfs = initramfs.into_temp_path();
        Ok(Qemu::new(Accelerator::Tcg)?
            .megabytes(256)
            .no_reboot()
            .kernel(&self.kernel)
            .arg("-initrd")
            .arg(&*initramfs)
            .append(COMMAND_LINE)
            .keep(initramfs))
    }

    /// An initramfs that runs the script and turns the machine off, with
    /// further static programs.
    pub(crate) fn initramfs(
        &self,
        programs: &[(&str, &Path)],
        script: &str,
    ) -> Result<Vec<u8>, RigError> {
        let mut archive = Archive::default();
        archive.character_device("dev/console", 5, 1);
        archive.program("init", include_bytes!("linux/init"));
        archive.program("script", script.as_bytes());
        let tree = &self.tree;
        let loader = tree.path("usr").join(LOADER);
        let mut add = |name: &str, path: &Path| {
            let contents = fs::read(path).map_err(io_failed("cannot read", path))?;
            archive.program(name, &contents);
            Ok(())
        };
        add("bin/bar", &self.bar)?;
        add("bin/drive", &self.drive)?;
        add("bin/busybox", &tree.path(BUSYBOX))?;
        add("bin/lspci", &tree.path(LSPCI))?;
        for (name, path) in programs {
            let stripped = strip(path)?;
            add(&format!("bin/{name}"), &stripped)?;
        }
        add(LOADER, &loader)?;
        for library in tree.libraries(LSPCI)? {
            let name = library.file_name().unwrap_or_default().to_string_lossy();
            add(&format!("{LIBRARIES}/{name}"), &library)?;
        }
        let kernel = self.kernel.file_name().unwrap_or_default();
        let kernel = kernel.to_string_lossy();
        let release = kernel.trim_start_matches(KERNEL);
        let modules = format!("usr/lib/modules/{release}/kernel/drivers/uio");
        for module in MODULES {
            let name = format!("{module}.ko.xz");
            add(&format!("modules/{name}"), &tree.path(&modules).join(&name))?;
        }
        for index in MODULE_INDEXES {
            let path = format!("lib/modules/{release}/modules.{index}.bin");
            archive.program(&path, &EMPTY_INDEX);
        }
        Ok(archive.finish())
    }
}

/// Compiles a program of the directory beside this file.
fn program(name: &str) -> Result<PathBuf, RigError> {
    let source = format!("tests/rig/linux/{name}.c");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
    let arguments = ["-static", "-O2", "-Wall", "-Wextra", "-Werror"];
    let mut arguments = arguments.map(str::to_owned).to_vec();
    arguments.push(source.display().to_string());
    compile(name, &arguments, &[source])
}

/// A copy without debugging information, which is most of what a test's build
/// is: the guest would unpack it into its memory.
pub(super) fn strip(program: &Path) -> Result<TempPath, RigError> {
    let failed = |error| RigError::failed("cannot strip a program", error);
    let stripped = NamedTempFile::new().map_err(failed)?.into_temp_path();
    let mut command = Command::new("strip");
    command.arg("-o").arg(&stripped).arg(program);
    process::run(
        &mut command,
        Duration::from_secs(60),
        "install binutils (apt-get install binutils)",
    )?;
    Ok(stripped)
}

fn kernel_in(boot: &Path) -> Result<PathBuf, RigError> {
    fs::read_dir(boot)
        .map_err(io_failed("cannot read", boot))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(KERNEL))
        })
        .ok_or_else(|| RigError::failed(boot.display(), "holds no kernel"))
}

/// What a script wrote between the markers, if it came to a good end.
pub(crate) fn transcript(console: &[String]) -> Option<Vec<String>> {
    // The firmware may leave control characters before the first marker.
    let begin = console.iter().position(|line| line.ends_with(BEGIN))?;
    let lines = &console[begin + 1..];
    let end = lines.iter().position(|line| line.starts_with(END))?;
    (lines[end].trim_start_matches(END) == "0").then(|| lines[..end].to_vec())
}
