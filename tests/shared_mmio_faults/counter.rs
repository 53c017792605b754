//! A device that keeps account of what was delivered to it.

use std::sync::{Arc, Mutex, PoisonError};

use vgpu_stub::device::{Access, AccessError, Bar, Device, Dma, Function, Register};
use vgpu_stub::endpoint::Endpoint;
use vgpu_stub::pci::Identity;
use vgpu_stub::registers;

registers! {
    /// BAR 0.
    pub(crate) enum Reg[0x1000] {
        0x00 VALUE: u64 rw = 0, "the value written last";
        0x08 ASK: u32 wo = 0, "reads guest memory at 0x1000 within the write";
        0x0c NARROW: u32 rw = 0, "half of it, for accesses of another size";
    }
    reserved { 0x10..0x1000 }
}

/// All values that were ever written to VALUE, in order, and the writes of
/// ASK as `ASKED`.
#[derive(Clone, Default)]
pub(crate) struct Account(Arc<Mutex<Vec<u64>>>);

/// A write of ASK.
pub(crate) const ASKED: u64 = u64::MAX;

impl Account {
    fn enter(&self, value: u64) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(value);
    }

    pub(crate) fn all(&self) -> Vec<u64> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn asked(&self) -> bool {
        self.all().contains(&ASKED)
    }
}

struct Counter {
    account: Account,
    dma: Dma,
    value: u64,
    narrow: u64,
}

impl Device for Counter {
    fn function(&self) -> Function {
        let identity = Identity {
            vendor: 0x1af4,
            device: 0x11fe,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
            revision: 1,
            class: 0x12_0000,
        };
        Function::new(identity).bar(0, Bar::registers::<Reg>())
    }

    fn read(&mut self, at: Access) -> Result<u64, AccessError> {
        Ok(match Reg::at(at)? {
            Reg::VALUE => self.value,
            Reg::ASK | Reg::NARROW => self.narrow,
        })
    }

    fn write(&mut self, at: Access, value: u64) -> Result<(), AccessError> {
        match Reg::at(at)? {
            Reg::VALUE => {
                self.value = value;
                self.account.enter(value);
            }
            Reg::ASK => {
                self.account.enter(ASKED);
                // Whatever the client does about it.
                let _ = self.dma.read(0x1000, &mut [0; 8]);
            }
            Reg::NARROW => self.narrow = value,
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.value = 0;
    }
}

/// Such a device.
pub(crate) fn endpoint(account: &Account) -> Endpoint {
    let account = account.clone();
    let build = |_, dma| {
        let device: Box<dyn Device> = Box::new(Counter {
            account,
            dma,
            value: 0,
            narrow: 0,
        });
        Ok(device)
    };
    Endpoint::new(build).unwrap()
}
