//! Rung 2, too: accesses by memory that client and server share, beside the
//! least that two processes do which exchange a word through such memory, or
//! wake each other.

use std::cell::RefCell;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;

use super::peer::{Asker, ENTRIES, Waker};
use super::socket::rows::{self, Connection, Server};
use super::socket::{Access, BURST, Carries, Medium, POSTED, Target, join_gaps, scratch};
use super::{Bench, Candidate, Interrupt, Peer, PeerKind, PeerOptions, Section, Trouble};
use crate::client::{Client, ClientError, Options, Spinning};

/// Where the two sides run, and how they wait.
#[derive(Clone, Copy, Debug)]
struct Placement {
    title: &'static str,
    /// How its rows' names begin.
    prefix: &'static str,
    /// The server has a CPU of its own.
    apart: bool,
    /// Both sides spin, else both sleep.
    spin: bool,
}

const PLACEMENTS: [Placement; 3] = [
    Placement {
        title: "shared memory: two CPUs, both spinning",
        prefix: "shared.spin",
        apart: true,
        spin: true,
    },
    Placement {
        title: "shared memory: two CPUs, both sleeping",
        prefix: "shared.two",
        apart: true,
        spin: false,
    },
    Placement {
        title: "shared memory: same CPU, both sleeping",
        prefix: "shared.same",
        apart: false,
        spin: false,
    },
];

/// What our server is measured with. A posted write alone is a few stores:
/// the clock would be most of it.
pub(in crate::bench) const ALL: [Access; 5] = [
    Access::Read,
    Access::Write,
    Access::Sustained,
    Access::ServerCpu,
    Access::ReadBack,
];

/// What a cache line can: of its entries a read must come after so many.
const POSTING: [Access; 4] = [
    Access::Read,
    Access::Write,
    Access::Sustained,
    Access::ReadBack,
];
const _: () = assert!(POSTED <= ENTRIES);

/// Measures our server with the stub in each placement. `program` is this
/// program, to be run again as its process.
pub fn shared(bench: &Bench<'_>, program: &Path) -> Vec<Section> {
    let placements = PLACEMENTS.into_iter();
    placements
        .take_while(|_| !bench.plan.interrupt.raised())
        .map(|placement| placement.measure(bench, program))
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
        section.notes.push(self.note());
        let interrupt = &bench.plan.interrupt;
        bench.measure(&mut section, || self.rows(program, cpu, interrupt));
        join_gaps(&mut section);
        section
    }

    fn note(self) -> String {
        if self.spin {
            return format!(
                "The floor is one word of 8 bytes each way, between two processes that spin on a \
                 cache line each. Of {POSTED} posted writes it is as many entries of 32 bytes and \
                 one such exchange. The clock is in each sample."
            );
        }
        format!(
            "The floor is two processes that wake each other by an eventfd each. A posted write \
             has none: the row beside it is {POSTED} writes, or {BURST} of them in the server's \
             CPU time, and the read that waits for them."
        )
    }

    /// Starts a peer of each kind, and connects to it.
    fn rows(
        self,
        program: &Path,
        cpu: usize,
        interrupt: &Interrupt,
    ) -> Result<Vec<Candidate<'static>>, Trouble> {
        let floor = self.floor(program, cpu, interrupt)?;
        let stub = self.stub(program, cpu)?;
        Ok(rows::rows(self.prefix, &floor, &[stub]))
    }

    fn start(
        self,
        program: &Path,
        kind: PeerKind,
        cpu: usize,
    ) -> Result<(Peer, UnixStream), Trouble> {
        let options = PeerOptions {
            spin: self.spin,
            cpu: Some(cpu),
            ..PeerOptions::of(kind)
        };
        Peer::start(program, &options)
    }

    fn floor(self, program: &Path, cpu: usize, interrupt: &Interrupt) -> Result<Server, Trouble> {
        let interrupt = interrupt.clone();
        if self.spin {
            let (peer, stream) = self.start(program, PeerKind::CacheLine, cpu)?;
            let asker = Asker::new(stream, interrupt)?;
            return self.server("floor", "a cache line each way", &POSTING, asker, peer);
        }
        let (peer, stream) = self.start(program, PeerKind::EventFds, cpu)?;
        let waker = Waker::new(stream, interrupt)?;
        let accesses = [Access::Read, Access::Write];
        self.server("floor", "an eventfd each way", &accesses, waker, peer)
    }

    fn stub(self, program: &Path, cpu: usize) -> Result<Server, Trouble> {
        let (peer, stream) = self.start(program, PeerKind::Stub, cpu)?;
        let accessor = Accessor::new(stream, self.spin)?;
        self.server("stub", "ours", &ALL, accessor, peer)
    }

    fn server(
        self,
        name: &'static str,
        what: &'static str,
        accesses: &[Access],
        medium: impl Carries + 'static,
        peer: Peer,
    ) -> Result<Server, Trouble> {
        let connection = Connection::to_peer(medium, peer, self.spin)?;
        Ok(Server {
            name,
            what,
            accesses: accesses.to_vec(),
            connection: Rc::new(RefCell::new(connection)),
        })
    }
}

impl Medium for Asker {
    #[inline]
    fn read(&mut self) -> Result<(), Trouble> {
        self.ask()
    }

    #[inline]
    fn write(&mut self) -> Result<(), Trouble> {
        self.ask()
    }

    #[inline]
    fn post(&mut self) -> Result<(), Trouble> {
        self.tell()
    }
}

impl Medium for Waker {
    #[inline]
    fn read(&mut self) -> Result<(), Trouble> {
        self.ask()
    }

    #[inline]
    fn write(&mut self) -> Result<(), Trouble> {
        self.ask()
    }
}

/// The built-in client, whose accesses go by shared memory.
pub(in crate::bench) struct Accessor {
    client: Client,
    target: Target,
}

impl Accessor {
    /// Agrees with our server at the other end.
    ///
    /// # Errors
    ///
    /// If it does not, or not on shared memory.
    pub(in crate::bench) fn new(stream: UnixStream, spin: bool) -> Result<Self, Trouble> {
        let spinning = if spin {
            Spinning::Always
        } else {
            Spinning::Never
        };
        let options = Options::default().shared_mmio(1).spinning(spinning);
        let client = Client::over(stream, &options);
        let client = client.map_err(|error| Trouble::new("our server", error))?;
        if client.agreement().shared_mmio.is_none() {
            return Err(Trouble("the server shares no memory".to_owned()));
        }
        Ok(Accessor::over(client, scratch()))
    }

    /// Goes on with a client that has agreed.
    pub(in crate::bench) fn over(client: Client, target: Target) -> Self {
        Accessor { client, target }
    }

    /// Reads the register.
    #[inline]
    pub(in crate::bench) fn get(&mut self, data: &mut [u8; 4]) -> Result<(), Trouble> {
        let Target { region, offset, .. } = self.target;
        self.client
            .read(region, offset, data)
            .map_err(|error| failed(&error))
    }

    /// Writes it, and waits until that is done.
    #[inline]
    pub(in crate::bench) fn set(&mut self, data: [u8; 4]) -> Result<(), Trouble> {
        let Target { region, offset, .. } = self.target;
        self.client
            .write(region, offset, &data)
            .map_err(|error| failed(&error))
    }

    /// Writes it without waiting.
    #[inline]
    pub(in crate::bench) fn post(&mut self, data: [u8; 4]) -> Result<(), Trouble> {
        let Target { region, offset, .. } = self.target;
        self.client
            .post(region, offset, &data)
            .map_err(|error| failed(&error))
    }
}

#[cold]
fn failed(error: &ClientError) -> Trouble {
    Trouble(error.to_string())
}

impl Medium for Accessor {
    #[inline]
    fn read(&mut self) -> Result<(), Trouble> {
        self.get(&mut [0; 4])
    }

    #[inline]
    fn write(&mut self) -> Result<(), Trouble> {
        self.set(self.target.data)
    }

    #[inline]
    fn post(&mut self) -> Result<(), Trouble> {
        Accessor::post(self, self.target.data)
    }
}
