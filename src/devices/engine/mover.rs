//! What the engine's thread does: commands and the ring, one after the other.
//!
//! It publishes whenever it got further. A guest may then act on it: what was
//! moved is not moved again by a successor, and what was not is.

use std::sync::Arc;

use super::super::stub::status;
use super::kept::{CHUNK, Command, Job, Progress, Retiring};
use super::shared::{RingView, Shared};
use crate::device::{Dma, DmaError};

/// The most entries of a ring.
const MAX_ENTRIES: u32 = 256;

/// Bytes of a ring entry.
const ENTRY: usize = 32;

/// Set in an entry's flags to have `STATUS.RING_DONE` set when it is done.
const ENTRY_SIGNALS: u32 = 1;

/// How much is moved between two looks at whether to stop.
const STRIDE: u32 = 64 * 1024;

#[derive(Debug)]
pub(super) enum Work {
    Dma(Job),
    Ring,
    /// The first, of a successor.
    Resume,
}

/// What the thread has.
pub(super) struct Mover {
    shared: Arc<Shared>,
    dma: Dma,
}

impl Mover {
    pub(super) fn new(shared: Arc<Shared>, dma: Dma) -> Self {
        Mover { shared, dma }
    }

    pub(super) fn take(&self, work: &Work) {
        // Nobody else takes it but a reset, which waits for us first.
        let progress = &mut *self.shared.progress();
        match work {
            Work::Dma(job) => self.job(progress, job),
            Work::Ring => {
                let ring = self.shared.look_at_ring();
                if !self.shared.draining() {
                    self.ring(progress, ring);
                }
            }
            Work::Resume => {
                if progress.retiring != Retiring::Nothing {
                    self.retire(progress);
                }
                self.shared.raise_again();
            }
        }
    }

    fn job(&self, progress: &mut Progress, job: &Job) {
        if job.serial != progress.finished.wrapping_add(1) {
            // A successor was told again of what its predecessor did.
            return;
        }
        if self.shared.draining() {
            return self.drop_job(progress);
        }
        if progress.in_ring {
            // Of an entry that was dropped.
            (progress.in_ring, progress.moved, progress.held) = (false, 0, 0);
        }
        let order = &job.order;
        let done = self
            .transfer(progress, order.command, order.destination, order.length)
            .and_then(|()| match order.fence_address {
                0 => Ok(()),
                address => self.dma.write_u32(address, order.fence),
            });
        match done {
            _ if self.shared.draining() => self.drop_job(progress),
            Ok(()) => {
                progress.completed = order.fence;
                self.complete(progress, status::DMA_DONE, Retiring::Job);
            }
            Err(error) => {
                log::debug!("DMA command: {error}");
                progress.errors = progress.errors.wrapping_add(1);
                self.complete(progress, status::DMA_ERROR, Retiring::Job);
            }
        }
    }

    fn drop_job(&self, progress: &mut Progress) {
        finish(progress, Retiring::Job);
        self.shared.publish(progress);
    }

    /// Publishes the end of a piece of work with bits of STATUS that it sets,
    /// and then raises what is enabled of them.
    fn complete(&self, progress: &mut Progress, bits: u32, retiring: Retiring) {
        progress.flipped ^= bits & !self.shared.still_set(progress);
        progress.owed = bits;
        progress.retiring = retiring;
        self.shared.publish(progress);
        self.retire(progress);
    }

    /// Raises what was completed: after it is seen, before it is over.
    fn retire(&self, progress: &mut Progress) {
        let raised = self.shared.enabled(progress.owed);
        let count = u64::from(raised.count_ones());
        progress.interrupts = progress.interrupts.wrapping_add(count);
        self.shared.raise_uncounted(raised);
        self.shared.update_level();
        finish(progress, progress.retiring);
        self.shared.publish(progress);
    }

    /// Moves memory in pieces, so that a drain need not wait for all of it.
    fn transfer(
        &self,
        progress: &mut Progress,
        command: Command,
        destination: u64,
        length: u32,
    ) -> Result<(), DmaError> {
        let is_kept = self.shared.memory().is_some();
        while progress.moved < length && !self.shared.draining() {
            let most = if is_kept { CHUNK } else { STRIDE };
            let size = most.min(length - progress.moved);
            // An address that wraps is not mapped.
            let at = |start: u64| start.saturating_add(progress.moved.into());
            let to = at(destination);
            match command {
                Command::Fill { pattern } => self.dma.fill(to, pattern, size.into())?,
                Command::Copy { source } if !is_kept => {
                    self.dma.copy(at(source), to, size.into())?;
                }
                Command::Copy { source } => self.copy_kept(progress, at(source), to, size)?,
            }
            progress.held = 0;
            progress.moved += size;
            progress.bytes = progress.bytes.wrapping_add(size.into());
            self.shared.publish(progress);
        }
        Ok(())
    }

    /// Copies a chunk, which may lie over its own source: what was read is held
    /// until it is written.
    fn copy_kept(
        &self,
        progress: &mut Progress,
        source: u64,
        destination: u64,
        size: u32,
    ) -> Result<(), DmaError> {
        let mut chunk = [0; CHUNK as usize];
        let chunk = &mut chunk[..size as usize];
        let Some(memory) = self.shared.memory() else {
            return Ok(());
        };
        if progress.held == size {
            memory.held(chunk);
        } else {
            self.dma.read(source, chunk)?;
            memory.hold(chunk);
            progress.held = size;
            self.shared.publish(progress);
        }
        self.dma.write(destination, chunk)
    }

    /// Works on the ring up to its tail. The first failure ends it: the rest
    /// is skipped, so that a driver sees an error and not half a stream.
    fn ring(&self, progress: &mut Progress, ring: RingView) {
        if ring.kick == progress.kick || ring.kick.wrapping_sub(progress.kick) > u32::MAX / 2 {
            // As of a command.
            return;
        }
        if !progress.in_ring {
            (progress.in_ring, progress.moved, progress.held) = (true, 0, 0);
        }
        let count = ring.tail.wrapping_sub(progress.head);
        let valid = ring.size.is_power_of_two() && ring.size <= MAX_ENTRIES && count <= ring.size;
        let done = valid && (0..count).all(|_| self.entry(progress, ring).is_some());
        progress.kick = ring.kick;
        if done || self.shared.draining() {
            progress.in_ring = false;
            return self.shared.publish(progress);
        }
        progress.head = ring.tail;
        progress.errors = progress.errors.wrapping_add(1);
        self.complete(progress, status::RING_ERROR, Retiring::Run);
    }

    /// Carries out the entry at the head; `None` if it failed.
    fn entry(&self, progress: &mut Progress, ring: RingView) -> Option<()> {
        let place = progress.head & (ring.size - 1);
        let address = ring.base.checked_add(u64::from(place) * ENTRY as u64)?;
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
            let moved = self.transfer(progress, command, entry.destination, entry.length);
            moved.ok()?;
        }
        if self.shared.draining() {
            return None;
        }
        progress.ring_fence = entry.fence;
        let signals = entry.flags & ENTRY_SIGNALS != 0;
        let bits = if signals { status::RING_DONE } else { 0 };
        self.complete(progress, bits, Retiring::Entry);
        Some(())
    }
}

/// A piece of work is over.
fn finish(progress: &mut Progress, what: Retiring) {
    match what {
        Retiring::Job => progress.finished = progress.finished.wrapping_add(1),
        Retiring::Entry => progress.head = progress.head.wrapping_add(1),
        Retiring::Run => progress.in_ring = false,
        Retiring::Nothing => {}
    }
    (progress.moved, progress.held) = (0, 0);
    (progress.owed, progress.retiring) = (0, Retiring::Nothing);
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
