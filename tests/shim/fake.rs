//! A server that says what a test's script wants it to say.
//!
//! Behind it is an honest one, the library's, to which it passes what the
//! script leaves alone. So a lie is one changed field of a true answer.
//!
//! One that shares memory has the same scripts: an access through the memory
//! comes to them as the message that it would be.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tempfile::TempDir;

use crate::pages::{Pages, Sharing};
use crate::rig::recorder::{receive, send};
use crate::wire::{Cmd, PATIENT, Received, Served, make, messages, reply};
use vgpu_stub::endpoint::Endpoint;

/// Whether the client sent this command, which is not its answer to one.
pub(crate) fn is(message: &Received, command: Cmd) -> bool {
    message.command() == command as u16 && message.flags() & messages::REPLY == 0
}

/// What becomes of a message of the client.
pub(crate) enum Then {
    /// The honest server answers it.
    Honest,
    /// The script has done all that there is to do.
    Done,
    /// The connection is closed.
    Leave,
    /// Nothing more is read, and nothing more said.
    Hang,
    /// It leaves and listens no more.
    Die,
}

type Script = Box<dyn FnMut(&mut Peer<'_>, &Received) -> Then + Send>;

/// A message that the client sent.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    /// The number of the connection, from 0.
    pub(crate) session: usize,
    pub(crate) bytes: Vec<u8>,
    pub(crate) fds: usize,
    /// It came through the memory.
    pub(crate) by_memory: bool,
}

impl Heard {
    pub(crate) fn command(&self) -> u16 {
        u16::from_ne_bytes([self.bytes[2], self.bytes[3]])
    }

    /// It is this command.
    pub(crate) fn is(&self, command: Cmd) -> bool {
        self.command() == command as u16 && self.u32(8) & messages::REPLY == 0
    }

    pub(crate) fn no_reply(&self) -> bool {
        self.u32(8) & messages::NO_REPLY != 0
    }

    /// Four bytes of the whole message; zeros beyond its end.
    pub(crate) fn u32(&self, at: usize) -> u32 {
        let found = self.bytes.get(at..).and_then(|rest| rest.first_chunk());
        u32::from_ne_bytes(*found.unwrap_or(&[0; 4]))
    }

    /// An access to a region at an offset: `REGION_READ` or `REGION_WRITE`.
    pub(crate) fn accesses(&self, region: u32, offset: u64) -> bool {
        let is_access = self.is(Cmd::RegionRead) || self.is(Cmd::RegionWrite);
        let at = u64::from(self.u32(16)) | u64::from(self.u32(20)) << 32;
        is_access && self.u32(24) == region && at == offset
    }
}

#[derive(Default)]
struct State {
    heard: Vec<Heard>,
    sessions: usize,
    ended: usize,
    stopping: bool,
    /// Those of the connection, to the client and to the honest server.
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

    fn wait(&self, limit: Duration, mut holds: impl FnMut(&State) -> bool) -> bool {
        let wait = self
            .changed
            .wait_timeout_while(self.state(), limit, |state| !holds(state));
        !wait.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

/// The script's view of a connection.
pub(crate) struct Peer<'a> {
    /// The number of the connection, from 0.
    pub(crate) session: usize,
    client: UnixStream,
    server: UnixStream,
    shared: &'a Shared,
    sharing: Option<&'a mut Sharing>,
    pages: Option<Pages>,
}

/// What the honest server is not asked: what it would answer is none of the
/// script's.
const SHARED_MMIO: &[u8] = br#","shared_mmio":{"version":1,"slots":1}"#;

/// VERSION without it.
fn without_sharing(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let length = SHARED_MMIO.len();
    if let Some(at) = bytes.windows(length).position(|part| part == SHARED_MMIO) {
        bytes[at..at + length].fill(b' ');
    }
    bytes
}

impl Peer<'_> {
    /// Sends bytes to the client; says whether it is still there.
    pub(crate) fn send(&self, bytes: &[u8]) -> bool {
        send(&self.client, bytes, &[]).is_ok()
    }

    /// Sends a message with descriptors.
    pub(crate) fn pass(&self, message: &Received) {
        if let (Some(pages), Some(sharing)) = (&self.pages, &self.sharing)
            && pages.answers(message, sharing)
        {
            return;
        }
        let _ = send(&self.client, &message.bytes, &message.fds);
    }

    /// The next message of the client.
    pub(crate) fn receive(&self) -> io::Result<Received> {
        let (bytes, fds) = receive(&self.client)?;
        Ok(self.note(Received { bytes, fds }, false))
    }

    fn note(&self, message: Received, by_memory: bool) -> Received {
        let heard = Heard {
            session: self.session,
            bytes: message.bytes.clone(),
            fds: message.fds.len(),
            by_memory,
        };
        self.shared.state().heard.push(heard);
        self.shared.changed.notify_all();
        message
    }

    /// The next message, or access through the memory.
    fn next(&self) -> io::Result<Received> {
        let (Some(pages), Some(sharing)) = (&self.pages, &self.sharing) else {
            return self.receive();
        };
        loop {
            if let Some(access) = pages.next(sharing) {
                return Ok(self.note(access, true));
            }
            if pages.wait(&self.client, sharing) {
                // Before a message come the writes that were posted then.
                return match pages.next(sharing) {
                    Some(access) => Ok(self.note(access, true)),
                    None => self.receive(),
                };
            }
        }
    }

    /// Adds the offer to share memory to a reply to VERSION.
    fn offer(&mut self, answer: &mut Received) {
        let Some(sharing) = &mut self.sharing else {
            return;
        };
        let (pages, offer) = Pages::new(sharing);
        self.pages = Some(pages);
        let body = answer.body();
        let mut said: serde_json::Value = serde_json::from_slice(&body[4..body.len() - 1]).unwrap();
        said["capabilities"]["shared_mmio"] = offer.said;
        let body = [&body[..4], said.to_string().as_bytes(), &[0]].concat();
        answer.bytes = reply(answer.id(), Cmd::Version, &body);
        answer.fds = offer.fds;
    }

    /// What the honest server answers; none to a command that wants no reply.
    /// What it asks meanwhile, the client is asked.
    pub(crate) fn honest(&self, message: &Received) -> io::Result<Option<Received>> {
        if message.flags() & messages::REPLY != 0 {
            // To a question that nobody asked.
            return Ok(None);
        }
        let is_version = is(message, Cmd::Version);
        if is_version {
            send(&self.server, &without_sharing(&message.bytes), &[])?;
        } else {
            send(&self.server, &message.bytes, &message.fds)?;
        }
        if message.flags() & messages::NO_REPLY != 0 {
            return Ok(None);
        }
        loop {
            let (bytes, fds) = receive(&self.server)?;
            let answer = Received { bytes, fds };
            if answer.flags() & messages::REPLY != 0 {
                return Ok(Some(answer));
            }
            self.pass(&answer);
            let reply = self.receive()?;
            send(&self.server, &reply.bytes, &reply.fds)?;
        }
    }

    /// Asks the client and returns its answer.
    pub(crate) fn ask(&self, id: u16, command: Cmd, body: &[u8]) -> io::Result<Received> {
        self.send(&messages::message(id, command, body));
        self.receive()
    }

    /// Waits until the client asks for an access through the memory.
    pub(crate) fn wait_asked(&self) {
        self.pages.as_ref().expect("it is shared").wait_asked();
    }

    /// Waits until the client sleeps.
    pub(crate) fn wait_asleep(&self) {
        self.pages.as_ref().expect("it is shared").wait_asleep();
    }

    /// The honest answer, changed.
    pub(crate) fn lie(&self, message: &Received, lie: impl FnOnce(&mut Received)) -> Then {
        match self.honest(message) {
            Ok(Some(mut answer)) => {
                lie(&mut answer);
                self.pass(&answer);
                Then::Done
            }
            Ok(None) => Then::Done,
            Err(_) => Then::Leave,
        }
    }
}

/// A server with a script; it ends when this is dropped.
pub(crate) struct Fake {
    socket: PathBuf,
    directory: Option<TempDir>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    listener: Arc<UnixListener>,
    _served: Served,
}

impl Fake {
    /// Serves this script; the honest server has the `test` device.
    pub(crate) fn start(
        script: impl FnMut(&mut Peer<'_>, &Received) -> Then + Send + 'static,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut fake = Self::start_at(&directory.path().join("socket"), script);
        fake.directory = Some(directory);
        fake
    }

    /// The same, by a server that shares memory.
    pub(crate) fn sharing(
        sharing: Sharing,
        script: impl FnMut(&mut Peer<'_>, &Received) -> Then + Send + 'static,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let mut fake = Self::serve(&socket, make("test"), Some(sharing), script);
        fake.directory = Some(directory);
        fake
    }

    /// The same on a socket of this name, which may have been another's.
    pub(crate) fn start_at(
        socket: &Path,
        script: impl FnMut(&mut Peer<'_>, &Received) -> Then + Send + 'static,
    ) -> Self {
        Self::serve(socket, make("test"), None, script)
    }

    /// The same for any device, and with shared memory where that is wanted.
    pub(crate) fn serve(
        socket: &Path,
        device: Endpoint,
        mut sharing: Option<Sharing>,
        script: impl FnMut(&mut Peer<'_>, &Received) -> Then + Send + 'static,
    ) -> Self {
        let served = Served::of(PATIENT, [("test", device)]);
        let _ = std::fs::remove_file(socket);
        let listener = Arc::new(UnixListener::bind(socket).unwrap());
        let shared = Arc::new(Shared::default());
        let thread = thread::spawn({
            let (listener, shared) = (listener.clone(), shared.clone());
            let honest = served.path("test");
            move || {
                let mut script: Script = Box::new(script);
                while let Ok((client, _)) = listener.accept() {
                    let Ok(behind) = UnixStream::connect(&honest) else {
                        break;
                    };
                    let sharing = sharing.as_mut();
                    if session(client, behind, &shared, sharing, &mut script).is_break() {
                        break;
                    }
                }
                let _ = rustix::net::shutdown(listener.as_fd(), rustix::net::Shutdown::Both);
            }
        });
        Fake {
            socket: socket.to_owned(),
            directory: None,
            shared,
            thread: Some(thread),
            listener,
            _served: served,
        }
    }

    /// An honest server that only listens.
    pub(crate) fn honest() -> Self {
        Self::start(|_, _| Then::Honest)
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// The messages of the client that fulfil a condition.
    pub(crate) fn heard(&self, condition: impl Fn(&Heard) -> bool) -> Vec<Heard> {
        let state = self.shared.state();
        let found = state.heard.iter().filter(|heard| condition(heard));
        found.cloned().collect()
    }

    /// How many messages fulfil a condition.
    pub(crate) fn count(&self, condition: impl Fn(&Heard) -> bool) -> usize {
        self.heard(condition).len()
    }

    /// Forgets all messages up to now.
    pub(crate) fn clear(&self) {
        self.shared.state().heard.clear();
    }

    /// Waits for a message that fulfils a condition.
    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, condition: impl Fn(&Heard) -> bool) {
        let came = |state: &State| state.heard.iter().any(&condition);
        assert!(
            self.shared.wait(crate::wire::PATIENCE, came),
            "{what}: not in time"
        );
    }

    /// Waits until so many connections were made.
    #[track_caller]
    pub(crate) fn wait_sessions(&self, sessions: usize) {
        let made = |state: &State| state.sessions >= sessions;
        assert!(self.shared.wait(crate::wire::PATIENCE, made), "no client");
    }

    /// Waits until so many connections have ended.
    #[track_caller]
    pub(crate) fn wait_ended(&self, sessions: usize) {
        let ended = |state: &State| state.ended >= sessions;
        assert!(self.shared.wait(crate::wire::PATIENCE, ended), "no end");
    }

    /// Closes the connection under the client, as a crash does.
    pub(crate) fn hang_up(&self) {
        for socket in &self.shared.state().sockets {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Sends bytes to the client beside all else.
    pub(crate) fn interject(&self, bytes: &[u8]) {
        let client = self
            .shared
            .state()
            .sockets
            .first()
            .map(UnixStream::try_clone);
        let client = client.expect("there is a client").unwrap();
        let _ = send(&client, bytes, &[]);
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.shared.state().stopping = true;
        self.hang_up();
        self.shared.changed.notify_all();
        // Wakes accept.
        let _ = rustix::net::shutdown(self.listener.as_fd(), rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(thread::panicking() || ended.is_ok(), "the script panicked");
        }
    }
}

/// One connection; breaks if it was the last.
fn session(
    client: UnixStream,
    server: UnixStream,
    shared: &Shared,
    sharing: Option<&mut Sharing>,
    script: &mut Script,
) -> std::ops::ControlFlow<()> {
    let (Ok(client_again), Ok(server_again)) = (client.try_clone(), server.try_clone()) else {
        return std::ops::ControlFlow::Break(());
    };
    let session = {
        let mut state = shared.state();
        if state.stopping {
            return std::ops::ControlFlow::Break(());
        }
        state.sockets = vec![client_again, server_again];
        state.sessions += 1;
        state.sessions - 1
    };
    shared.changed.notify_all();
    let mut peer = Peer {
        session,
        client,
        server,
        shared,
        sharing,
        pages: None,
    };
    let mut last = false;
    while let Ok(message) = peer.next() {
        match script(&mut peer, &message) {
            Then::Honest => match peer.honest(&message) {
                Ok(Some(mut answer)) => {
                    if is(&message, Cmd::Version) {
                        peer.offer(&mut answer);
                    }
                    peer.pass(&answer);
                }
                Ok(None) => {}
                Err(_) => break,
            },
            Then::Done => {}
            Then::Leave => break,
            Then::Hang => {
                shared.wait(Duration::from_secs(60), |state| state.stopping);
                break;
            }
            Then::Die => {
                last = true;
                break;
            }
        }
    }
    let _ = peer.client.shutdown(Shutdown::Both);
    let mut state = shared.state();
    state.sockets.clear();
    state.ended += 1;
    drop(state);
    shared.changed.notify_all();
    if last {
        std::ops::ControlFlow::Break(())
    } else {
        std::ops::ControlFlow::Continue(())
    }
}
