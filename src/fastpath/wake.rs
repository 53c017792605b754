//! The descriptors by which one side wakes the other.
//!
//! They are the ends of a UNIX stream socket and not eventfds: whether a
//! write to an eventfd may block is a flag of the open file, which the peer
//! has too. `MSG_DONTWAIT` is of the call.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair, sockopt,
};

/// This side's end.
#[derive(Debug)]
pub(super) struct Wake(OwnedFd);

impl Wake {
    /// Both ends: ours, and the peer's.
    pub(super) fn pair() -> io::Result<(Wake, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        Ok((Wake(ours), theirs))
    }

    /// The end that a peer sent, if it is one: a call on anything else might
    /// wait.
    pub(super) fn from_peer(fd: OwnedFd) -> Option<Wake> {
        let is_ours = sockopt::socket_domain(&fd) == Ok(AddressFamily::UNIX)
            && sockopt::socket_type(&fd) == Ok(SocketType::STREAM);
        is_ours.then_some(Wake(fd))
    }

    /// Wakes the peer. A full socket has woken it already; one without a peer
    /// wakes nobody.
    pub(super) fn signal(&self) {
        let _ = send(&self.0, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// Takes what the peer sent so far, or the first 256 bytes of it: more
    /// than it sends from one call to the next, unless it is hostile.
    pub(super) fn drain(&self) {
        let mut signals = [0; 256];
        let _ = recv(&self.0, &mut signals, RecvFlags::DONTWAIT);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
