//! What a guest has set up for a function's interrupts.

use super::ConfigSpace;
use crate::pci::spec::{command, msi, msix};

/// Which interrupts a function may send, and what holds them back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InterruptControl {
    /// Whether it may write to the host's memory, as a message does
    /// (PCI 3.0 6.2.2).
    pub bus_master: bool,
    /// Whether its INTx is disabled (PCI 3.0 6.2.2).
    pub intx_disabled: bool,
    /// MSI, while it is enabled.
    pub msi: Option<MsiControl>,
    /// MSI-X, while it is enabled.
    pub msix: Option<MsixControl>,
}

/// MSI as a guest has set it up (PCI 3.0 6.8.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsiControl {
    /// How many vectors it gave, 1 to 32: never more than are offered.
    pub vectors: u8,
    /// Where messages go.
    pub address: u64,
    /// What they say, with the low bits of a vector's number in place of its
    /// own where there are several.
    pub data: u16,
    /// A bit for each vector that is masked; 0 without per-vector masking.
    pub masked: u32,
}

/// MSI-X as a guest has set it up, besides its table (PCI 3.0 6.8.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsixControl {
    /// Function Mask: all vectors are masked.
    pub masked: bool,
}

impl ConfigSpace {
    /// What the guest has set up for interrupts.
    #[must_use]
    pub fn interrupts(&self) -> InterruptControl {
        let command = self.command();
        InterruptControl {
            bus_master: command & command::BUS_MASTER != 0,
            intx_disabled: command & command::INTERRUPT_DISABLE != 0,
            msi: self.msi_control(),
            msix: self.msix_control(),
        }
    }

    /// Shows which MSI vectors are pending (PCI 3.0 6.8.1.8), if there is a
    /// place for it.
    pub fn set_msi_pending(&mut self, pending: u32) {
        if let Some((offset, layout)) = self.msi
            && layout.per_vector_masking
        {
            let at = offset + msi::DATA_64 + msi::PENDING_AFTER_DATA;
            self.registers.update_u32(at, pending);
        }
    }

    /// Whether [`ConfigSpace::set_msi_pending`] changes the byte at `at`.
    pub(super) fn shows_msi_pending(&self, at: usize) -> bool {
        self.msi.is_some_and(|(offset, layout)| {
            let pending = offset + msi::DATA_64 + msi::PENDING_AFTER_DATA;
            layout.per_vector_masking && (pending..pending + 4).contains(&at)
        })
    }

    fn msi_control(&self) -> Option<MsiControl> {
        let (offset, layout) = self.msi?;
        let control = self.registers.u16(offset + msi::CONTROL);
        if control & msi::ENABLE == 0 {
            return None;
        }
        let enabled = 1u8 << (control >> msi::ENABLED_SHIFT & msi::COUNT_MASK);
        let low = self.registers.u32(offset + msi::ADDRESS);
        let high = self.registers.u32(offset + msi::ADDRESS_UPPER);
        let mask = offset + msi::DATA_64 + msi::MASK_AFTER_DATA;
        let masked = if layout.per_vector_masking {
            self.registers.u32(mask)
        } else {
            0
        };
        Some(MsiControl {
            vectors: enabled.min(layout.vectors),
            address: u64::from(high) << 32 | u64::from(low),
            data: self.registers.u16(offset + msi::DATA_64),
            masked,
        })
    }

    fn msix_control(&self) -> Option<MsixControl> {
        let control = self.registers.u16(self.msix? + msix::CONTROL);
        (control & msix::ENABLE != 0).then_some(MsixControl {
            masked: control & msix::FUNCTION_MASK != 0,
        })
    }
}
