//! The sending half of a connection.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::{Header, RegionAccess};

/// The most descriptors that the kernel carries in one message (its
/// `SCM_MAX_FD`).
pub const MAX_FDS: usize = 253;

/// Up to this size a send on a UNIX stream is queued whole or not at all, so
/// that sends of two threads do not mix. Linux queues up to half of the send
/// buffer at once, 100 KiB by default.
const WHOLE: usize = 32 * 1024;

/// A connected socket, shared by all that send on it.
#[derive(Debug)]
pub struct Socket {
    stream: UnixStream,
    timeout: Duration,
    /// Held for messages that are sent in pieces, and by every sender but the
    /// session's own thread.
    pieces: Mutex<()>,
}

impl Socket {
    /// Sends on `stream`; a peer that takes nothing for `timeout` is given up.
    ///
    /// # Errors
    ///
    /// If the socket does not take the timeout.
    pub fn new(stream: UnixStream, timeout: Duration) -> io::Result<Self> {
        stream.set_write_timeout(Some(timeout))?;
        Ok(Socket {
            stream,
            timeout,
            pieces: Mutex::new(()),
        })
    }

    /// Sends a message from the thread that serves the connection.
    ///
    /// # Errors
    ///
    /// What the kernel says; [`io::ErrorKind::TimedOut`] for a peer that does
    /// not read.
    #[inline]
    pub fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if message.len() <= WHOLE {
            return self.send_all(message, fds);
        }
        self.send_beside(message, fds)
    }

    /// Sends a message from any other thread.
    ///
    /// # Errors
    ///
    /// As [`Socket::send`].
    pub fn send_beside(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let _pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        self.send_all(message, fds)
    }

    #[inline]
    fn send_all(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let sent = if fds.is_empty() {
            retry_on_intr(|| rustix::net::send(&self.stream, message, SendFlags::NOSIGNAL))
        } else {
            self.send_with_fds(message, fds)
        };
        match sent {
            Ok(sent) if sent == message.len() => Ok(()),
            Ok(sent) => self.send_rest(&message[sent..]),
            Err(errno) => Err(timed_out(errno)),
        }
    }

    #[cold]
    fn send_with_fds(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Errno::INVAL);
        }
        let parts = [io::IoSlice::new(message)];
        retry_on_intr(|| sendmsg(&self.stream, &parts, &mut control, SendFlags::NOSIGNAL))
    }

    #[cold]
    fn send_rest(&self, mut rest: &[u8]) -> io::Result<()> {
        let deadline = Instant::now() + self.timeout;
        while !rest.is_empty() {
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let more = || rustix::net::send(&self.stream, rest, SendFlags::NOSIGNAL);
            let count = retry_on_intr(more).map_err(timed_out)?;
            rest = &rest[count..];
        }
        Ok(())
    }

    /// Ends the connection for both sides, whatever they are waiting for.
    pub fn shutdown(&self) {
        // Fails only if the peer has ended it already.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// Ends the connection and drops what has come and was not read.
    ///
    /// The peer of a UNIX socket that is closed with something unread is told
    /// of an error (`ECONNRESET`), on which QEMU 11.1 aborts. So it is told of
    /// an end instead.
    pub fn finish(&self) {
        self.shutdown();
        let mut rest = [0; 4096];
        let mut more = || rustix::net::recv(&self.stream, &mut rest, RecvFlags::empty());
        // Nothing can come any more, so this does not wait.
        while matches!(retry_on_intr(&mut more), Ok((1.., _))) {}
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn timed_out(errno: Errno) -> io::Error {
    match errno {
        Errno::AGAIN => io::ErrorKind::TimedOut.into(),
        errno => errno.into(),
    }
}

/// A message being built, in memory that is used again.
#[derive(Debug, Default)]
pub struct Outgoing(Vec<u8>);

impl Outgoing {
    /// Begins a message and returns where its body is appended.
    #[inline]
    pub fn begin(&mut self, header: &Header) -> &mut Vec<u8> {
        self.0.clear();
        self.0.extend_from_slice(&header.encode());
        &mut self.0
    }

    /// Begins the reply to a region read with this header, and returns its
    /// data, which are zeros yet.
    pub fn begin_read_reply(&mut self, header: &Header, access: &RegionAccess) -> &mut [u8] {
        self.0.clear();
        access.encode_read_reply(header, &mut self.0)
    }

    /// The body so far.
    #[inline]
    pub fn body(&mut self) -> &mut [u8] {
        self.0.get_mut(Header::SIZE..).unwrap_or_default()
    }

    /// The message, with its size in the header.
    #[inline]
    pub fn finish(&mut self) -> &[u8] {
        // Bodies are bounded by the negotiated transfer size.
        let size = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        if let Some(field) = self.0.get_mut(4..8) {
            field.copy_from_slice(&size.to_ne_bytes());
        }
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_peer_whose_messages_were_not_read_sees_an_end() {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let socket = Socket::new(ours, Duration::from_secs(1)).unwrap();
        peer.write_all(&vec![1; 100_000]).unwrap();
        socket.finish();
        drop(socket);
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    }
}
