//! One access to one register, and the mistakes a guest can make with it.

use thiserror::Error;

/// The width of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 1 byte.
    U8 = 1,
    /// 2 bytes.
    U16 = 2,
    /// 4 bytes.
    U32 = 4,
    /// 8 bytes.
    U64 = 8,
}

impl Width {
    /// The width in bytes.
    #[inline]
    pub const fn bytes(self) -> u32 {
        self as u32
    }

    /// All ones in this width: what an absent register reads as.
    #[inline]
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }
}

/// An access to one register: which BAR, where in it, how wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The BAR, 0 to 5.
    pub bar: u8,
    /// The register's offset in the BAR, in bytes.
    pub offset: u32,
    /// The register's width.
    pub width: Width,
}

/// A mistake of the guest. It reads all-ones or loses its write, and the
/// session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AccessError {
    /// There is no register at this offset.
    #[error("no register at offset {offset:#x}")]
    NoRegister {
        /// The offset in the BAR.
        offset: u32,
    },
    /// The register can only be read.
    #[error("{name} is read-only")]
    ReadOnly {
        /// The register's name.
        name: &'static str,
    },
    /// The register can only be written.
    #[error("{name} is write-only")]
    WriteOnly {
        /// The register's name.
        name: &'static str,
    },
    /// The register acts on its whole value and only part was written.
    #[error("{name} takes writes of its whole width only")]
    Narrow {
        /// The register's name.
        name: &'static str,
    },
    /// The register does not take this value.
    #[error("{name} does not take the value {value:#x}")]
    Value {
        /// The register's name.
        name: &'static str,
        /// What was written.
        value: u64,
    },
}
