//! A teaching device: doorbells that are counted.
//!
//! It shows registers, an interrupt, and accesses that need no exit of the
//! guest: a page of memory that the guest polls and sets (`mapped`), registers
//! that it reads in memory (`shown`), a doorbell that KVM rings without the
//! guest waiting (an ioeventfd), and one whose value matters.

use std::io;

use super::identity;
use crate::device::{
    Access, AccessError, Bar, Device, Function, Irq, Register, RegisterFile, StateError,
    StateReader, StateWriter,
};
use crate::pci::Msi;
use crate::registers;

registers! {
    /// The doorbell counter, BAR 0.
    pub enum Reg[0x2000] {
        0x0000 ID: u32 ro shown = 0x4c4c_4542, "`BELL` in ASCII";
        0x0004 RING: u32 wo = 0, "any value rings; may be an ioeventfd";
        0x0008 SUBMIT: u32 wo = 0, "rings, and the value is kept; may be a shadow doorbell";
        0x000c SUBMITTED: u32 ro shown = 0, "the value last written to SUBMIT";
        0x1000 COUNT: u32 ro mapped = 0, "rings since reset";
        0x1004 EVERY: u32 rw mapped = 1, "interrupt after so many rings; 0 for never";
    }
    reserved { 0x0010..0x1000, 0x1008..0x2000 }
}

/// The doorbell counter, 1af4:1112.
#[derive(Debug)]
pub struct Doorbell {
    registers: RegisterFile<Reg>,
    irq: Irq,
}

impl Doorbell {
    /// A counter that rings through `irq`.
    ///
    /// # Errors
    ///
    /// If there is no memory to map.
    pub fn new(irq: Irq) -> io::Result<Self> {
        let registers = RegisterFile::mapped()?;
        Ok(Doorbell { registers, irq })
    }

    fn ring(&mut self, times: u64) {
        let before = self.registers.get(Reg::COUNT);
        let after = before.saturating_add(times);
        self.registers.set(Reg::COUNT, after);
        // The guest may change it at any moment: read once.
        let every = self.registers.get(Reg::EVERY);
        if every != 0 && before / every != after / every {
            self.irq.raise(0);
        }
    }
}

impl Device for Doorbell {
    fn function(&self) -> Function {
        let bar = Bar::of(&self.registers)
            .doorbell(Reg::RING, None)
            .doorbell_with_value(Reg::SUBMIT);
        Function::new(identity(0x1112)).bar(0, bar).msi(Msi {
            vectors: 1,
            per_vector_masking: false,
        })
    }

    fn read(&mut self, at: Access) -> Result<u64, AccessError> {
        Ok(self.registers.get(Reg::at(at)?))
    }

    fn write(&mut self, at: Access, value: u64) -> Result<(), AccessError> {
        match Reg::at(at)? {
            Reg::RING | Reg::SUBMIT => self.rung(at, value, 1),
            register => self.registers.write(register, value)?,
        }
        Ok(())
    }

    fn rung(&mut self, at: Access, value: u64, times: u64) {
        if Reg::at(at) == Ok(Reg::SUBMIT) {
            self.registers.set(Reg::SUBMITTED, value);
        }
        self.ring(times);
    }

    fn reset(&mut self) {
        self.registers.reset();
    }

    fn save(&self, state: &mut StateWriter<'_>) {
        self.registers.save(state);
    }

    fn restore(&mut self, state: &mut StateReader<'_>) -> Result<(), StateError> {
        self.registers.restore(state)
    }
}
