//! What a peer's process does.

use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::process::{Signal, set_parent_process_death_signal};
use vfio_user::ServerRegion;

use super::{PeerKind, PeerOptions, cache_line, eventfds, idle, ping_pong};
use crate::bench::dispatch::stub;
use crate::bench::{Clock, Trouble};
use crate::endpoint::REGIONS;
use crate::fastpath::Polling;
use crate::protocol::{Command, Header};
use crate::server::{Observer, Server, Source, serve_observed};

/// When a peer did what for one read, in ticks of the [`Clock`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamps {
    /// The message had been received.
    pub received: u64,
    /// The reply was about to be sent.
    pub answering: u64,
    /// It had been sent.
    pub answered: u64,
}

impl Stamps {
    /// The bytes of one.
    pub(super) const SIZE: usize = 24;

    fn to_bytes(self) -> [u8; Stamps::SIZE] {
        let mut bytes = [0; Stamps::SIZE];
        let numbers = [self.received, self.answering, self.answered];
        for (bytes, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            bytes.copy_from_slice(&number.to_ne_bytes());
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| {
            let bytes = bytes.get(at..)?.first_chunk()?;
            Some(u64::from_ne_bytes(*bytes))
        };
        Some(Stamps {
            received: number(0)?,
            answering: number(8)?,
            answered: number(16)?,
        })
    }
}

/// How many stamps are kept: the last ones.
const MOST: usize = 1 << 17;

/// Keeps stamps in memory that it has from the beginning.
struct Recorder {
    clock: Clock,
    current: Stamps,
    ring: Vec<Stamps>,
    /// How many were taken.
    taken: usize,
}

impl Recorder {
    fn new() -> Self {
        Recorder {
            clock: Clock::new(),
            current: Stamps::default(),
            ring: vec![Stamps::default(); MOST],
            taken: 0,
        }
    }

    /// The oldest first.
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let (newer, older) = self.ring.split_at(self.taken % MOST);
        let older = if self.taken < MOST { &[] } else { older };
        for stamps in older.iter().chain(newer) {
            out.write_all(&stamps.to_bytes())?;
        }
        out.flush()
    }
}

impl Observer for Recorder {
    #[inline]
    fn received(&mut self, _: &Header) {
        self.current.received = self.clock.now();
    }

    #[inline]
    fn answering(&mut self, _: &Header) {
        self.current.answering = self.clock.now();
    }

    #[inline]
    fn answered(&mut self, command: &Header) {
        if command.command == Command::RegionRead.to_wire() {
            self.current.answered = self.clock.now();
            self.ring[self.taken % MOST] = self.current;
            self.taken += 1;
        }
    }
}

/// Serves on the socket that is this process's standard input, as
/// [`Peer::start`](super::Peer::start) asked for, until the client leaves.
/// Where it runs is not looked at: it runs there.
///
/// # Errors
///
/// If there is no socket, or it fails.
pub fn serve_peer(options: &PeerOptions) -> Result<(), Trouble> {
    // Paused, it would not notice that its connection has ended.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    let failed = |error: &dyn std::fmt::Display| Trouble::new("a peer", error);
    let socket = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| failed(&error))?;
    match options.kind {
        PeerKind::Stub => serve_stub(options, UnixStream::from(socket)),
        PeerKind::CrateServer => crates_server(socket)
            .run(&mut stub()?)
            .map_err(|error| failed(&error)),
        PeerKind::PingPong => ping_pong::answer(&UnixStream::from(socket), options.spin)
            .map_err(|error| failed(&error)),
        PeerKind::CacheLine => {
            cache_line::answer(&UnixStream::from(socket)).map_err(|error| failed(&error))
        }
        PeerKind::EventFds => {
            eventfds::answer(&UnixStream::from(socket)).map_err(|error| failed(&error))
        }
    }
}

fn serve_stub(options: &PeerOptions, stream: UnixStream) -> Result<(), Trouble> {
    let failed = |error: &dyn std::fmt::Display| Trouble::new("a peer", error);
    let polling = if options.spin {
        Polling::Always
    } else {
        Polling::Never
    };
    if options.stamps {
        let mut recorder = Recorder::new();
        serve_observed(&mut stub()?, stream, polling, &mut recorder)
            .map_err(|error| failed(&error))?;
        return recorder
            .write(&mut BufWriter::new(io::stdout().lock()))
            .map_err(|error| failed(&error));
    }
    let mut server = Server::new().polling(polling);
    if let Some(threads) = options.threads {
        server = server.threads(threads);
    }
    idle::add(&mut server, options.idle, &stream)?;
    server
        .add("stub", stub()?, Source::Connected(stream))
        .map_err(|error| failed(&error))?;
    server.run().map_err(|error| failed(&error))
}

/// With regions of all sizes: it leaves accesses to the endpoint.
fn crates_server(listener: OwnedFd) -> vfio_user::Server {
    let region = |index| {
        #[allow(
            clippy::default_trait_access,
            reason = "its type is of a crate that is not among ours"
        )]
        let mut region = ServerRegion {
            region_info: Default::default(),
            sparse_areas: Vec::new(),
            mmap_fd: None,
        };
        region.region_info.index = index;
        region
    };
    let regions = (0..REGIONS).map(region).collect();
    vfio_user::Server::from_owned_fd(listener, true, Vec::new(), regions)
}
