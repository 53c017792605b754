//! The configuration space of one function.

mod interrupts;

use serde::Serialize;

use super::bar::{BarLayout, Bars};
use super::capability::{Capability, Msi};
use super::error::ConfigError;
use super::registers::Registers;
use super::spec::{
    BAR_COUNT, CACHE_LINE_SIZE, CAPABILITIES_POINTER, COMMAND, CONFIG_SIZE, DEVICE_ID,
    EXTENDED_CONFIG_SIZE, INTERRUPT_LINE, INTERRUPT_PIN, REVISION_ID, STATUS, SUBSYSTEM_ID,
    SUBSYSTEM_VENDOR_ID, VENDOR_ID, VENDOR_NONE, capability, command, express, pm, status,
};

pub use interrupts::{InterruptControl, MsiControl, MsixControl};

/// Who a function says it is (PCI 3.0 6.2.1, 6.2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
    /// Revision ID.
    pub revision: u8,
    /// Class code, 24 bits: base class, sub-class, programming interface.
    pub class: u32,
}

/// The INTx pin of a function (PCI 3.0 6.2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterruptPin {
    /// INTA#, the one that a single-function device uses.
    A = 1,
    /// INTB#
    B = 2,
    /// INTC#
    C = 3,
    /// INTD#
    D = 4,
}

/// What a config write asks of the function, beyond the bytes it changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use]
pub struct ConfigEffects {
    /// Reset the function now (PCIe 4.0 6.6.2). [`ConfigSpace::reset`] is part
    /// of that and left to the caller.
    pub function_level_reset: bool,
}

/// The configuration space of a function with a type 0 header.
///
/// Guest accesses may have any offset and length; none of them fails.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    registers: Registers,
    reset_image: Vec<u8>,
    bars: Bars,
    /// Offset of the Power Management capability.
    power: Option<usize>,
    /// Offset of the PCI Express capability.
    express: Option<usize>,
    /// Offset and layout of the MSI capability.
    msi: Option<(usize, Msi)>,
    /// Offset of the MSI-X capability.
    msix: Option<usize>,
}

impl ConfigSpace {
    /// Lays out a function. `bars[n]` is BAR n; the slot after a 64-bit BAR is
    /// `None`. The capabilities keep their order.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] for the first thing that PCI does not allow.
    pub fn new(
        identity: &Identity,
        bars: &[Option<BarLayout>; BAR_COUNT],
        interrupt_pin: Option<InterruptPin>,
        capabilities: &[Capability],
    ) -> Result<Self, ConfigError> {
        let bars = Bars::new(bars)?;
        let is_express = capabilities.contains(&Capability::PciExpress);
        // There are no extended capabilities.
        let mut registers = Registers::zeroed(CONFIG_SIZE).extended_to(if is_express {
            EXTENDED_CONFIG_SIZE
        } else {
            CONFIG_SIZE
        });
        lay_out_identity(&mut registers, identity)?;
        lay_out_header(&mut registers, &bars, interrupt_pin);
        bars.lay_out(&mut registers);
        let mut space = Self {
            registers,
            reset_image: Vec::new(),
            bars,
            power: None,
            express: None,
            msi: None,
            msix: None,
        };
        space.lay_out_capabilities(capabilities)?;
        space.reset_image = space.registers.value().to_vec();
        Ok(space)
    }

    /// Puts each capability at the next free dword and links it to the one
    /// before it (PCI 3.0 6.7).
    fn lay_out_capabilities(&mut self, capabilities: &[Capability]) -> Result<(), ConfigError> {
        let mut link = CAPABILITIES_POINTER;
        let mut offset = capability::FIRST;
        for (index, item) in capabilities.iter().enumerate() {
            let name = item.name();
            let is_vendor = item.id() == capability::VENDOR;
            let mut earlier = capabilities[..index].iter();
            if !is_vendor && earlier.any(|other| other.id() == item.id()) {
                return Err(ConfigError::Duplicate { name });
            }
            let body = item.registers(&self.bars)?;
            let length = body.len();
            if offset + length > CONFIG_SIZE {
                return Err(ConfigError::NoSpace {
                    name,
                    length,
                    offset,
                });
            }
            self.registers.splice(offset, &body);
            let id_at = offset + capability::ID;
            self.registers.set_u8(id_at, item.id(), 0);
            self.registers.set_u8(link, pointer(offset), 0);
            self.registers
                .update_u16(STATUS, status::CAPABILITIES_LIST, u16::MAX);
            match item {
                Capability::PowerManagement => self.power = Some(offset),
                Capability::PciExpress => self.express = Some(offset),
                Capability::Msi(layout) => self.msi = Some((offset, *layout)),
                Capability::Msix(_) => self.msix = Some(offset),
                Capability::Vendor(_) => {}
            }
            link = offset + capability::NEXT;
            offset = (offset + length).next_multiple_of(4);
        }
        Ok(())
    }

    /// Length in bytes: 256, or 4096 with PCI Express.
    #[must_use]
    pub fn size(&self) -> usize {
        self.registers.len()
    }

    /// Fills `data` from `offset` on. Bytes beyond the end read all-ones.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        self.registers.read(offset, data);
    }

    /// Writes `data` from `offset` on, as far as the registers allow. Bytes
    /// beyond the end are dropped.
    pub fn write(&mut self, offset: usize, data: &[u8]) -> ConfigEffects {
        let state = self.power_state();
        self.registers.write(offset, data);
        self.keep_supported_power_state(state);
        ConfigEffects {
            function_level_reset: self.take_function_level_reset(),
        }
    }

    /// Puts every register back to its value after power-on. The few link
    /// settings that a function level reset would keep (PCIe 4.0 6.6.2) mean
    /// nothing on a function without a link and go with the rest. So does the
    /// interrupt status: a device that still asserts INTx has to say so again.
    pub fn reset(&mut self) {
        self.registers.restore(&self.reset_image);
    }

    /// What [`ConfigSpace::take_over`] takes.
    pub(crate) fn value(&self) -> &[u8] {
        self.registers.value()
    }

    /// Takes over the registers of such a function in another process. Whether
    /// it was such a function: what no write changes is the same.
    pub(crate) fn take_over(&mut self, value: &[u8]) -> bool {
        let shown = |at| at == STATUS || self.shows_msi_pending(at);
        let inside: Vec<usize> = (0..value.len()).filter(|at| shown(*at)).collect();
        self.registers.take_over(value, |at| inside.contains(&at))
    }

    /// Shows in the Status register whether the function asks for INTx, be it
    /// disabled by the guest or not (PCI 3.0 6.2.3).
    pub fn set_interrupt_status(&mut self, asserted: bool) {
        let bits = if asserted { status::INTERRUPT } else { 0 };
        self.registers.update_u16(STATUS, status::INTERRUPT, bits);
    }

    /// The Command register; its bits are in [`spec::command`](command).
    #[must_use]
    pub fn command(&self) -> u16 {
        self.registers.u16(COMMAND)
    }

    /// The address that the guest gave a BAR, if there is such a BAR. It counts
    /// for nothing until the Command register enables the space.
    #[must_use]
    pub fn bar_address(&self, index: usize) -> Option<u64> {
        self.bars.address(index, &self.registers)
    }

    fn power_state(&self) -> u16 {
        self.power.map_or(0, |offset| {
            self.registers.u16(offset + pm::CONTROL) & pm::STATE_MASK
        })
    }

    /// A write of a state that is not supported changes no state (PM 1.2 3.2.4).
    fn keep_supported_power_state(&mut self, before: u16) {
        if let Some(offset) = self.power
            && pm::STATE_D1_D2.contains(&self.power_state())
        {
            let control = offset + pm::CONTROL;
            self.registers.update_u16(control, pm::STATE_MASK, before);
        }
    }

    /// The bit that starts a reset always reads zero (PCIe 4.0 7.5.3.4).
    fn take_function_level_reset(&mut self) -> bool {
        let Some(offset) = self.express else {
            return false;
        };
        let control = offset + express::DEVICE_CONTROL;
        let asked = self.registers.u16(control) & express::INITIATE_FLR != 0;
        self.registers.update_u16(control, express::INITIATE_FLR, 0);
        asked
    }

    /// The bits that no write can change.
    #[cfg(test)]
    pub(super) fn fixed(&self) -> Vec<u8> {
        self.registers.fixed()
    }
}

fn lay_out_identity(registers: &mut Registers, identity: &Identity) -> Result<(), ConfigError> {
    let class = identity.class;
    if identity.vendor == VENDOR_NONE {
        return Err(ConfigError::NoVendor);
    }
    if class >> 24 != 0 {
        return Err(ConfigError::Class { class });
    }
    registers.set_u16(VENDOR_ID, identity.vendor, 0);
    registers.set_u16(DEVICE_ID, identity.device, 0);
    let revision = u32::from(identity.revision);
    registers.set_u32(REVISION_ID, class << 8 | revision, 0);
    registers.set_u16(SUBSYSTEM_VENDOR_ID, identity.subsystem_vendor, 0);
    registers.set_u16(SUBSYSTEM_ID, identity.subsystem, 0);
    Ok(())
}

/// A bit for something that the function does not have is hardwired to zero
/// (PCI 3.0 6.2.2).
fn lay_out_header(registers: &mut Registers, bars: &Bars, pin: Option<InterruptPin>) {
    let mut writable = command::BUS_MASTER | command::PARITY_ERROR_RESPONSE | command::SERR_ENABLE;
    if bars.any(true) {
        writable |= command::IO_SPACE;
    }
    if bars.any(false) {
        writable |= command::MEMORY_SPACE;
    }
    if let Some(pin) = pin {
        writable |= command::INTERRUPT_DISABLE;
        registers.set_u8(INTERRUPT_PIN, pin as u8, 0);
    }
    registers.set_u16(COMMAND, 0, writable);
    registers.set_clear_u16(STATUS, status::WRITE_ONE_TO_CLEAR);
    registers.set_u8(CACHE_LINE_SIZE, 0, u8::MAX);
    registers.set_u8(INTERRUPT_LINE, 0, u8::MAX);
}

/// A capability's offset as it is linked.
fn pointer(offset: usize) -> u8 {
    u8::try_from(offset).expect("the builder keeps capabilities within 256 bytes")
}

#[cfg(test)]
mod tests;
