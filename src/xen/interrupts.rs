//! How a function's interrupts reach its guest: Xen carries each to the
//! virtual APICs, as it would carry QEMU's.

use std::sync::Arc;

use super::{Domain, XenError};
use crate::endpoint::InterruptBus;

/// The interrupts of one function on the domain's bus 0.
///
/// Messages go as the guest wrote them: Xen reads the APIC's and vector's
/// numbers out of address and data, and so are those of a PV driver, which
/// names an event channel in the upper half of the address and vector 0. The
/// INTx level is Xen's to route, to the IOAPIC and the 8259, and to deliver
/// again at the end of an interrupt.
#[derive(Debug)]
pub struct Injector {
    domain: Arc<Domain>,
    device: u8,
}

impl Injector {
    /// For function 0 of device `device`, 0 to 31.
    pub fn new(domain: Arc<Domain>, device: u8) -> Self {
        Injector { domain, device }
    }

    /// A domain that is dying takes no interrupt, and what is amiss with one
    /// is the guest's mistake: nobody is to be told more than this.
    fn tried(&self, result: Result<(), XenError>) {
        if let Err(error) = result {
            log::debug!("device {:#04x}: interrupt: {error}", self.device);
        }
    }
}

impl InterruptBus for Injector {
    fn message(&self, address: u64, data: u32) {
        self.tried(self.domain.inject_msi(address, data));
    }

    fn set_intx(&self, asserted: bool) {
        self.tried(self.domain.set_intx(self.device, asserted));
    }
}
