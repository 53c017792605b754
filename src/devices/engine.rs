//! The stub's slow work, on a thread of its own: DMA commands and the command
//! ring. Register accesses hand work over and never wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::stub::status;
use crate::device::{Dma, DmaError, Irq, Worker};

/// How many DMA commands may wait.
const MAX_JOBS: u32 = 64;

/// The most entries of a ring.
const MAX_ENTRIES: u32 = 256;

/// Bytes of a ring entry.
const ENTRY: usize = 32;

/// Set in an entry's flags to have `STATUS.RING_DONE` set when it is done.
const ENTRY_SIGNALS: u32 = 1;

/// How much is moved between two looks at whether to stop.
const STRIDE: u64 = 64 * 1024;

/// What the engine and the registers share.
#[derive(Debug)]
pub(super) struct Shared {
    irq: Irq,
    pub(super) status: AtomicU32,
    enabled: AtomicU32,
    pub(super) dma_completed: AtomicU32,
    pub(super) dma_pending: AtomicU32,
    pub(super) ring_head: AtomicU32,
    pub(super) ring_fence: AtomicU32,
    pub(super) errors: AtomicU32,
    pub(super) dma_bytes: AtomicU64,
    pub(super) interrupts: AtomicU64,
    ring: Ring,
    /// What waits is to be dropped, not done.
    draining: AtomicBool,
}

/// The ring's registers as they were when its tail was written last.
#[derive(Debug, Default)]
struct Ring {
    base: AtomicU64,
    size: AtomicU32,
    tail: AtomicU32,
    /// The engine has been told and has not looked yet.
    kicked: AtomicBool,
}

impl Shared {
    pub(super) fn new(irq: Irq) -> Self {
        Shared {
            irq,
            status: AtomicU32::new(0),
            enabled: AtomicU32::new(0),
            dma_completed: AtomicU32::new(0),
            dma_pending: AtomicU32::new(0),
            ring_head: AtomicU32::new(0),
            ring_fence: AtomicU32::new(0),
            errors: AtomicU32::new(0),
            dma_bytes: AtomicU64::new(0),
            interrupts: AtomicU64::new(0),
            ring: Ring::default(),
            draining: AtomicBool::new(false),
        }
    }

    /// Sets bits of STATUS and raises what is enabled of them.
    pub(super) fn set_status(&self, bits: u32) {
        self.status.fetch_or(bits, Ordering::AcqRel);
        self.raise_all(bits & self.enabled.load(Ordering::Acquire));
        self.update_level();
    }

    /// Clears bits of STATUS.
    pub(super) fn clear_status(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::AcqRel);
        self.update_level();
    }

    /// Sets `IRQ_ENABLE` and raises what is newly enabled and already set.
    pub(super) fn enable(&self, bits: u32) {
        let before = self.enabled.swap(bits, Ordering::AcqRel);
        self.raise_all(bits & !before & self.status.load(Ordering::Acquire));
        self.update_level();
    }

    /// Raises one vector.
    pub(super) fn raise(&self, vector: u16) {
        self.interrupts.fetch_add(1, Ordering::AcqRel);
        self.irq.raise(vector);
    }

    fn raise_all(&self, bits: u32) {
        let vectors = (0..32u16).filter(|vector| bits & (1 << vector) != 0);
        vectors.for_each(|vector| self.raise(vector));
    }

    /// Has INTx follow STATUS. Engine and registers may both be here: whoever
    /// is last finds the level as it is.
    fn update_level(&self) {
        let level = || {
            let enabled = self.enabled.load(Ordering::SeqCst);
            self.status.load(Ordering::SeqCst) & enabled != 0
        };
        loop {
            let now = level();
            self.irq.set_intx(now);
            if level() == now {
                return;
            }
        }
    }

    /// Everything as after power-on. The engine has been drained.
    pub(super) fn reset(&self) {
        let registers = [
            &self.status,
            &self.enabled,
            &self.dma_completed,
            &self.ring_head,
            &self.ring_fence,
            &self.errors,
        ];
        for register in registers {
            register.store(0, Ordering::Release);
        }
        self.dma_bytes.store(0, Ordering::Release);
        self.interrupts.store(0, Ordering::Release);
        self.update_level();
    }

    fn failed(&self, bits: u32) {
        self.errors.fetch_add(1, Ordering::AcqRel);
        self.set_status(bits);
    }

    fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

/// What to move.
#[derive(Clone, Copy, Debug)]
pub(super) enum Command {
    Copy { source: u64 },
    Fill { pattern: u32 },
}

/// A DMA command.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) command: Command,
    pub(super) destination: u64,
    pub(super) length: u32,
    /// Where the fence is written, 0 for nowhere.
    pub(super) fence_address: u64,
    pub(super) fence: u32,
}

#[derive(Debug)]
enum Work {
    Dma(Job),
    Ring,
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
        let mover = Mover {
            shared: shared.clone(),
            dma,
        };
        // Room for all jobs and one kick of the ring.
        let room = MAX_JOBS as usize + 1;
        let worker = Worker::new("stub-engine", room, move |work| mover.take(work));
        Engine { shared, worker }
    }

    /// Accepts a command, or fails it if too many wait or there is no thread.
    pub(super) fn start_dma(&self, job: Job) {
        let pending = self.shared.dma_pending.fetch_add(1, Ordering::AcqRel);
        if pending >= MAX_JOBS || !self.worker.push(Work::Dma(job)) {
            self.shared.dma_pending.fetch_sub(1, Ordering::AcqRel);
            self.shared.failed(status::DMA_ERROR);
        }
    }

    /// Has the ring worked on up to its new tail. Kicks that the engine has
    /// not seen yet become one.
    pub(super) fn kick_ring(&self, base: u64, size: u32, tail: u32) {
        let ring = &self.shared.ring;
        ring.base.store(base, Ordering::Release);
        ring.size.store(size, Ordering::Release);
        ring.tail.store(tail, Ordering::Release);
        let told = ring.kicked.swap(true, Ordering::AcqRel);
        if !told && !self.worker.push(Work::Ring) {
            self.shared.failed(status::RING_ERROR);
        }
    }

    /// Drops what waits and returns when nothing is under way. Guest memory
    /// is out of reach meanwhile, so that is soon.
    pub(super) fn drain(&self) {
        self.shared.draining.store(true, Ordering::Release);
        self.worker.drain();
        self.shared.draining.store(false, Ordering::Release);
    }
}

/// What the engine's thread does.
struct Mover {
    shared: Arc<Shared>,
    dma: Dma,
}

impl Mover {
    fn take(&self, work: Work) {
        match work {
            Work::Dma(job) => {
                if !self.shared.draining() {
                    self.dma(&job);
                }
                self.shared.dma_pending.fetch_sub(1, Ordering::AcqRel);
            }
            Work::Ring => {
                self.shared.ring.kicked.store(false, Ordering::Release);
                if !self.shared.draining() {
                    self.ring();
                }
            }
        }
    }

    fn dma(&self, job: &Job) {
        let done = self
            .transfer(job.command, job.destination, job.length)
            .and_then(|()| match job.fence_address {
                0 => Ok(()),
                address => self.dma.write_u32(address, job.fence),
            });
        match done {
            _ if self.shared.draining() => {}
            Ok(()) => {
                self.shared
                    .dma_completed
                    .store(job.fence, Ordering::Release);
                self.shared.set_status(status::DMA_DONE);
            }
            Err(error) => {
                log::debug!("DMA command: {error}");
                self.shared.failed(status::DMA_ERROR);
            }
        }
    }

    /// Moves memory in strides, so that a drain need not wait for all of it.
    fn transfer(&self, command: Command, destination: u64, length: u32) -> Result<(), DmaError> {
        let length = u64::from(length);
        let mut offset = 0;
        while offset < length && !self.shared.draining() {
            let size = STRIDE.min(length - offset);
            // An address that wraps is not mapped.
            let at = |start: u64| start.saturating_add(offset);
            match command {
                Command::Copy { source } => self.dma.copy(at(source), at(destination), size)?,
                Command::Fill { pattern } => self.dma.fill(at(destination), pattern, size)?,
            }
            self.shared.dma_bytes.fetch_add(size, Ordering::AcqRel);
            offset += size;
        }
        Ok(())
    }

    /// Works on the ring up to its tail. The first failure ends it: the rest
    /// is skipped, so that a driver sees an error and not half a stream.
    fn ring(&self) {
        let ring = &self.shared.ring;
        let base = ring.base.load(Ordering::Acquire);
        let size = ring.size.load(Ordering::Acquire);
        let tail = ring.tail.load(Ordering::Acquire);
        let head = self.shared.ring_head.load(Ordering::Acquire);
        let count = tail.wrapping_sub(head);
        let valid = size.is_power_of_two() && size <= MAX_ENTRIES && count <= size;
        let done = valid
            && (0..count).all(|number| {
                let position = head.wrapping_add(number);
                let done = self.entry(base, position & (size - 1)).is_some();
                if done {
                    let next = position.wrapping_add(1);
                    self.shared.ring_head.store(next, Ordering::Release);
                }
                done
            });
        if !done && !self.shared.draining() {
            self.shared.ring_head.store(tail, Ordering::Release);
            self.shared.failed(status::RING_ERROR);
        }
    }

    /// Carries out the entry at a place of the ring; `None` if it failed.
    fn entry(&self, base: u64, place: u32) -> Option<()> {
        let address = base.checked_add(u64::from(place) * ENTRY as u64)?;
        let mut bytes = [0; ENTRY];
        self.dma.read(address, &mut bytes).ok()?;
        let entry = Entry::parse(&bytes);
        let command = match entry.opcode {
            0 => None,
            1 => Some(Command::Copy {
                source: entry.source,
            }),
            2 => Some(Command::Fill {
                // The pattern is the low half.
                pattern: (entry.source & 0xffff_ffff) as u32,
            }),
            _ => return None,
        };
        if let Some(command) = command {
            let moved = self.transfer(command, entry.destination, entry.length);
            moved.ok()?;
        }
        if self.shared.draining() {
            return None;
        }
        self.shared.ring_fence.store(entry.fence, Ordering::Release);
        if entry.flags & ENTRY_SIGNALS != 0 {
            self.shared.set_status(status::RING_DONE);
        }
        Some(())
    }
}

/// An entry of the ring, little-endian: opcode, fence, source (or the pattern
/// of a fill), destination, length, flags.
struct Entry {
    opcode: u32,
    fence: u32,
    source: u64,
    destination: u64,
    length: u32,
    flags: u32,
}

impl Entry {
    fn parse(bytes: &[u8; ENTRY]) -> Self {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        Entry {
            opcode: word(0),
            fence: word(4),
            source: long(8),
            destination: long(16),
            length: word(24),
            flags: word(28),
        }
    }
}
