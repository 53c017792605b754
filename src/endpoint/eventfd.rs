//! Event descriptors from a client, checked when they arrive.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{OFlags, fcntl_getfl};

/// An eventfd, of ours or of a client.
#[derive(Debug)]
pub(crate) struct EventFd {
    fd: OwnedFd,
    /// Whether a write may block. The flag belongs to the client's open file
    /// too, so we respect it instead of changing it.
    blocking: bool,
}

const ZERO: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

impl EventFd {
    /// A new one, non-blocking.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let fd = eventfd(0, flags)?;
        let blocking = false;
        Ok(EventFd { fd, blocking })
    }

    /// Takes a client's descriptor if it is an eventfd. Without /proc every
    /// descriptor is believed; signalling a wrong one fails harmlessly.
    pub(crate) fn from_client(fd: OwnedFd) -> Option<Self> {
        let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        if link.is_ok_and(|target| target.as_os_str() != "anon_inode:[eventfd]") {
            return None;
        }
        let blocking = !fcntl_getfl(&fd).ok()?.contains(OFlags::NONBLOCK);
        Some(EventFd { fd, blocking })
    }

    /// Adds one. An event whose counter is full is signalled already.
    pub(crate) fn signal(&self) {
        if !self.blocking || self.is_ready(PollFlags::OUT) {
            // Fails only if the counter is full.
            let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
        }
    }

    /// Takes the count, 0 if there was no signal.
    pub(crate) fn take(&self) -> u64 {
        let mut count = [0; 8];
        if self.is_ready(PollFlags::IN) && rustix::io::read(&self.fd, &mut count) == Ok(8) {
            u64::from_ne_bytes(count)
        } else {
            0
        }
    }

    fn is_ready(&self, events: PollFlags) -> bool {
        let mut fds = [PollFd::new(&self.fd, events)];
        poll(&mut fds, Some(&ZERO)).is_ok_and(|ready| ready == 1)
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
