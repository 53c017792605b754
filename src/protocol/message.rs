//! A message as it is received, and why there may be none.

use std::io;
use std::os::fd::OwnedFd;

use thiserror::Error;

use super::{Command, Header, Malformed};

/// The largest data of a single transfer that we offer.
pub const MAX_DATA: u32 = 1024 * 1024;

/// The largest message: a region write of [`MAX_DATA`], or a list of writes.
pub const MAX_MESSAGE: usize = Header::SIZE + 16 + MAX_DATA as usize;

/// A message as it arrived. Its memory is used again.
#[derive(Debug)]
pub struct Message {
    /// The header; its size is right.
    pub header: Header,
    /// What follows the header.
    pub body: Vec<u8>,
    /// The descriptors that came with it.
    pub fds: Vec<OwnedFd>,
}

impl Message {
    /// An empty message, to be received into.
    pub fn new() -> Self {
        Message {
            header: Header::command(0, Command::Version),
            body: Vec::new(),
            fds: Vec::new(),
        }
    }

    /// Holds this message from now on.
    #[inline]
    pub(super) fn set(&mut self, header: &[u8; Header::SIZE], body: &[u8]) {
        self.header = Header::decode(header);
        self.body.clear();
        self.body.extend_from_slice(body);
        if !self.fds.is_empty() {
            self.fds.clear();
        }
    }
}

impl Default for Message {
    fn default() -> Self {
        Self::new()
    }
}

/// Why there is no further message. All of these end the connection.
#[derive(Debug, Error)]
pub enum ReceiveError {
    /// The peer left, between two messages.
    #[error("the peer left")]
    Closed,
    /// The peer left in the middle of a message.
    #[error("the peer left in the middle of a message")]
    Cut,
    /// A header that leaves no way to find the next message.
    #[error("{1}")]
    Unframed([u8; Header::SIZE], Malformed),
    /// The peer stalled in the middle of a message, or did not begin one in
    /// the time that it had.
    #[error("the peer sent nothing in time")]
    TimedOut,
    /// The socket failed.
    #[error("receive: {0}")]
    Io(#[from] io::Error),
}
