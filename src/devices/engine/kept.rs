//! What the engine keeps for a successor while no access comes: the commands
//! it accepted, how far it got, and what it has read and not yet written.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{MAX_JOBS, Order};
use crate::device::{Journal, KeptMemory, StateError, StateReader, StateWriter};

/// What is moved between two notes of how far it is.
pub(super) const CHUNK: u32 = 4096;

/// What to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::devices) enum Command {
    Copy { source: u64 },
    Fill { pattern: u32 },
}

/// A DMA command that was accepted, the how manieth.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    pub(super) serial: u32,
    pub(super) order: Order,
}

/// What the engine's thread got done. Only it changes this, but for a reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// How many resets there were.
    pub(super) epoch: u32,
    /// The serial number of the command that was finished last.
    pub(super) finished: u32,
    /// The kick that the ring was last worked on for, to its end.
    pub(super) kick: u32,
    /// Each bit of STATUS changes here when it is set.
    pub(super) flipped: u32,
    pub(super) completed: u32,
    pub(super) head: u32,
    pub(super) ring_fence: u32,
    pub(super) errors: u32,
    pub(super) bytes: u64,
    pub(super) interrupts: u64,
    /// How much of what is under way was moved: of the ring's next entry, or
    /// of the next command. All of it: its fence may have been seen.
    pub(super) moved: u32,
    pub(super) in_ring: bool,
    /// How much of the next chunk was read and is held.
    pub(super) held: u32,
    /// Bits of STATUS that were set and not yet raised.
    pub(super) owed: u32,
    pub(super) retiring: Retiring,
}

/// What is over once its interrupt was raised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Retiring {
    /// Nothing.
    #[default]
    Nothing,
    /// The command after the one that was finished last.
    Job,
    /// The ring's entry at its head.
    Entry,
    /// A failed run of the ring.
    Run,
}

impl Progress {
    fn save(&self, state: &mut StateWriter<'_>) {
        let words = [
            self.epoch,
            self.finished,
            self.kick,
            self.flipped,
            self.completed,
            self.head,
            self.ring_fence,
            self.errors,
            self.moved,
            self.held,
            self.owed,
            self.in_ring.into(),
            self.retiring as u32,
        ];
        for word in words {
            state.put(word);
        }
        state.put(self.bytes);
        state.put(self.interrupts);
    }

    fn restore(state: &mut StateReader<'_>) -> Result<Progress, StateError> {
        let mut next = || state.get_u32("how far the engine got");
        Ok(Progress {
            epoch: next()?,
            finished: next()?,
            kick: next()?,
            flipped: next()?,
            completed: next()?,
            head: next()?,
            ring_fence: next()?,
            errors: next()?,
            moved: next()?,
            held: next()?,
            owed: next()?,
            in_ring: next()? != 0,
            retiring: match next()? {
                1 => Retiring::Job,
                2 => Retiring::Entry,
                3 => Retiring::Run,
                _ => Retiring::Nothing,
            },
            bytes: state.get()?,
            interrupts: state.get()?,
        })
    }
}

/// Words of a [`Progress`] with its sum.
const PROGRESS: usize = 13 + 2 + 1;

/// Words of a job.
const JOB: usize = 5;

const JOBS: usize = MAX_JOBS as usize * JOB;
const HELD: usize = CHUNK as usize / 8;

/// The engine's part of the kept memory.
#[derive(Debug)]
pub(super) struct EngineMemory {
    jobs: KeptMemory,
    held: KeptMemory,
    progress: Journal,
}

impl EngineMemory {
    pub(super) const WORDS: usize = JOBS + HELD + Journal::words(PROGRESS);

    pub(super) fn new(memory: &KeptMemory) -> Self {
        let progress = memory.part(JOBS + HELD..Self::WORDS);
        EngineMemory {
            jobs: memory.part(0..JOBS),
            held: memory.part(JOBS..JOBS + HELD),
            progress: Journal::new(progress, PROGRESS),
        }
    }

    /// The place of a job: the one that was there before has been finished.
    fn place(&self, serial: u32) -> Option<&[AtomicU64; JOB]> {
        let (places, _) = self.jobs.words().as_chunks::<JOB>();
        places.get((serial % MAX_JOBS) as usize)
    }

    pub(super) fn put_job(&self, job: &Job) {
        let order = &job.order;
        let (kind, source) = match order.command {
            Command::Copy { source } => (1, source),
            Command::Fill { pattern } => (2, pattern.into()),
        };
        let words = [
            u64::from(order.fence) << 32 | kind,
            source,
            order.destination,
            order.length.into(),
            order.fence_address,
        ];
        for (place, word) in self.place(job.serial).into_iter().flatten().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
    }

    /// The job of this number, if it can be one.
    pub(super) fn job(&self, serial: u32) -> Option<Job> {
        let place = self.place(serial)?;
        let [kind, source, destination, length, fence_address] =
            place.each_ref().map(|word| word.load(Ordering::Acquire));
        let command = match kind & 0xffff_ffff {
            1 => Command::Copy { source },
            2 => Command::Fill {
                pattern: u32::try_from(source).ok()?,
            },
            _ => return None,
        };
        let order = Order {
            command,
            destination,
            length: u32::try_from(length).ok()?,
            fence_address,
            fence: (kind >> 32) as u32,
        };
        Some(Job { serial, order })
    }

    /// Keeps what was read until it is written.
    pub(super) fn hold(&self, data: &[u8]) {
        for (word, bytes) in self.held.words().iter().zip(data.chunks(8)) {
            let mut value = [0; 8];
            value[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(value), Ordering::Relaxed);
        }
    }

    /// What was held.
    pub(super) fn held(&self, data: &mut [u8]) {
        for (word, bytes) in self.held.words().iter().zip(data.chunks_mut(8)) {
            let value = word.load(Ordering::Relaxed).to_le_bytes();
            bytes.copy_from_slice(&value[..bytes.len()]);
        }
    }

    pub(super) fn commit(&self, progress: &Progress) {
        self.progress.commit(|state| progress.save(state));
    }

    /// How far the predecessor got, if it got anywhere.
    pub(super) fn progress(&self) -> Result<Option<Progress>, StateError> {
        self.progress.latest(Progress::restore)
    }
}
