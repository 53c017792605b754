//! Event descriptors from a client, checked when they arrive.

use std::fs;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

/// An eventfd, of ours or of a client.
#[derive(Debug)]
pub(crate) struct EventFd(OwnedFd);

const ZERO: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

impl EventFd {
    /// A new one, non-blocking.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        Ok(EventFd(eventfd(0, flags)?))
    }

    /// Takes a client's descriptor if it is an eventfd. Without /proc every
    /// descriptor is believed; signalling a wrong one fails harmlessly.
    pub(crate) fn from_client(fd: OwnedFd) -> Option<Self> {
        let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        if link.is_ok_and(|target| target.as_os_str() != "anon_inode:[eventfd]") {
            return None;
        }
        Some(EventFd(fd))
    }

    /// Whether a read takes one of the count and not all of it. Who waits for
    /// such an event may be woken as often as the count says, up to 2^64.
    /// Kernels before 6.5 do not tell.
    pub(crate) fn is_semaphore(&self) -> bool {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.0.as_raw_fd()));
        info.is_ok_and(|info| info.contains("eventfd-semaphore: 1"))
    }

    /// Adds one. An event whose counter is full is signalled already.
    ///
    /// Whether a write may block is a flag of the open file, which the client
    /// has too and may change at any time. So we look first.
    pub(crate) fn signal(&self) {
        let mut fds = [PollFd::new(&self.0, PollFlags::OUT)];
        if poll(&mut fds, Some(&ZERO)) == Ok(1) {
            // Fails only if the counter is full.
            let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
        }
    }

    /// Takes the count, 0 if there was no signal. It does not block, even if
    /// the client takes the count at the same time.
    pub(crate) fn take(&self) -> u64 {
        let mut count = [0; 8];
        let mut parts = [IoSliceMut::new(&mut count)];
        // An offset of -1 is none.
        match preadv2(&self.0, &mut parts, u64::MAX, ReadWriteFlags::NOWAIT) {
            Ok(8) => u64::from_ne_bytes(count),
            Err(Errno::OPNOTSUPP) => self.look_and_take(),
            _ => 0,
        }
    }

    /// The same where the kernel, before 5.8, cannot be told not to wait for
    /// an eventfd. There a client that takes the count in between may hold up
    /// its own device.
    #[cold]
    fn look_and_take(&self) -> u64 {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let mut count = [0; 8];
        if poll(&mut fds, Some(&ZERO)) != Ok(1) {
            return 0;
        }
        match rustix::io::read(&self.0, &mut count) {
            Ok(8) => u64::from_ne_bytes(count),
            _ => 0,
        }
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_s_count_is_taken_once_and_nobody_waits_for_it() {
        let event = EventFd::new().unwrap();
        rustix::io::ioctl_fionbio(&event.0, false).unwrap();
        assert_eq!(event.look_and_take(), 0);
        event.signal();
        event.signal();
        assert_eq!(event.look_and_take(), 2);
        assert_eq!((event.look_and_take(), event.take()), (0, 0));
    }
}
