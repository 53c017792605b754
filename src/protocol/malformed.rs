//! What is wrong with a message, and the errno that says so.

use super::Command;

/// Why a peer's bytes were refused.
///
/// It holds numbers only, so that refusing costs no allocation, and is `Copy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The command number is not in the specification.
    #[error("command {0} is unknown")]
    UnknownCommand(u16),
    /// The command goes from the server to the client only.
    #[error("{0} is for the server to send, not for the client")]
    Direction(Command),
    /// The header's type is neither command nor reply.
    #[error("message type {0:#x} is neither command (0) nor reply (1)")]
    MessageType(u32),
    /// The header's message size leaves no room for the header.
    #[error("message size {0} is less than the header's 16")]
    MessageSize(u32),
    /// The payload ends before its fixed part does.
    #[error("{command}: payload of {got} bytes, {least} needed")]
    Short {
        /// The command.
        command: Command,
        /// What its fixed part takes.
        least: usize,
        /// What came.
        got: usize,
    },
    /// The payload goes on after its end.
    #[error("{command}: payload of {got} bytes, at most {most} expected")]
    Long {
        /// The command.
        command: Command,
        /// What may come.
        most: usize,
        /// What came.
        got: usize,
    },
    /// `argsz` is less than the fixed part of what it describes.
    #[error("{command}: argsz is {got}, at least {least} needed")]
    Argsz {
        /// The command.
        command: Command,
        /// The fixed part.
        least: u32,
        /// What the peer said.
        got: u32,
    },
    /// The flags hold an unknown bit or a combination that means nothing.
    #[error("{command}: flags {flags:#x} are not valid")]
    Flags {
        /// The command.
        command: Command,
        /// All of them.
        flags: u32,
    },
    /// A field has a value that it cannot have.
    #[error("{command}: {field} cannot be {value:#x}")]
    Field {
        /// The command.
        command: Command,
        /// The specification's name of the field.
        field: &'static str,
        /// What the peer said.
        value: u64,
    },
    /// Start and length add up to more than the field can express.
    #[error("{command}: {start:#x} + {length:#x} overflows")]
    Wraps {
        /// The command.
        command: Command,
        /// Where the range starts.
        start: u64,
        /// How long it is.
        length: u64,
    },
    /// The count does not match the data that came with it.
    #[error("{command}: count {count} does not match {got} bytes of data")]
    Count {
        /// The command.
        command: Command,
        /// What the peer said.
        count: u64,
        /// The bytes of data that came.
        got: usize,
    },
    /// Valid, but this implementation does not have it.
    #[error("{command}: {what} is not supported")]
    Unsupported {
        /// The command.
        command: Command,
        /// What was asked for.
        what: &'static str,
    },
    /// The version data is longer than any honest peer's.
    #[error("VERSION: {0} bytes of version data are too many")]
    VersionDataSize(usize),
    /// The version data is not one NUL-terminated string.
    #[error("VERSION: version data must end in its only NUL")]
    VersionNul,
    /// The version data is not JSON.
    #[error("VERSION: version data is not JSON at line {line} column {column}")]
    VersionJson {
        /// As `serde_json` counts, from 1.
        line: usize,
        /// As `serde_json` counts, from 1; 0 is the line's start.
        column: usize,
    },
    /// A key of the version data has the wrong type or range.
    #[error("VERSION: {key} must be {must}")]
    Capability {
        /// The key.
        key: &'static str,
        /// What the specification wants there.
        must: &'static str,
    },
}

impl Malformed {
    /// The errno of the error reply; never 0, which QEMU reads as success.
    pub fn errno(&self) -> i32 {
        match self {
            Malformed::UnknownCommand(_) => libc::ENOSYS,
            Malformed::Unsupported { .. } => libc::ENOTSUP,
            Malformed::VersionDataSize(_) => libc::E2BIG,
            _ => libc::EINVAL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_errno_says_what_kind_of_refusal_it_is() {
        let command = Command::DmaUnmap;
        assert_eq!(Malformed::UnknownCommand(14).errno(), libc::ENOSYS);
        assert_eq!(Malformed::Direction(Command::DmaRead).errno(), libc::EINVAL);
        let what = "a dirty bitmap";
        assert_eq!(
            Malformed::Unsupported { command, what }.errno(),
            libc::ENOTSUP
        );
        assert_eq!(Malformed::VersionDataSize(1 << 20).errno(), libc::E2BIG);
        assert_eq!(Malformed::VersionNul.errno(), libc::EINVAL);
    }

    #[test]
    fn a_message_names_the_command_and_the_numbers() {
        let short = Malformed::Short {
            command: Command::RegionRead,
            least: 16,
            got: 3,
        };
        assert_eq!(
            short.to_string(),
            "REGION_READ: payload of 3 bytes, 16 needed"
        );
    }
}
