//! The stub's slow work, on a thread of its own: DMA commands and the command
//! ring. Register accesses hand work over and never wait for it.
//!
//! Of what the two sides share each field has one writer: the registers' side
//! is written down after an access, the thread's whenever it got further, and
//! a successor finds one of them newer than the other.

mod kept;
mod mover;
mod shared;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::stub::status;
use crate::device::{Dma, KeptMemory, StateError, StateReader, StateWriter, Worker};
use kept::{EngineMemory, Job};
use mover::{Mover, Work};

pub(super) use kept::Command;
pub(super) use shared::Shared;

/// How many DMA commands may wait.
const MAX_JOBS: u32 = 64;

/// A DMA command as its registers say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    pub(super) command: Command,
    pub(super) destination: u64,
    pub(super) length: u32,
    /// Where the fence is written, 0 for nowhere.
    pub(super) fence_address: u64,
    pub(super) fence: u32,
}

/// The engine, seen from the registers.
#[derive(Debug)]
pub(super) struct Engine {
    shared: Arc<Shared>,
    worker: Worker<Work>,
}

impl Engine {
    /// Its thread starts with the first command and ends when it is dropped.
    pub(super) fn new(shared: Arc<Shared>, dma: Dma) -> Self {
        let mover = Mover::new(shared.clone(), dma);
        // Room for all jobs, a kick of the ring and one that a successor resumes.
        let room = MAX_JOBS as usize + 3;
        let worker = Worker::new("stub-engine", room, move |work| mover.take(&work));
        Engine { shared, worker }
    }

    /// Accepts a command, or fails it if too many wait or there is no thread.
    pub(super) fn start_dma(&self, order: Order) {
        let shared = &self.shared;
        let serial = shared.submitted.load(Ordering::Relaxed).wrapping_add(1);
        let job = Job { serial, order };
        if shared.pending() < MAX_JOBS {
            if let Some(memory) = shared.memory() {
                memory.put_job(&job);
            }
            shared.submitted.store(serial, Ordering::Release);
            if self.worker.push(Work::Dma(job)) {
                return;
            }
            let before = serial.wrapping_sub(1);
            shared.submitted.store(before, Ordering::Release);
        }
        shared.refuse(status::DMA_ERROR);
    }

    /// Has the ring worked on up to its new tail. Kicks that the engine has
    /// not seen yet become one.
    pub(super) fn kick_ring(&self, base: u64, size: u32, tail: u32) {
        let told = self.shared.kick(base, size, tail);
        if !told && !self.worker.push(Work::Ring) {
            self.shared.refuse(status::RING_ERROR);
        }
    }

    /// Drops what waits and returns when nothing is under way. Guest memory
    /// is out of reach meanwhile, so that is soon.
    pub(super) fn drain(&self) {
        self.shared.draining.store(true, Ordering::Release);
        self.worker.drain();
        self.shared.draining.store(false, Ordering::Release);
    }

    /// Words of memory to be kept.
    pub(super) const KEPT: usize = EngineMemory::WORDS;

    /// Writes down in `memory` from now on how far it got.
    pub(super) fn keep(&self, memory: &KeptMemory) {
        self.shared.keep(EngineMemory::new(memory));
    }

    /// The registers' side; the other one is in the memory already.
    pub(super) fn save(&self, state: &mut StateWriter<'_>) {
        self.shared.save(state);
    }

    /// Takes over both.
    pub(super) fn restore(&self, state: &mut StateReader<'_>) -> Result<(), StateError> {
        self.shared.restore(state)
    }

    /// Goes on with what was accepted and is not done, in order.
    pub(super) fn resume(&self) {
        let shared = &self.shared;
        let (serials, mut ring_at) = shared.unfinished();
        self.push(Work::Resume);
        for serial in serials {
            if ring_at.take_if(|at| *at == serial).is_some() {
                self.push(Work::Ring);
            }
            if let Some(job) = shared.memory().and_then(|memory| memory.job(serial)) {
                self.push(Work::Dma(job));
            }
        }
        if ring_at.is_some() {
            self.push(Work::Ring);
        }
    }

    /// There is room for all that waits.
    fn push(&self, work: Work) {
        if !self.worker.push(work) {
            self.shared.refuse(status::DMA_ERROR);
        }
    }
}
