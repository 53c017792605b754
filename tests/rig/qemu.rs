//! QEMU from Debian's backports: the command line and its start.
//!
//! Standard input is the monitor's socket and standard output the guest's
//! console, so no path and no inherited descriptor has to be agreed upon.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::iter;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::{TempDir, TempPath};
use vgpu_stub::debian::qemu as debian;

use super::running::{Kept, Permit, Running};
use super::shim_qemu::ShimQemu;
use super::{RigError, guest, process};

/// The first QEMU that can end together with the process that started it.
const EXIT_WITH_PARENT: debian::Version = (10, 2, 0);

/// The port of isa-debug-exit.
pub(crate) const EXIT_PORT: u8 = 0xf4;

/// The port of the debug console.
pub(crate) const DEBUG_PORT: u8 = 0xe9;

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// QEMU's translator, which works everywhere.
    Tcg,
    /// The host's processor; see [`kvm_works`].
    Kvm,
}

/// The machine type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Machine {
    /// PCI, i440FX: the first free slot is 00:02.0.
    Pc,
    /// PCI Express: the first free slot is 00:01.0.
    Q35,
}

/// Whether another process can map the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    /// A memfd, passed to vfio-user servers with each DMA map.
    Shared,
    /// Without a descriptor: servers must ask for each transfer.
    Private,
}

fn installed() -> Result<&'static debian::Qemu, RigError> {
    static INSTALLED: OnceLock<Result<debian::Qemu, RigError>> = OnceLock::new();
    let result = INSTALLED.get_or_init(|| debian::Qemu::obtain(process::NEVER));
    result.as_ref().map_err(Clone::clone)
}

/// Which QEMU.
#[derive(Debug, Clone, Copy)]
enum Program {
    Backports(&'static debian::Qemu),
    WithShim(&'static ShimQemu),
}

impl Program {
    fn command(self) -> Command {
        match self {
            Self::Backports(qemu) => qemu.command(),
            Self::WithShim(qemu) => qemu.command(),
        }
    }

    fn data_arguments(self) -> Vec<OsString> {
        match self {
            Self::Backports(qemu) => qemu.data_arguments(),
            Self::WithShim(qemu) => qemu.data_arguments(),
        }
    }

    fn version(self) -> debian::Version {
        match self {
            Self::Backports(qemu) => qemu.version(),
            Self::WithShim(qemu) => qemu.version(),
        }
    }
}

/// A QEMU to be started: no default devices, no display, no configuration
/// files, one CPU, 128 MiB of shared memory, a serial port and a debug
/// console (both captured as the console), isa-debug-exit and a monitor.
#[derive(Debug)]
pub(crate) struct Qemu {
    program: Program,
    accelerator: Accelerator,
    machine: Machine,
    memory: Memory,
    megabytes: u32,
    arguments: Vec<OsString>,
    files: Vec<TempPath>,
    firmware: Option<TempDir>,
}

impl Qemu {
    /// Finds or fetches QEMU.
    pub(crate) fn new(accelerator: Accelerator) -> Result<Self, RigError> {
        Ok(Self::of(Program::Backports(installed()?), accelerator))
    }

    /// A QEMU that knows the shim.
    ///
    /// What boots multiboot images has another name there than in the
    /// packages that its firmware is from.
    pub(crate) fn with_shim(
        qemu: &'static ShimQemu,
        accelerator: Accelerator,
    ) -> Result<Self, RigError> {
        let failed = |error| RigError::failed("cannot link firmware", error);
        let directories = qemu.data_arguments();
        let rom = directories
            .iter()
            .map(|directory| Path::new(directory).join("multiboot_dma.bin"))
            .find(|rom| rom.exists())
            .ok_or_else(|| RigError::failed("multiboot_dma.bin", "is not in QEMU's data"))?;
        let firmware = tempfile::tempdir().map_err(failed)?;
        symlink(rom, firmware.path().join("multiboot.bin")).map_err(failed)?;
        let mut board = Self::of(Program::WithShim(qemu), accelerator)
            .arg("-L")
            .arg(firmware.path());
        board.firmware = Some(firmware);
        Ok(board)
    }

    fn of(program: Program, accelerator: Accelerator) -> Self {
        Self {
            program,
            accelerator,
            machine: Machine::Pc,
            memory: Memory::Shared,
            megabytes: 128,
            arguments: Vec::new(),
            files: Vec::new(),
            firmware: None,
        }
    }

    /// QEMU's version.
    pub(crate) fn version(&self) -> (u32, u32, u32) {
        self.program.version()
    }

    /// Chooses the machine type; it is `Pc` otherwise.
    pub(crate) fn machine(mut self, machine: Machine) -> Self {
        self.machine = machine;
        self
    }

    /// Chooses the kind of guest memory; it is `Shared` otherwise.
    pub(crate) fn memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// Chooses the size of guest memory in MiB.
    pub(crate) fn megabytes(mut self, megabytes: u32) -> Self {
        self.megabytes = megabytes;
        self
    }

    /// Adds anything else to the command line.
    pub(crate) fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds `-device` with QEMU's comma syntax or JSON.
    pub(crate) fn device(self, device: impl Into<OsString>) -> Self {
        self.arg("-device").arg(device)
    }

    /// Adds the device that a vfio-user server offers on a socket, with
    /// further properties, such as `json!({"x-no-posted-writes": true})`.
    pub(crate) fn vfio_user(self, socket: &Path, properties: &Value) -> Self {
        let mut device = json!({
            "driver": "vfio-user-pci",
            "socket": {"type": "unix", "path": socket},
        });
        for (name, value) in properties.as_object().into_iter().flatten() {
            device[name] = value.clone();
        }
        self.device(device.to_string())
    }

    /// Boots a multiboot image or a Linux kernel.
    pub(crate) fn kernel(self, image: &Path) -> Self {
        self.arg("-kernel").arg(image)
    }

    /// The kernel's command line.
    pub(crate) fn append(self, line: &str) -> Self {
        self.arg("-append").arg(line)
    }

    /// Lets a guest that restarts (a triple fault, a panic) end QEMU. QMP's
    /// `system_reset` then ends it too.
    pub(crate) fn no_reboot(self) -> Self {
        self.arg("-no-reboot")
    }

    /// Keeps a temporary file for as long as QEMU runs.
    pub(super) fn keep(mut self, file: TempPath) -> Self {
        self.files.push(file);
        self
    }

    /// Starts QEMU. A command line that QEMU refuses is seen as an exit.
    ///
    /// QEMU ends with the thread that calls this, even if that is killed:
    /// `exit-with-parent` is the kernel's parent-death signal.
    pub(crate) fn start(self) -> Result<Running, RigError> {
        let permit = Permit::take();
        let sockets = || -> io::Result<[(UnixStream, UnixStream); 2]> {
            Ok([UnixStream::pair()?, UnixStream::pair()?])
        };
        let [(monitor, their_monitor), (console, their_console)] =
            sockets().map_err(|error| RigError::failed("cannot make QEMU's sockets", error))?;
        let mut command = self.program.command();
        command.args(self.fixed_arguments());
        command.args(&self.arguments);
        command
            .stdin(Stdio::from(OwnedFd::from(their_monitor)))
            .stdout(Stdio::from(OwnedFd::from(their_console)))
            .stderr(Stdio::piped());
        let child = command
            .spawn()
            .map_err(|error| RigError::failed("cannot start QEMU", error))?;
        let kept = Kept {
            files: self.files,
            firmware: self.firmware,
            permit,
        };
        Running::new(child, console, monitor, kept)
    }

    /// Writes a program that is this QEMU and nothing more, for command lines
    /// that name it.
    pub(crate) fn launcher(&self, path: &Path) -> Result<(), RigError> {
        write_launcher(path, &self.program.command(), self.program.data_arguments())
    }

    fn fixed_arguments(&self) -> Vec<OsString> {
        let machine = match self.machine {
            Machine::Pc => "pc",
            Machine::Q35 => "q35",
        };
        let accelerator = match self.accelerator {
            Accelerator::Tcg => "tcg",
            Accelerator::Kvm => "kvm",
        };
        let memory = match self.memory {
            Memory::Shared => "memory-backend-memfd,share=on",
            Memory::Private => "memory-backend-ram,share=off",
        };
        let megabytes = self.megabytes;
        let line = [
            "-no-user-config -nodefaults -display none -msg timestamp=off".to_owned(),
            format!("-machine {machine} -accel {accelerator} -numa node,memdev=ram"),
            format!("-object {memory},id=ram,size={megabytes}M -m {megabytes}M"),
            "-chardev socket,id=monitor,fd=0 -qmp chardev:monitor".to_owned(),
            "-chardev socket,id=console,fd=1,mux=on -serial chardev:console".to_owned(),
            format!("-device isa-debugcon,iobase={DEBUG_PORT},chardev=console"),
            format!("-device isa-debug-exit,iobase={EXIT_PORT},iosize=4"),
        ]
        .join(" ");
        let mut arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        if self.program.version() >= EXIT_WITH_PARENT {
            arguments.extend(["-run-with", "exit-with-parent=on"].map(OsString::from));
        }
        arguments.extend(self.program.data_arguments());
        arguments
    }
}

/// Whether guests run under KVM here; says once why not.
///
/// A machine without it is no fault of the rig, so this is never an error.
pub(crate) fn kvm_works() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    *WORKS.get_or_init(|| match try_kvm() {
        Ok(()) => true,
        Err(reason) => {
            eprintln!("skipped: KVM does not work here: {reason}");
            false
        }
    })
}

fn try_kvm() -> Result<(), RigError> {
    // Opening says more than QEMU's message does.
    fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .map_err(|error| RigError::failed("/dev/kvm", error))?;
    let image = guest::trivial()?;
    let outcome = Qemu::new(Accelerator::Kvm)?
        .kernel(&image)
        .keep(image)
        .no_reboot()
        .start()?
        .wait(Duration::from_secs(60))?;
    match outcome.guest_code() {
        Some(guest::TRIVIAL_CODE) => Ok(()),
        _ => Err(RigError::failed(
            format!("a trivial guest ended with {}", outcome.status),
            outcome.errors.join(" "),
        )),
    }
}

/// Writes a script that starts a program with these arguments before its own.
pub(crate) fn write_launcher(
    path: &Path,
    command: &Command,
    arguments: Vec<OsString>,
) -> Result<(), RigError> {
    let words = iter::once(command.get_program()).chain(command.get_args());
    let mut script = "#!/bin/sh\nexec".to_owned();
    for word in words.map(OsStr::to_owned).chain(arguments) {
        script.extend([" '", &word.to_string_lossy(), "'"]);
    }
    script += " \"$@\"\n";
    fs::write(path, script)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .map_err(|error| RigError::failed("cannot write a launcher", error))
}
