//! Why a state is not kept or not gone on from.

use std::io;

use thiserror::Error;

use super::MAX_FUNCTIONS;
use crate::device::StateError;

/// Why a state file is not used: one line for people.
#[derive(Debug, Error)]
#[error("state {name}: {cause}")]
pub struct KeptError {
    /// The file.
    name: String,
    cause: Cause,
}

impl KeptError {
    pub(super) fn new(name: String, cause: Cause) -> Self {
        KeptError { name, cause }
    }
}

#[derive(Debug, Error)]
pub(super) enum Cause {
    #[error("cannot {what} it: {error}")]
    System {
        what: &'static str,
        error: io::Error,
    },
    #[error("another server has it; end that one, or name another file")]
    Locked,
    #[error("it is no file; name one on a tmpfs, such as /run")]
    NoFile,
    #[error("others than its owner may write to it; allow only the owner, or name another file")]
    Writable,
    #[error("this is not what a server left ({why}); remove it to begin anew")]
    Nonsense { why: &'static str },
    #[error("it is of domain {kept}, not of {asked}; name another, or remove it")]
    Domain { kept: u16, asked: u16 },
    #[error("it is of {kept}; start the server with that, or remove it to begin anew")]
    Functions { kept: String },
    #[error("the part of {name}: {error}; remove it to begin anew")]
    State { name: String, error: StateError },
    #[error("{count} functions; at most {MAX_FUNCTIONS} can be kept")]
    Count { count: usize },
}
