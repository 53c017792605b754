//! Rung 5: QEMU with our device behind `vfio-user-pci`, beside a device
//! inside QEMU, timed by a guest of a few hundred bytes.
//!
//! | file | what happens there |
//! |---|---|
//! | `rows` | which devices of ours, and which accesses to them |
//! | `boot` | QEMU from its start to its end |
//!
//! The guest and the servers are in `bare`.

mod boot;
mod rows;

use std::path::Path;
use std::time::Duration;

use self::boot::{Accelerator, Boot, Limits};
use self::rows::Ours;
use super::bare::guest::{BATCH, Task, ticks};
use super::bare::program::Program;
use super::bare::rows::{Entry, InProcess, in_process};
use super::bare::samples::{Measured, Samples};
use super::bare::server::{Serve, Server};
use super::{Bench, Section, Trouble};

/// The rung.
const RUNG: u8 = 5;

/// Until the guest's first instruction: a fraction of a second.
const START_LIMIT: Duration = Duration::from_secs(15);

/// From how many nanoseconds on reading the timer twice must be emulated.
const EMULATED: f64 = 500.0;

/// Where the servers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placement {
    /// On QEMU's CPU.
    Same,
    /// On another.
    Two,
    /// On another, which it spins on.
    Polled,
}

impl Placement {
    fn name(self) -> &'static str {
        match self {
            Placement::Same => "same",
            Placement::Two => "two",
            Placement::Polled => "polled",
        }
    }
}

/// Measures QEMU: the one at `given`, or the best that can be found or
/// fetched. `program` is ours, to serve the devices.
pub fn qemu(bench: &Bench<'_>, program: &Path, given: Option<&Path>) -> Vec<Section> {
    let qemu = match Program::find(bench, given) {
        Ok(qemu) => qemu,
        // Whoever interrupted us knows why there is none.
        Err(_) if bench.plan.interrupt.raised() => return Vec::new(),
        Err(trouble) => {
            let mut section = Section::new(RUNG, "QEMU");
            section.gap("QEMU", trouble);
            return vec![section];
        }
    };
    let mut sections = Vec::new();
    for accelerator in [Accelerator::Tcg, Accelerator::Kvm] {
        for placement in [Placement::Same, Placement::Two, Placement::Polled] {
            if bench.plan.interrupt.raised() {
                return sections;
            }
            if placement == Placement::Polled && qemu.why_no_shim().is_some() {
                break;
            }
            let rung = Rung::new(bench, program, &qemu, accelerator, placement);
            let section = rung.section();
            // What keeps one from its first row keeps the other as well; and
            // without servers there is no second place.
            let only = section.rows.is_empty() || rung.ours.is_empty();
            sections.push(section);
            if only {
                break;
            }
        }
    }
    sections
}

/// A section in the making: one accelerator, one placement.
struct Rung<'a> {
    bench: &'a Bench<'a>,
    program: &'a Path,
    qemu: &'a Program,
    accelerator: Accelerator,
    placement: Placement,
    inside: Option<&'static InProcess>,
    /// What QEMU can have of ours.
    ours: Vec<Ours>,
    entries: Vec<Entry>,
    task: Task,
}

impl<'a> Rung<'a> {
    fn new(
        bench: &'a Bench<'a>,
        program: &'a Path,
        qemu: &'a Program,
        accelerator: Accelerator,
        placement: Placement,
    ) -> Self {
        let inside = in_process(qemu);
        let ours = rows::ours(qemu, placement == Placement::Polled);
        let entries = rows::rows(inside, &ours);
        let task = Task {
            rows: entries
                .iter()
                .map(|entry| (entry.operation, entry.target))
                .collect(),
            slices: bench.plan.slices,
            // In TCG the guest's counter is the host's, in KVM it runs as
            // fast; where it does not, slices are longer or shorter.
            goal: ticks(bench.plan.slice, bench.clock.tick()),
            hold: false,
        };
        Rung {
            bench,
            program,
            qemu,
            accelerator,
            placement,
            inside,
            ours,
            entries,
            task,
        }
    }

    /// `qemu.kvm.same.` and what follows.
    fn name(&self, row: &str) -> String {
        let (accelerator, placement) = (self.accelerator.name(), self.placement.name());
        format!("qemu.{accelerator}.{placement}.{row}")
    }

    fn title(&self) -> String {
        let accelerator = match self.accelerator {
            Accelerator::Tcg => "TCG",
            Accelerator::Kvm => "KVM",
        };
        let place = match self.placement {
            Placement::Same => "servers on QEMU's CPU",
            Placement::Two => "servers on another CPU",
            Placement::Polled => "a server that spins on another CPU",
        };
        format!("{}, {accelerator}, {place}", self.qemu)
    }

    /// Where the servers run.
    fn server_cpu(&self) -> Option<usize> {
        match self.placement {
            Placement::Same => Some(self.bench.plan.pinning.client),
            Placement::Two | Placement::Polled => self.bench.plan.pinning.other,
        }
    }

    fn section(&self) -> Section {
        let mut section = self.measured();
        if self.is_first()
            && let Some(why) = self.qemu.why_no_shim()
        {
            section.gap("qemu.*.shim, qemu.*.shim-shared", why);
        }
        section
    }

    /// Whether what holds for all sections is said in this one.
    fn is_first(&self) -> bool {
        (self.accelerator, self.placement) == (Accelerator::Tcg, Placement::Same)
    }

    fn measured(&self) -> Section {
        let mut section = Section::new(RUNG, self.title());
        self.explain(&mut section);
        if let Some(why) = self.qemu.why_not_vfio_user()
            && self.placement != Placement::Polled
        {
            section.gap(self.name("*.stub, *.posted, *.acked, *.mapped"), why);
        }
        let Some(server_cpu) = self.server_cpu() else {
            section.gap(self.name("*"), "this process may use one CPU only");
            return section;
        };
        if let Err(trouble) = self.usable() {
            section.gap(self.name("*"), trouble);
            return section;
        }
        self.measure(server_cpu, &mut section);
        self.explain_timer(&mut section);
        section.relate();
        section
    }

    fn explain(&self, section: &mut Section) {
        if self.inside.is_none() {
            section.gap(
                self.name("*.edu"),
                format!("{} has neither edu nor pci-testdev", self.qemu),
            );
        }
        if !self.is_first() {
            return;
        }
        let mut notes = vec![format!(
            "{}, {}. The guest times each access with rdtsc; what that costs is in every \
             sample: see the timer's row. Of mapped memory a sample is {BATCH} accesses.",
            self.qemu,
            self.qemu.place(),
        )];
        if !self.ours.is_empty() {
            notes.push(
                "A slice of posted writes is a burst: the guest then waits, untimed, until all \
                 have arrived."
                    .to_owned(),
            );
        }
        if self.bench.plan.fifo {
            notes.push(
                "QEMU and its servers run without SCHED_FIFO: its threads would starve each other."
                    .to_owned(),
            );
        }
        section.notes = notes;
    }

    /// Says so if the guest's instructions are not the processor's work.
    fn explain_timer(&self, section: &mut Section) {
        let timer = section.rows.iter().find(|row| row.floor.is_none());
        let slow = timer.is_some_and(|timer| timer.summary.p50 > EMULATED);
        let first = (self.accelerator, self.placement) == (Accelerator::Kvm, Placement::Same);
        if slow && first {
            section.notes.push(
                "KVM emulates the guest's instructions here, as nested KVM may: each costs a \
                 microsecond or more, with or without an access to a device."
                    .to_owned(),
            );
        }
    }

    /// Whether the accelerator can be had: opening says more than QEMU does.
    fn usable(&self) -> Result<(), Trouble> {
        if self.accelerator == Accelerator::Kvm {
            std::fs::File::options()
                .read(true)
                .write(true)
                .open("/dev/kvm")
                .map_err(|error| Trouble::new("KVM does not work here: /dev/kvm", error))?;
        }
        Ok(())
    }

    fn samples(&self) -> Samples<'_> {
        Samples::of(&self.entries, &self.name(""))
    }

    fn measure(&self, server_cpu: usize, section: &mut Section) {
        let mut samples = self.samples();
        let plan = &self.bench.plan;
        let progress = self.bench.progress;
        progress.step(&section.title, self.bench.run(), plan.runs);
        match self.run(server_cpu) {
            Ok(measured) => samples.take(self.bench, measured, section),
            Err(_) if plan.interrupt.raised() => {}
            Err(trouble) => section.gap(self.name("*"), trouble),
        }
        samples.finish(section);
    }

    /// One boot with servers of its own.
    fn run(&self, server_cpu: usize) -> Result<Measured, Trouble> {
        let failed = |error| Trouble::new("cannot make a temporary directory", error);
        let directory = tempfile::tempdir().map_err(failed)?;
        let mut devices: Vec<String> = self
            .inside
            .iter()
            .map(|inside| inside.name.to_owned())
            .collect();
        let mut servers = Vec::new();
        for (number, ours) in self.ours.iter().enumerate() {
            let place = directory.path().join(number.to_string());
            std::fs::create_dir(&place).map_err(failed)?;
            let socket = place.join("socket");
            let serve = Serve {
                device: ours.device,
                poll: if ours.polled { "always" } else { "never" },
                face: vec!["--once".into(), "--socket-path".into(), (&socket).into()],
                cpu: Some(server_cpu),
            };
            servers.push(Server::start(self.bench, self.program, serve, &place)?);
            devices.push(ours.argument(&socket));
        }
        let boot = Boot {
            qemu: self.qemu,
            accelerator: self.accelerator,
            cpu: self.bench.plan.pinning.client,
            devices,
            task: &self.task,
            limits: self.limits(),
        };
        boot.run(directory.path(), &self.bench.plan.interrupt)
    }

    /// Ten times what the guest should need, and more for a busy machine. The
    /// last doubling of a row takes up to twice the goal, and is repeated; all
    /// before take as much.
    fn limits(&self) -> Limits {
        let plan = &self.bench.plan;
        let rows = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        let slices = plan.slice * (plan.slices + 6) * rows;
        Limits {
            start: START_LIMIT,
            work: START_LIMIT + slices * 10,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;
    use crate::bench::bare::guest::Record;
    use crate::bench::{Pinning, Plan, Quiet};

    /// A QEMU that never ends, and leaves its process id in the directory.
    const HANGS: &str = r#"#!/bin/sh
case "$*" in
--version) echo "QEMU emulator version 11.1.3" ;;
*help) echo 'name "edu"'; echo 'name "vfio-user-pci"' ;;
*) echo $$ >"$0.pid"; exec sleep 1000 ;;
esac
"#;

    fn hanging() -> (TempDir, Program, Bench<'static>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qemu");
        fs::write(&path, HANGS).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let bench = Bench::new(Plan::quick(Pinning::choose().unwrap()), &Quiet);
        let qemu = Program::find(&bench, Some(&path)).unwrap();
        (directory, qemu, bench)
    }

    #[test]
    fn a_qemu_that_hangs_is_given_up_and_killed() {
        let (directory, qemu, bench) = hanging();
        let program = Path::new("unused");
        let rung = Rung::new(&bench, program, &qemu, Accelerator::Tcg, Placement::Same);
        let boot = Boot {
            qemu: &qemu,
            accelerator: Accelerator::Tcg,
            cpu: bench.plan.pinning.client,
            devices: Vec::new(),
            task: &rung.task,
            limits: Limits {
                start: Duration::from_millis(300),
                work: Duration::ZERO,
            },
        };
        let trouble = boot
            .run(directory.path(), &bench.plan.interrupt)
            .unwrap_err();
        assert_eq!(trouble.0, "the guest did not begin within 300ms");
        let pid = fs::read_to_string(directory.path().join("qemu.pid")).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists());

        let interrupt = bench.plan.interrupt.flag();
        interrupt.store(true, std::sync::atomic::Ordering::Relaxed);
        let trouble = boot
            .run(directory.path(), &bench.plan.interrupt)
            .unwrap_err();
        assert_eq!(trouble.0, "interrupted");
    }

    #[test]
    fn a_register_that_holds_something_else_ends_its_row() {
        let (_directory, qemu, bench) = hanging();
        let program = Path::new("unused");
        let rung = Rung::new(&bench, program, &qemu, Accelerator::Tcg, Placement::Same);
        let mut samples = rung.samples();
        let record = |row, value| Record {
            row,
            counter: 1000,
            value,
            samples: vec![100],
        };
        let measured = Measured {
            // The timer, and a stub whose server is gone.
            records: vec![record(0, 0), record(3, u32::MAX)],
            tick: None,
        };
        let mut section = Section::default();
        samples.take(&bench, measured, &mut section);
        assert_eq!(samples.tallies[0].partial(), None);
        let said = "the guest read 0xffffffff where 0x55504756 should be";
        assert_eq!(samples.tallies[3].partial().as_deref(), Some(said));
    }
}
