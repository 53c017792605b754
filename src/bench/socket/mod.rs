//! Rungs 2 and 3: from a client's bytes to a server's and back, over a socket.
//!
//! | file | what happens there |
//! |---|---|
//! | `messages` | the bytes of each access and of its answer |
//! | `link` | they are sent and received, within bounds |
//! | `medium` | samples of each access, over whatever carries it |
//! | `rows` | an access to a server becomes a row beside its floor |
//! | `many` | one device of many in a process |
//! | `other` | rung 3: a server that is running already |

mod link;
mod many;
mod medium;
mod messages;
mod other;
pub(super) mod rows;

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use super::{Bench, Candidate, Interrupt, Peer, PeerKind, PeerOptions, Section, Trouble};
use crate::bench::waiting::Waiting;
use crate::client::{Client, Options};
use crate::device::Register;
use crate::devices::StubRegister;
use medium::Messenger;
use rows::{Connection, Server};

pub(super) use link::Link;
pub(super) use medium::{Access, BURST, Carries, Medium, POSTED};
pub(super) use messages::{Messages, Target};
pub use other::OtherServer;

/// Where the two sides run, and how they wait.
#[derive(Clone, Copy, Debug)]
struct Placement {
    title: &'static str,
    /// How its rows' names begin.
    prefix: &'static str,
    /// The server has a CPU of its own.
    apart: bool,
    waiting: Waiting,
}

/// On one CPU there is no use in spinning: the other side does not run.
const PLACEMENTS: [Placement; 3] = [
    Placement {
        title: "socket: same CPU, blocking",
        prefix: "socket.same",
        apart: false,
        waiting: Waiting::Block,
    },
    Placement {
        title: "socket: two CPUs, blocking",
        prefix: "socket.two",
        apart: true,
        waiting: Waiting::Block,
    },
    Placement {
        title: "socket: two CPUs, both spinning",
        prefix: "socket.spin",
        apart: true,
        waiting: Waiting::Spin,
    },
];

/// Measures our server and the `vfio_user` crate's with the stub, in each
/// placement. `program` is this program, to be run again as their processes.
pub fn socket(bench: &Bench<'_>, program: &Path) -> Vec<Section> {
    let placements = PLACEMENTS.into_iter();
    placements
        .take_while(|_| !bench.plan.interrupt.raised())
        .map(|placement| placement.measure(bench, program))
        .chain(many::many(bench, program))
        .collect()
}

impl Placement {
    fn measure(self, bench: &Bench<'_>, program: &Path) -> Section {
        let mut section = Section::new(2, self.title);
        let Some(cpu) = bench.plan.pinning.server(self.apart) else {
            section.gap(
                self.title,
                "this process may use one CPU only; allow it a second one",
            );
            return section;
        };
        if !self.apart {
            // Once: the first section's hold for all three.
            note(&mut section);
            section.notes.push(
                "The vfio_user crate's Server has no REGION_WRITE_MULTI and cannot spin: \
                 rows that it cannot have are not listed."
                    .to_owned(),
            );
        }
        let interrupt = &bench.plan.interrupt;
        bench.measure(&mut section, || self.rows(program, cpu, interrupt));
        join_gaps(&mut section);
        section
    }

    /// Starts a peer of each kind, and connects to it.
    fn rows(
        self,
        program: &Path,
        cpu: usize,
        interrupt: &Interrupt,
    ) -> Result<Vec<Candidate<'static>>, Trouble> {
        let start = |kind| self.start(program, kind, cpu, interrupt);
        let floor = start(PeerKind::PingPong)?;
        let mut servers = vec![start(PeerKind::Stub)?];
        if self.waiting == Waiting::Block {
            servers.push(start(PeerKind::CrateServer)?);
        }
        Ok(rows::rows(self.prefix, &floor, &servers))
    }

    fn start(
        self,
        program: &Path,
        kind: PeerKind,
        cpu: usize,
        interrupt: &Interrupt,
    ) -> Result<Server, Trouble> {
        let spin = self.waiting == Waiting::Spin;
        let options = PeerOptions {
            spin,
            cpu: Some(cpu),
            ..PeerOptions::of(kind)
        };
        server(program, &options, self.waiting, interrupt, |multi| {
            Access::by_socket(true, multi)
        })
    }
}

/// Starts a peer and connects to it. `accesses` is told whether it knows
/// `REGION_WRITE_MULTI`.
fn server(
    program: &Path,
    options: &PeerOptions,
    waiting: Waiting,
    interrupt: &Interrupt,
    accesses: impl FnOnce(bool) -> Vec<Access>,
) -> Result<Server, Trouble> {
    let kind = options.kind;
    let (peer, stream) = Peer::start(program, options)?;
    let (mut multi, mut messages) = (true, Messages::ping_pong());
    let failed = |error: &dyn std::fmt::Display| Trouble::new(what(kind), error);
    if kind != PeerKind::PingPong {
        let stream = stream.try_clone().map_err(|error| failed(&error))?;
        let client = Client::over(stream, &Options::default()).map_err(|error| failed(&error))?;
        multi = client.agreement().write_multiple;
        messages = Messages::vfio_user(scratch());
    }
    let link = Link::new(stream, waiting, interrupt.clone())?;
    let connection = Connection::to_peer(Messenger { link, messages }, peer, options.spin)?;
    Ok(Server {
        name: name(kind),
        what: what(kind),
        accesses: accesses(multi),
        connection: Rc::new(RefCell::new(connection)),
    })
}

/// The stub's register that only stores.
pub(super) fn scratch() -> Target {
    Target {
        region: 0,
        offset: StubRegister::SCRATCH.row().offset.into(),
        data: [1, 2, 3, 4],
    }
}

fn name(kind: PeerKind) -> &'static str {
    match kind {
        PeerKind::Stub => "stub",
        PeerKind::CrateServer => "crate",
        PeerKind::PingPong | PeerKind::CacheLine | PeerKind::EventFds => "floor",
    }
}

fn what(kind: PeerKind) -> &'static str {
    match kind {
        PeerKind::Stub => "ours",
        PeerKind::CrateServer => "vfio_user crate",
        PeerKind::PingPong => "ping-pong",
        PeerKind::CacheLine => "cache line",
        PeerKind::EventFds => "two eventfds",
    }
}

/// What the rows of both rungs mean.
fn note(section: &mut Section) {
    section.notes.push(
        "A read is of 4 bytes, as is each write. A floor is a bare AF_UNIX ping-pong of the \
         same number of bytes each way, between processes placed and waiting alike."
            .to_owned(),
    );
    section.notes.push(format!(
        "After each posted write, and after {POSTED} sustained ones, a read waits until they are \
         done: its time counts with the sustained ones only, its context switches with both."
    ));
    section.notes.push(format!(
        "The server's CPU time is the kernel's figure for its process, over {BURST} posted writes \
         and the read behind them; in its floor's row it is that of the ping-pong's other side."
    ));
}

/// One line for all rows that are missing for the same reason: they share a
/// connection.
pub(super) fn join_gaps(section: &mut Section) {
    section.gaps.dedup_by(|next, first| {
        let same = next.why == first.why;
        if same {
            first.what = format!("{}, {}", first.what, next.what);
        }
        same
    });
}
