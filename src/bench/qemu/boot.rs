//! One boot: QEMU runs the guest, whose memory it shares with us.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::bench::bare::child::Child;
use crate::bench::bare::guest::{EXIT_VALUE, MEMORY, Memory, Status, Task, firmware};
use crate::bench::bare::program::Program;
use crate::bench::bare::samples::Measured;
use crate::bench::{Interrupt, Pinned, Trouble};

/// How often we look how far it is.
const TICK: Duration = Duration::from_millis(50);

/// The first QEMU with `-machine memory-backend=`.
const MEMORY_BACKEND: (u32, u32, u32) = (5, 0, 0);

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accelerator {
    /// QEMU's translator.
    Tcg,
    /// The processor.
    Kvm,
}

impl Accelerator {
    /// Its name for QEMU, and in rows.
    pub(super) fn name(self) -> &'static str {
        match self {
            Accelerator::Tcg => "tcg",
            Accelerator::Kvm => "kvm",
        }
    }
}

/// How long a guest may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Until its first instruction.
    pub(super) start: Duration,
    /// From there to its end.
    pub(super) work: Duration,
}

/// A machine to boot.
#[derive(Debug)]
pub(super) struct Boot<'a> {
    pub(super) qemu: &'a Program,
    pub(super) accelerator: Accelerator,
    /// Where it runs.
    pub(super) cpu: usize,
    /// Each for a `-device`, in the order of their slots.
    pub(super) devices: Vec<String>,
    pub(super) task: &'a Task,
    pub(super) limits: Limits,
}

impl Boot<'_> {
    /// Runs it to its end; `directory` is for the firmware.
    pub(super) fn run(&self, directory: &Path, interrupt: &Interrupt) -> Result<Measured, Trouble> {
        let io = |what: &'static str| move |error: std::io::Error| Trouble::new(what, error);
        let none = || Trouble("this program holds no guest; build it for x86_64".to_owned());
        let path = directory.join("firmware");
        fs::write(&path, firmware().ok_or_else(none)?)
            .map_err(io("cannot write the guest's firmware"))?;
        let memory = memory().map_err(io("cannot make the guest's memory"))?;
        let loaded = Memory(&memory).load(self.task);
        if !loaded.map_err(io("cannot write the guest's memory"))? {
            return Err(none());
        }
        let mut command = self.command(&path);
        let stdin = memory
            .try_clone()
            .map_err(io("cannot share the guest's memory"))?;
        command.stdin(Stdio::from(stdin));
        let mut child = {
            let _pinned = Pinned::to(self.cpu)?;
            Child::start(&mut command).map_err(io("cannot start QEMU"))?
        };
        let memory = Memory(&memory);
        let status = self.wait(&mut child, &memory, interrupt)?;
        let state = memory
            .status()
            .map_err(io("cannot read the guest's memory"))?;
        if state != Status::Done || status.code() != Some(EXIT_VALUE << 1 | 1) {
            return Err(self.explain(state, status, &mut child));
        }
        Ok(Measured {
            records: memory.records(self.task).map_err(io("the guest"))?,
            tick: memory.tick().map_err(io("the guest"))?,
        })
    }

    fn command(&self, firmware: &Path) -> Command {
        let mut command = self.qemu.command();
        let megabytes = MEMORY >> 20;
        let (machine, numa) = if self.qemu.version >= MEMORY_BACKEND {
            ("pc,memory-backend=ram", None)
        } else {
            ("pc", Some("-numa node,memdev=ram"))
        };
        let line = [
            "-no-user-config -nodefaults -display none -no-reboot",
            &format!("-machine {machine} -accel {}", self.accelerator.name()),
            // Standard input is the memory: no path has to be agreed upon.
            &format!("-object memory-backend-file,id=ram,size={megabytes}M,mem-path=/proc/self/fd/0,share=on"),
            &format!("-m {megabytes}M"),
            numa.unwrap_or_default(),
            "-device isa-debug-exit,iobase=0xf4,iosize=4",
        ]
        .join(" ");
        command.args(line.split_whitespace());
        command.arg("-bios").arg(firmware);
        for device in &self.devices {
            command.args(["-device", device]);
        }
        command
    }

    /// Waits for its end, the limits, or an interrupt.
    fn wait(
        &self,
        child: &mut Child,
        memory: &Memory<&File>,
        interrupt: &Interrupt,
    ) -> Result<ExitStatus, Trouble> {
        let started = Instant::now();
        let mut began = None;
        loop {
            if let Some(status) = child.wait(TICK) {
                return Ok(status);
            }
            if interrupt.raised() {
                return Err(Trouble("interrupted".to_owned()));
            }
            if began.is_none() && memory.status().is_ok_and(|status| status != Status::Absent) {
                began = Some(Instant::now());
            }
            let (since, limit, what) = match began {
                None => (started, self.limits.start, "begin"),
                Some(began) => (began, self.limits.work, "end"),
            };
            if since.elapsed() >= limit {
                let late = format!("the guest did not {what} within {limit:?}");
                return Err(Trouble(child.last_words(&late)));
            }
        }
    }

    fn explain(&self, state: Status, status: ExitStatus, child: &mut Child) -> Trouble {
        match state {
            Status::NoDevice(_) | Status::NoBar(_) | Status::Nonsense(_) => {
                self.task.explain(state)
            }
            Status::Absent | Status::Working | Status::Done => Trouble(child.last_words(&format!(
                "{} ended with {status}, its guest early",
                self.qemu
            ))),
        }
    }
}

/// The guest's memory: a file without a name.
fn memory() -> std::io::Result<File> {
    let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC)?);
    file.set_len(MEMORY)?;
    Ok(file)
}
