//! The capabilities that a function can have, and their registers.

use super::bar::{BarKind, Bars};
use super::error::{ConfigError, MsixPart};
use super::registers::Registers;
use super::spec::{CONFIG_SIZE, capability, express, msi, msix, pm, vendor};

/// A capability of a function. Its place in config space is not chosen: the
/// builder puts it at the next free offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capability {
    /// PM 1.2 with D0 and D3hot, registers kept on the way back.
    PowerManagement,
    /// A version 2 endpoint that can be reset by function level reset. Config
    /// space becomes 4096 bytes long.
    PciExpress,
    /// Message signalled interrupts with a table in a BAR.
    Msix(Msix),
    /// Message signalled interrupts with the message in config space.
    Msi(Msi),
    /// Read-only bytes of the vendor's, which follow the length byte.
    Vendor(Vec<u8>),
}

/// Layout of MSI-X (PCI 3.0 6.8.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Msix {
    /// Number of vectors, 1 to 2048.
    pub vectors: u16,
    /// BAR and offset of the vector table.
    pub table: (u8, u32),
    /// BAR and offset of the pending bit array.
    pub pba: (u8, u32),
}

/// Layout of MSI (PCI 3.0 6.8.1), always with a 64-bit address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Msi {
    /// Number of vectors: 1, 2, 4, 8, 16 or 32.
    pub vectors: u8,
    /// Whether it has mask and pending bits.
    pub per_vector_masking: bool,
}

impl Capability {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::PowerManagement => "Power Management",
            Self::PciExpress => "PCI Express",
            Self::Msix(_) => "MSI-X",
            Self::Msi(_) => "MSI",
            Self::Vendor(_) => "vendor",
        }
    }

    pub(super) fn id(&self) -> u8 {
        match self {
            Self::PowerManagement => capability::POWER_MANAGEMENT,
            Self::PciExpress => capability::PCI_EXPRESS,
            Self::Msix(_) => capability::MSIX,
            Self::Msi(_) => capability::MSI,
            Self::Vendor(_) => capability::VENDOR,
        }
    }

    /// Its registers, with the header still zero.
    pub(super) fn registers(&self, bars: &Bars) -> Result<Registers, ConfigError> {
        match self {
            Self::PowerManagement => Ok(power_management()),
            Self::PciExpress => Ok(pci_express()),
            Self::Msix(layout) => layout.registers(bars),
            Self::Msi(layout) => layout.registers(),
            Self::Vendor(body) => vendor_specific(body),
        }
    }
}

fn power_management() -> Registers {
    let mut registers = Registers::zeroed(pm::SIZE);
    registers.set_u16(pm::CAPABILITIES, pm::VERSION_1_2, 0);
    registers.set_u16(pm::CONTROL, pm::NO_SOFT_RESET, pm::STATE_MASK);
    registers
}

/// Payloads of 128 bytes and one 2.5 GT/s lane: the least that a guest accepts,
/// and all that a device without a link can promise.
fn pci_express() -> Registers {
    use express::{
        ASPM_OPTIONALITY, COMPLETION_TIMEOUT_DISABLE, DEVICE_CAPABILITIES, DEVICE_CAPABILITIES_2,
        DEVICE_CONTROL, DEVICE_CONTROL_2, DEVICE_STATUS, ERROR_REPORTING, ERRORS_DETECTED, FLAGS,
        FLR_CAPABLE, INITIATE_FLR, LINK_CAPABILITIES, LINK_CAPABILITIES_2, LINK_CONTROL,
        LINK_CONTROL_WRITABLE, LINK_STATUS, NO_SNOOP, READ_REQUEST_512, READ_REQUEST_MASK,
        RELAXED_ORDERING, ROLE_BASED_ERRORS, SIZE, SPEED_2_5, SUPPORTS_2_5, WIDTH_1,
    };
    let ordering = RELAXED_ORDERING | NO_SNOOP;
    let link = SPEED_2_5 | WIDTH_1;
    let mut registers = Registers::zeroed(SIZE);
    registers.set_u16(FLAGS, 2, 0);
    registers.set_u32(DEVICE_CAPABILITIES, ROLE_BASED_ERRORS | FLR_CAPABLE, 0);
    registers.set_u16(
        DEVICE_CONTROL,
        ordering | READ_REQUEST_512,
        ordering | READ_REQUEST_MASK | ERROR_REPORTING | INITIATE_FLR,
    );
    registers.set_clear_u16(DEVICE_STATUS, ERRORS_DETECTED);
    registers.set_u32(LINK_CAPABILITIES, u32::from(link) | ASPM_OPTIONALITY, 0);
    registers.set_u16(LINK_CONTROL, 0, LINK_CONTROL_WRITABLE);
    registers.set_u16(LINK_STATUS, link, 0);
    registers.set_u16(DEVICE_CAPABILITIES_2, COMPLETION_TIMEOUT_DISABLE, 0);
    registers.set_u16(DEVICE_CONTROL_2, 0, COMPLETION_TIMEOUT_DISABLE);
    registers.set_u32(LINK_CAPABILITIES_2, SUPPORTS_2_5, 0);
    registers
}

fn vendor_specific(body: &[u8]) -> Result<Registers, ConfigError> {
    let maximum = CONFIG_SIZE - capability::FIRST - vendor::BODY;
    let length = body.len();
    let too_long = ConfigError::VendorLength { length, maximum };
    if length > maximum {
        return Err(too_long);
    }
    let total = u8::try_from(vendor::BODY + length).map_err(|_| too_long)?;
    let mut registers = Registers::zeroed(usize::from(total));
    registers.set_u8(vendor::LENGTH, total, 0);
    for (at, byte) in (vendor::BODY..).zip(body) {
        registers.set_u8(at, *byte, 0);
    }
    Ok(registers)
}

impl Msix {
    /// Length of the vector table in bytes.
    pub fn table_length(&self) -> u64 {
        u64::from(self.vectors) * msix::ENTRY_SIZE
    }

    /// Length of the pending bit array in bytes.
    pub fn pba_length(&self) -> u64 {
        u64::from(self.vectors).div_ceil(msix::PENDING_PER_QWORD) * msix::QWORD
    }

    fn registers(&self, bars: &Bars) -> Result<Registers, ConfigError> {
        self.check(bars)?;
        let mut registers = Registers::zeroed(msix::SIZE);
        registers.set_u16(
            msix::CONTROL,
            self.vectors - 1,
            msix::ENABLE | msix::FUNCTION_MASK,
        );
        // Both offsets are aligned, which leaves the low bits for the BAR.
        registers.set_u32(msix::TABLE, self.table.1 | u32::from(self.table.0), 0);
        registers.set_u32(msix::PBA, self.pba.1 | u32::from(self.pba.0), 0);
        Ok(registers)
    }

    fn check(&self, bars: &Bars) -> Result<(), ConfigError> {
        let vectors = self.vectors;
        if !(1..=msix::VECTORS_MAX).contains(&vectors) {
            return Err(ConfigError::MsixVectors { vectors });
        }
        check_structure(MsixPart::Table, self.table, self.table_length(), bars)?;
        check_structure(MsixPart::Pba, self.pba, self.pba_length(), bars)?;
        let (bar, table) = self.table;
        let pba = self.pba.1;
        let apart = u64::from(table) + self.table_length() <= u64::from(pba)
            || u64::from(pba) + self.pba_length() <= u64::from(table);
        if bar == self.pba.0 && !apart {
            return Err(ConfigError::MsixOverlap { bar, table, pba });
        }
        Ok(())
    }
}

fn check_structure(
    part: MsixPart,
    (bar, offset): (u8, u32),
    length: u64,
    bars: &Bars,
) -> Result<(), ConfigError> {
    let layout = bars
        .get(usize::from(bar))
        .filter(|layout| layout.kind != BarKind::Io)
        .ok_or(ConfigError::MsixBar { part, bar })?;
    if !u64::from(offset).is_multiple_of(msix::QWORD) {
        return Err(ConfigError::MsixAlignment { part, offset });
    }
    let size = layout.size;
    if u64::from(offset) + length > size {
        return Err(ConfigError::MsixOutside {
            part,
            bar,
            offset,
            length,
            size,
        });
    }
    Ok(())
}

impl Msi {
    fn registers(self) -> Result<Registers, ConfigError> {
        let vectors = self.vectors;
        if !vectors.is_power_of_two() || vectors > msi::VECTORS_MAX {
            return Err(ConfigError::MsiVectors { vectors });
        }
        let count = u16::try_from(vectors.trailing_zeros()).unwrap_or_default();
        let mut control = count << msi::CAPABLE_SHIFT | msi::ADDRESS_64;
        let mut size = msi::SIZE_64;
        if self.per_vector_masking {
            control |= msi::PER_VECTOR_MASKING;
            size = msi::SIZE_64_MASKING;
        }
        let mut registers = Registers::zeroed(size);
        let enables = msi::ENABLE | msi::COUNT_MASK << msi::ENABLED_SHIFT;
        registers.set_u16(msi::CONTROL, control, enables);
        registers.set_u32(msi::ADDRESS, 0, !msi::ADDRESS_RESERVED);
        registers.set_u32(msi::ADDRESS_UPPER, 0, u32::MAX);
        registers.set_u16(msi::DATA_64, 0, u16::MAX);
        if self.per_vector_masking {
            // Mask bits of vectors that do not exist are reserved. The pending
            // bits after them are for the device alone to change.
            let masks = u32::MAX >> (msi::VECTORS_MAX - vectors);
            registers.set_u32(msi::DATA_64 + msi::MASK_AFTER_DATA, 0, masks);
        }
        Ok(registers)
    }
}
