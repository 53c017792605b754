//! The receiving half of a connection: whole messages out of a byte stream,
//! each with the descriptors that came with it.
//!
//! A message may arrive in any number of pieces, and many may arrive at once.
//! Descriptors arrive with the first byte of the send that carries them, and
//! the kernel ends a receive behind such a send. So while a receive asks for
//! no more than the rest of one message, its descriptors belong to that
//! message. Only behind a region access, which is the hot path and rarely
//! followed by descriptors, a receive takes all there is; descriptors then
//! belong to the last message that begins in what was received and may have
//! some, or to the last one if none may: all known clients send one message at
//! a time, and if several were sent at once, those that follow are accesses.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::receive::receive;
use super::{
    Command, Header, MAX_FDS, MAX_MESSAGE, Malformed, Message, ReceiveError, SmallAccess, Socket,
};

/// How many messages may be put aside, and how much of them: bytes and
/// descriptors.
const MAX_DEFERRED: usize = 1024;
const MAX_DEFERRED_BYTES: usize = 4 * MAX_MESSAGE;
const MAX_DEFERRED_FDS: usize = 2 * MAX_FDS;

/// The receive buffer of a session that gets no large messages: over 100 posted
/// writes. Memory for the largest message, once touched, would stay resident.
const ROOM: usize = 4 * 1024;

/// How long to wait for a message to begin.
#[derive(Clone, Copy, Debug)]
pub enum Wait {
    /// As long as it takes.
    Forever,
    /// Until then.
    Until(Instant),
}

/// What [`Inbox::take_small`] finds.
pub enum Small {
    /// A read.
    Read(SmallAccess),
    /// A write, and what it writes in the low bytes. What is above them means
    /// nothing.
    Write(SmallAccess, u64),
    /// Nothing, not even part of a message.
    Nothing,
    /// What [`Inbox::take`] is for, or part of a message.
    Other,
}

/// The receiving half of a connection.
#[derive(Debug)]
pub struct Inbox {
    socket: Arc<Socket>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Descriptors that arrived, by the position in `buffer` at which their
    /// message begins. At most one entry for a message that is not complete.
    fds: VecDeque<(usize, Vec<OwnedFd>)>,
    /// Descriptors that the last receive brought, until they are assigned.
    arrived: Vec<OwnedFd>,
    read_ahead: bool,
    /// When the incomplete message in the buffer must be complete.
    stalled: Option<Instant>,
    /// How long a message may take from its first byte to its last.
    patience: Duration,
    deferred: VecDeque<Message>,
    deferred_bytes: usize,
    deferred_fds: usize,
}

impl Inbox {
    /// Receives from `socket`. A message must be complete `patience` after it
    /// began.
    pub fn new(socket: Arc<Socket>, patience: Duration) -> Self {
        Inbox {
            socket,
            buffer: vec![0; ROOM],
            start: 0,
            end: 0,
            fds: VecDeque::new(),
            arrived: Vec::new(),
            read_ahead: false,
            stalled: None,
            patience,
            deferred: VecDeque::new(),
            deferred_bytes: 0,
            deferred_fds: 0,
        }
    }

    /// Whether a message or part of one is here already, so that waiting for
    /// the socket alone would be wrong.
    #[inline]
    pub fn has_input(&self) -> bool {
        self.start < self.end || !self.deferred.is_empty()
    }

    /// Receives the next message, one that was put aside before new ones.
    ///
    /// # Errors
    ///
    /// See [`ReceiveError`].
    #[inline]
    pub fn receive(&mut self, message: &mut Message, wait: Wait) -> Result<(), ReceiveError> {
        if self.deferred.is_empty() {
            return self.receive_new(message, wait);
        }
        self.take_deferred(message);
        Ok(())
    }

    /// Takes the first message that was put aside.
    #[cold]
    fn take_deferred(&mut self, message: &mut Message) {
        if let Some(first) = self.deferred.pop_front() {
            self.deferred_bytes -= first.body.len();
            self.deferred_fds -= first.fds.len();
            *message = first;
        }
    }

    /// Takes the next message if it is here whole and a sound region access of
    /// at most `most` bytes, which is at most [`SMALL`](super::SMALL).
    #[allow(clippy::inline_always, reason = "every access comes through here")]
    #[inline(always)]
    pub fn take_small(&mut self, most: u32) -> Small {
        if self.start == self.end {
            return if self.deferred.is_empty() {
                Small::Nothing
            } else {
                Small::Other
            };
        }
        if !self.deferred.is_empty() || !self.fds.is_empty() {
            return Small::Other;
        }
        let Some(bytes) = self.buffer.get(self.start..) else {
            return Small::Other;
        };
        let here = self.end - self.start;
        let Some(access) = SmallAccess::front(bytes) else {
            return Small::Other;
        };
        if let Some(size) = access.size_of_read(here, most) {
            self.pass(size);
            return Small::Read(access);
        }
        if let Some(size) = access.size_of_write(here, most) {
            self.pass(size);
            return Small::Write(access, access.data());
        }
        Small::Other
    }

    /// Goes behind the region access of `size` bytes at `start`.
    #[allow(clippy::inline_always, reason = "every access comes through here")]
    #[inline(always)]
    fn pass(&mut self, size: usize) {
        self.start += size;
        self.read_ahead = true;
        self.stalled = None;
    }

    /// Takes the next message that is here whole, one that was put aside
    /// before others; `false` if there is none. Does not receive.
    ///
    /// # Errors
    ///
    /// [`ReceiveError::Unframed`].
    #[inline]
    pub fn take(&mut self, message: &mut Message) -> Result<bool, ReceiveError> {
        if self.deferred.is_empty() {
            return Ok(self.take_here(message)? == 0);
        }
        self.take_deferred(message);
        Ok(true)
    }

    /// Receives the next message from the socket.
    ///
    /// # Errors
    ///
    /// See [`ReceiveError`].
    #[inline(never)]
    pub fn receive_new(&mut self, message: &mut Message, wait: Wait) -> Result<(), ReceiveError> {
        loop {
            let missing = self.take_here(message)?;
            if missing == 0 {
                return Ok(());
            }
            self.wait_for_input(wait)?;
            self.fill(missing, true)?;
        }
    }

    /// Takes the next message of the buffer if it is whole, or tells how many
    /// bytes are missing that are surely part of it.
    #[inline]
    fn take_here(&mut self, message: &mut Message) -> Result<usize, ReceiveError> {
        let here = &self.buffer[self.start..self.end];
        let Some((header, rest)) = here.split_first_chunk() else {
            return Ok(Header::SIZE - here.len());
        };
        let length = payload(header)?;
        let Some(body) = rest.get(..length) else {
            return Ok(length - rest.len());
        };
        message.set(header, body);
        self.advance(message, Header::SIZE + length);
        Ok(0)
    }

    /// Receives what the socket has, at least a byte, and waits for that as
    /// long as `wait` says; less if a message has begun and must go on.
    ///
    /// For when [`Inbox::take`] finds no more.
    ///
    /// # Errors
    ///
    /// See [`ReceiveError`].
    #[inline]
    pub fn wait(&mut self, wait: Wait) -> Result<(), ReceiveError> {
        match wait {
            Wait::Forever => self.wait_for_ever(),
            Wait::Until(_) => self.wait_for_rest(wait),
        }
    }

    /// As [`Inbox::wait`], as long as it takes for a message to begin.
    ///
    /// # Errors
    ///
    /// See [`ReceiveError`].
    #[allow(clippy::inline_always, reason = "every access comes through here")]
    #[inline(always)]
    pub fn wait_for_ever(&mut self) -> Result<(), ReceiveError> {
        if self.start < self.end || !self.read_ahead {
            return self.wait_for_rest(Wait::Forever);
        }
        self.receive_anew()
    }

    /// Waits for more and receives as much as there is. For when
    /// [`Inbox::take_small`] took something and then found nothing.
    ///
    /// # Errors
    ///
    /// See [`ReceiveError`].
    #[allow(clippy::inline_always, reason = "every access comes through here")]
    #[inline(always)]
    pub fn receive_anew(&mut self) -> Result<(), ReceiveError> {
        let socket = self.socket.as_fd();
        match receive(socket, &mut self.buffer, true, &mut self.arrived) {
            Ok(bytes @ 1..) => {
                self.start = 0;
                self.end = bytes;
            }
            Ok(0) => return Err(ReceiveError::Closed),
            Err(errno) => return nothing_came(errno, true).map(|_| ()),
        }
        if !self.arrived.is_empty() {
            self.assign();
        }
        Ok(())
    }

    #[cold]
    fn wait_for_rest(&mut self, wait: Wait) -> Result<(), ReceiveError> {
        let missing = self.missing()?;
        self.wait_for_input(wait)?;
        self.fill(missing, true)?;
        Ok(())
    }

    /// Receives what the socket has now; `false` if that is nothing.
    ///
    /// # Errors
    ///
    /// See [`ReceiveError`].
    #[inline]
    pub fn look(&mut self) -> Result<bool, ReceiveError> {
        let missing = self.missing()?;
        self.fill(missing, false)
    }

    /// When the message that has begun must be complete, if one has and the
    /// rest of it is still to come.
    pub fn deadline(&mut self) -> Option<Instant> {
        if self.start == self.end {
            return None;
        }
        let patience = self.patience;
        Some(
            *self
                .stalled
                .get_or_insert_with(|| Instant::now() + patience),
        )
    }

    /// How many bytes are surely part of the message that begins at `start`
    /// and not here.
    #[inline]
    fn missing(&mut self) -> Result<usize, ReceiveError> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            return Ok(Header::SIZE);
        }
        self.rest()
    }

    #[cold]
    fn rest(&self) -> Result<usize, ReceiveError> {
        let here = &self.buffer[self.start..self.end];
        match here.split_first_chunk() {
            None => Ok(Header::SIZE - here.len()),
            // One more than none: a whole message does not keep it from
            // receiving.
            Some((header, rest)) => Ok(payload(header)?.saturating_sub(rest.len()).max(1)),
        }
    }

    /// Whether another message may be put aside. To be asked before it is
    /// received, so that none is lost.
    pub fn may_defer(&self) -> bool {
        self.deferred.len() < MAX_DEFERRED
            && self.deferred_bytes < MAX_DEFERRED_BYTES
            && self.deferred_fds < MAX_DEFERRED_FDS
    }

    /// Puts a message aside for [`Inbox::receive`].
    pub fn defer(&mut self, message: Message) {
        self.deferred_bytes += message.body.len();
        self.deferred_fds += message.fds.len();
        self.deferred.push_back(message);
    }

    /// Goes behind the message of `size` bytes at `start`, and gives it its
    /// descriptors.
    #[inline]
    fn advance(&mut self, message: &mut Message, size: usize) {
        if !self.fds.is_empty() {
            self.take_fds(message);
        }
        self.read_ahead = matches!(
            Command::from_wire(message.header.command),
            Some(Command::RegionRead | Command::RegionWrite | Command::RegionWriteMulti)
        );
        self.stalled = None;
        self.start += size;
    }

    /// Gives the message at `start` its descriptors, if it has any.
    #[cold]
    fn take_fds(&mut self, message: &mut Message) {
        if self.fds.front().is_some_and(|(at, _)| *at == self.start)
            && let Some((_, fds)) = self.fds.pop_front()
        {
            message.fds = fds;
        }
    }

    /// Receives at least a byte of the `missing` ones, if `wait` not before
    /// there is one; `false` if none came.
    #[inline(never)]
    fn fill(&mut self, missing: usize, wait: bool) -> Result<bool, ReceiveError> {
        if self.end + missing > self.buffer.len() {
            self.make_room(missing);
        }
        let limit = if self.read_ahead {
            self.buffer.len()
        } else {
            self.end + missing
        };
        let room = &mut self.buffer[self.end..limit];
        match receive(self.socket.as_fd(), room, wait, &mut self.arrived) {
            Ok(0) if self.start < self.end => return Err(ReceiveError::Cut),
            Ok(0) => return Err(ReceiveError::Closed),
            Ok(bytes) => self.end += bytes,
            Err(errno) => return nothing_came(errno, wait),
        }
        if !self.arrived.is_empty() {
            self.assign();
        }
        Ok(true)
    }

    /// Gives descriptors to the last message that begins in what is here and
    /// may have some.
    #[cold]
    fn assign(&mut self) {
        let mut fds = std::mem::take(&mut self.arrived);
        let (mut owner, mut last) = (None, self.start);
        let assigned = self.fds.back().map(|(at, _)| *at);
        while let Some(header) = self.buffer[last..self.end].first_chunk() {
            let (size, takes) = Header::parse(header).map_or((MAX_MESSAGE, false), |header| {
                let command = Command::from_wire(header.command);
                let takes = command.is_some_and(Command::takes_descriptors);
                (header.size as usize, takes)
            });
            if takes && Some(last) > assigned {
                owner = Some(last);
            }
            if last + size >= self.end {
                break;
            }
            last += size;
        }
        // Of the last send no more than part of a header found room.
        let begun = self.end - last < Header::SIZE && self.end == self.buffer.len();
        let owner = owner.filter(|_| !begun).unwrap_or(last);
        match self.fds.back_mut() {
            // A message that was sent in pieces, each with descriptors.
            Some((at, earlier)) if *at == owner => {
                earlier.append(&mut fds);
                earlier.truncate(MAX_FDS);
            }
            _ => self.fds.push_back((owner, fds)),
        }
    }

    /// Makes room for `missing` bytes behind what is here, which moves to the
    /// front.
    #[cold]
    fn make_room(&mut self, missing: usize) {
        self.buffer.copy_within(self.start..self.end, 0);
        for (at, _) in &mut self.fds {
            *at -= self.start;
        }
        self.end -= self.start;
        self.start = 0;
        // At most the largest message, as its header was checked.
        let needed = self.end + missing;
        if needed > self.buffer.len() {
            self.buffer.resize(needed, 0);
        }
    }

    /// Waits as long as `wait` says, or as long as a message that has begun
    /// may take. Whatever may wait for ever is left to the receive.
    #[inline]
    fn wait_for_input(&mut self, wait: Wait) -> Result<(), ReceiveError> {
        match (self.start == self.end, wait) {
            (true, Wait::Forever) => Ok(()),
            _ => self.wait_until(wait),
        }
    }

    #[cold]
    fn wait_until(&mut self, wait: Wait) -> Result<(), ReceiveError> {
        match (self.deadline(), wait) {
            (Some(deadline), _) | (None, Wait::Until(deadline)) => self.poll(deadline),
            (None, Wait::Forever) => Ok(()),
        }
    }

    fn poll(&self, deadline: Instant) -> Result<(), ReceiveError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).map_err(|_| ReceiveError::TimedOut)?;
            let socket = self.socket.as_fd();
            match poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return Err(ReceiveError::TimedOut),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(ReceiveError::Io(errno.into())),
            }
        }
    }
}

/// The length of the payload behind a header that we can follow.
#[inline]
fn payload(header: &[u8; Header::SIZE]) -> Result<usize, ReceiveError> {
    let unframed = |malformed| ReceiveError::Unframed(*header, malformed);
    Header::check(header).map_err(unframed)?;
    let size = Header::size_of(header);
    if size as usize > MAX_MESSAGE {
        return Err(unframed(Malformed::MessageSize(size)));
    }
    Ok(size as usize - Header::SIZE)
}

/// Nothing came, which is no error if there may be more.
#[cold]
fn nothing_came(errno: Errno, wait: bool) -> Result<bool, ReceiveError> {
    match errno {
        Errno::INTR => Ok(false),
        Errno::AGAIN if !wait => Ok(false),
        Errno::CONNRESET => Err(ReceiveError::Closed),
        errno => Err(ReceiveError::Io(errno.into())),
    }
}
