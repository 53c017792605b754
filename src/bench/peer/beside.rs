//! What peers that need no socket do over theirs all the same: they get
//! descriptors, and learn that the other side has left.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, sendmsg,
};

use crate::bench::{Interrupt, Trouble};

/// How long the other side may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends `fds` with one byte.
pub(super) fn give(stream: &UnixStream, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let byte = [io::IoSlice::new(&[0])];
    retry_on_intr(|| sendmsg(stream, &byte, &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives what [`give`] sent: exactly `N`.
pub(super) fn take<const N: usize>(stream: &UnixStream) -> io::Result<[OwnedFd; N]> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    retry_on_intr(|| {
        let mut parts = [IoSliceMut::new(&mut byte)];
        recvmsg(stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    fds.try_into()
        .map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Whether the other side is gone, without waiting for it.
#[cold]
pub(super) fn is_over(stream: &UnixStream) -> bool {
    let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
    match recv(stream, &mut [0], flags) {
        Ok((_, count)) => count == 0,
        Err(errno) => errno != Errno::AGAIN && errno != Errno::INTR,
    }
}

/// A wait for the other side that brought nothing yet.
#[derive(Default)]
pub(super) struct Wait {
    until: Option<Instant>,
}

impl Wait {
    /// Whether to go on with it.
    ///
    /// # Errors
    ///
    /// Why not.
    #[cold]
    pub(super) fn go_on(
        &mut self,
        stream: &UnixStream,
        interrupt: &Interrupt,
    ) -> Result<(), Trouble> {
        if interrupt.raised() {
            return Err(Trouble("interrupted".to_owned()));
        }
        if is_over(stream) {
            return Err(Trouble("it ended the connection".to_owned()));
        }
        let now = Instant::now();
        if now >= *self.until.get_or_insert(now + PATIENCE) {
            let seconds = PATIENCE.as_secs_f64();
            return Err(Trouble(format!("no answer within {seconds} s")));
        }
        Ok(())
    }
}
