//! Interrupts for a face whose client keeps none of them: MSI and MSI-X with
//! the table and the pending bits here, INTx as a level (PCI 3.0 6.8).
//!
//! A vector is raised once and then pending until its message is sent, which
//! is at once unless something holds it back:
//!
//! - Masked, by its own bit or by the Function Mask: it is sent when the mask
//!   goes (PCI 3.0 6.8.3.5).
//! - The function is no bus master: a message is a memory write, and may not
//!   be sent (PCI 3.0 6.2.2). It is not said that the interrupt is lost, and
//!   the pending bit goes "as soon as the message has been sent": it is sent
//!   once the function is bus master.
//! - Neither MSI nor MSI-X is enabled: then there is no message that could be
//!   pending, only INTx. So nothing is, and what was pending is forgotten
//!   when they are disabled: a driver that enables them again has set up its
//!   vectors anew.

use std::sync::Arc;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::pci::{InterruptControl, MsiControl};

/// How interrupts reach a guest.
///
/// It is called with the function's interrupts locked, so that the guest sees
/// them in order and nothing of a vector that it has masked: a call does not
/// wait, and does not come back to the endpoint.
pub trait InterruptBus: Send + Sync {
    /// Writes a message to the guest: `address` is a multiple of 4, and may
    /// be anything else, for the guest chose it.
    fn message(&self, address: u64, data: u32);

    /// Sets the level of the INTx pin. Called if it changes, and once at the
    /// beginning.
    fn set_intx(&self, asserted: bool);
}

/// An entry of the MSI-X table (PCI 3.0 6.8.2.6).
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Entry {
    address: U64,
    data: U32,
    vector_control: U32,
}

impl Entry {
    /// As after power-on.
    const RESET: Entry = Entry {
        address: U64::ZERO,
        data: U32::ZERO,
        vector_control: U32::new(Entry::MASKED),
    };

    /// Vector control: the mask bit.
    const MASKED: u32 = 1;

    fn is_masked(self) -> bool {
        self.vector_control.get() & Entry::MASKED != 0
    }
}

/// The interrupts of a function, sent by itself.
pub(super) struct Messages {
    bus: Arc<dyn InterruptBus>,
    control: InterruptControl,
    /// The MSI-X table.
    entries: Vec<Entry>,
    /// Its pending bits, as the guest reads them.
    msix_pending: Vec<u64>,
    msi_pending: u32,
    /// The level that the bus was told, if it was told one. A function
    /// without the pin tells none.
    intx: Option<bool>,
    has_intx: bool,
}

impl Messages {
    /// Of a function with so many MSI-X vectors.
    pub(super) fn new(bus: Arc<dyn InterruptBus>, msix_vectors: usize, has_intx: bool) -> Self {
        Messages {
            bus,
            control: InterruptControl::default(),
            entries: vec![Entry::RESET; msix_vectors],
            msix_pending: vec![0; msix_vectors.div_ceil(64)],
            msi_pending: 0,
            intx: None,
            has_intx,
        }
    }

    /// Takes over entries of the MSI-X table that the guest wrote, from
    /// `first` on.
    pub(super) fn program(&mut self, first: usize, table: &[u8]) {
        let written = <[Entry]>::ref_from_bytes(table).unwrap_or_default();
        let entries = self.entries.iter_mut().skip(first);
        for (entry, new) in entries.zip(written) {
            *entry = *new;
        }
        for vector in first..first.saturating_add(written.len()) {
            self.send_msix(vector);
        }
    }

    /// Follows what the guest has set up.
    pub(super) fn follow(&mut self, control: InterruptControl, intx_level: bool) {
        self.control = control;
        if control.msix.is_none() {
            self.msix_pending.fill(0);
        }
        let vectors = control.msi.map_or(0, |msi| msi.vectors);
        // The guest may have fewer now.
        self.msi_pending &= u32::MAX.checked_shr(32 - u32::from(vectors)).unwrap_or(0);
        self.update_intx(intx_level);
        self.send_pending();
    }

    /// Raises a vector. One that is not there is lost.
    pub(super) fn raise(&mut self, vector: u16) {
        // Both at once are the guest's mistake (PCI 3.0 6.8.3).
        if self.control.msix.is_some() {
            let vector = usize::from(vector);
            if vector < self.entries.len() {
                self.msix_pending[vector / 64] |= 1 << (vector % 64);
                self.send_msix(vector);
            }
        } else if let Some(msi) = self.control.msi {
            // A guest may have given fewer vectors than are offered: the low
            // ones are then shared (PCI 3.0 6.8.3.4).
            self.msi_pending |= 1 << (vector % u16::from(msi.vectors));
            self.send_msi(msi);
        }
    }

    /// Tells the bus the level of INTx as the guest is to see it: not at all
    /// while it has disabled the pin or enabled messages (PCI 3.0 6.8.1.3,
    /// 6.8.2.3).
    pub(super) fn update_intx(&mut self, level: bool) {
        let control = &self.control;
        let silent = control.intx_disabled || control.msi.is_some() || control.msix.is_some();
        let asserted = level && !silent;
        if self.has_intx && self.intx != Some(asserted) {
            self.intx = Some(asserted);
            self.bus.set_intx(asserted);
        }
    }

    /// Byte `number` of the MSI-X pending bits (PCI 3.0 6.8.2.10).
    pub(super) fn pending_byte(&self, number: usize) -> u8 {
        let word = self.msix_pending.get(number / 8);
        word.map_or(0, |word| word.to_le_bytes()[number % 8])
    }

    /// The MSI pending bits (PCI 3.0 6.8.1.8).
    pub(super) fn msi_pending(&self) -> u32 {
        self.msi_pending
    }

    /// As after power-on.
    pub(super) fn reset(&mut self) {
        self.entries.fill(Entry::RESET);
        self.msix_pending.fill(0);
        self.msi_pending = 0;
        self.follow(InterruptControl::default(), false);
    }

    /// What a successor has to know besides the table and config space: words
    /// whose number does not change.
    pub(super) fn save(&self, mut put: impl FnMut(u64)) {
        put(self.msi_pending.into());
        self.msix_pending.iter().copied().for_each(put);
    }

    /// Goes on from what a predecessor saved. The bus is told the level anew
    /// when it is followed: the predecessor may have told another and ended.
    pub(super) fn restore<E>(&mut self, mut next: impl FnMut() -> Result<u64, E>) -> Result<(), E> {
        // Bits of vectors that are not there count for nothing.
        self.msi_pending = u32::try_from(next()?).unwrap_or(0);
        for word in &mut self.msix_pending {
            *word = next()?;
        }
        self.forget_absent();
        self.intx = None;
        Ok(())
    }

    /// Clears pending bits of vectors that are not there.
    fn forget_absent(&mut self) {
        let last = self.entries.len() % 64;
        if let Some(word) = self.msix_pending.last_mut().filter(|_| last != 0) {
            *word &= (1 << last) - 1;
        }
    }

    fn send_pending(&mut self) {
        if let Some(msi) = self.control.msi {
            self.send_msi(msi);
        }
        for word in 0..self.msix_pending.len() {
            let mut left = self.msix_pending[word];
            while left != 0 {
                self.send_msix(word * 64 + left.trailing_zeros() as usize);
                left &= left - 1;
            }
        }
    }

    /// Sends an MSI-X vector that is pending, unless something holds it back.
    fn send_msix(&mut self, vector: usize) {
        let control = &self.control;
        let enabled = control.msix.is_some_and(|msix| !msix.masked) && control.bus_master;
        let (Some(entry), Some(word)) = (
            self.entries.get(vector),
            self.msix_pending.get_mut(vector / 64),
        ) else {
            return;
        };
        let bit = 1 << (vector % 64);
        if enabled && !entry.is_masked() && *word & bit != 0 {
            *word &= !bit;
            self.send(entry.address.get(), entry.data.get());
        }
    }

    /// Sends the MSI vectors that are pending, unless something holds them
    /// back.
    fn send_msi(&mut self, msi: MsiControl) {
        if !self.control.bus_master {
            return;
        }
        let mut left = self.msi_pending & !msi.masked;
        self.msi_pending &= msi.masked;
        while left != 0 {
            // The function may change so many low bits (PCI 3.0 6.8.1.3).
            let own = u32::from(msi.vectors) - 1;
            let data = u32::from(msi.data) & !own | left.trailing_zeros();
            self.send(msi.address, data);
            left &= left - 1;
        }
    }

    fn send(&self, address: u64, data: u32) {
        // The guest should have left these bits clear (PCI 3.0 6.8.2.6).
        self.bus.message(address & !0b11, data);
    }
}

#[cfg(test)]
mod tests;
