//! What wakes a thread that has more than the client's socket to wait for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

/// What [`Watch::wait`] says the socket is.
const SOCKET: u64 = u64::MAX;
/// And the wake descriptor of the shared memory.
const WAKE: u64 = u64::MAX - 1;

/// The most that is told at once; what is not told is told the next time.
const AT_ONCE: usize = 16;

/// The descriptors of a session: its socket, the endpoint's events, and what
/// its client signals when there is something in shared memory.
#[derive(Debug)]
pub(super) struct Watch(OwnedFd);

/// What there was.
#[derive(Debug, Default)]
pub(super) struct Ready {
    /// The client has sent something, or left.
    pub(super) socket: bool,
    /// The endpoint's events by their numbers, then more than there are.
    events: [u16; AT_ONCE],
    count: usize,
}

impl Ready {
    /// The endpoint's events that were signalled, by their numbers.
    pub(super) fn events(&self) -> impl Iterator<Item = usize> {
        self.events[..self.count]
            .iter()
            .map(|number| usize::from(*number))
    }

    /// Whether any of these were signalled.
    pub(super) fn has_events(&self) -> bool {
        self.count > 0
    }

    /// Whether there may be more than was told.
    pub(super) fn is_full(&self) -> bool {
        self.count + usize::from(self.socket) >= AT_ONCE - 1
    }
}

impl Watch {
    /// Watches these, until it is dropped.
    ///
    /// # Errors
    ///
    /// What the kernel says, above all that this process has too many
    /// descriptors.
    pub(super) fn new<'a>(
        socket: BorrowedFd<'_>,
        wake: Option<BorrowedFd<'_>>,
        events: impl Iterator<Item = BorrowedFd<'a>>,
    ) -> io::Result<Self> {
        use epoll::{CreateFlags, EventData, EventFlags};
        let watch = Watch(epoll::create(CreateFlags::CLOEXEC)?);
        let add = |fd: BorrowedFd<'_>, data, flags| {
            epoll::add(&watch.0, fd, EventData::new_u64(data), flags)
        };
        add(socket, SOCKET, EventFlags::IN)?;
        if let Some(wake) = wake {
            // Each signal wakes once, though nobody takes it.
            add(wake, WAKE, EventFlags::IN | EventFlags::ET)?;
        }
        for (fd, number) in events.zip(0..) {
            add(fd, number, EventFlags::IN)?;
        }
        Ok(watch)
    }

    /// Waits until there is something, at most for `timeout`.
    ///
    /// # Errors
    ///
    /// None in practice.
    pub(super) fn wait(&self, timeout: Option<&Timespec>) -> io::Result<Ready> {
        let mut space = [const { std::mem::MaybeUninit::uninit() }; AT_ONCE];
        let (here, _) = match epoll::wait(&self.0, &mut space[..], timeout) {
            Err(Errno::INTR) => return Ok(Ready::default()),
            here => here?,
        };
        let mut ready = Ready::default();
        for event in here {
            match event.data.u64() {
                SOCKET => ready.socket = true,
                WAKE => {}
                number => {
                    ready.events[ready.count] = u16::try_from(number).unwrap_or(u16::MAX);
                    ready.count += 1;
                }
            }
        }
        Ok(ready)
    }

    /// What there is now.
    ///
    /// # Errors
    ///
    /// None in practice.
    pub(super) fn look(&self) -> io::Result<Ready> {
        self.wait(Some(&Timespec::default()))
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
