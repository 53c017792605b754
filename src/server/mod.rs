//! Serves devices to vfio-user clients: each device has a socket of its own
//! and serves one client after the other, on a thread of its own or on one of
//! a pool.

mod backend;
mod client_memory;
mod commands;
mod connection;
mod listener;
mod observer;
mod pool;
mod refusal;
mod session;
mod version;
mod watch;

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::net::Shutdown;
use thiserror::Error;

pub use listener::{ListenError, Listener, Source};
pub use observer::Observer;
pub use session::SessionError;

use crate::endpoint::Endpoint;
use crate::fastpath::Polling;
use crate::protocol::{Capabilities, Socket};
use session::Session;

/// When to look again whether a client can be accepted.
const RETRY: Duration = Duration::from_millis(100);

/// How long a client may keep us waiting, and how much it may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From its connection to its VERSION.
    pub handshake: Duration,
    /// From the first byte of a message to its last, and for the room that a
    /// reply needs.
    pub message: Duration,
    /// For the answer to a `DMA_READ` or `DMA_WRITE`.
    pub dma: Duration,
    /// How many DMA maps a client may have, at most 65535. Each may hold a
    /// descriptor, of which a process has only so many.
    pub max_dma_maps: u32,
}

impl Default for Limits {
    /// 5 seconds each, which is QEMU's own patience, and all DMA maps.
    fn default() -> Self {
        let patience = Duration::from_secs(5);
        Limits {
            handshake: patience,
            message: patience,
            dma: patience,
            max_dma_maps: Capabilities::DEFAULT_MAX_DMA_MAPS,
        }
    }
}

/// How all clients are served.
#[derive(Clone, Copy, Debug, Default)]
struct Terms {
    limits: Limits,
    polling: Polling,
}

/// Why a device is no longer served.
#[derive(Debug, Error)]
pub enum ServeError {
    /// No further client can be accepted.
    #[error("{name}: cannot accept clients: {source}")]
    Accept {
        /// The device.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// No thread can be made for a device.
    #[error("{name}: cannot start a thread: {source}")]
    Thread {
        /// The device.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A pool of threads cannot wait for its devices.
    #[error("cannot wait for clients: {source}")]
    Pool {
        /// What the kernel said.
        source: io::Error,
    },
}

/// Devices and where their clients come from.
#[derive(Default)]
pub struct Server {
    services: Vec<Service>,
    terms: Terms,
    clients: Clients,
    /// None: each device has one.
    threads: Option<NonZeroUsize>,
}

/// Which clients a device is served to.
#[derive(Clone, Copy, Default)]
struct Clients {
    /// The first only.
    once: bool,
    /// How long to wait for it.
    first_within: Option<Duration>,
}

struct Service {
    name: String,
    endpoint: Endpoint,
    source: Source,
    handle: Handle,
}

impl Server {
    /// A server without devices.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what a client may ask for.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.terms.limits = limits;
        self
    }

    /// Sets what the devices' threads do while they wait for their clients.
    #[must_use]
    pub fn polling(mut self, polling: Polling) -> Self {
        self.terms.polling = polling;
        self
    }

    /// Ends the service of a device when its first client has left.
    #[must_use]
    pub fn once(mut self, once: bool) -> Self {
        self.clients.once = once;
        self
    }

    /// Ends the service of a device to which no client has connected when
    /// `time` has passed since [`Server::run`].
    #[must_use]
    pub fn first_client_within(mut self, time: Duration) -> Self {
        self.clients.first_within = Some(time);
        self
    }

    /// Sets on how many threads all devices are served, in place of a thread
    /// for each.
    ///
    /// These sleep whenever there is nothing to do: looking for work is for
    /// threads that have but one device. What holds a device up, such as a
    /// client that does not take its replies, holds up one of these threads,
    /// for as long as [`Limits`] says at most.
    #[must_use]
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Adds a device. `name` is for messages.
    ///
    /// # Errors
    ///
    /// If the source's descriptor cannot be duplicated.
    pub fn add(&mut self, name: &str, endpoint: Endpoint, source: Source) -> io::Result<()> {
        let listener = match &source {
            Source::Listener(listener) => Some(listener.as_fd().try_clone_to_owned()?),
            Source::Connected(_) => None,
        };
        self.services.push(Service {
            name: name.to_owned(),
            endpoint,
            source,
            handle: Handle::new(listener),
        });
        Ok(())
    }

    /// What ends [`Server::run`] from another thread.
    pub fn stopper(&self) -> Stopper {
        let handles = self.services.iter().map(|service| service.handle.clone());
        Stopper(handles.collect())
    }

    /// Serves all devices until all have ended.
    ///
    /// # Errors
    ///
    /// The first device's that ended with one; the others are served on.
    pub fn run(self) -> Result<(), ServeError> {
        let Server {
            services,
            terms,
            clients,
            threads,
        } = self;
        if let Some(threads) = threads {
            return pool::run(services, threads, &terms, clients);
        }
        let mut end = Ok(());
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for service in services {
                let name = service.name.clone();
                let spawned = thread::Builder::new()
                    .name(name.clone())
                    .spawn_scoped(scope, move || service.run(&terms, clients));
                match spawned {
                    Ok(thread) => threads.push(thread),
                    Err(source) => end = Err(ServeError::Thread { name, source }),
                }
            }
            for thread in threads {
                // A panic is a bug of ours, and goes on as one.
                let ended = thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                end = std::mem::replace(&mut end, Ok(())).and(ended);
            }
        });
        end
    }
}

impl Clients {
    /// Waits for the first client; a listener that was shut down counts as
    /// one.
    fn first_comes(self, listener: &Listener) -> bool {
        self.first_within.is_none_or(|time| listener.wait(time))
    }
}

impl Service {
    fn run(mut self, terms: &Terms, clients: Clients) -> Result<(), ServeError> {
        match self.source {
            Source::Connected(stream) => {
                serve(&self.name, &mut self.endpoint, stream, terms, &self.handle);
            }
            Source::Listener(listener) if !clients.first_comes(&listener) => {
                log::warn!(
                    "{}: no client has connected; not served any more",
                    self.name
                );
            }
            Source::Listener(listener) => loop {
                let accepted = listener.accept();
                if self.handle.stopped() {
                    break;
                }
                let stream = match accepted {
                    Ok(stream) => stream,
                    Err(error) if listener::passes(&error) => {
                        thread::sleep(RETRY);
                        continue;
                    }
                    Err(source) => {
                        let name = self.name;
                        return Err(ServeError::Accept { name, source });
                    }
                };
                serve(&self.name, &mut self.endpoint, stream, terms, &self.handle);
                if clients.once || self.handle.stopped() {
                    break;
                }
            },
        }
        Ok(())
    }
}

fn serve(name: &str, endpoint: &mut Endpoint, stream: UnixStream, terms: &Terms, handle: &Handle) {
    log::info!("{name}: a client connected");
    let end = Session::serve(endpoint, stream, terms, handle, ());
    report(name, &end, handle);
}

/// Says how a session ended.
fn report(name: &str, end: &Result<(), SessionError>, handle: &Handle) {
    match end {
        Ok(()) if handle.stopped() => log::info!("{name}: the client was left"),
        Ok(()) => log::info!("{name}: the client left"),
        Err(error) => log::warn!("{name}: the client was given up: {error}"),
    }
}

/// Serves one client on the calling thread until it leaves, and lets
/// `observer` watch.
///
/// # Errors
///
/// See [`SessionError`]; a client that leaves in order is none.
pub fn serve_observed<O: Observer>(
    endpoint: &mut Endpoint,
    stream: UnixStream,
    polling: Polling,
    observer: &mut O,
) -> Result<(), SessionError> {
    let limits = Limits::default();
    let terms = Terms { limits, polling };
    Session::serve(endpoint, stream, &terms, &Handle::new(None), observer)
}

/// Ends a running [`Server`] from any thread.
#[derive(Clone)]
pub struct Stopper(Vec<Handle>);

impl Stopper {
    /// Ends all sessions and stops accepting clients.
    pub fn stop(&self) {
        for handle in &self.0 {
            handle.stop();
        }
    }
}

/// What ends the service of one device, whatever it is waiting for.
#[derive(Clone)]
struct Handle(Arc<HandleState>);

struct HandleState {
    listener: Option<OwnedFd>,
    stopped: AtomicBool,
    session: Mutex<Option<Arc<Socket>>>,
}

impl Handle {
    fn new(listener: Option<OwnedFd>) -> Self {
        Handle(Arc::new(HandleState {
            listener,
            stopped: AtomicBool::new(false),
            session: Mutex::new(None),
        }))
    }

    fn stopped(&self) -> bool {
        self.0.stopped.load(Ordering::SeqCst)
    }

    fn stop(&self) {
        self.0.stopped.store(true, Ordering::SeqCst);
        if let Some(socket) = &*self.session() {
            socket.shutdown();
        }
        if let Some(listener) = &self.0.listener {
            // Wakes accept; fails only if that has happened.
            let _ = rustix::net::shutdown(listener, Shutdown::Both);
        }
    }

    /// Makes a session's socket known while the result lives.
    fn register(&self, socket: Arc<Socket>) -> Registered<'_> {
        let mut session = self.session();
        if self.stopped() {
            socket.shutdown();
        }
        *session = Some(socket);
        Registered(self)
    }

    fn session(&self) -> std::sync::MutexGuard<'_, Option<Arc<Socket>>> {
        self.0
            .session
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

struct Registered<'a>(&'a Handle);

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        *self.0.session() = None;
    }
}
