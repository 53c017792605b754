//! Why a function's layout is refused.

use std::fmt;

/// A mistake in a function's layout, found before any guest sees it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A vendor ID of 0xffff says that there is no function (PCI 3.0 6.1).
    #[error("vendor id 0xffff means that there is no function")]
    NoVendor,
    /// A class code has three bytes (PCI 3.0 6.2.1).
    #[error("class code {class:#x} does not fit in 24 bits")]
    Class {
        /// The class code given.
        class: u32,
    },
    /// BAR sizes are powers of two (PCI 3.0 6.2.5.1).
    #[error("BAR {index}: size {size:#x} is not a power of two")]
    BarSizeNotPowerOfTwo {
        /// The BAR.
        index: usize,
        /// The size given.
        size: u64,
    },
    /// A BAR register cannot express the size (PCI 3.0 6.2.5.1).
    #[error("BAR {index}: size {size:#x} is not within {minimum:#x} to {maximum:#x}")]
    BarSize {
        /// The BAR.
        index: usize,
        /// The size given.
        size: u64,
        /// The smallest size of its kind.
        minimum: u64,
        /// The largest size of its kind.
        maximum: u64,
    },
    /// Only memory can be prefetchable (PCI 3.0 6.2.5.1).
    #[error("BAR {index}: an I/O BAR cannot be prefetchable")]
    IoBarPrefetchable {
        /// The BAR.
        index: usize,
    },
    /// A 64-bit BAR takes two registers (PCI 3.0 6.2.5.1).
    #[error("BAR {index}: a 64-bit BAR needs the register after it, which is not free")]
    BarUpperHalf {
        /// The BAR.
        index: usize,
    },
    /// MSI-X has 1 to 2048 vectors (PCI 3.0 6.8.2.3).
    #[error("MSI-X: {vectors} vectors is not within 1 to 2048")]
    MsixVectors {
        /// The number given.
        vectors: u16,
    },
    /// The structure is not in a memory BAR of the function (PCI 3.0 6.8.2.4).
    #[error("MSI-X: the {part} is in BAR {bar}, which is not a memory BAR of this function")]
    MsixBar {
        /// Which structure.
        part: MsixPart,
        /// The BAR given.
        bar: u8,
    },
    /// The structures are aligned to 8 bytes (PCI 3.0 6.8.2.4).
    #[error("MSI-X: the {part} at {offset:#x} is not aligned to 8 bytes")]
    MsixAlignment {
        /// Which structure.
        part: MsixPart,
        /// The offset given.
        offset: u32,
    },
    /// The structure does not fit in its BAR.
    #[error("MSI-X: the {part} at {offset:#x} takes {length:#x} bytes, BAR {bar} has {size:#x}")]
    MsixOutside {
        /// Which structure.
        part: MsixPart,
        /// Its BAR.
        bar: u8,
        /// The offset given.
        offset: u32,
        /// The length of the structure.
        length: u64,
        /// The size of the BAR.
        size: u64,
    },
    /// The table and the PBA share bytes.
    #[error("MSI-X: the table at {table:#x} and the PBA at {pba:#x} of BAR {bar} overlap")]
    MsixOverlap {
        /// The BAR of both.
        bar: u8,
        /// The offset of the table.
        table: u32,
        /// The offset of the PBA.
        pba: u32,
    },
    /// MSI has a power of two of vectors, at most 32 (PCI 3.0 6.8.1.3).
    #[error("MSI: {vectors} vectors is not one of 1, 2, 4, 8, 16 and 32")]
    MsiVectors {
        /// The number given.
        vectors: u8,
    },
    /// No vendor specific capability can be that long (PCI 3.0 appendix H).
    #[error("vendor capability: {length} bytes, at most {maximum} can be had")]
    VendorLength {
        /// The length given.
        length: usize,
        /// The most that could fit if it were alone.
        maximum: usize,
    },
    /// A function has one capability of each kind, vendor specific ones aside.
    #[error("{name} capability given twice")]
    Duplicate {
        /// Its name.
        name: &'static str,
    },
    /// The capabilities do not fit in the first 256 bytes (PCI 3.0 6.7).
    #[error("{name} capability: {length} bytes do not fit between {offset:#x} and 0x100")]
    NoSpace {
        /// Its name.
        name: &'static str,
        /// Its length.
        length: usize,
        /// The next free offset.
        offset: usize,
    },
}

/// One of the two structures that MSI-X keeps in a BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MsixPart {
    /// The vector table.
    Table,
    /// The pending bit array.
    Pba,
}

impl fmt::Display for MsixPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Table => "vector table",
            Self::Pba => "PBA",
        })
    }
}

#[cfg(test)]
mod tests;
