//! A recorder between a client and a server.
//!
//! It passes whole messages on, with their descriptors, and notes what each
//! one was. What it notes is read from the wire by itself: neither side's
//! code is asked.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, recvmsg, sendmsg,
};
use tempfile::TempDir;
use vgpu_stub::protocol::Command;

/// The header of a message (vfio-user, Header).
const HEADER: usize = 16;
const REPLY: u32 = 1;
const NO_REPLY: u32 = 1 << 4;
const ERROR: u32 = 1 << 5;

/// More descriptors than any message has.
const MAX_FDS: usize = 64;

/// A message is not held longer than this, whatever a test does.
const HOLD_LIMIT: Duration = Duration::from_secs(20);

/// Who sent a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    Client,
    Server,
}

/// A message that went by.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) sender: Sender,
    pub(crate) command: u16,
    pub(crate) is_reply: bool,
    pub(crate) no_reply: bool,
    pub(crate) error: Option<u32>,
    pub(crate) descriptors: usize,
    /// The first bytes after the header, enough for all that is fixed.
    pub(crate) body: Vec<u8>,
}

impl Seen {
    fn new(sender: Sender, header: &[u8; HEADER], body: &[u8], descriptors: usize) -> Self {
        let flags = u32_at(header, 8);
        Self {
            sender,
            command: u16::from_le_bytes([header[2], header[3]]),
            is_reply: flags & 0xf == REPLY,
            no_reply: flags & NO_REPLY != 0,
            error: (flags & ERROR != 0).then(|| u32_at(header, 12)),
            descriptors,
            body: body[..body.len().min(32)].to_vec(),
        }
    }

    /// It is this command, not the reply to it.
    pub(crate) fn is(&self, command: Command) -> bool {
        self.command == command as u16 && !self.is_reply
    }

    /// It is the reply to this command.
    pub(crate) fn answers(&self, command: Command) -> bool {
        self.command == command as u16 && self.is_reply
    }

    /// A read or write of this region, at this offset if one is given.
    pub(crate) fn accesses(&self, region: u32, offset: Option<u64>) -> bool {
        let is_access = self.is(Command::RegionRead) || self.is(Command::RegionWrite);
        let low = u64::from(u32_at(&self.body, 0));
        let at = low | u64::from(u32_at(&self.body, 4)) << 32;
        is_access && u32_at(&self.body, 8) == region && offset.is_none_or(|wanted| wanted == at)
    }

    /// The number of writes in a `REGION_WRITE_MULTI`.
    pub(crate) fn writes(&self) -> u64 {
        if !self.is(Command::RegionWriteMulti) {
            return 0;
        }
        u64::from(u32_at(&self.body, 0)) | u64::from(u32_at(&self.body, 4)) << 32
    }
}

/// Missing bytes read as zero.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    u32::from_le_bytes(*found.unwrap_or(&[0; 4]))
}

type Condition = Box<dyn Fn(&Seen) -> bool + Send>;

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    ended_sessions: usize,
    hold_at: Option<Condition>,
    holding: bool,
    stopping: bool,
    sockets: Vec<UnixStream>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `holds`; says whether it does.
    fn wait(&self, limit: Duration, mut holds: impl FnMut(&State) -> bool) -> bool {
        let wait = self
            .changed
            .wait_timeout_while(self.state(), limit, |state| !holds(state));
        !wait.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

/// Listens on a socket of its own and passes all that comes on to a server.
pub(crate) struct Recorder {
    directory: TempDir,
    listener: Arc<UnixListener>,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Recorder {
    /// A recorder in front of the server on `server`.
    pub(crate) fn start(server: &Path) -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let listener = Arc::new(UnixListener::bind(directory.path().join("recorder"))?);
        let shared = Arc::new(Shared::default());
        let server = server.to_owned();
        let accepting = thread::spawn({
            let (listener, shared) = (listener.clone(), shared.clone());
            move || accept_all(&listener, &server, &shared)
        });
        Ok(Self {
            directory,
            listener,
            shared,
            accepting: Some(accepting),
        })
    }

    /// The socket to connect to.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("recorder")
    }

    /// How many messages fulfil a condition.
    pub(crate) fn count(&self, condition: impl Fn(&Seen) -> bool) -> usize {
        let state = self.shared.state();
        state.seen.iter().filter(|seen| condition(seen)).count()
    }

    /// The messages that fulfil a condition.
    pub(crate) fn all(&self, condition: impl Fn(&Seen) -> bool) -> Vec<Seen> {
        let state = self.shared.state();
        let found = state.seen.iter().filter(|seen| condition(seen));
        found.cloned().collect()
    }

    /// Forgets all messages up to now.
    pub(crate) fn clear(&self) {
        self.shared.state().seen.clear();
    }

    /// Takes no more messages from the client after the first one that
    /// fulfils the condition, until [`Self::release`].
    pub(crate) fn hold_at(&self, condition: impl Fn(&Seen) -> bool + Send + 'static) {
        self.shared.state().hold_at = Some(Box::new(condition));
    }

    /// Goes on after [`Self::hold_at`].
    pub(crate) fn release(&self) {
        self.shared.state().holding = false;
        self.shared.changed.notify_all();
    }

    /// Waits until so many sessions have ended; says whether they have.
    pub(crate) fn wait_ended(&self, sessions: usize, limit: Duration) -> bool {
        self.shared
            .wait(limit, |state| state.ended_sessions >= sessions)
    }

    /// Waits for a message that fulfils a condition; says whether it came.
    pub(crate) fn wait_for(&self, limit: Duration, condition: impl Fn(&Seen) -> bool) -> bool {
        self.shared
            .wait(limit, |state| state.seen.iter().any(&condition))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state();
            state.stopping = true;
            state.holding = false;
            for socket in &state.sockets {
                let _ = socket.shutdown(std::net::Shutdown::Both);
            }
        }
        self.shared.changed.notify_all();
        // Wakes accept.
        let _ = rustix::net::shutdown(self.listener.as_fd(), Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

/// Serves clients one after the other, as the server does.
fn accept_all(listener: &UnixListener, server: &Path, shared: &Shared) {
    while let Ok((client, _)) = listener.accept() {
        // A server that is gone is a client that is refused.
        if let Ok(server) = UnixStream::connect(server) {
            let _ = session(&client, &server, shared);
        }
        shared.state().ended_sessions += 1;
        shared.changed.notify_all();
    }
}

fn session(client: &UnixStream, server: &UnixStream, shared: &Shared) -> io::Result<()> {
    {
        let mut state = shared.state();
        state.sockets = vec![client.try_clone()?, server.try_clone()?];
        if state.stopping {
            return Ok(());
        }
    }
    thread::scope(|scope| {
        scope.spawn(|| pump(Sender::Server, server, client, shared));
        pump(Sender::Client, client, server, shared);
    });
    Ok(())
}

/// Passes messages on until either side is gone, which the other then sees.
fn pump(sender: Sender, from: &UnixStream, to: &UnixStream, shared: &Shared) {
    while let Ok((bytes, descriptors)) = receive(from) {
        let Some((header, body)) = bytes.split_first_chunk() else {
            break;
        };
        let seen = Seen::new(sender, header, body, descriptors.len());
        // Noted first: whoever sees its effect will find it noted.
        note(seen, shared);
        if send(to, &bytes, &descriptors).is_err() {
            break;
        }
        shared.wait(HOLD_LIMIT, |state| {
            sender == Sender::Server || !state.holding
        });
    }
    let _ = from.shutdown(std::net::Shutdown::Both);
    let _ = to.shutdown(std::net::Shutdown::Both);
}

fn note(seen: Seen, shared: &Shared) {
    let mut state = shared.state();
    if seen.sender == Sender::Client && state.hold_at.as_ref().is_some_and(|at| at(&seen)) {
        state.hold_at = None;
        state.holding = true;
    }
    state.seen.push(seen);
    shared.changed.notify_all();
}

/// One whole message. Its descriptors come with its first byte; to read no
/// further than the header keeps them apart from those of the next message.
pub(crate) fn receive(from: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; HEADER];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let got = recvmsg(from, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let descriptors = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    if got == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut from = from;
    from.read_exact(&mut bytes[got..])?;
    let size = u32_at(&bytes, 4) as usize;
    bytes.resize(size.max(HEADER), 0);
    from.read_exact(&mut bytes[HEADER..])?;
    Ok((bytes, descriptors))
}

/// Sends a whole message.
pub(crate) fn send(mut to: &UnixStream, bytes: &[u8], descriptors: &[OwnedFd]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::Error::other("too many descriptors in a message"));
    }
    let parts = [IoSlice::new(bytes)];
    let sent = sendmsg(to, &parts, &mut control, SendFlags::NOSIGNAL)?;
    to.write_all(&bytes[sent..])
}
