//! What the registers and the engine's thread share.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::MAX_JOBS;
use super::kept::{EngineMemory, Progress};
use crate::device::{Irq, StateError, StateReader, StateWriter};

/// How many commands one access may give at most: the successor, for which the
/// access has not happened yet, finds as many finished that it knows nothing of.
const MAX_AHEAD: u32 = 1 << 16;

/// What the engine and the registers share.
#[derive(Debug)]
pub(in crate::devices) struct Shared {
    irq: Irq,
    // The registers' side writes these.
    enabled: AtomicU32,
    /// Bits of STATUS that were set by a register.
    set: AtomicU32,
    /// Those that the thread sets: a bit is set where this differs from what
    /// the thread has.
    flipped: AtomicU32,
    /// The serial number of the command that was accepted last.
    pub(super) submitted: AtomicU32,
    refused: AtomicU32,
    raised: AtomicU64,
    epoch: AtomicU32,
    /// The command and the kick that came last before this epoch.
    before: (AtomicU32, AtomicU32),
    ring: Ring,
    /// What waits is to be dropped, not done.
    pub(super) draining: AtomicBool,
    /// The thread writes these.
    shown: Shown,
    /// All that the thread got done; a reset takes it when the thread is idle.
    progress: Mutex<Progress>,
    memory: OnceLock<EngineMemory>,
}

/// The ring's registers as they were when its tail was written last.
#[derive(Debug, Default)]
struct Ring {
    base: AtomicU64,
    size: AtomicU32,
    tail: AtomicU32,
    /// How often the tail was written.
    kicks: AtomicU32,
    /// The command that was accepted last before the kick that the engine has
    /// not seen.
    after: AtomicU32,
    /// The engine has been told and has not looked yet.
    told: AtomicBool,
}

/// The ring as the thread works on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct RingView {
    pub(super) base: u64,
    pub(super) size: u32,
    pub(super) tail: u32,
    pub(super) kick: u32,
}

/// What registers show of the thread's [`Progress`].
#[derive(Debug, Default)]
struct Shown {
    flipped: AtomicU32,
    finished: AtomicU32,
    completed: AtomicU32,
    head: AtomicU32,
    ring_fence: AtomicU32,
    errors: AtomicU32,
    bytes: AtomicU64,
    interrupts: AtomicU64,
}

impl Shared {
    pub(in crate::devices) fn new(irq: Irq) -> Self {
        Shared {
            irq,
            enabled: AtomicU32::new(0),
            set: AtomicU32::new(0),
            flipped: AtomicU32::new(0),
            submitted: AtomicU32::new(0),
            refused: AtomicU32::new(0),
            raised: AtomicU64::new(0),
            epoch: AtomicU32::new(0),
            before: (AtomicU32::new(0), AtomicU32::new(0)),
            ring: Ring::default(),
            draining: AtomicBool::new(false),
            shown: Shown::default(),
            progress: Mutex::default(),
            memory: OnceLock::new(),
        }
    }

    // What registers show.

    #[inline]
    pub(in crate::devices) fn status(&self) -> u32 {
        let flipped = self.shown.flipped.load(Ordering::SeqCst);
        (flipped ^ self.flipped.load(Ordering::SeqCst)) | self.set.load(Ordering::SeqCst)
    }

    pub(in crate::devices) fn completed(&self) -> u32 {
        self.shown.completed.load(Ordering::Acquire)
    }

    /// How many commands were accepted and are not finished. Of a successor's
    /// some may be finished that it is still to accept.
    pub(in crate::devices) fn pending(&self) -> u32 {
        let finished = self.shown.finished.load(Ordering::Acquire);
        let pending = self
            .submitted
            .load(Ordering::Acquire)
            .wrapping_sub(finished);
        if is_ahead(pending) { 0 } else { pending }
    }

    pub(in crate::devices) fn ring_head(&self) -> u32 {
        self.shown.head.load(Ordering::Acquire)
    }

    pub(in crate::devices) fn ring_fence(&self) -> u32 {
        self.shown.ring_fence.load(Ordering::Acquire)
    }

    pub(in crate::devices) fn errors(&self) -> u32 {
        let refused = self.refused.load(Ordering::Acquire);
        refused.wrapping_add(self.shown.errors.load(Ordering::Acquire))
    }

    pub(in crate::devices) fn bytes(&self) -> u64 {
        self.shown.bytes.load(Ordering::Acquire)
    }

    pub(in crate::devices) fn interrupts(&self) -> u64 {
        let raised = self.raised.load(Ordering::Acquire);
        raised.wrapping_add(self.shown.interrupts.load(Ordering::Acquire))
    }

    // What registers do.

    /// Sets bits of STATUS and raises what is enabled of them.
    pub(in crate::devices) fn set_status(&self, bits: u32) {
        self.set.fetch_or(bits, Ordering::SeqCst);
        self.raise_all(bits & self.enabled.load(Ordering::SeqCst));
        self.update_level();
    }

    /// Clears bits of STATUS.
    pub(in crate::devices) fn clear_status(&self, bits: u32) {
        self.set.fetch_and(!bits, Ordering::SeqCst);
        let theirs = self.shown.flipped.load(Ordering::SeqCst);
        let set = theirs ^ self.flipped.load(Ordering::SeqCst);
        self.flipped.fetch_xor(set & bits, Ordering::SeqCst);
        self.update_level();
    }

    /// Sets `IRQ_ENABLE` and raises what is newly enabled and already set.
    pub(in crate::devices) fn enable(&self, bits: u32) {
        let before = self.enabled.swap(bits, Ordering::SeqCst);
        self.raise_all(bits & !before & self.status());
        self.update_level();
    }

    /// Raises one vector.
    pub(in crate::devices) fn raise(&self, vector: u16) {
        self.raised.fetch_add(1, Ordering::AcqRel);
        self.irq.raise(vector);
    }

    fn raise_all(&self, bits: u32) {
        vectors(bits).for_each(|vector| self.raise(vector));
    }

    /// A command or a kick could not be handed over.
    pub(super) fn refuse(&self, bits: u32) {
        self.refused.fetch_add(1, Ordering::AcqRel);
        self.set_status(bits);
    }

    /// Notes the ring for the engine; whether that is still to look at an
    /// earlier kick.
    pub(super) fn kick(&self, base: u64, size: u32, tail: u32) -> bool {
        let ring = &self.ring;
        ring.base.store(base, Ordering::Release);
        ring.size.store(size, Ordering::Release);
        ring.tail.store(tail, Ordering::Release);
        let kicks = ring.kicks.load(Ordering::Relaxed).wrapping_add(1);
        ring.kicks.store(kicks, Ordering::Release);
        let told = ring.told.swap(true, Ordering::AcqRel);
        if !told {
            let submitted = self.submitted.load(Ordering::Relaxed);
            ring.after.store(submitted, Ordering::Release);
        }
        told
    }

    /// Has INTx follow STATUS. Engine and registers may both be here: whoever
    /// is last finds the level as it is.
    pub(super) fn update_level(&self) {
        let level = || {
            let enabled = self.enabled.load(Ordering::SeqCst);
            self.status() & enabled != 0
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
    pub(in crate::devices) fn reset(&self) {
        for register in [&self.enabled, &self.set, &self.flipped, &self.refused] {
            register.store(0, Ordering::SeqCst);
        }
        self.raised.store(0, Ordering::Release);
        let epoch = self.epoch.load(Ordering::Relaxed).wrapping_add(1);
        self.epoch.store(epoch, Ordering::Relaxed);
        let submitted = self.submitted.load(Ordering::Relaxed);
        self.before.0.store(submitted, Ordering::Relaxed);
        let kicks = self.ring.kicks.load(Ordering::Relaxed);
        self.before.1.store(kicks, Ordering::Relaxed);
        // Not committed: it counts once the access is, which has the epoch.
        let progress = self.as_new();
        *self.progress() = progress;
        self.show(&progress);
        self.update_level();
    }

    // What the thread does.

    pub(super) fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// The ring as it is now: kicks after this are told again.
    pub(super) fn look_at_ring(&self) -> RingView {
        let ring = &self.ring;
        // Whoever tells after this tells anew.
        ring.told.swap(false, Ordering::AcqRel);
        let kick = ring.kicks.load(Ordering::Acquire);
        RingView {
            kick,
            base: ring.base.load(Ordering::Acquire),
            size: ring.size.load(Ordering::Acquire),
            tail: ring.tail.load(Ordering::Acquire),
        }
    }

    /// The bits of STATUS that the thread has set and nobody cleared.
    pub(super) fn still_set(&self, progress: &Progress) -> u32 {
        progress.flipped ^ self.flipped.load(Ordering::SeqCst)
    }

    pub(super) fn enabled(&self, bits: u32) -> u32 {
        bits & self.enabled.load(Ordering::SeqCst)
    }

    /// Raises what the thread counts.
    pub(super) fn raise_uncounted(&self, bits: u32) {
        vectors(bits).for_each(|vector| self.irq.raise(vector));
    }

    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        // It is whole between any two statements of the thread.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this is what the engine got done, whoever asks.
    pub(super) fn publish(&self, progress: &Progress) {
        // A guest that has seen it finds it in a successor, too.
        if let Some(memory) = self.memory() {
            memory.commit(progress);
        }
        self.show(progress);
    }

    /// In an order in which who sees the end sees all before it.
    fn show(&self, progress: &Progress) {
        let shown = &self.shown;
        shown.bytes.store(progress.bytes, Ordering::Release);
        shown.completed.store(progress.completed, Ordering::Release);
        shown
            .ring_fence
            .store(progress.ring_fence, Ordering::Release);
        shown.errors.store(progress.errors, Ordering::Release);
        shown.flipped.store(progress.flipped, Ordering::SeqCst);
        shown
            .interrupts
            .store(progress.interrupts, Ordering::Release);
        shown.head.store(progress.head, Ordering::Release);
        shown.finished.store(progress.finished, Ordering::Release);
    }

    // What a successor needs.

    pub(super) fn memory(&self) -> Option<&EngineMemory> {
        self.memory.get()
    }

    pub(super) fn keep(&self, memory: EngineMemory) {
        // Only the first counts; there is one.
        let _ = self.memory.set(memory);
    }

    /// What an engine that has not begun any work since the last reset got done.
    fn as_new(&self) -> Progress {
        Progress {
            epoch: self.epoch.load(Ordering::Relaxed),
            finished: self.before.0.load(Ordering::Relaxed),
            kick: self.before.1.load(Ordering::Relaxed),
            ..Progress::default()
        }
    }

    fn registers(&self) -> [&AtomicU32; 11] {
        let ring = &self.ring;
        [
            &self.enabled,
            &self.set,
            &self.flipped,
            &self.submitted,
            &self.refused,
            &self.epoch,
            &self.before.0,
            &self.before.1,
            &ring.size,
            &ring.tail,
            &ring.kicks,
        ]
    }

    pub(super) fn save(&self, state: &mut StateWriter<'_>) {
        for register in self.registers() {
            state.put(register.load(Ordering::Relaxed));
        }
        state.put(self.ring.after.load(Ordering::Relaxed));
        state.put(self.raised.load(Ordering::Relaxed));
        state.put(self.ring.base.load(Ordering::Relaxed));
    }

    pub(super) fn restore(&self, state: &mut StateReader<'_>) -> Result<(), StateError> {
        for register in self.registers() {
            let value = state.get_u32("a register of the engine")?;
            register.store(value, Ordering::SeqCst);
        }
        let after = state.get_u32("the place of a kick")?;
        self.ring.after.store(after, Ordering::Release);
        self.raised.store(state.get()?, Ordering::Release);
        self.ring.base.store(state.get()?, Ordering::Release);
        let kept = self.memory().map(EngineMemory::progress).transpose()?;
        let progress = match kept.flatten() {
            Some(progress) if progress.epoch == self.as_new().epoch => progress,
            // There was a reset, and no work was begun since.
            _ => self.as_new(),
        };
        let left = self.submitted.load(Ordering::Relaxed);
        let left = left.wrapping_sub(progress.finished);
        if left > MAX_JOBS && left.wrapping_neg() > MAX_AHEAD {
            return Err(StateError::Value {
                name: "the number of commands that wait",
                value: left.into(),
            });
        }
        *self.progress() = progress;
        self.show(&progress);
        Ok(())
    }

    /// The serial numbers of the commands that wait, and before which of them
    /// the ring is to be worked on, be it the one behind the last.
    pub(super) fn unfinished(&self) -> (Vec<u32>, Option<u32>) {
        let progress = *self.progress();
        let next = progress.finished.wrapping_add(1);
        let serials = (0..self.pending()).map(|number| next.wrapping_add(number));
        let kicks = self.ring.kicks.load(Ordering::Relaxed);
        let kicked = kicks != progress.kick && !is_ahead(kicks.wrapping_sub(progress.kick));
        let after = self.ring.after.load(Ordering::Relaxed).wrapping_add(1);
        let is_first = progress.in_ring || is_ahead(after.wrapping_sub(next));
        let at = if is_first { next } else { after };
        (serials.collect(), kicked.then_some(at))
    }

    /// What may not have been raised.
    pub(super) fn raise_again(&self) {
        self.raise_uncounted(self.enabled(self.status()));
        self.update_level();
    }
}

/// Whether a difference of serial numbers is a negative one.
fn is_ahead(difference: u32) -> bool {
    difference > u32::MAX / 2
}

fn vectors(bits: u32) -> impl Iterator<Item = u16> {
    (0..32u16).filter(move |vector| bits & (1 << vector) != 0)
}
