//! What an author of a device reads, all of it.
//!
//! A device is one file: a register map ([`registers!`](crate::registers)), a
//! struct, and the few methods of [`Device`]. The [`Irq`] and [`Dma`] handles
//! are given at construction and may be moved to worker threads. No lock, no
//! `unsafe` and no word of any protocol is needed; see `src/devices/` for
//! examples.

mod access;
mod dma;
mod function;
mod irq;
mod kept;
mod memory;
mod register;
mod register_file;
mod state;
mod window;
mod worker;

pub use access::{Access, AccessError, Width};
pub use dma::{Dma, DmaBus, DmaError};
pub use function::{Bar, Doorbell, Function};
pub use irq::{Interrupts, Irq, Line};
pub use kept::{Journal, KeptMemory, KeptWords};
pub use memory::{MemoryError, SharedMemory};
pub use register::{Kind, Register, RegisterMap, Row, Sharing, build_index};
pub use register_file::RegisterFile;
pub use state::{StateError, StateReader, StateWriter};
pub(crate) use window::{Window, pages};
pub use worker::Worker;

/// A PCI function as its author writes it.
///
/// The endpoint calls these methods from one thread at a time. An [`Access`]
/// is always exactly one register of the BAR's map, whole: narrower and wider
/// guest accesses were split or merged before, and reads of write-only and
/// writes of read-only registers never arrive.
pub trait Device: Send {
    /// The function's identity, BARs and interrupts. Asked once, at start.
    fn function(&self) -> Function;

    /// Reads one register.
    ///
    /// # Errors
    ///
    /// A mistake of the guest; the endpoint answers all-ones.
    fn read(&mut self, at: Access) -> Result<u64, AccessError>;

    /// Writes one register. `value` fits the register's width.
    ///
    /// # Errors
    ///
    /// A mistake of the guest; the endpoint drops the write.
    fn write(&mut self, at: Access, value: u64) -> Result<(), AccessError>;

    /// Takes a doorbell of [`Bar::doorbell`] or [`Bar::doorbell_with_value`]
    /// that rang `times` times since it was last looked at. The kernel counts
    /// rings and drops their values, so by default this is one write of
    /// `value`: the doorbell's data match, or 0, or the newest value that the
    /// client kept.
    fn rung(&mut self, at: Access, value: u64, times: u64) {
        let _ = times;
        // Like any mistake of the guest: the write is dropped.
        let _ = self.write(at, value);
    }

    /// Returns to the state after power-on, for a reset by the client and for
    /// a function level reset (`PCIe` 6.6.2). Work in flight has ended when this
    /// returns: no DMA and no interrupt of before may follow.
    fn reset(&mut self);

    /// The client left (vfio-user, client disconnection). Guest memory and
    /// interrupts are gone, the device's state stays for the next client.
    fn disconnected(&mut self) {}

    /// Writes down all that the registers say, for a successor should this
    /// process be killed: after each access, so without allocation, and always
    /// as many words. Without it a successor's device is as after power-on.
    fn save(&self, state: &mut StateWriter<'_>) {
        let _ = state;
    }

    /// Takes over what [`Device::save`] wrote last. The access after that, if
    /// there was one, comes again. Nothing may be started before
    /// [`Device::resume`].
    ///
    /// # Errors
    ///
    /// See [`StateError`]; then the device is not used.
    fn restore(&mut self, state: &mut StateReader<'_>) -> Result<(), StateError> {
        let _ = state;
        Ok(())
    }

    /// How many words of [`KeptMemory`] the device asks for.
    fn kept_words(&self) -> usize {
        0
    }

    /// Gives the device memory that a successor finds as it was left: for what
    /// its threads do between accesses. Called before the first access, and
    /// before [`Device::restore`]; never on a face where nothing is kept.
    fn keep(&mut self, memory: KeptMemory) {
        let _ = memory;
    }

    /// After [`Device::restore`], goes on with what was under way. An interrupt
    /// that might not have been raised is raised again.
    fn resume(&mut self) {}
}
