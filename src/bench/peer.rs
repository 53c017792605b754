//! A server in a process of its own: this program, run again with a hidden
//! command, so that a rung has a peer whose CPU and whose end it decides on.

mod beside;
mod cache_line;
mod eventfds;
mod idle;
mod ping_pong;
mod serve;

use std::fmt;
use std::io::{self, Read};
use std::net::Shutdown;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::{Pinned, Trouble};

pub(super) use cache_line::{Asker, ENTRIES};
pub(super) use eventfds::Waker;
pub use serve::{Stamps, serve_peer};

/// How long a peer may take to hand over its stamps.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a peer says when all its devices have clients.
const READY: &[u8] = b"ready";

/// What a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerKind {
    /// Our server with the stub.
    Stub,
    /// The `vfio_user` crate's server with the stub.
    CrateServer,
    /// A floor: for each message it sends as many bytes as that asks for. A
    /// message begins with its own length and its reply's, two bytes each in
    /// the host's order; for a reply of length 0 nothing is sent.
    PingPong,
    /// A floor: it answers a word in shared memory with another, spinning. It
    /// is given the memory over its socket.
    CacheLine,
    /// A floor: it answers a signal of one eventfd with one of another. It is
    /// given them over its socket.
    EventFds,
}

impl PeerKind {
    const ALL: [PeerKind; 5] = [
        PeerKind::Stub,
        PeerKind::CrateServer,
        PeerKind::PingPong,
        PeerKind::CacheLine,
        PeerKind::EventFds,
    ];
}

impl fmt::Display for PeerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PeerKind::Stub => "stub",
            PeerKind::CrateServer => "crate",
            PeerKind::PingPong => "ping-pong",
            PeerKind::CacheLine => "cache-line",
            PeerKind::EventFds => "eventfds",
        })
    }
}

impl FromStr for PeerKind {
    type Err = Trouble;

    fn from_str(name: &str) -> Result<Self, Trouble> {
        let mut all = PeerKind::ALL.into_iter();
        all.find(|kind| kind.to_string() == name)
            .ok_or_else(|| Trouble(format!("there is no peer '{name}'")))
    }
}

/// How a peer runs.
#[derive(Clone, Copy, Debug)]
pub struct PeerOptions {
    /// What it is.
    pub kind: PeerKind,
    /// It spins for a message instead of sleeping. The crate's server cannot.
    pub spin: bool,
    /// The CPU it stays on; without one, all that this process began with.
    pub cpu: Option<usize>,
    /// It notes when it received and answered each read. Only the stub can.
    pub stamps: bool,
    /// How many more devices its process has, each with a client that does
    /// nothing. Only the stub can.
    pub idle: u32,
    /// On so many threads it serves all of them, else each on one of its own.
    pub threads: Option<NonZeroUsize>,
}

impl PeerOptions {
    /// One that sleeps while it waits, wherever the kernel likes.
    pub fn of(kind: PeerKind) -> Self {
        PeerOptions {
            kind,
            spin: false,
            cpu: None,
            stamps: false,
            idle: 0,
            threads: None,
        }
    }
}

/// A peer that is running: killed when dropped. It ends as well when its
/// connection does, and with the thread that started it.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    /// Our end of its connection, to end that.
    stream: UnixStream,
}

impl Peer {
    /// Starts `program`, which is this one, as a peer; returns it with our end
    /// of its connection. It is in a process group of its own.
    ///
    /// # Errors
    ///
    /// If there is no process, no socket, or no such CPU for it.
    pub fn start(program: &Path, options: &PeerOptions) -> Result<(Peer, UnixStream), Trouble> {
        let failed = |error| Trouble::new("cannot make a socket for a peer", error);
        let (ours, theirs) = connection(options.kind).map_err(failed)?;
        let stream = ours.try_clone().map_err(failed)?;
        let mut command = Command::new(program);
        command
            .args(["--log-level", "error", "bench-peer"])
            .args(["--kind", &options.kind.to_string()])
            .args(options.spin.then_some("--spin"))
            .args(options.stamps.then_some("--stamps"))
            .args(["--idle", &options.idle.to_string()])
            .args(
                options
                    .threads
                    .map(|threads| format!("--threads={threads}")),
            )
            .stdin(theirs)
            .stdout(if options.stamps || options.idle > 0 {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .process_group(0);
        let _pinned = match options.cpu {
            Some(cpu) => Pinned::to(cpu)?,
            None => Pinned::unpinned()?,
        };
        let child = command
            .spawn()
            .map_err(|error| Trouble::new(format!("cannot run {}", program.display()), error))?;
        let mut peer = Peer { child, stream };
        if options.idle > 0 {
            peer.ready()?;
        }
        Ok((peer, ours))
    }

    /// Waits until it has said that all its devices have clients.
    fn ready(&mut self) -> Result<(), Trouble> {
        let said = self.child.stdout.take().map(|mut stdout| {
            let deadline = Instant::now() + PATIENCE;
            read_until(&mut stdout, READY.len(), deadline)
        });
        match said {
            Some(Ok(word)) if word == READY => Ok(()),
            Some(Err(error)) => Err(Trouble::new("a peer with many devices", error)),
            _ => Err(Trouble("a peer has no room for many devices".to_owned())),
        }
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Stops it, so that it does not spin in the time of others.
    ///
    /// # Errors
    ///
    /// If it has ended.
    pub fn pause(&self) -> Result<(), Trouble> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    ///
    /// If it has ended.
    pub fn resume(&self) -> Result<(), Trouble> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), Trouble> {
        kill_process(Pid::from_child(&self.child), signal)
            .map_err(|errno| Trouble::new("a peer has ended", errno))
    }

    /// Ends its connection and returns what it stamped: for each of the last
    /// reads, the oldest first, at most 131072. None if it was started
    /// without stamps.
    ///
    /// # Errors
    ///
    /// If it does not hand them over, all and in time.
    pub fn stamps(mut self) -> Result<Vec<Stamps>, Trouble> {
        let failed = |error| Trouble::new("a peer's stamps", error);
        self.resume()?;
        // Whoever ended it before did what is wanted.
        let _ = self.stream.shutdown(Shutdown::Both);
        let bytes = match self.child.stdout.take() {
            Some(mut stdout) => read_until(&mut stdout, usize::MAX, Instant::now() + PATIENCE),
            None => Ok(Vec::new()),
        };
        let bytes = bytes.map_err(failed)?;
        let stamps = bytes.chunks_exact(Stamps::SIZE);
        if !stamps.remainder().is_empty() {
            return Err(Trouble("a peer's stamps were cut off".to_owned()));
        }
        Ok(stamps.filter_map(Stamps::from_bytes).collect())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Both fail only for a child that is already reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Our end of a connection, and what the peer gets: the other end, or for the
/// crate's server, which wants to accept, a socket on which ours waits.
fn connection(kind: PeerKind) -> io::Result<(UnixStream, OwnedFd)> {
    if kind != PeerKind::CrateServer {
        let (ours, theirs) = UnixStream::pair()?;
        return Ok((ours, theirs.into()));
    }
    // Connected, it needs no path any more.
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path)?;
    Ok((UnixStream::connect(&path)?, listener.into()))
}

/// Reads so many bytes or to the end, which must come in time. What a peer of
/// ours sends is bounded.
fn read_until(
    pipe: &mut (impl Read + std::os::fd::AsFd),
    enough: usize,
    deadline: Instant,
) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut chunk = vec![0; 1 << 16];
    while bytes.len() < enough {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        match pipe.read(&mut chunk) {
            Ok(0) => return Ok(bytes),
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}
