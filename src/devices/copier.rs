//! A teaching device: copies guest memory.
//!
//! It shows DMA on a worker thread, an interrupt on completion, and memory
//! that the guest maps (BAR 2), in which the device keeps its last error.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::identity;
use crate::device::{
    Access, AccessError, Bar, Device, Dma, Function, Irq, Journal, KeptMemory, Register,
    RegisterFile, SharedMemory, StateError, StateReader, StateWriter, Worker,
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

/// Bytes of BAR 2.
const LOG: usize = 4096;

/// What to copy.
#[derive(Clone, Copy, Debug)]
struct Copy {
    /// The how manieth it is.
    serial: u64,
    source: u64,
    destination: u64,
    length: u64,
}

/// The copier, 1af4:1113.
#[derive(Debug)]
pub struct Copier {
    registers: RegisterFile<Reg>,
    /// The serial number of the copy that was accepted last.
    accepted: u64,
    /// That of the one that a predecessor finished last.
    finished_before: u64,
    worker: Worker<Work>,
    log: SharedMemory,
    kept: Arc<OnceLock<Kept>>,
}

#[derive(Debug)]
enum Work {
    Copy(Copy),
    /// The first, of a successor.
    Resume(Outcome),
}

impl Copier {
    /// A copier with a thread of its own.
    ///
    /// # Errors
    ///
    /// If there is no memory to share.
    pub fn new(irq: Irq, dma: Dma) -> io::Result<Self> {
        let log = SharedMemory::new(LOG)?;
        let kept = Arc::new(OnceLock::new());
        let shown = log.clone();
        let keeps: Arc<OnceLock<Kept>> = kept.clone();
        let note = move |outcome: &Outcome| {
            if let Some(kept) = keeps.get() {
                kept.note(outcome);
            }
        };
        let tell = move |mut outcome: Outcome, note: &dyn Fn(&Outcome)| {
            // Shorter than a page.
            let _ = shown.write(0, outcome.line());
            irq.raise(0);
            outcome.told = true;
            note(&outcome);
        };
        let work = move |work: Work| match work {
            Work::Copy(copy) => {
                let done = dma.copy(copy.source, copy.destination, copy.length);
                let text = done.map_or_else(|error| error.to_string(), |()| "copied".to_owned());
                let outcome = Outcome::new(copy.serial, &text);
                // The guest is told after this: it is not copied again.
                note(&outcome);
                tell(outcome, &note);
            }
            Work::Resume(outcome) => tell(outcome, &note),
        };
        Ok(Copier {
            registers: RegisterFile::new(),
            accepted: 0,
            finished_before: 0,
            worker: Worker::new("copier", 1, work),
            log,
            kept,
        })
    }

    /// Hands a copy to the thread, if there is room.
    fn start(&mut self, length: u64) -> bool {
        let copy = Copy {
            serial: self.accepted + 1,
            source: self.registers.get(Reg::SOURCE),
            destination: self.registers.get(Reg::DESTINATION),
            length,
        };
        if copy.serial <= self.finished_before {
            // By the predecessor, which was killed before it had said so.
            self.accepted = copy.serial;
            return true;
        }
        if let Some(kept) = self.kept.get() {
            kept.put(&copy);
        }
        let accepted = self.worker.push(Work::Copy(copy));
        self.accepted += u64::from(accepted);
        accepted
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
        if self.start(value) {
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

    fn save(&self, state: &mut StateWriter<'_>) {
        self.registers.save(state);
        state.put(self.accepted);
        let mut log = [0; LOG];
        // It is as large.
        let _ = self.log.read(0, &mut log);
        state.put_bytes(&log);
    }

    fn restore(&mut self, state: &mut StateReader<'_>) -> Result<(), StateError> {
        self.registers.restore(state)?;
        self.accepted = state.get()?;
        let mut log = [0; LOG];
        state.get_bytes(&mut log)?;
        let _ = self.log.write(0, &log);
        let outcome = self.kept.get().map(Kept::outcome).transpose()?.flatten();
        self.finished_before = outcome.map_or(0, |outcome| outcome.serial);
        Ok(())
    }

    fn kept_words(&self) -> usize {
        Kept::WORDS
    }

    fn keep(&mut self, memory: KeptMemory) {
        let _ = self.kept.set(Kept::new(&memory));
    }

    /// A copy that was under way begins anew.
    fn resume(&mut self) {
        let Some(kept) = self.kept.get() else { return };
        let outcome = kept.outcome().ok().flatten();
        if let Some(outcome) = outcome.filter(|outcome| !outcome.told) {
            let _ = self.worker.push(Work::Resume(outcome));
            self.worker.drain();
        }
        // There are two at most.
        let oldest = self.accepted.saturating_sub(2);
        let finished = self.finished_before.max(oldest);
        for serial in (finished..self.accepted).map(|serial| serial + 1) {
            if let Some(copy) = kept.copy(serial) {
                let _ = self.worker.push(Work::Copy(copy));
            }
        }
    }
}

/// How a copy ended.
#[derive(Debug)]
struct Outcome {
    serial: u64,
    /// What the log says of it, and a zero.
    text: [u8; Outcome::TEXT],
    /// Whether the guest was told.
    told: bool,
}

impl Outcome {
    const TEXT: usize = 128;

    fn new(serial: u64, text: &str) -> Self {
        let mut outcome = Outcome {
            serial,
            text: [0; Outcome::TEXT],
            told: false,
        };
        let length = text.len().min(Outcome::TEXT - 1);
        outcome.text[..length].copy_from_slice(&text.as_bytes()[..length]);
        outcome
    }

    /// The text, with a zero behind it.
    fn line(&self) -> &[u8] {
        let end = self.text.iter().position(|byte| *byte == 0);
        let end = end.unwrap_or(Self::TEXT - 1);
        &self.text[..=end]
    }
}

/// What a successor needs of the thread: the copies that were accepted, and how
/// the last one ended.
#[derive(Debug)]
struct Kept {
    copies: KeptMemory,
    outcome: Journal,
}

impl Kept {
    /// One copies, one waits, and one is being accepted.
    const COPIES: usize = 4;
    const COPY: usize = 3;
    /// With its sum.
    const OUTCOME: usize = 2 + Outcome::TEXT / 8 + 1;
    const WORDS: usize = Self::COPIES * Self::COPY + Journal::words(Self::OUTCOME);

    fn new(memory: &KeptMemory) -> Self {
        let copies = Self::COPIES * Self::COPY;
        Kept {
            copies: memory.part(0..copies),
            outcome: Journal::new(memory.part(copies..Self::WORDS), Self::OUTCOME),
        }
    }

    /// The place of a copy: the one that was there before has ended.
    fn place(&self, serial: u64) -> Option<&[AtomicU64; Self::COPY]> {
        let (places, _) = self.copies.words().as_chunks();
        places.get(usize::try_from(serial % Self::COPIES as u64).ok()?)
    }

    fn put(&self, copy: &Copy) {
        let words = [copy.source, copy.destination, copy.length];
        for (place, word) in self.place(copy.serial).into_iter().flatten().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
    }

    fn copy(&self, serial: u64) -> Option<Copy> {
        let place = self.place(serial)?;
        let [source, destination, length] =
            place.each_ref().map(|word| word.load(Ordering::Acquire));
        Some(Copy {
            serial,
            source,
            destination,
            length,
        })
    }

    fn note(&self, outcome: &Outcome) {
        self.outcome.commit(|state| {
            state.put(outcome.serial);
            state.put(outcome.told);
            state.put_bytes(&outcome.text);
        });
    }

    /// How the copy before ended, if there was one.
    fn outcome(&self) -> Result<Option<Outcome>, StateError> {
        self.outcome.latest(|state| {
            let mut outcome = Outcome {
                serial: state.get()?,
                told: state.get()? != 0,
                text: [0; Outcome::TEXT],
            };
            state.get_bytes(&mut outcome.text)?;
            Ok(outcome)
        })
    }
}
