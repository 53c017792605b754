//! The machine that Xen runs on. Its settings are those under which it is
//! reliable; see the comments before changing one.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use vgpu_stub::debian::qemu::Qemu;

use super::super::RigError;
use super::super::running::{Kept, Permit, Running};
use super::contents::{HYPERVISOR, INITRAMFS};
use super::identity;

/// What cannot differ between the machine that is saved and those that go on.
/// Two processors are much slower than one. Linux's FPU state breaks with
/// XSAVE, and the interpreted SVM reports no instruction length for RDTSCP.
const HARDWARE: &str = "-no-user-config -nodefaults -display none -msg timestamp=off \
    -machine q35 -accel tcg -m 1400M -smp 1 -no-reboot \
    -cpu max,-xsave,-avx,-avx2,-f16c,-fma,-pku,-mpx,-rdtscp,-la57 \
    -chardev socket,id=monitor,fd=0 -qmp chardev:monitor \
    -chardev socket,id=console,fd=1 -serial chardev:console \
    -device virtio-serial-pci -device virtserialport,chardev=port,name=rig";

/// Without eager-fpu a running HVM guest changes dom0's FPU registers.
const XEN: &str = "console=com1 com1=115200,8n1 loglvl=all guest_loglvl=all noreboot \
    dom0_mem=640M,max:640M spec-ctrl=eager-fpu sched=credit sched_ratelimit_us=0";

/// With a processor for guests alone, once dom0's two virtual ones are pinned to
/// the first: on one of its own a server would never look before it sleeps.
const APART: &str = " dom0_max_vcpus=2";

/// No commas: they separate QEMU's multiboot modules.
const LINUX: &str = "console=hvc0 quiet loglevel=4 panic=-1 rdinit=/init";

/// How it is started.
#[derive(Debug)]
pub(super) struct Machine {
    qemu: Qemu,
    kernel: PathBuf,
    processors: u32,
}

/// What is inside the directory of one that runs.
pub(super) const PORT: &str = "port";
pub(super) const SHARE: &str = "share";

impl Machine {
    /// With so many processors; the first is dom0's if there are more.
    pub(super) fn new(qemu: Qemu, kernel: PathBuf, processors: u32) -> Self {
        Self {
            qemu,
            kernel,
            processors,
        }
    }

    fn hardware(&self) -> String {
        HARDWARE.replace("-smp 1", &format!("-smp {}", self.processors))
    }

    fn xen(&self) -> String {
        let apart = if self.processors > 1 { APART } else { "" };
        format!("{XEN}{apart}")
    }

    /// A text that is another one when it is another machine.
    pub(super) fn made_of(&self) -> Result<String, RigError> {
        let command = self.qemu.command();
        let program = command
            .get_args()
            .last()
            .unwrap_or(command.get_program())
            .to_owned();
        let program = identity(Path::new(&program))?;
        Ok([&program, &*self.hardware(), &self.xen(), LINUX].join("\n"))
    }

    /// Starts it with the files that are kept and, in `directory`, a share and
    /// a port for dom0. If it is `incoming` it waits for a saved state.
    pub(super) fn start(
        &self,
        kept: &Path,
        directory: &Path,
        incoming: bool,
    ) -> Result<Running, RigError> {
        let permit = Permit::take();
        let failed = |error| RigError::failed("cannot start QEMU", error);
        let (monitor, their_monitor) = UnixStream::pair().map_err(failed)?;
        let (console, their_console) = UnixStream::pair().map_err(failed)?;
        let mut command = self.qemu.command();
        command
            .args(self.hardware().split(' ').filter(|word| !word.is_empty()))
            .args(self.qemu.data_arguments())
            .args(["-run-with", "exit-with-parent=on"])
            .args(["-chardev", &port(directory), "-virtfs", &share(directory)])
            .arg("-kernel")
            .arg(kept.join(HYPERVISOR))
            .args(["-append", &self.xen(), "-initrd"])
            .arg(self.modules(kept));
        if incoming {
            command.args(["-incoming", "defer"]);
        }
        let child = command
            .stdin(Stdio::from(OwnedFd::from(their_monitor)))
            .stdout(Stdio::from(OwnedFd::from(their_console)))
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        Running::new(child, console, monitor, Kept::only(permit))
    }

    /// Dom0's kernel with its command line, and its memory disk.
    fn modules(&self, kept: &Path) -> OsString {
        let mut modules = self.kernel.clone().into_os_string();
        modules.push(format!(" {LINUX},"));
        modules.push(kept.join(INITRAMFS));
        modules
    }
}

fn port(directory: &Path) -> String {
    let path = directory.join(PORT);
    format!("socket,id=port,server=on,wait=off,path={}", path.display())
}

fn share(directory: &Path) -> String {
    let path = directory.join(SHARE);
    format!(
        "local,mount_tag=share,security_model=none,multidevs=remap,path={}",
        path.display()
    )
}
