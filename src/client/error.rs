//! What can go wrong with a server, each in one line.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::protocol::{Command, Malformed};

/// Why a server did not do what it was asked.
///
/// After [`ClientError::Refused`] and [`ClientError::Unmappable`], and after
/// what was refused on our side before it was sent, the connection goes on.
/// All others end it, because what comes next could be anything.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody takes connections there.
    #[error("{path}: cannot connect: {source}; {advice}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
        /// What to do about it.
        advice: &'static str,
    },
    /// The socket failed.
    #[error("{command}: the connection failed: {source}")]
    Io {
        /// What was being asked.
        command: Command,
        /// What the kernel said.
        source: io::Error,
    },
    /// The server left.
    #[error("{command}: the server closed the connection instead of answering")]
    Closed {
        /// What was being asked.
        command: Command,
    },
    /// The server left in the middle of its answer.
    #[error("{command}: the server closed the connection in the middle of a message")]
    Cut {
        /// What was being asked.
        command: Command,
    },
    /// The server said nothing, or not enough.
    #[error("{command}: no answer within {} s", .after.as_secs_f32())]
    TimedOut {
        /// What was being asked.
        command: Command,
        /// The patience it had.
        after: Duration,
    },
    /// What came is not a message of vfio-user.
    #[error("{command}: the answer is not vfio-user: {malformed}")]
    Garbage {
        /// What was being asked.
        command: Command,
        /// What is wrong with it.
        malformed: Malformed,
    },
    /// The server said no. The connection goes on.
    #[error("{command}: refused: {}", Errno(*.errno))]
    Refused {
        /// What was being asked.
        command: Command,
        /// The server's errno; 0 from a server that lost it.
        errno: u32,
    },
    /// A reply to something that was not asked.
    #[error(
        "{command}: the answer is for another question: \
         message {got_id} of command {got_command} instead of {id} of {}",
        .command.to_wire()
    )]
    WrongReply {
        /// What was being asked.
        command: Command,
        /// The id of the question.
        id: u16,
        /// The id of the answer.
        got_id: u16,
        /// The command of the answer.
        got_command: u16,
    },
    /// The payload of an answer is not what the specification says.
    #[error("the answer makes no sense: {0}")]
    Malformed(Malformed),
    /// A field of an answer differs from the question's.
    #[error("{command}: the answer's {field} is {got:#x} instead of {expected:#x}")]
    Mismatch {
        /// What was being asked.
        command: Command,
        /// The specification's name of the field.
        field: &'static str,
        /// What was asked for.
        expected: u64,
        /// What came.
        got: u64,
    },
    /// The server speaks another version.
    #[error("VERSION: the server speaks {major}.{minor}, this program 0.0 and 0.1")]
    Version {
        /// Its major version.
        major: u16,
        /// Its minor version.
        minor: u16,
    },
    /// The server's terms for accesses by shared memory, or the memory itself,
    /// cannot be taken.
    #[error("VERSION: shared_mmio: {why}")]
    SharedMmio {
        /// What is wrong.
        why: String,
    },
    /// An answer that needs more room each time, or more than is sane.
    #[error("{command}: the answer wants {argsz} bytes of room, and does not fit them")]
    Argsz {
        /// What was being asked.
        command: Command,
        /// The room that the server asks for.
        argsz: u32,
    },
    /// An answer names a descriptor that did not come.
    #[error("{command}: the answer names descriptor {index}, and {got} came")]
    Descriptor {
        /// What was being asked.
        command: Command,
        /// Its place among those that came.
        index: u32,
        /// How many came.
        got: usize,
    },
    /// More than the server said it takes; it was not sent. The connection
    /// goes on.
    #[error("{command}: {got} {what} are more than the {most} that the server takes")]
    TooMany {
        /// What was to be asked.
        command: Command,
        /// Of what there are too many.
        what: &'static str,
        /// How many there are.
        got: usize,
        /// How many the server takes.
        most: usize,
    },
    /// An earlier error ended the connection.
    #[error("{command}: not asked, the connection has failed before")]
    GivenUp {
        /// What was to be asked.
        command: Command,
    },
    /// A part of a region cannot be mapped. The connection goes on.
    #[error("region {index}: {size:#x} bytes at {offset:#x} cannot be mapped: {why}")]
    Unmappable {
        /// The region.
        index: u32,
        /// Where in the region.
        offset: u64,
        /// How much.
        size: u64,
        /// Why not.
        why: String,
    },
}

impl ClientError {
    /// Whether the connection goes on.
    pub fn is_recoverable(&self) -> bool {
        matches!(
            self,
            ClientError::Refused { .. }
                | ClientError::TooMany { .. }
                | ClientError::Unmappable { .. }
        )
    }
}

/// An errno of a peer, in words.
struct Errno(u32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match i32::try_from(self.0) {
            Ok(0) => f.write_str("without a reason (errno 0)"),
            // Beyond the kernel's largest, libc has no words.
            Ok(errno) if errno < 4096 => io::Error::from_raw_os_error(errno).fmt(f),
            _ => write!(f, "errno {}, which does not exist", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_why_in_words() {
        let refused = |errno| {
            let command = Command::DeviceReset;
            ClientError::Refused { command, errno }.to_string()
        };
        assert_eq!(
            refused(95),
            "DEVICE_RESET: refused: Operation not supported (os error 95)"
        );
        assert_eq!(
            refused(0),
            "DEVICE_RESET: refused: without a reason (errno 0)"
        );
        let huge = "DEVICE_RESET: refused: errno 4294967295, which does not exist";
        assert_eq!(refused(u32::MAX), huge);
    }
}
