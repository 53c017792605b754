//! What a peer's process does.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::process::{Signal, set_parent_process_death_signal};
use vfio_user::ServerRegion;

use super::{PeerKind, ping_pong};
use crate::bench::Trouble;
use crate::bench::dispatch::stub;
use crate::endpoint::REGIONS;
use crate::server::{Server, Source};

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

/// Serves on the socket that is this process's standard input, as
/// [`Peer::start`](super::Peer::start) asked for, until the client leaves.
///
/// # Errors
///
/// If there is no socket, or it fails.
pub fn serve_peer(kind: PeerKind, spin: bool, stamps: bool) -> Result<(), Trouble> {
    let _ = (spin, stamps);
    // Paused, it would not notice that its connection has ended.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    let failed = |error: &dyn std::fmt::Display| Trouble::new("a peer", error);
    let socket = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| failed(&error))?;
    match kind {
        PeerKind::Stub => {
            let mut server = Server::new();
            server
                .add("stub", stub()?, Source::Connected(UnixStream::from(socket)))
                .map_err(|error| failed(&error))?;
            server.run().map_err(|error| failed(&error))
        }
        PeerKind::CrateServer => crates_server(socket)
            .run(&mut stub()?)
            .map_err(|error| failed(&error)),
        PeerKind::PingPong => {
            let stream = UnixStream::from(socket);
            ping_pong::answer(&stream, spin).map_err(|error| failed(&error))
        }
    }
}

/// With regions of all sizes: it leaves accesses to the endpoint.
fn crates_server(listener: OwnedFd) -> vfio_user::Server {
    let region = |index| {
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
