//! A teaching device: copies guest memory.
//!
//! It shows DMA on a worker thread, an interrupt on completion, and memory
//! that the guest maps (BAR 2), in which the device keeps its last error.

use std::io;

use super::identity;
use crate::device::{
    Access, AccessError, Bar, Device, Dma, Function, Irq, Register, RegisterFile, SharedMemory,
    Worker,
};
use crate::pci::Msix;
use crate::registers;

registers! {
    /// The copier, BAR 0.
    pub enum Reg[0x1000] {
        0x00 SOURCE: u64 rw = 0, "guest address to copy from";
        0x08 DESTINATION: u64 rw = 0, "guest address to copy to";
        0x10 START: u32 wo = 0, "copies so many bytes, then raises vector 0";
    }
    reserved { 0x14..0x1000 }
}

/// What to copy: source, destination, length.
type Copy = (u64, u64, u64);

/// The copier, 1af4:1113.
#[derive(Debug)]
pub struct Copier {
    registers: RegisterFile<Reg>,
    worker: Worker<Copy>,
    log: SharedMemory,
}

impl Copier {
    /// A copier with a thread of its own.
    ///
    /// # Errors
    ///
    /// If there is no memory to share.
    pub fn new(irq: Irq, dma: Dma) -> io::Result<Self> {
        let log = SharedMemory::new(4096)?;
        let shown = log.clone();
        let copy = move |(source, destination, length): Copy| {
            let outcome = dma.copy(source, destination, length);
            let text = outcome.map_or_else(|error| error.to_string(), |()| "copied".to_owned());
            // Shorter than a page.
            let _ = shown.write(0, format!("{text}\0").as_bytes());
            irq.raise(0);
        };
        Ok(Copier {
            registers: RegisterFile::new(),
            worker: Worker::new("copier", 1, copy),
            log,
        })
    }
}

impl Device for Copier {
    fn function(&self) -> Function {
        Function::new(identity(0x1113))
            .bar(0, Bar::registers::<Reg>())
            .bar(2, Bar::memory(self.log.clone()))
            .msix(Msix {
                vectors: 1,
                table: (0, 0x800),
                pba: (0, 0xc00),
            })
    }

    fn read(&mut self, at: Access) -> Result<u64, AccessError> {
        Ok(self.registers.get(Reg::at(at)?))
    }

    fn write(&mut self, at: Access, value: u64) -> Result<(), AccessError> {
        let register = Reg::at(at)?;
        if register != Reg::START {
            return self.registers.write(register, value);
        }
        let source = self.registers.get(Reg::SOURCE);
        let destination = self.registers.get(Reg::DESTINATION);
        if self.worker.push((source, destination, value)) {
            return Ok(());
        }
        // One copies and one waits.
        Err(AccessError::Value {
            name: "START",
            value,
        })
    }

    fn reset(&mut self) {
        // The endpoint fails what is under way, so that is soon.
        self.worker.drain();
        self.registers.reset();
    }

    fn disconnected(&mut self) {
        self.worker.drain();
    }
}
