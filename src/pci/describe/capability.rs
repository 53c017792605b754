//! Walks the capability lists.

use std::collections::BTreeSet;

use serde::Serialize;

use super::Bytes;
use super::express::ExpressDescription;
use crate::pci::spec::{
    CAPABILITIES_POINTER, EXTENDED_CONFIG_SIZE, capability, extended, msi, msix, pm, status, vendor,
};

/// One entry of the capability list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CapabilityDescription {
    /// Where it is.
    pub offset: usize,
    /// What it is, or why the list ends here.
    #[serde(flatten)]
    pub kind: CapabilityKind,
}

/// A capability, decoded as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum CapabilityKind {
    /// Power Management.
    PowerManagement(PowerDescription),
    /// MSI.
    Msi(MsiDescription),
    /// MSI-X.
    Msix(MsixDescription),
    /// PCI Express.
    Express(ExpressDescription),
    /// Vendor specific.
    Vendor {
        /// Its length byte.
        length: u8,
    },
    /// Not decoded.
    Unknown {
        /// Its ID.
        id: u8,
        /// The two bytes after its header.
        register: u16,
    },
    /// The list came here before.
    Looped,
    /// The list points into the header, or to where no capability is.
    Broken,
    /// The list goes on beyond the bytes that were given.
    Truncated,
}

/// Power Management registers (PM 1.2 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PowerDescription {
    /// Version of the specification, 3 for PM 1.2.
    pub version: u16,
    /// Power state, 0 for D0 to 3 for D3hot.
    pub state: u16,
    /// Going from D3hot to D0 keeps the registers.
    pub no_soft_reset: bool,
    /// The PMC register.
    pub capabilities: u16,
    /// The PMCSR register.
    pub control: u16,
}

/// MSI registers (PCI 3.0 6.8.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MsiDescription {
    /// MSI is enabled.
    pub enabled: bool,
    /// Vectors that the function asks for.
    pub vectors: u32,
    /// Vectors that the guest grants.
    pub enabled_vectors: u32,
    /// The address has 64 bits.
    pub address_64: bool,
    /// Message address.
    pub address: u64,
    /// Message data.
    pub data: u16,
    /// Mask and pending bits, where the function has them.
    pub masking: Option<MsiMasking>,
}

/// Per-vector masking of MSI (PCI 3.0 6.8.1.7, 6.8.1.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MsiMasking {
    /// Vectors that are masked.
    pub mask: u32,
    /// Vectors that are pending.
    pub pending: u32,
}

/// MSI-X registers (PCI 3.0 6.8.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MsixDescription {
    /// MSI-X is enabled.
    pub enabled: bool,
    /// All vectors are masked.
    pub masked: bool,
    /// Number of vectors.
    pub vectors: u16,
    /// BAR of the vector table; only 0 to 5 exist.
    pub table_bar: u32,
    /// Offset of the vector table.
    pub table_offset: u32,
    /// BAR of the pending bit array; only 0 to 5 exist.
    pub pba_bar: u32,
    /// Offset of the pending bit array.
    pub pba_offset: u32,
}

/// One entry of the extended capability list (PCIe 4.0 7.6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ExtendedDescription {
    /// Where it is.
    pub offset: usize,
    /// What it is, or why the list ends here.
    #[serde(flatten)]
    pub kind: ExtendedKind,
}

/// An extended capability; none is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ExtendedKind {
    /// A capability.
    Present {
        /// Its ID.
        id: u16,
        /// Its version.
        version: u32,
    },
    /// The list came here before.
    Looped,
    /// The list points below 0x100, or to where no capability is.
    Broken,
    /// The list goes on beyond the bytes that were given.
    Truncated,
}

/// Walks the list from the header on. It ends: each offset is visited once.
pub(super) fn walk(bytes: Bytes<'_>, status: u16, layout: u8) -> Vec<CapabilityDescription> {
    use CapabilityKind::{Broken, Looped, Truncated};
    let mut found = Vec::new();
    // Other layouts keep the pointer elsewhere, if they have one.
    if status & status::CAPABILITIES_LIST == 0 || layout > 1 {
        return found;
    }
    let mut visited = BTreeSet::new();
    let mut pointer_at = CAPABILITIES_POINTER;
    while let Some(pointer) = bytes.u8(pointer_at) {
        let offset = usize::from(pointer & !capability::POINTER_RESERVED);
        if offset == 0 {
            break;
        }
        let kind = if offset < capability::FIRST {
            Broken
        } else if visited.insert(offset) {
            decode(bytes, offset).unwrap_or(Truncated)
        } else {
            Looped
        };
        let ends = matches!(kind, Broken | Looped | Truncated);
        found.push(CapabilityDescription { offset, kind });
        if ends {
            break;
        }
        pointer_at = offset + capability::NEXT;
    }
    found
}

/// `None` if a byte of it is missing.
fn decode(bytes: Bytes<'_>, at: usize) -> Option<CapabilityKind> {
    let id = bytes.u8(at + capability::ID)?;
    Some(match id {
        capability::POWER_MANAGEMENT => CapabilityKind::PowerManagement(power(bytes, at)?),
        capability::MSI => CapabilityKind::Msi(msi(bytes, at)?),
        capability::MSIX => CapabilityKind::Msix(msix(bytes, at)?),
        capability::PCI_EXPRESS => CapabilityKind::Express(ExpressDescription::decode(bytes, at)?),
        capability::VENDOR => CapabilityKind::Vendor {
            length: bytes.u8(at + vendor::LENGTH)?,
        },
        capability::NONE => CapabilityKind::Broken,
        id => CapabilityKind::Unknown {
            id,
            register: bytes.u16(at + capability::SIZE)?,
        },
    })
}

fn power(bytes: Bytes<'_>, at: usize) -> Option<PowerDescription> {
    let capabilities = bytes.u16(at + pm::CAPABILITIES)?;
    let control = bytes.u16(at + pm::CONTROL)?;
    Some(PowerDescription {
        version: capabilities & pm::VERSION_MASK,
        state: control & pm::STATE_MASK,
        no_soft_reset: control & pm::NO_SOFT_RESET != 0,
        capabilities,
        control,
    })
}

fn msi(bytes: Bytes<'_>, at: usize) -> Option<MsiDescription> {
    let control = bytes.u16(at + msi::CONTROL)?;
    let count = |shift: u16| 1 << (control >> shift & msi::COUNT_MASK);
    let address_64 = control & msi::ADDRESS_64 != 0;
    let lower = u64::from(bytes.u32(at + msi::ADDRESS)?);
    let (upper, data_at) = if address_64 {
        let upper = bytes.u32(at + msi::ADDRESS_UPPER)?;
        (u64::from(upper), at + msi::DATA_64)
    } else {
        (0, at + msi::DATA_32)
    };
    let masking = if control & msi::PER_VECTOR_MASKING != 0 {
        Some(MsiMasking {
            mask: bytes.u32(data_at + msi::MASK_AFTER_DATA)?,
            pending: bytes.u32(data_at + msi::PENDING_AFTER_DATA)?,
        })
    } else {
        None
    };
    Some(MsiDescription {
        enabled: control & msi::ENABLE != 0,
        vectors: count(msi::CAPABLE_SHIFT),
        enabled_vectors: count(msi::ENABLED_SHIFT),
        address_64,
        address: upper << 32 | lower,
        data: bytes.u16(data_at)?,
        masking,
    })
}

fn msix(bytes: Bytes<'_>, at: usize) -> Option<MsixDescription> {
    let control = bytes.u16(at + msix::CONTROL)?;
    let table = bytes.u32(at + msix::TABLE)?;
    let pba = bytes.u32(at + msix::PBA)?;
    Some(MsixDescription {
        enabled: control & msix::ENABLE != 0,
        masked: control & msix::FUNCTION_MASK != 0,
        vectors: (control & msix::TABLE_SIZE_MASK) + 1,
        table_bar: table & msix::BIR_MASK,
        table_offset: table & !msix::BIR_MASK,
        pba_bar: pba & msix::BIR_MASK,
        pba_offset: pba & !msix::BIR_MASK,
    })
}

/// Walks the extended list, if config space goes that far. It ends: each
/// offset is visited once.
pub(super) fn walk_extended(bytes: Bytes<'_>) -> Vec<ExtendedDescription> {
    let mut found = Vec::new();
    // A first header of zeros or ones means that there is no list.
    if matches!(bytes.u32(extended::FIRST), None | Some(0 | u32::MAX)) {
        return found;
    }
    let mut visited = BTreeSet::new();
    let mut offset = extended::FIRST;
    while offset != 0 {
        let (kind, next) = if !(extended::FIRST..EXTENDED_CONFIG_SIZE).contains(&offset) {
            (ExtendedKind::Broken, 0)
        } else if !visited.insert(offset) {
            (ExtendedKind::Looped, 0)
        } else {
            decode_extended(bytes.u32(offset))
        };
        found.push(ExtendedDescription { offset, kind });
        offset = next;
    }
    found
}

/// The capability, and the offset of the next or 0.
fn decode_extended(header: Option<u32>) -> (ExtendedKind, usize) {
    match header {
        None => (ExtendedKind::Truncated, 0),
        Some(0 | u32::MAX) => (ExtendedKind::Broken, 0),
        Some(header) => {
            let [low, high, ..] = header.to_le_bytes();
            let next = header >> extended::NEXT_SHIFT & !extended::POINTER_RESERVED;
            let kind = ExtendedKind::Present {
                id: u16::from_le_bytes([low, high]),
                version: header >> extended::VERSION_SHIFT & extended::VERSION_MASK,
            };
            (kind, usize::try_from(next).unwrap_or_default())
        }
    }
}
