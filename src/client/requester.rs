//! Accesses by memory that the server shares (docs/shared-mmio.md).

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::ClientError;
use crate::fastpath::{self, Access, Poster, Spin};
use crate::protocol::{Command, Socket};

/// The longest that an adaptive wait spins at a time.
const LONGEST_SPIN: Duration = Duration::from_micros(50);

/// Of a CPU's time, in percent, that an adaptive wait may spin: all, as the
/// thread that waits has nothing else to do.
const MOST_SPINNING: u8 = 100;

/// How often a spin looks for an answer until it looks at the socket: well
/// under a millisecond.
const LOOKS: u32 = 1 << 12;

/// What a thread does while it waits for an answer by shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spinning {
    /// It sleeps at once.
    Never,
    /// It spins for as long as that has paid off lately, at most 50 us, and
    /// then sleeps. With one CPU only, it sleeps at once.
    #[default]
    Adaptive,
    /// It spins until the answer is there, and takes its CPU whole.
    Always,
}

impl Spinning {
    fn policy(self) -> Spin {
        match self {
            Spinning::Never => Spin::never(),
            Spinning::Adaptive => Spin::adaptive(LONGEST_SPIN, MOST_SPINNING),
            Spinning::Always => Spin::always(),
        }
    }
}

/// What all requesters of a connection share.
#[derive(Debug)]
pub(super) struct Line {
    socket: Arc<Socket>,
    /// Posted writes are done in the order of this lock.
    poster: Mutex<Poster>,
    /// An access failed in a way that ended the connection.
    over: AtomicBool,
}

impl Line {
    pub(super) fn new(socket: Arc<Socket>, poster: Poster) -> Arc<Line> {
        Arc::new(Line {
            socket,
            poster: Mutex::new(poster),
            over: AtomicBool::new(false),
        })
    }

    /// Whether the connection was given up.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Gives the connection up: what comes late must reach nobody.
    #[cold]
    pub(super) fn give_up(&self) {
        self.over.store(true, Ordering::Relaxed);
        self.socket.shutdown();
    }

    /// Whether there was room for it.
    #[inline]
    pub(super) fn post(&self, access: &Access) -> bool {
        let mut poster = self.poster.lock().unwrap_or_else(PoisonError::into_inner);
        poster.post(access)
    }
}

/// Accesses a device from a thread of its own, beside the
/// [`Client`](super::Client) that it is from: see
/// [`Client::requester`](super::Client::requester).
///
/// What one thread posted, the next access of any of them finds done, if it
/// began after the post had returned.
#[derive(Debug)]
pub struct Requester {
    line: Arc<Line>,
    way: Way,
    timeout: Duration,
}

/// A slot, and how to wait for it.
#[derive(Debug)]
pub(super) struct Way {
    slot: fastpath::Requester,
    spin: Spin,
}

impl Requester {
    pub(super) fn new(line: Arc<Line>, way: Way, timeout: Duration) -> Requester {
        Requester { line, way, timeout }
    }

    /// Reads 1 to 8 bytes of a region.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] by the server, or for what is not 1 to 8
    /// bytes; any other ends the connection for all its requesters.
    #[inline]
    pub fn read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), ClientError> {
        let command = Command::RegionRead;
        let access = Access::read(region, offset, data.len()).ok_or_else(|| invalid(command))?;
        let value = self.carry_out(command, &access)?;
        // It was made for 1 to 8 bytes.
        data.copy_from_slice(&value.to_le_bytes()[..data.len()]);
        Ok(())
    }

    /// Writes 1 to 8 bytes of a region, and waits until it is done.
    ///
    /// # Errors
    ///
    /// As [`Requester::read`].
    #[inline]
    pub fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), ClientError> {
        let command = Command::RegionWrite;
        let access = Access::write(region, offset, data).ok_or_else(|| invalid(command))?;
        self.carry_out(command, &access).map(|_| ())
    }

    /// Writes 1 to 8 bytes of a region without waiting. A later access finds
    /// it done; nobody learns of an error.
    ///
    /// # Errors
    ///
    /// As [`Requester::read`].
    #[inline]
    pub fn post(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), ClientError> {
        let command = Command::RegionWrite;
        if self.line.is_over() {
            return Err(ClientError::GivenUp { command });
        }
        let access = Access::write(region, offset, data).ok_or_else(|| invalid(command))?;
        if self.line.post(&access) {
            return Ok(());
        }
        posted(self.carry_out(command, &access))
    }

    #[inline]
    fn carry_out(&mut self, command: Command, access: &Access) -> Result<u64, ClientError> {
        let line = &*self.line;
        self.way
            .ask(line, command, access, self.timeout, |wake, until| {
                line.wait(command, wake, until)
            })
    }
}

impl Way {
    pub(super) fn new(slot: fastpath::Requester, spinning: Spinning) -> Way {
        let spin = spinning.policy();
        Way { slot, spin }
    }

    /// Asks, and waits for the answer: by spinning, and then by `wait`, which
    /// returns at the latest at the time that it is given, or when the
    /// descriptor can be read, or when it did something else that had to be
    /// done meanwhile.
    #[inline]
    pub(super) fn ask(
        &mut self,
        line: &Line,
        command: Command,
        access: &Access,
        timeout: Duration,
        wait: impl FnMut(BorrowedFd<'_>, Instant) -> Result<(), ClientError>,
    ) -> Result<u64, ClientError> {
        if line.is_over() {
            return Err(ClientError::GivenUp { command });
        }
        self.slot.begin(access);
        let answer = match self.look() {
            Some(Seen::Answer(answer)) => answer,
            _ => self
                .ask_on(command, timeout, wait)
                .inspect_err(|_| line.give_up())?,
        };
        answer.map_err(|errno| ClientError::Refused { command, errno })
    }

    /// Spins; `None` means that it is time to sleep.
    #[inline]
    fn look(&mut self) -> Option<Seen> {
        let (slot, mut looks) = (&mut self.slot, 0);
        self.spin.look(|| {
            if let Some(answer) = slot.answer() {
                return Some(Seen::Answer(answer));
            }
            looks += 1;
            (looks == LOOKS).then_some(Seen::Nothing)
        })
    }

    /// Waits for an answer that did not come at once.
    #[cold]
    fn ask_on(
        &mut self,
        command: Command,
        timeout: Duration,
        mut wait: impl FnMut(BorrowedFd<'_>, Instant) -> Result<(), ClientError>,
    ) -> Result<Result<u64, u32>, ClientError> {
        let deadline = Instant::now() + timeout;
        loop {
            let waited = match self.look() {
                Some(Seen::Answer(answer)) => return Ok(answer),
                // The other side of the connection wants to be looked at.
                Some(Seen::Nothing) => wait(self.slot.wake_fd(), Instant::now()),
                None => {
                    let slot = &self.slot;
                    let sleep = || slot.sleep(|| wait(slot.wake_fd(), deadline));
                    self.spin.sleep(sleep).unwrap_or(Ok(()))
                }
            };
            // It may have answered before it left.
            if let Some(answer) = self.slot.answer() {
                return Ok(answer);
            }
            waited?;
            if Instant::now() >= deadline {
                let after = timeout;
                return Err(ClientError::TimedOut { command, after });
            }
        }
    }
}

/// What a spin has seen.
enum Seen {
    /// A value, or an errno.
    Answer(Result<u64, u32>),
    /// Nothing, for long.
    Nothing,
}

impl Line {
    /// Waits for a wake-up or the end of the connection. The server's commands
    /// stay on the socket, for the client.
    fn wait(
        &self,
        command: Command,
        wake: BorrowedFd<'_>,
        until: Instant,
    ) -> Result<(), ClientError> {
        let left = until.saturating_duration_since(Instant::now());
        let after = left;
        let left =
            Timespec::try_from(left).map_err(|_| ClientError::TimedOut { command, after })?;
        let mut fds = [
            PollFd::from_borrowed_fd(wake, PollFlags::IN),
            PollFd::new(&*self.socket, PollFlags::RDHUP),
        ];
        match poll(&mut fds, Some(&left)) {
            Ok(_) if !fds[1].revents().is_empty() => Err(ClientError::Closed { command }),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => {
                let source = errno.into();
                Err(ClientError::Io { command, source })
            }
        }
    }
}

/// Nobody learns that a posted write was refused.
pub(super) fn posted(answer: Result<u64, ClientError>) -> Result<(), ClientError> {
    match answer {
        Ok(_) | Err(ClientError::Refused { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// As the server would refuse it.
fn invalid(command: Command) -> ClientError {
    let errno = libc::EINVAL.unsigned_abs();
    ClientError::Refused { command, errno }
}
