//! A teaching device: a doorbell that is counted.
//!
//! It shows registers, an interrupt, and a doorbell that KVM rings without
//! the guest waiting (an ioeventfd).

use super::identity;
use crate::device::{Access, AccessError, Bar, Device, Function, Irq, Register, RegisterFile};
use crate::pci::Msi;
use crate::registers;

registers! {
    /// The doorbell counter, BAR 0.
    pub enum Reg[0x1000] {
        0x00 ID: u32 ro = 0x4c4c_4542, "`BELL` in ASCII";
        0x04 RING: u32 wo = 0, "any value rings; may be an ioeventfd";
        0x08 COUNT: u32 ro = 0, "rings since reset";
        0x0c EVERY: u32 rw = 1, "interrupt after so many rings; 0 for never";
    }
    reserved { 0x10..0x1000 }
}

/// The doorbell counter, 1af4:1112.
#[derive(Debug)]
pub struct Doorbell {
    registers: RegisterFile<Reg>,
    irq: Irq,
}

impl Doorbell {
    /// A counter that rings through `irq`.
    pub fn new(irq: Irq) -> Self {
        Doorbell {
            registers: RegisterFile::new(),
            irq,
        }
    }

    fn ring(&mut self, times: u64) {
        let before = self.registers.get(Reg::COUNT);
        let after = before.saturating_add(times);
        self.registers.set(Reg::COUNT, after);
        let every = self.registers.get(Reg::EVERY);
        if every != 0 && before / every != after / every {
            self.irq.raise(0);
        }
    }
}

impl Device for Doorbell {
    fn function(&self) -> Function {
        Function::new(identity(0x1112))
            .bar(0, Bar::registers::<Reg>().doorbell(Reg::RING, None))
            .msi(Msi {
                vectors: 1,
                per_vector_masking: false,
            })
    }

    fn read(&mut self, at: Access) -> Result<u64, AccessError> {
        Ok(self.registers.get(Reg::at(at)?))
    }

    fn write(&mut self, at: Access, value: u64) -> Result<(), AccessError> {
        match Reg::at(at)? {
            Reg::RING => self.ring(1),
            register => self.registers.write(register, value)?,
        }
        Ok(())
    }

    fn rung(&mut self, _: Access, _: u64, times: u64) {
        self.ring(times);
    }

    fn reset(&mut self) {
        self.registers.reset();
    }
}
