//! A guest's driver, and what it hears.

use std::sync::{Arc, Mutex};
use std::thread;

use vgpu_stub::device::{Irq, Register};
use vgpu_stub::endpoint::{CONFIG_REGION, Endpoint, InterruptBus};
use vgpu_stub::pci::spec::{capability, command, express, msi, msix, status};

use crate::wire::device::{Reg, TestDevice, VECTORS};

pub(crate) const TABLE: u64 = 0x800;
pub(crate) const PBA: u64 = 0xc00;
pub(crate) const COMMAND: u64 = 4;
pub(crate) const STATUS: u64 = 6;
pub(crate) const ADDRESS: u64 = 0xfee0_0000;

/// What a guest hears.
#[derive(Default)]
pub(crate) struct Apic {
    messages: Mutex<Vec<(u64, u32)>>,
    levels: Mutex<Vec<bool>>,
}

impl Apic {
    /// The messages since it was last asked, in order.
    pub(crate) fn messages(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut self.messages.lock().unwrap())
    }

    pub(crate) fn levels(&self) -> Vec<bool> {
        std::mem::take(&mut self.levels.lock().unwrap())
    }
}

impl InterruptBus for Apic {
    fn message(&self, address: u64, data: u32) {
        self.messages.lock().unwrap().push((address, data));
    }

    fn set_intx(&self, asserted: bool) {
        self.levels.lock().unwrap().push(asserted);
        // Other threads come and wait behind this one.
        thread::yield_now();
    }
}

/// A guest's driver, which has the function to itself.
pub(crate) struct Driver {
    pub(crate) endpoint: Endpoint,
    pub(crate) irq: Irq,
}

impl Driver {
    pub(crate) fn new() -> Driver {
        let mut handle = None;
        let built = Endpoint::new(|irq, dma| {
            handle = Some(irq.clone());
            Ok(Box::new(TestDevice::new(irq, dma)?))
        });
        let mut driver = Driver {
            endpoint: built.unwrap(),
            irq: handle.unwrap(),
        };
        driver.set_command(command::BUS_MASTER | command::MEMORY_SPACE);
        driver
    }

    /// One on the bus `apic`, which has been told the level.
    pub(crate) fn on<B: InterruptBus + 'static>(apic: &Arc<B>) -> Driver {
        let mut driver = Driver::new();
        driver.endpoint.own_interrupts(apic.clone());
        driver
    }

    pub(crate) fn with_apic() -> (Driver, Arc<Apic>) {
        let apic = Arc::new(Apic::default());
        let driver = Driver::on(&apic);
        assert_eq!(apic.levels(), [false]);
        (driver, apic)
    }

    pub(crate) fn read(&mut self, region: u32, offset: u64, length: usize) -> u64 {
        let mut value = [0; 8];
        let read = self.endpoint.read(region, offset, &mut value[..length]);
        read.unwrap();
        u64::from_le_bytes(value)
    }

    pub(crate) fn write(&mut self, region: u32, offset: u64, length: usize, value: u64) {
        let bytes = &value.to_le_bytes()[..length];
        self.endpoint.write(region, offset, bytes).unwrap();
    }

    pub(crate) fn set(&mut self, register: Reg, value: u64) {
        let at = register.access(0);
        let length = at.width.bytes() as usize;
        self.write(0, at.offset.into(), length, value);
    }

    pub(crate) fn raise(&mut self, vector: u64) {
        self.set(Reg::RAISE, vector);
    }

    pub(crate) fn set_command(&mut self, bits: u16) {
        self.write(CONFIG_REGION, COMMAND, 2, bits.into());
    }

    /// The status register's word on the level.
    pub(crate) fn is_asserted(&mut self) -> bool {
        let bits = self.read(CONFIG_REGION, STATUS, 2);
        bits & u64::from(status::INTERRUPT) != 0
    }

    /// Where a capability's register is.
    pub(crate) fn find(&mut self, id: u8, register: usize) -> u64 {
        let mut at = self.read(CONFIG_REGION, 0x34, 1);
        while self.read(CONFIG_REGION, at, 1) != u64::from(id) {
            at = self.read(CONFIG_REGION, at + 1, 1);
            assert_ne!(at, 0, "no capability {id:#x}");
        }
        at + register as u64
    }

    pub(crate) fn set_msix(&mut self, control: u16) {
        let at = self.find(capability::MSIX, msix::CONTROL);
        self.write(CONFIG_REGION, at, 2, control.into());
    }

    /// Gives an entry of the table its message: the data is its number.
    pub(crate) fn program(&mut self, vector: u64, masked: bool) {
        let entry = TABLE + 16 * vector;
        self.write(0, entry, 4, ADDRESS);
        self.write(0, entry + 4, 4, 0);
        self.write(0, entry + 8, 4, vector);
        self.write(0, entry + 12, 4, masked.into());
    }

    /// As Linux does: all masked, then the table, then unmasked.
    pub(crate) fn use_msix(&mut self) {
        self.set_msix(msix::ENABLE | msix::FUNCTION_MASK);
        for vector in 0..VECTORS {
            self.program(vector.into(), false);
        }
        self.set_msix(msix::ENABLE);
    }

    pub(crate) fn use_msi(&mut self, enabled: u16, address: u64, data: u64) {
        let at = self.find(capability::MSI, 0);
        let to = |register: usize| at + register as u64;
        self.write(CONFIG_REGION, to(msi::ADDRESS), 4, address);
        self.write(CONFIG_REGION, to(msi::ADDRESS_UPPER), 4, address >> 32);
        self.write(CONFIG_REGION, to(msi::DATA_64), 2, data);
        let control = msi::ENABLE | enabled << msi::ENABLED_SHIFT;
        self.write(CONFIG_REGION, to(msi::CONTROL), 2, control.into());
    }

    /// MSI's control alone.
    pub(crate) fn set_msi(&mut self, control: u16) {
        let at = self.find(capability::MSI, msi::CONTROL);
        self.write(CONFIG_REGION, at, 2, control.into());
    }

    pub(crate) fn mask_msi(&mut self, mask: u64) {
        let at = self.find(capability::MSI, msi::DATA_64 + msi::MASK_AFTER_DATA);
        self.write(CONFIG_REGION, at, 4, mask);
    }

    pub(crate) fn msi_pending(&mut self) -> u64 {
        let at = self.find(capability::MSI, msi::DATA_64 + msi::PENDING_AFTER_DATA);
        self.read(CONFIG_REGION, at, 4)
    }

    /// A function level reset (PCIe 4.0 6.6.2).
    pub(crate) fn reset_function(&mut self) {
        let control = self.find(capability::PCI_EXPRESS, express::DEVICE_CONTROL);
        self.write(CONFIG_REGION, control, 2, express::INITIATE_FLR.into());
    }
}
