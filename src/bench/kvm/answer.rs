//! What answers the guest's accesses. A further transport is one more of
//! these, and a row in `mod.rs`.

use std::path::Path;

use crate::bench::shared::Accessor;
use crate::bench::socket::{Link, Messages, Target};
use crate::bench::waiting::Waiting;
use crate::bench::{Bench, Peer, PeerKind, PeerOptions, Trouble};
use crate::client::{Client, Options};
use crate::device::Register;
use crate::devices::StubRegister;
use crate::endpoint::Endpoint;

/// What the guest writes, and what it is to read.
pub(super) const VALUE: u32 = 0x5aa5_1234;

/// Where: the stub's register that only stores.
pub(super) fn scratch() -> u64 {
    StubRegister::SCRATCH.row().offset.into()
}

/// What cannot run without a second CPU.
pub(super) const ONE_CPU: &str = "this process may use one CPU only; allow it a second one";

/// Where the server runs, and how both sides wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// On the guest's CPU, blocking.
    Same,
    /// On a CPU of its own, blocking.
    Two,
    /// On a CPU of its own, both sides spinning.
    Spin,
}

impl Place {
    pub(super) fn cpu(self, bench: &Bench<'_>) -> Result<usize, Trouble> {
        let pinning = bench.plan.pinning;
        match self {
            Place::Same => Ok(pinning.client),
            Place::Two | Place::Spin => pinning.other.ok_or_else(|| Trouble(ONE_CPU.to_owned())),
        }
    }

    pub(super) fn what(self) -> &'static str {
        match self {
            Place::Same => "same CPU",
            Place::Two => "two CPUs",
            Place::Spin => "both spinning",
        }
    }
}

/// Carries out accesses of 4 bytes to SCRATCH.
pub(super) trait Answer {
    /// The guest reads.
    fn read(&mut self, data: &mut [u8; 4]) -> Result<(), Trouble>;

    /// The guest writes.
    fn write(&mut self, data: [u8; 4]) -> Result<(), Trouble>;

    /// Waits for what is under way. Not in the time of a sample.
    fn settle(&mut self) -> Result<(), Trouble> {
        Ok(())
    }

    /// A slice begins.
    fn begin(&mut self) -> Result<(), Trouble> {
        Ok(())
    }

    /// A slice has ended: no CPU is used until the next.
    fn end(&mut self) -> Result<(), Trouble> {
        Ok(())
    }

    /// The process that answers, if it is another one.
    fn peer(&self) -> Option<u32> {
        None
    }
}

/// Nobody but a word.
pub(super) struct Word(pub(super) [u8; 4]);

impl Answer for Word {
    #[inline]
    fn read(&mut self, data: &mut [u8; 4]) -> Result<(), Trouble> {
        *data = self.0;
        Ok(())
    }

    #[inline]
    fn write(&mut self, data: [u8; 4]) -> Result<(), Trouble> {
        self.0 = data;
        Ok(())
    }
}

/// The stub in this process.
pub(super) struct InProcess(pub(super) Endpoint);

impl Answer for InProcess {
    #[inline]
    fn read(&mut self, data: &mut [u8; 4]) -> Result<(), Trouble> {
        let read = self.0.read(0, scratch(), data);
        read.map_err(|error| Trouble::new("SCRATCH", error))
    }

    #[inline]
    fn write(&mut self, data: [u8; 4]) -> Result<(), Trouble> {
        let written = self.0.write(0, scratch(), &data);
        written.map_err(|error| Trouble::new("SCRATCH", error))
    }
}

/// The stub behind our server, in a process of its own.
pub(super) struct Socket {
    peer: Peer,
    link: Link,
    messages: Messages,
    spins: bool,
    posts: bool,
}

impl Socket {
    /// Starts the server at `place`. Writes are posted if `posts` says so.
    pub(super) fn start(
        bench: &Bench<'_>,
        program: &Path,
        place: Place,
        posts: bool,
        stamps: bool,
    ) -> Result<Socket, Trouble> {
        let spins = place == Place::Spin;
        let options = PeerOptions {
            spin: spins,
            cpu: Some(place.cpu(bench)?),
            stamps,
            ..PeerOptions::of(PeerKind::Stub)
        };
        let failed = |error: &dyn std::fmt::Display| Trouble::new("our server", error);
        let (peer, stream) = Peer::start(program, &options)?;
        let copy = stream.try_clone().map_err(|error| failed(&error))?;
        // It agrees with the server, and leaves the connection to us.
        Client::over(copy, &Options::default()).map_err(|error| failed(&error))?;
        let waiting = if spins { Waiting::Spin } else { Waiting::Block };
        let mut socket = Socket {
            link: Link::new(stream, waiting, bench.plan.interrupt.clone())?,
            messages: Messages::vfio_user(Target {
                region: 0,
                offset: scratch(),
                data: [0; 4],
            }),
            peer,
            spins,
            posts,
        };
        socket.end()?;
        Ok(socket)
    }

    /// Asks for SCRATCH.
    #[inline]
    pub(super) fn send_read(&mut self) -> Result<(), Trouble> {
        self.link.send(&self.messages.read.request)
    }

    /// Takes the answer to that.
    #[inline]
    pub(super) fn receive_read(&mut self, data: &mut [u8; 4]) -> Result<(), Trouble> {
        let Some(reply) = &self.messages.read.reply else {
            return Ok(());
        };
        self.link.receive(reply)?;
        if let Some(got) = self.link.data(reply).first_chunk() {
            *data = *got;
        }
        Ok(())
    }

    /// Ends the server, and returns what it is.
    pub(super) fn into_peer(self) -> Peer {
        self.peer
    }
}

impl Answer for Socket {
    #[inline]
    fn read(&mut self, data: &mut [u8; 4]) -> Result<(), Trouble> {
        self.send_read()?;
        self.receive_read(data)
    }

    #[inline]
    fn write(&mut self, data: [u8; 4]) -> Result<(), Trouble> {
        let Messages { write, post, .. } = &mut self.messages;
        let exchange = if self.posts { post } else { write };
        if let Some(end) = exchange.request.last_chunk_mut() {
            *end = data;
        }
        self.link.send(&exchange.request)?;
        match &exchange.reply {
            Some(reply) => self.link.receive(reply),
            None => Ok(()),
        }
    }

    #[inline]
    fn settle(&mut self) -> Result<(), Trouble> {
        if self.posts {
            self.read(&mut [0; 4])?;
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), Trouble> {
        if self.spins {
            self.peer.resume()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Trouble> {
        if self.spins {
            self.peer.pause()?;
        }
        Ok(())
    }

    fn peer(&self) -> Option<u32> {
        Some(self.peer.id())
    }
}

/// The stub behind our server, which is reached by shared memory.
pub(super) struct Shared {
    peer: Peer,
    accessor: Accessor,
    spins: bool,
    posts: bool,
}

impl Shared {
    /// Starts the server at `place`. Writes are posted if `posts` says so.
    pub(super) fn start(
        bench: &Bench<'_>,
        program: &Path,
        place: Place,
        posts: bool,
    ) -> Result<Shared, Trouble> {
        let spins = place == Place::Spin;
        let options = PeerOptions {
            spin: spins,
            cpu: Some(place.cpu(bench)?),
            ..PeerOptions::of(PeerKind::Stub)
        };
        let (peer, stream) = Peer::start(program, &options)?;
        let mut shared = Shared {
            accessor: Accessor::new(stream, spins)?,
            peer,
            spins,
            posts,
        };
        shared.end()?;
        Ok(shared)
    }
}

impl Answer for Shared {
    #[inline]
    fn read(&mut self, data: &mut [u8; 4]) -> Result<(), Trouble> {
        self.accessor.get(data)
    }

    #[inline]
    fn write(&mut self, data: [u8; 4]) -> Result<(), Trouble> {
        if self.posts {
            return self.accessor.post(data);
        }
        self.accessor.set(data)
    }

    #[inline]
    fn settle(&mut self) -> Result<(), Trouble> {
        if self.posts {
            self.accessor.get(&mut [0; 4])?;
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), Trouble> {
        if self.spins {
            self.peer.resume()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Trouble> {
        if self.spins {
            self.peer.pause()?;
        }
        Ok(())
    }

    fn peer(&self) -> Option<u32> {
        Some(self.peer.id())
    }
}
