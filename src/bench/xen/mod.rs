//! Rung 7: a guest of Xen's, on the host that runs it: a device of ours that
//! Xen asks itself, beside one inside QEMU.
//!
//! | file | what happens there |
//! |---|---|
//! | `host` | whether this is a dom0, and its device model |
//! | `rows` | which devices of ours, and which accesses to them |
//! | `domain` | the guest's domain, from its making to its end |
//! | `counts` | what a server's kernel counts |
//!
//! The guest and the servers are in `bare`. No firmware runs: Xen starts the
//! guest in its place.

mod counts;
mod domain;
mod host;
mod rows;

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use self::counts::Counts;
use self::domain::Guest;
use self::host::Host;
use self::rows::{Face, Ours};
use super::bare::guest::{Memory, Ram, Status, Task, ticks};
use super::bare::rows::{Entry, InProcess, in_process};
use super::bare::samples::{Measured, Samples};
use super::bare::server::{Serve, Server};
use super::{Bench, Section, Tally, Trouble};
use crate::xen::{Domain, GuestMemory};

/// The rung.
const RUNG: u8 = 7;

/// How often we look how far the guest is.
const TICK: Duration = Duration::from_millis(50);

/// A slice here, in slices of the other rungs: an access takes longer, and the
/// first ones after another row's longer still.
const SLICES: u32 = 10;

/// Until the guest has found its devices: a fraction of a second.
const START_LIMIT: Duration = Duration::from_secs(60);

/// This machine, if it is a host of Xen's: looked at once, as its answers take
/// longer than a guest.
#[derive(Debug)]
pub struct XenHost(Result<Host, Trouble>);

impl XenHost {
    /// With the device model at `given`, or its own.
    pub fn look(bench: &Bench<'_>, given: Option<&Path>) -> Self {
        XenHost(Host::find(bench, given))
    }

    /// Measures a guest of its Xen. `program` is ours, to serve the devices.
    pub fn measure(&self, bench: &Bench<'_>, program: &Path) -> Section {
        match &self.0 {
            Ok(host) => Rung::new(bench, program, host).section(),
            Err(trouble) => {
                let mut section = Section::new(RUNG, "Xen");
                section.gap("xen.*", trouble);
                section
            }
        }
    }
}

/// The section in the making.
struct Rung<'a> {
    bench: &'a Bench<'a>,
    program: &'a Path,
    host: &'a Host,
    inside: Option<&'static InProcess>,
    ours: Vec<Ours>,
    entries: Vec<Entry>,
    task: Task,
}

/// What a run gave besides samples.
struct Ran {
    measured: Measured,
    /// Of each server of ours, in their order.
    servers: Vec<Served>,
}

struct Served {
    ready_after: Duration,
    /// Accesses by the guest, and what they took.
    accesses: f64,
    counts: Counts,
}

impl<'a> Rung<'a> {
    fn new(bench: &'a Bench<'a>, program: &'a Path, host: &'a Host) -> Self {
        let inside = in_process(&host.qemu);
        let ours = rows::ours(&host.qemu);
        let entries = rows::rows(inside, &ours);
        let task = Task {
            rows: entries
                .iter()
                .map(|entry| (entry.operation, entry.target))
                .collect(),
            slices: bench.plan.slices,
            // Its counter is the processor's, which dom0 may not read itself.
            goal: ticks(
                bench.plan.slice * SLICES,
                host.tick.unwrap_or(bench.clock.tick()),
            ),
            hold: true,
        };
        Rung {
            bench,
            program,
            host,
            inside,
            ours,
            entries,
            task,
        }
    }

    fn section(&self) -> Section {
        let mut section = Section::new(RUNG, self.host.to_string());
        self.explain(&mut section);
        let (plan, progress) = (&self.bench.plan, self.bench.progress);
        progress.step(&section.title, self.bench.run(), plan.runs);
        let mut samples = Samples::of(&self.entries, rows::PREFIX);
        let mut set_ups: Vec<Tally> = self.ours.iter().map(Ours::set_up).collect();
        match self.run() {
            Ok(ran) => {
                samples.take(self.bench, ran.measured, &mut section);
                for (number, served) in ran.servers.iter().enumerate() {
                    let (ours, set_up) = (&self.ours[number], &mut set_ups[number]);
                    set_up.begin(self.bench.run(), self.bench.elapsed());
                    let taken = served.ready_after.as_secs_f64() * 1e9;
                    set_up.slice_of(self.bench.elapsed(), vec![taken]);
                    self.count(ours, served, &mut samples, &mut section);
                }
            }
            Err(_) if plan.interrupt.raised() => {}
            Err(trouble) => section.gap("xen.*", trouble),
        }
        samples.finish(&mut section);
        section
            .rows
            .extend(set_ups.into_iter().filter_map(Tally::finish));
        section.relate();
        section
    }

    /// Says what an access took of a server's kernel.
    fn count(&self, ours: &Ours, served: &Served, samples: &mut Samples<'_>, to: &mut Section) {
        if served.accesses < 1.0 {
            return;
        }
        let each = |count: f64| count / served.accesses;
        let rows = samples.tallies.iter_mut().zip(&self.entries);
        for (tally, _) in rows.filter(|(_, entry)| ours.has(entry)) {
            tally.switches(each(served.counts.switches));
        }
        // Sockets are not read by read(2).
        if self.bench.run() == 0 && ours.face == Face::Ioreq {
            to.notes.push(format!(
                "System calls of the server of {} for each access, besides notifications: \
                 {:.1} reads and {:.1} writes.",
                ours.name,
                each(served.counts.reads),
                each(served.counts.writes),
            ));
        }
    }

    fn explain(&self, section: &mut Section) {
        let qemu = &self.host.qemu;
        if self.inside.is_none() {
            section.gap(
                "xen.*.edu",
                format!("{qemu} has neither edu nor pci-testdev"),
            );
        }
        if let Some(why) = qemu.why_not_vfio_user() {
            section.gap("xen.*.vfio-user", why);
        }
        section.notes = vec![
            format!(
                "Device model: {qemu}, {}. The guest times each access with rdtsc. A read of \
                 configuration space is two accesses to ports, of which the first goes to QEMU \
                 whosever the function is.",
                qemu.place()
            ),
            "A figure of set-up is one for each run: from the start of the server's process \
             until it is ready."
                .to_owned(),
        ];
    }

    /// One domain with servers of its own. What comes last goes first: nothing
    /// of the guest is mapped any more when its domain is destroyed.
    fn run(&self) -> Result<Ran, Trouble> {
        let failed = |error| Trouble::new("cannot make a temporary directory", error);
        let directory = tempfile::tempdir().map_err(failed)?;
        let place = |ours: &Ours| {
            let place = directory.path().join(ours.name);
            std::fs::create_dir(&place).map_err(failed).and(Ok(place))
        };
        let mut devices: Vec<String> = self.inside.iter().map(|it| rows::argument(it)).collect();
        let mut servers: Vec<(usize, Server)> = Vec::new();
        for (number, ours) in self.ours.iter().enumerate() {
            if ours.face == Face::VfioUser {
                let place = place(ours)?;
                let socket = place.join("socket");
                let face = vec!["--socket-path".into(), (&socket).into()];
                servers.push((number, self.serve(ours, "stub", face, &place)?));
                devices.push(ours.argument(&socket));
            }
        }
        let program = self.task.program();
        let program = program.ok_or(Trouble("this program holds no guest for Xen".to_owned()))?;
        let guest = Guest::create(self.bench, self.host, &program, &devices, directory.path())?;
        let domain = Domain::open(guest.id).map_err(|error| Trouble(error.to_string()))?;
        let memory = Memory(Foreign(GuestMemory::new(Arc::new(domain))));
        let io = |error| Trouble::new("cannot reach the guest's memory", error);
        memory.clear().map_err(io)?;
        for (number, ours) in self.ours.iter().enumerate() {
            if ours.face == Face::Ioreq {
                let place = place(ours)?;
                let face = vec!["--xen".into(), guest.id.to_string().into()];
                let device = format!("stub,bdf={:02x}.0", ours.slot);
                servers.push((number, self.serve(ours, &device, face, &place)?));
            }
        }
        servers.sort_by_key(|(number, _)| *number);
        guest.unpause(self.bench)?;
        self.wait(&memory, &mut servers, START_LIMIT, "begin", |memory| {
            memory.is_held().map(|held| held.then_some(()))
        })?;
        let before = counts(&servers);
        memory.release().map_err(io)?;
        let limit = self.work_limit();
        let status = self.wait(&memory, &mut servers, limit, "end", |memory| {
            let status = memory.status()?;
            Ok((status != Status::Working).then_some(status))
        })?;
        if status != Status::Done {
            return Err(self.task.explain(status));
        }
        let after = counts(&servers);
        let taken = memory.taken(&self.task).map_err(io)?;
        let served = |(number, server): &(usize, Server)| {
            let ours = &self.ours[*number];
            let rows = self.entries.iter().zip(&taken);
            let of_it = rows.filter(|(entry, _)| ours.has(entry));
            Served {
                ready_after: server.ready_after,
                accesses: of_it.map(|(_, taken)| f64::from(*taken)).sum(),
                counts: after[*number].since(&before[*number]),
            }
        };
        Ok(Ran {
            servers: servers.iter().map(served).collect(),
            measured: Measured {
                records: memory.records(&self.task).map_err(io)?,
                tick: memory.tick().map_err(io)?,
            },
        })
    }

    /// A server that runs where the kernel likes, as those of real hosts do.
    fn serve(
        &self,
        ours: &Ours,
        device: &str,
        face: Vec<std::ffi::OsString>,
        place: &Path,
    ) -> Result<Server, Trouble> {
        let serve = Serve {
            device,
            poll: ours.poll,
            face,
            cpu: None,
        };
        Server::start(self.bench, self.program, serve, place)
    }

    /// Ten times what the guest should need, and more for a busy machine.
    fn work_limit(&self) -> Duration {
        let plan = &self.bench.plan;
        let rows = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        START_LIMIT + plan.slice * SLICES * (plan.slices + 6) * rows * 10
    }

    /// Waits until the guest has come so far, a server ends, the limit, or an
    /// interrupt.
    fn wait<T>(
        &self,
        memory: &Memory<Foreign>,
        servers: &mut [(usize, Server)],
        limit: Duration,
        what: &str,
        mut reached: impl FnMut(&Memory<Foreign>) -> std::io::Result<Option<T>>,
    ) -> Result<T, Trouble> {
        let started = Instant::now();
        loop {
            let found = reached(memory);
            let found = found.map_err(|error| Trouble::new("the guest is gone", error))?;
            if let Some(found) = found {
                return Ok(found);
            }
            if self.bench.plan.interrupt.raised() {
                return Err(Trouble("interrupted".to_owned()));
            }
            for (number, server) in &mut *servers {
                if let Some(words) = server.ended() {
                    let name = self.ours[*number].name;
                    return Err(Trouble::new(format!("the server of {name} ended"), words));
                }
            }
            if let Ok(status @ (Status::NoDevice(_) | Status::NoBar(_))) = memory.status() {
                return Err(self.task.explain(status));
            }
            if started.elapsed() >= limit {
                return Err(Trouble(format!(
                    "the guest did not {what} within {limit:?}"
                )));
            }
            thread::sleep(TICK);
        }
    }
}

/// A domain's memory.
struct Foreign(GuestMemory);

impl Ram for Foreign {
    fn read(&self, bytes: &mut [u8], at: u64) -> std::io::Result<()> {
        self.0.read(at, bytes).map_err(std::io::Error::other)
    }

    fn write(&self, bytes: &[u8], at: u64) -> std::io::Result<()> {
        self.0.write(at, bytes).map_err(std::io::Error::other)
    }
}

fn counts(servers: &[(usize, Server)]) -> Vec<Counts> {
    let counts = servers.iter().map(|(_, server)| Counts::of(server.id()));
    counts.collect()
}
