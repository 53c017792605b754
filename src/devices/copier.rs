//! A teaching device: copies guest memory.
//!
//! It shows DMA on a worker thread, an interrupt on completion, and memory
//! that the guest maps (BAR 2), in which the device keeps its last error.

use std::io;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::identity;
use crate::device::{
    Access, AccessError, Bar, Device, Dma, Function, Irq, Register, RegisterFile, SharedMemory,
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

enum Work {
    Copy(u64, u64, u64),
    /// All before this has ended.
    Drained(Sender<()>),
}

/// The copier, 1af4:1113.
#[derive(Debug)]
pub struct Copier {
    registers: RegisterFile<Reg>,
    work: Sender<Work>,
    log: SharedMemory,
}

impl Copier {
    /// A copier with a thread of its own.
    ///
    /// # Errors
    ///
    /// If there is no memory to share or no thread.
    pub fn new(irq: Irq, dma: Dma) -> io::Result<Self> {
        let log = SharedMemory::new(4096)?;
        let (work, todo) = bounded(1);
        let shown = log.clone();
        thread::Builder::new()
            .name("copier".to_owned())
            .spawn(move || copy_all(&todo, &irq, &dma, &shown))?;
        Ok(Copier {
            registers: RegisterFile::new(),
            work,
            log,
        })
    }

    /// The endpoint fails what is under way, so the thread is soon done.
    fn drain(&self) {
        let (done, drained) = bounded(1);
        if self.work.send(Work::Drained(done)).is_ok() {
            let _ = drained.recv();
        }
    }
}

fn copy_all(todo: &Receiver<Work>, irq: &Irq, dma: &Dma, log: &SharedMemory) {
    for work in todo {
        let outcome = match work {
            Work::Copy(source, destination, length) => dma.copy(source, destination, length),
            Work::Drained(done) => {
                let _ = done.send(());
                continue;
            }
        };
        let text = outcome.map_or_else(|error| error.to_string(), |()| "copied".to_owned());
        // Shorter than a page.
        let _ = log.write(0, format!("{text}\0").as_bytes());
        irq.raise(0);
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
        let busy = |_| AccessError::Value {
            name: "START",
            value,
        };
        let copy = Work::Copy(source, destination, value);
        self.work.try_send(copy).map_err(busy)
    }

    fn reset(&mut self) {
        self.drain();
        self.registers.reset();
    }

    fn disconnected(&mut self) {
        // No copy goes on in the memory of the next client.
        self.drain();
    }
}
