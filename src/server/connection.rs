//! A session's socket, with what was received and not carried out yet, and
//! what was answered and not sent yet.
//!
//! It belongs to the session, which lends it to the device's thread for each
//! call of the device: a device that asks for guest memory in the middle of an
//! access has to receive the answer.

use std::cell::Cell;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crate::protocol::{Inbox, SMALL_DATA, SMALL_MESSAGE, SmallAccess, Socket};

/// The most that is kept to be sent at once, in bytes: the answers to all
/// accesses that one receive takes. It is sent whole.
const MOST: usize = 8 * 1024;

/// An answer that was begun: where, and its size when it is kept.
#[derive(Clone, Copy)]
pub(super) struct Begun {
    at: usize,
    size: usize,
}

/// Both directions of a client's socket.
pub(super) struct Connection {
    socket: Arc<Socket>,
    pub(super) inbox: Inbox,
    /// Whole answers, in order: the first `kept` bytes.
    answers: Box<[u8; MOST]>,
    kept: usize,
    /// How many bytes of answers may be kept while the device is called, so
    /// that there is room for another.
    may_keep: usize,
    /// Why nothing can be sent any more. Who finds out may be a device, and the
    /// session has to hear of it too.
    failed: Option<io::ErrorKind>,
}

impl Connection {
    pub(super) fn new(socket: Arc<Socket>, inbox: Inbox) -> Self {
        Connection {
            socket,
            inbox,
            answers: Box::new([0; MOST]),
            kept: 0,
            may_keep: MOST - SMALL_MESSAGE,
            failed: None,
        }
    }

    /// Sends each answer before the device is called again. For a client that
    /// answers DMA messages on a socket of their own, perhaps not before it
    /// has its answer on this one: the device may wait for that in any thread.
    pub(super) fn keep_nothing(&mut self) {
        self.may_keep = 0;
    }

    /// Before the device is called: sends what may not be kept until it has
    /// answered.
    #[allow(clippy::inline_always, reason = "every access comes through here")]
    #[inline(always)]
    pub(super) fn make_ready(&mut self) -> io::Result<()> {
        if self.kept > self.may_keep {
            self.send()?;
        }
        Ok(())
    }

    /// Begins the answer to a small access, before the device is called, and
    /// returns how it ends. [`Connection::make_ready`] has made room.
    #[allow(clippy::inline_always, reason = "every access comes through here")]
    #[inline(always)]
    pub(super) fn begin_answer(&mut self, access: &SmallAccess, reads: bool) -> Begun {
        let (bytes, size) = access.encode_reply(reads);
        let at = self.kept;
        if let Some(room) = self.answers.get_mut(at..at + SMALL_DATA) {
            room.copy_from_slice(&bytes);
        }
        let size = if access.no_reply() { 0 } else { size };
        Begun { at, size }
    }

    /// Ends the answer, for a read with the low bytes of `value`.
    #[allow(clippy::inline_always, reason = "every access comes through here")]
    #[inline(always)]
    pub(super) fn end_answer(&mut self, begun: Begun, value: u64) {
        let Begun { at, size } = begun;
        if self.kept != at {
            self.follow(at);
        }
        if self.kept <= MOST - SMALL_MESSAGE {
            let data = self.kept + SMALL_DATA;
            self.answers[data..data + size_of_val(&value)].copy_from_slice(&value.to_le_bytes());
        }
        self.kept += size;
    }

    /// The device asked for guest memory: the answers before this one were
    /// sent.
    #[cold]
    fn follow(&mut self, at: usize) {
        self.answers.copy_within(at..at + SMALL_DATA, self.kept);
    }

    /// Answers with a whole message, and keeps it for [`Connection::flush`] if
    /// it is short.
    pub(super) fn answer(&mut self, message: &[u8]) -> io::Result<()> {
        if self.kept + message.len() > MOST {
            self.flush()?;
        }
        match self.answers.get_mut(self.kept..self.kept + message.len()) {
            Some(room) => room.copy_from_slice(message),
            None => return self.socket.send(message, &[]),
        }
        self.kept += message.len();
        Ok(())
    }

    /// Answers with a whole message and descriptors, which cannot be kept: they
    /// come with the first byte of a send.
    pub(super) fn answer_with(&mut self, message: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
        self.flush()?;
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        self.socket.send(message, &borrowed)
    }

    /// Sends the answers that were kept.
    ///
    /// # Errors
    ///
    /// As [`Socket::send`].
    #[allow(clippy::inline_always, reason = "every access comes through here")]
    #[inline(always)]
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.kept == 0 {
            return Ok(());
        }
        self.send()
    }

    #[allow(clippy::inline_always, reason = "every access comes through here")]
    #[inline(always)]
    fn send(&mut self) -> io::Result<()> {
        let Some(kept) = self.answers.get(..self.kept) else {
            return Ok(());
        };
        self.socket
            .send(kept, &[])
            .map_err(|error| self.fail(&error))?;
        self.kept = 0;
        Ok(())
    }

    /// Nobody knows which of the answers that were kept have arrived. They
    /// stay, so that whoever would send them next fails as well, at once.
    #[cold]
    fn fail(&mut self, error: &io::Error) -> io::Error {
        self.socket.shutdown();
        self.may_keep = 0;
        (*self.failed.get_or_insert(error.kind())).into()
    }
}

thread_local! {
    /// The connection of the session whose device this thread has called.
    /// Nothing is in it that has to be dropped when the thread ends, so that
    /// putting it there is a store.
    static LENT: Cell<Option<ManuallyDrop<Box<Connection>>>> = const { Cell::new(None) };
}

/// Lends a session's connection to this thread.
#[inline]
pub(super) fn lend(connection: Box<Connection>) {
    LENT.set(Some(ManuallyDrop::new(connection)));
}

/// Takes back what [`lend`] has lent. If the device panics, nobody does.
#[inline]
pub(super) fn take_back() -> Box<Connection> {
    let lent = LENT.take().map(ManuallyDrop::into_inner);
    lent.expect("who borrows it puts it back before it returns")
}

/// Lends a session's connection to this thread while it lives.
pub(super) struct Lent<'a>(&'a mut Option<Box<Connection>>);

impl<'a> Lent<'a> {
    #[inline]
    pub(super) fn new(connection: &'a mut Option<Box<Connection>>) -> Self {
        LENT.set(connection.take().map(ManuallyDrop::new));
        Lent(connection)
    }
}

impl Drop for Lent<'_> {
    #[inline]
    fn drop(&mut self) {
        *self.0 = LENT.take().map(ManuallyDrop::into_inner);
    }
}

/// Gives `work` the connection that was lent to this thread, if one was.
pub(super) fn with_lent<T>(work: impl FnOnce(Option<&mut Connection>) -> T) -> T {
    let mut lent = LENT.take();
    let done = work(lent.as_mut().map(|connection| &mut ***connection));
    LENT.set(lent);
    done
}
