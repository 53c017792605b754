//! Synchronous accesses: one slot for each requester, in which it asks and is
//! answered (docs/shared-mmio.md, A synchronous access).

use std::mem;

use super::access::{Access, Operation, low_bytes};
use super::layout::Slot;
use super::memory::Memory;
use super::sleep;
use super::sync::{Arc, Ordering};
use super::wake::Wake;

/// What the server knows of one slot, out of the client's reach.
#[derive(Debug)]
pub(super) struct Served {
    /// The sequence of the last request that was taken.
    pub(super) taken: u32,
    wake: Wake,
}

/// The bits of a request or an answer that count its slot's accesses.
#[inline]
fn sequence(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

impl Served {
    pub(super) fn new(wake: Wake) -> Served {
        Served { taken: 0, wake }
    }

    /// Whether a request is in the slot that was not taken.
    #[inline]
    pub(super) fn has_work(&self, slot: &Slot) -> bool {
        sequence(slot.request.load(Ordering::Acquire)) != self.taken
    }

    /// Takes a new request out of the slot, if there is one: its first word.
    /// It is taken once, whatever becomes of it.
    #[inline]
    pub(super) fn take(&mut self, slot: &Slot) -> Option<u64> {
        let request = slot.request.load(Ordering::Acquire);
        if sequence(request) == self.taken {
            return None;
        }
        self.taken = sequence(request);
        Some(request)
    }

    /// The access that a request asks for, `None` if it is nonsense.
    #[inline]
    pub(super) fn access(request: u64, slot: &Slot) -> Option<Access> {
        let offset = slot.offset.load(Ordering::Relaxed);
        let value = slot.value.load(Ordering::Relaxed);
        Access::from_request(request, offset, value)
    }

    /// Answers the request that was taken last.
    #[inline]
    pub(super) fn answer(&self, slot: &Slot, outcome: Result<u64, u32>) {
        let (value, errno) = match outcome {
            Ok(value) => (value, 0),
            Err(errno) => (0, errno),
        };
        slot.result.store(value, Ordering::Relaxed);
        let answer = u64::from(self.taken) | u64::from(errno) << 32;
        slot.answer.store(answer, Ordering::Release);
        if sleep::is_asleep(&slot.client_sleeps) {
            self.wake.signal();
        }
    }
}

/// The client's half of one slot: one access at a time.
#[derive(Debug)]
pub struct Requester {
    memory: Arc<Memory>,
    server: Arc<Wake>,
    pub(super) wake: Wake,
    index: u16,
    pub(super) sequence: u32,
    /// The size of the access that has no answer yet; 0: there is none.
    waits_for: u8,
}

impl Requester {
    pub(super) fn new(memory: Arc<Memory>, server: Arc<Wake>, wake: Wake, index: u16) -> Requester {
        Requester {
            memory,
            server,
            wake,
            index,
            sequence: 0,
            waits_for: 0,
        }
    }

    /// Asks for `access`, and wakes the server if it sleeps.
    ///
    /// One that has no answer yet is given up; whether it was carried out, or
    /// will be, nobody knows. A client that does not wait any longer therefore
    /// closes the socket.
    #[inline]
    pub fn begin(&mut self, access: &Access) {
        self.sequence = self.sequence.wrapping_add(1);
        self.waits_for = access.size();
        let slot = self.slot();
        slot.offset.store(access.offset(), Ordering::Relaxed);
        if let Operation::Write(value) = access.operation() {
            slot.value.store(value, Ordering::Relaxed);
        }
        let request = access.request(self.sequence);
        slot.request.store(request, Ordering::Release);
        if sleep::is_asleep_and_mine_to_wake(&self.memory.control().server_sleeps) {
            self.server.signal();
        }
    }

    /// The answer to the access that was begun last, once: the value that was
    /// read, 0 after a write, or the server's errno. `None`: not yet.
    #[inline]
    pub fn answer(&mut self) -> Option<Result<u64, u32>> {
        let slot = self.slot();
        let answer = slot.answer.load(Ordering::Acquire);
        if self.waits_for == 0 || sequence(answer) != self.sequence {
            return None;
        }
        let size = mem::take(&mut self.waits_for);
        match u32::try_from(answer >> 32) {
            Ok(0) => Some(Ok(
                self.slot().result.load(Ordering::Relaxed) & low_bytes(size)
            )),
            errno => Some(Err(errno.unwrap_or(u32::MAX))),
        }
    }

    /// Sleeps by `wait`, which returns when [`wake_fd`](Self::wake_fd) is
    /// readable, or something else is to do, or its time is over. `None`, and
    /// `wait` is not called: the answer is there.
    pub fn sleep<T>(&self, wait: impl FnOnce() -> T) -> Option<T> {
        let slot = self.slot();
        let is_answered = || sequence(slot.answer.load(Ordering::Acquire)) == self.sequence;
        if !sleep::falls_asleep(&slot.client_sleeps, is_answered) {
            return None;
        }
        let woken_by = wait();
        sleep::wakes_up(&slot.client_sleeps);
        // It would be readable for ever.
        self.wake.drain();
        Some(woken_by)
    }

    #[inline]
    fn slot(&self) -> &Slot {
        &self.memory.slots()[usize::from(self.index)]
    }
}
