//! Many devices on few threads.
//!
//! All devices are in one epoll, each with one descriptor at a time: where its
//! clients come from, or what its session waits for. It is armed for one event
//! (one-shot). The thread that gets the event has the device, carries out what
//! is there, arms it again and takes the next, of any device. So devices are
//! served in the order in which something came, and a thread that a device or
//! a client holds up keeps none of the others from the rest of the threads.
//!
//! What holds a thread up, each for as long as [`Limits`](super::Limits) says
//! at most: a device that asks its client for guest memory in the middle of an
//! access, and a client that does not take its replies. One that stalls in the
//! middle of a message, or says nothing at all, only has a time set.

mod claim;
mod timers;

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::Errno;

use super::listener::{Listener, Source, passes};
use super::session::{Session, SessionError};
use super::{Clients, Handle, RETRY, Registered, ServeError, Service, Terms, report};
use crate::endpoint::Endpoint;
use crate::protocol::Socket;
use claim::Claim;
use timers::Timers;

/// Beside the devices' numbers: all devices have ended.
const FINISHED: u64 = u64::MAX;
/// And: the time of some device has come.
const TIME: u64 = u64::MAX - 1;

/// Serves all devices on `threads` threads until all have ended.
///
/// # Errors
///
/// The first that a device ended with; the others are served on.
pub(super) fn run(
    services: Vec<Service>,
    threads: NonZeroUsize,
    terms: &Terms,
    clients: Clients,
) -> Result<(), ServeError> {
    let mut kept = Vec::with_capacity(services.len());
    let mut sources = Vec::with_capacity(services.len());
    for service in services {
        kept.push((service.name, service.endpoint, service.handle));
        sources.push(service.source);
    }
    let devices = kept.iter_mut().zip(sources);
    let devices = devices.map(|((name, endpoint, handle), source)| {
        Tended::new(name, endpoint, handle, source, clients)
    });
    let devices = devices.collect::<Result<_, _>>()?;
    let pool = Pool::new(devices, terms, clients)?;
    thread::scope(|scope| {
        let mut started = Vec::new();
        // More would have nothing to do. The first begins with all devices.
        let mut first = (0..pool.places.len()).collect();
        for number in 0..threads.get().min(pool.places.len()) {
            let todo = std::mem::take(&mut first);
            let name = format!("pool-{number}");
            let spawned = thread::Builder::new()
                .name(name.clone())
                .spawn_scoped(scope, || pool.work(todo));
            match spawned {
                Ok(thread) => started.push(thread),
                Err(source) => {
                    pool.failed(ServeError::Thread { name, source });
                    break;
                }
            }
        }
        for thread in started {
            // A panic is a bug of ours, and goes on as one.
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    pool.end
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
}

struct Pool<'a> {
    epoll: OwnedFd,
    places: Vec<Place<'a>>,
    timers: Timers,
    /// Readable once all have ended.
    finished: OwnedFd,
    /// How many have not.
    left: AtomicUsize,
    terms: &'a Terms,
    clients: Clients,
    end: Mutex<Result<(), ServeError>>,
}

/// A device, and which thread has it.
struct Place<'a> {
    claim: Claim,
    /// Locked only by the thread that has it.
    device: Mutex<Tended<'a>>,
}

/// A device.
struct Tended<'a> {
    name: &'a str,
    handle: &'a Handle,
    /// Where further clients come from.
    listener: Option<Listener>,
    /// Until when the first must have come, until it has.
    first: Option<Instant>,
    /// Whether it has a time set.
    timed: bool,
    state: State<'a>,
}

enum State<'a> {
    /// It waits for a client.
    Free(&'a mut Endpoint),
    /// One has connected already.
    Connected(&'a mut Endpoint, UnixStream),
    Served(Box<Served<'a>>),
    Ended,
}

struct Served<'a> {
    session: Session<'a, ()>,
    _registered: Registered<'a>,
}

/// What becomes of a device that was looked after.
#[derive(PartialEq, Eq)]
enum Then {
    /// Something will tell when there is more to do.
    Wait,
    /// There is more to do, after what others have.
    Again,
}

impl<'a> Tended<'a> {
    fn new(
        name: &'a str,
        endpoint: &'a mut Endpoint,
        handle: &'a Handle,
        source: Source,
        clients: Clients,
    ) -> Result<Self, ServeError> {
        let (listener, state) = match source {
            Source::Listener(listener) => (Some(listener), State::Free(endpoint)),
            Source::Connected(stream) => (None, State::Connected(endpoint, stream)),
        };
        if let Some(listener) = &listener {
            listener.never_wait().map_err(|source| ServeError::Accept {
                name: name.to_owned(),
                source,
            })?;
        }
        Ok(Tended {
            name,
            handle,
            listener,
            first: clients.first_within.map(|time| Instant::now() + time),
            timed: false,
            state,
        })
    }
}

impl<'a> Pool<'a> {
    fn new(
        devices: Vec<Tended<'a>>,
        terms: &'a Terms,
        clients: Clients,
    ) -> Result<Self, ServeError> {
        let failed = |source: io::Error| ServeError::Pool { source };
        let places: Vec<_> = devices
            .into_iter()
            .map(|device| Place {
                claim: Claim::default(),
                device: Mutex::new(device),
            })
            .collect();
        let pool = Pool {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)
                .map_err(|errno| failed(errno.into()))?,
            timers: Timers::new(places.len()).map_err(failed)?,
            finished: eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?,
            left: AtomicUsize::new(places.len()),
            places,
            terms,
            clients,
            end: Mutex::new(Ok(())),
        };
        pool.watch_all().map_err(|errno| failed(errno.into()))?;
        Ok(pool)
    }

    /// What all threads are to hear of, and what one of them is.
    fn watch_all(&self) -> rustix::io::Result<()> {
        use epoll::{EventData, EventFlags};
        let finished = EventData::new_u64(FINISHED);
        epoll::add(&self.epoll, &self.finished, finished, EventFlags::IN)?;
        let time = EventData::new_u64(TIME);
        epoll::add(
            &self.epoll,
            &self.timers,
            time,
            EventFlags::IN | EventFlags::ET,
        )
    }

    /// What a thread does. It begins with the devices `again`.
    fn work(&self, mut again: VecDeque<usize>) {
        let _others = Alone(self);
        loop {
            match self.next(again.is_empty()) {
                Ok(Some(FINISHED)) => return,
                Ok(Some(TIME)) => {
                    for number in self.timers.take() {
                        self.look_after(number, &mut again);
                    }
                }
                Ok(Some(number)) => {
                    // What we put in.
                    let number = usize::try_from(number).unwrap_or(usize::MAX);
                    self.look_after(number, &mut again);
                }
                Ok(None) => {}
                Err(source) => {
                    self.failed(ServeError::Pool { source });
                    return;
                }
            }
            if let Some(number) = again.pop_front() {
                self.look_after(number, &mut again);
            }
        }
    }

    /// The next reason to do something; one, so that the others are left for
    /// other threads.
    fn next(&self, wait: bool) -> io::Result<Option<u64>> {
        let mut space = [MaybeUninit::uninit()];
        let at_once = Timespec::default();
        match epoll::wait(&self.epoll, &mut space[..], (!wait).then_some(&at_once)) {
            Ok((events, _)) => Ok(events.first().map(|event| event.data.u64())),
            Err(Errno::INTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Looks after a device, unless another thread does, which then goes on.
    fn look_after(&self, number: usize, again: &mut VecDeque<usize>) {
        let Some(place) = self.places.get(number) else {
            return;
        };
        if !place.claim.take() {
            return;
        }
        loop {
            let then = self.step(number, &mut place.lock());
            if then == Then::Again {
                place.claim.leave();
                again.push_back(number);
                return;
            }
            if place.claim.give_back() {
                return;
            }
        }
    }

    fn step(&self, number: usize, device: &mut Tended<'a>) -> Then {
        match std::mem::replace(&mut device.state, State::Ended) {
            State::Ended => Then::Wait,
            State::Free(endpoint) => self.accept(number, device, endpoint),
            State::Connected(endpoint, stream) => self.begin(number, device, endpoint, stream),
            State::Served(served) => self.serve(number, device, served),
        }
    }

    /// Takes a client if one has come.
    #[cold]
    fn accept(&self, number: usize, device: &mut Tended<'a>, endpoint: &'a mut Endpoint) -> Then {
        let accepted = match &device.listener {
            Some(listener) if !device.handle.stopped() => listener.accept_now(),
            _ => return self.end(number, device),
        };
        if device.handle.stopped() {
            return self.end(number, device);
        }
        match accepted {
            Ok(Some(stream)) => self.begin(number, device, endpoint, stream),
            Ok(None) if device.first.is_some_and(|first| Instant::now() >= first) => {
                let name = device.name;
                log::warn!("{name}: no client has connected; not served any more");
                self.end(number, device)
            }
            Ok(None) => self.wait_for_client(number, device, endpoint),
            Err(error) if passes(&error) => {
                self.set_time(number, device, Some(Instant::now() + RETRY));
                device.state = State::Free(endpoint);
                Then::Wait
            }
            Err(source) => {
                let name = device.name.to_owned();
                self.failed(ServeError::Accept { name, source });
                self.end(number, device)
            }
        }
    }

    fn wait_for_client(
        &self,
        number: usize,
        device: &mut Tended<'a>,
        endpoint: &'a mut Endpoint,
    ) -> Then {
        self.set_time(number, device, device.first);
        device.state = State::Free(endpoint);
        let armed = device
            .listener
            .as_ref()
            .map(|listener| self.arm(number, listener));
        match armed {
            None | Some(Ok(())) => Then::Wait,
            Some(Err(source)) => {
                let name = device.name.to_owned();
                self.failed(ServeError::Accept { name, source });
                self.end(number, device)
            }
        }
    }

    #[cold]
    fn begin(
        &self,
        number: usize,
        device: &mut Tended<'a>,
        endpoint: &'a mut Endpoint,
        stream: UnixStream,
    ) -> Then {
        log::info!("{}: a client connected", device.name);
        device.first = None;
        match Socket::new(stream, self.terms.limits.message) {
            Ok(socket) => {
                let socket = Arc::new(socket);
                let served = Served {
                    _registered: device.handle.register(socket.clone()),
                    session: Session::new(endpoint, socket, self.terms, ()),
                };
                self.serve(number, device, Box::new(served))
            }
            Err(error) => self.ended(number, device, endpoint, &Err(error.into())),
        }
    }

    /// Carries out what a client has sent.
    fn serve(&self, number: usize, device: &mut Tended<'a>, mut served: Box<Served<'a>>) -> Then {
        let looked_after = match served.session.look_after() {
            Ok(true) => self.sleep(number, device, &mut served.session),
            Ok(false) => Ok(Then::Again),
            Err(error) => Err(error),
        };
        match looked_after {
            Ok(then) => {
                device.state = State::Served(served);
                then
            }
            Err(error) => {
                let (endpoint, end) = served.session.finish(Err(error), device.handle);
                self.ended(number, device, endpoint, &end)
            }
        }
    }

    fn sleep(
        &self,
        number: usize,
        device: &mut Tended<'a>,
        session: &mut Session<'a, ()>,
    ) -> Result<Then, SessionError> {
        self.set_time(number, device, session.deadline());
        self.arm(number, session.wakes_by())
            .map_err(SessionError::Wait)?;
        Ok(Then::Wait)
    }

    /// A client has left or was given up.
    #[cold]
    fn ended(
        &self,
        number: usize,
        device: &mut Tended<'a>,
        endpoint: &'a mut Endpoint,
        end: &Result<(), SessionError>,
    ) -> Then {
        report(device.name, end, device.handle);
        if self.clients.once || device.listener.is_none() {
            return self.end(number, device);
        }
        // One that has come already, and that it was stopped, is told then.
        self.wait_for_client(number, device, endpoint)
    }

    /// A device is not served any more.
    #[cold]
    fn end(&self, number: usize, device: &mut Tended<'a>) -> Then {
        device.state = State::Ended;
        // Removes its path.
        device.listener = None;
        self.set_time(number, device, None);
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.finish();
        }
        Then::Wait
    }

    /// Has one thread hear of the next event of `fd`, or of one that is there.
    fn arm(&self, number: usize, fd: impl AsFd) -> io::Result<()> {
        use epoll::{EventData, EventFlags};
        let data = EventData::new_u64(number as u64);
        let flags = EventFlags::IN | EventFlags::ONESHOT;
        match epoll::modify(&self.epoll, &fd, data, flags) {
            // Its first time.
            Err(Errno::NOENT) => Ok(epoll::add(&self.epoll, &fd, data, flags)?),
            armed => Ok(armed?),
        }
    }

    fn set_time(&self, number: usize, device: &mut Tended<'a>, time: Option<Instant>) {
        if device.timed || time.is_some() {
            device.timed = time.is_some();
            self.timers.set(number, time);
        }
    }

    /// Ends all threads.
    fn finish(&self) {
        // Only a full counter could refuse it.
        let _ = rustix::io::write(&self.finished, &1u64.to_ne_bytes());
    }

    #[cold]
    fn failed(&self, error: ServeError) {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        if end.is_ok() {
            *end = Err(error);
        }
    }
}

impl<'a> Place<'a> {
    fn lock(&self) -> MutexGuard<'_, Tended<'a>> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The others do not go on without a thread that fails.
struct Alone<'p, 'a>(&'p Pool<'a>);

impl Drop for Alone<'_, '_> {
    fn drop(&mut self) {
        self.0.finish();
    }
}
