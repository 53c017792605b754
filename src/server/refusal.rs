//! What a client did wrong, as the errno that it gets. Never 0, which QEMU
//! takes for success.

use std::io;

use thiserror::Error;

use crate::endpoint::{IrqError, MapError, RegionError};
use crate::protocol::{Command, Malformed};

/// Why a command was refused. The session goes on.
#[derive(Debug, Error)]
pub(super) enum Refusal {
    /// The message is not what the specification says.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// An access outside its region.
    #[error("{0}")]
    Region(#[from] RegionError),
    /// A DMA map or unmap that cannot be.
    #[error("{0}")]
    Map(#[from] MapError),
    /// An interrupt that is not there.
    #[error("{0}")]
    Irq(#[from] IrqError),
    /// A command before the version was agreed.
    #[error("{0:?} before VERSION")]
    TooEarly(Command),
    /// A second VERSION.
    #[error("a second VERSION")]
    TooLate,
    /// A command that the specification does not have.
    #[error("there is no command {0}")]
    Unknown(u16),
    /// None of the page sizes is one that memory can have.
    #[error("VERSION: page sizes {0:#x} are all smaller than 4096")]
    PageSizes(u64),
    /// A protocol version that we do not speak.
    #[error("protocol version {0}.{1} is not supported")]
    Version(u16, u16),
    /// An unknown region or interrupt index.
    #[error("there is no {what} {index}")]
    NoIndex {
        /// Region or interrupt index.
        what: &'static str,
        /// The number asked for.
        index: u32,
    },
    /// Descriptors where none belong, or not as many as do.
    #[error("{got} descriptors where {expected} belong")]
    Descriptors {
        /// How many came.
        got: usize,
        /// How many belong there.
        expected: usize,
    },
    /// More data in one transfer than was negotiated.
    #[error("{count} bytes in one transfer, {max} were negotiated")]
    TooMuchData {
        /// Bytes asked for.
        count: u32,
        /// Bytes negotiated.
        max: u32,
    },
    /// What this server does not do (yet).
    #[error("{0:?} is not supported")]
    Unsupported(Command),
    /// The system refused us something.
    #[error("{0}")]
    System(#[from] io::Error),
}

impl Refusal {
    /// The errno for the client, never 0.
    pub(super) fn errno(&self) -> i32 {
        match self {
            Refusal::Malformed(malformed) => malformed.errno(),
            Refusal::Map(error) => error.errno(),
            Refusal::Unknown(_) => libc::ENOSYS,
            Refusal::Version(..) | Refusal::Unsupported(_) => libc::ENOTSUP,
            Refusal::System(error) => error
                .raw_os_error()
                .filter(|errno| *errno != 0)
                .unwrap_or(libc::EIO),
            Refusal::Region(_)
            | Refusal::Irq(_)
            | Refusal::TooEarly(_)
            | Refusal::TooLate
            | Refusal::PageSizes(_)
            | Refusal::NoIndex { .. }
            | Refusal::Descriptors { .. }
            | Refusal::TooMuchData { .. } => libc::EINVAL,
        }
    }
}
