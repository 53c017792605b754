//! How a command fails: one line for the reader, a status for the program.

use std::fmt;

/// What failed, on what, and what to do next, in one line.
#[derive(Debug)]
pub(super) struct Failure {
    status: u8,
    message: String,
}

impl Failure {
    /// The command failed (1).
    pub(super) fn failed(message: impl fmt::Display) -> Self {
        Self::new(1, message)
    }

    /// The command line is wrong (2).
    pub(super) fn usage(message: impl fmt::Display) -> Self {
        Self::new(2, message)
    }

    /// A socket cannot be listened on (3).
    pub(super) fn listen(message: impl fmt::Display) -> Self {
        Self::new(3, message)
    }

    /// A server is not there or does not answer as vfio-user says (4).
    pub(super) fn peer(message: impl fmt::Display) -> Self {
        Self::new(4, message)
    }

    /// What was looked at has warnings (5), and they were printed.
    #[cfg(feature = "host")]
    pub(super) fn warned() -> Self {
        Self::new(5, "")
    }

    /// What was looked at is broken (6), and how was printed.
    #[cfg(feature = "host")]
    pub(super) fn broken() -> Self {
        Self::new(6, "")
    }

    /// The guest of `serve --xen` waits for a successor (7).
    #[cfg(feature = "xen")]
    pub(super) fn left(message: impl fmt::Display) -> Self {
        Self::new(7, message)
    }

    /// There is nothing more to say.
    pub(super) fn is_said(&self) -> bool {
        self.message.is_empty()
    }

    /// The program's exit status.
    pub(super) fn status(&self) -> u8 {
        self.status
    }

    fn new(status: u8, message: impl fmt::Display) -> Self {
        Failure {
            status,
            message: message.to_string(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
