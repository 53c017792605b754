//! Decodes the config space of any device.
//!
//! The bytes come from outside: from a device in another process, or from a
//! dump. Nothing in them is trusted. Capability chains that loop or point at
//! nothing, and bytes that are missing, become part of the description.

mod capability;
mod class;
mod express;
mod text;

use serde::Serialize;

use super::Identity;
use super::spec::{
    BAR_COUNT, BAR0, CACHE_LINE_SIZE, COMMAND, DEVICE_ID, HEADER_LAYOUT, HEADER_MULTIFUNCTION,
    HEADER_SIZE, HEADER_TYPE, INTERRUPT_LINE, INTERRUPT_PIN, LATENCY_TIMER, REVISION_ID, STATUS,
    SUBSYSTEM_ID, SUBSYSTEM_VENDOR_ID, VENDOR_ID, VENDOR_NONE, bar,
};

pub use capability::{
    CapabilityDescription, CapabilityKind, ExtendedDescription, ExtendedKind, MsiDescription,
    MsiMasking, MsixDescription, PowerDescription,
};
pub use express::{ExpressDescription, LinkDescription, PortType};

/// Why there is nothing to describe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescribeError {
    /// The predefined header is not complete (PCI 3.0 6.1).
    #[error("{length} bytes of config space, the header takes {HEADER_SIZE}")]
    Short {
        /// The number of bytes given.
        length: usize,
    },
    /// The vendor ID says that there is no function (PCI 3.0 6.1).
    #[error("vendor id 0xffff means that there is no function")]
    NoDevice,
}

/// A function as its config space shows it. Its `Display` is what
/// `lspci -nn -vv` prints, without the slot and the names of vendors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Description {
    /// Who it says it is. Only a type 0 header has the subsystem; zero elsewhere.
    pub identity: Identity,
    /// The name of its class, where it is a common one.
    pub class_name: Option<&'static str>,
    /// Header layout: 0 for a function, 1 for a bridge (PCI 3.0 6.2.1).
    pub header_layout: u8,
    /// There are more functions in its slot.
    pub multifunction: bool,
    /// The Command register.
    pub command: u16,
    /// The Status register.
    pub status: u16,
    /// Cache line size in bytes.
    pub cache_line_size: u16,
    /// Latency timer.
    pub latency_timer: u8,
    /// INTx pin: 0 for none, 1 for INTA#.
    pub interrupt_pin: u8,
    /// Interrupt line, whatever the guest's firmware left there.
    pub interrupt_line: u8,
    /// The BARs that it has.
    pub bars: Vec<BarDescription>,
    /// The capability list, in its own order.
    pub capabilities: Vec<CapabilityDescription>,
    /// The extended capability list (PCIe 4.0 7.6.3).
    pub extended_capabilities: Vec<ExtendedDescription>,
}

/// One BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BarDescription {
    /// Its number; a 64-bit BAR takes the next number too.
    pub index: usize,
    /// Where it may be placed.
    pub space: BarSpace,
    /// The prefetchable bit of a memory BAR.
    pub prefetchable: bool,
    /// The address in the register, 0 if none was assigned.
    pub address: u64,
    /// The size, if it was supplied.
    pub size: Option<u64>,
    /// The Command register lets the device answer there.
    pub enabled: bool,
}

/// The type that a BAR says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BarSpace {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory below 1 MiB.
    Memory1M,
    /// Memory anywhere.
    Memory64,
    /// The reserved type.
    Reserved,
    /// A 64-bit BAR with no register left for its upper half.
    Invalid64,
}

/// Decodes config space: at least the 64 bytes of the header, usually 256 or
/// 4096. `bar_sizes` are the sizes known from elsewhere, 0 where unknown; the
/// bytes alone do not tell them.
///
/// # Errors
///
/// [`DescribeError`] if there is no complete header or no device.
pub fn describe(config: &[u8], bar_sizes: [u64; BAR_COUNT]) -> Result<Description, DescribeError> {
    let short = DescribeError::Short {
        length: config.len(),
    };
    let bytes = Bytes(config);
    let header = (config.len() >= HEADER_SIZE).then_some(());
    header
        .and_then(|()| decode(bytes, bar_sizes))
        .ok_or(short)
        .and_then(|description| match description.identity.vendor {
            VENDOR_NONE => Err(DescribeError::NoDevice),
            _ => Ok(description),
        })
}

/// `None` if a byte of the header is missing.
fn decode(bytes: Bytes<'_>, bar_sizes: [u64; BAR_COUNT]) -> Option<Description> {
    let header_type = bytes.u8(HEADER_TYPE)?;
    let header_layout = header_type & HEADER_LAYOUT;
    let identity = decode_identity(bytes, header_layout)?;
    let status = bytes.u16(STATUS)?;
    let capabilities = capability::walk(bytes, status, header_layout);
    let is_express = capabilities
        .iter()
        .any(|found| matches!(found.kind, CapabilityKind::Express(_)));
    Some(Description {
        identity,
        class_name: class::class_name(identity.class),
        header_layout,
        multifunction: header_type & HEADER_MULTIFUNCTION != 0,
        command: bytes.u16(COMMAND)?,
        status,
        cache_line_size: u16::from(bytes.u8(CACHE_LINE_SIZE)?) * 4,
        latency_timer: bytes.u8(LATENCY_TIMER)?,
        interrupt_pin: bytes.u8(INTERRUPT_PIN)?,
        interrupt_line: bytes.u8(INTERRUPT_LINE)?,
        bars: decode_bars(bytes, header_layout, bar_sizes)?,
        capabilities,
        extended_capabilities: if is_express {
            capability::walk_extended(bytes)
        } else {
            Vec::new()
        },
    })
}

fn decode_identity(bytes: Bytes<'_>, header_layout: u8) -> Option<Identity> {
    let class_and_revision = bytes.u32(REVISION_ID)?;
    let [revision, ..] = class_and_revision.to_le_bytes();
    let subsystem = |at| match header_layout {
        0 => bytes.u16(at),
        _ => Some(0),
    };
    Some(Identity {
        vendor: bytes.u16(VENDOR_ID)?,
        device: bytes.u16(DEVICE_ID)?,
        subsystem_vendor: subsystem(SUBSYSTEM_VENDOR_ID)?,
        subsystem: subsystem(SUBSYSTEM_ID)?,
        revision,
        class: class_and_revision >> 8,
    })
}

/// A register that reads zero is either no BAR or an unassigned 32-bit one.
/// Only a size from elsewhere tells them apart.
fn decode_bars(
    bytes: Bytes<'_>,
    header_layout: u8,
    sizes: [u64; BAR_COUNT],
) -> Option<Vec<BarDescription>> {
    // PCI 3.0 6.2.5.1; PCI-to-PCI bridges have two (bridge spec 1.2, 3.2.5.1).
    let count = match header_layout {
        0 => BAR_COUNT,
        1 => 2,
        _ => 0,
    };
    let command = bytes.u16(COMMAND)?;
    let mut bars = Vec::new();
    let mut index = 0;
    while index < count {
        let at = BAR0 + 4 * index;
        let register = match bytes.u32(at)? {
            u32::MAX => 0,
            register => register,
        };
        let size = Some(sizes[index]).filter(|size| *size != 0);
        let upper = if index + 1 < count {
            Some(bytes.u32(at + 4)?)
        } else {
            None
        };
        let found = decode_bar(register, upper, command);
        if register != 0 || size.is_some() {
            bars.push(BarDescription {
                index,
                size,
                ..found
            });
        }
        index += if found.space == BarSpace::Memory64 {
            2
        } else {
            1
        };
    }
    Some(bars)
}

fn decode_bar(register: u32, upper: Option<u32>, command: u16) -> BarDescription {
    use super::spec::command::{IO_SPACE, MEMORY_SPACE};
    let memory = |space, upper| BarDescription {
        index: 0,
        space,
        prefetchable: register & bar::PREFETCHABLE != 0,
        address: u64::from(upper) << 32 | u64::from(register & !bar::MEMORY_FLAGS),
        size: None,
        enabled: command & MEMORY_SPACE != 0,
    };
    if register & bar::IO != 0 {
        return BarDescription {
            index: 0,
            space: BarSpace::Io,
            prefetchable: false,
            address: u64::from(register & !bar::IO_FLAGS),
            size: None,
            enabled: command & IO_SPACE != 0,
        };
    }
    match (register & bar::TYPE_MASK, upper) {
        (bar::TYPE_64, Some(upper)) => memory(BarSpace::Memory64, upper),
        (bar::TYPE_64, None) => memory(BarSpace::Invalid64, 0),
        (bar::TYPE_1M, _) => memory(BarSpace::Memory1M, 0),
        (0, _) => memory(BarSpace::Memory32, 0),
        _ => memory(BarSpace::Reserved, 0),
    }
}

/// Little-endian reads that may find nothing there.
#[derive(Debug, Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..)?.first_chunk().copied()
    }

    fn u8(&self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }
}

#[cfg(test)]
mod tests;
