//! Posted writes: a ring with one producer, the client, and one consumer, the
//! server (docs/shared-mmio.md, The ring).

use thiserror::Error;

use super::access::{Access, Operation};
use super::layout::Entry;
use super::memory::Memory;
use super::serving::Handler;
use super::sleep;
use super::sync::{Arc, Ordering};
use super::wake::Wake;

/// The client did what ends the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// More is in the ring than fits.
    #[error("the ring's tail {tail} is more than {ring} entries after its head {head}")]
    Overrun {
        /// What the client says it put in.
        tail: u32,
        /// What the server took out.
        head: u32,
        /// The ring's entries.
        ring: u32,
    },
}

impl Fault {
    /// What a command on the socket would be answered with.
    pub fn errno(&self) -> i32 {
        match self {
            Fault::Overrun { .. } => libc::EPROTO,
        }
    }
}

/// The server's half.
#[derive(Debug, Default)]
pub(super) struct Taker {
    /// How many entries were ever taken out: the truth, of which the shared
    /// head is a copy.
    pub(super) head: u32,
}

impl Taker {
    /// Whether the ring holds anything, or the client says so.
    #[inline]
    pub(super) fn has_work(&self, memory: &Memory) -> bool {
        memory.control().tail.load(Ordering::Acquire) != self.head
    }

    /// Carries out what is in the ring now, at most all its entries; how many.
    #[inline]
    pub(super) fn take(
        &mut self,
        memory: &Memory,
        handler: &mut impl Handler,
    ) -> Result<u32, Fault> {
        let tail = memory.control().tail.load(Ordering::Acquire);
        let count = tail.wrapping_sub(self.head);
        if count == 0 {
            return Ok(0);
        }
        self.take_until(tail, count, memory, handler)
    }

    fn take_until(
        &mut self,
        tail: u32,
        count: u32,
        memory: &Memory,
        handler: &mut impl Handler,
    ) -> Result<u32, Fault> {
        let ring = memory.ring();
        if count as usize > ring.len() {
            return Err(Fault::Overrun {
                tail,
                head: self.head,
                ring: u32::try_from(ring.len()).unwrap_or(u32::MAX),
            });
        }
        while self.head != tail {
            let entry = at(ring, self.head);
            let access = Access::from_entry(
                entry.what.load(Ordering::Relaxed),
                entry.offset.load(Ordering::Relaxed),
                entry.value.load(Ordering::Relaxed),
            );
            self.head = self.head.wrapping_add(1);
            // Copied: the client may use the entry again.
            memory.control().head.store(self.head, Ordering::Release);
            if let Some(access) = access {
                // Nobody waits for an answer.
                let _ = super::serving::carry_out(&access, handler);
            }
        }
        Ok(count)
    }
}

/// The client's half of the ring. There is one; who posts from several threads
/// keeps it behind a lock, and the order of the locks is the order of the
/// writes.
#[derive(Debug)]
pub struct Poster {
    memory: Arc<Memory>,
    server: Arc<Wake>,
    pub(super) tail: u32,
    /// The shared head when it was last needed; the ring is at least as empty
    /// as it says.
    pub(super) head: u32,
}

impl Poster {
    pub(super) fn new(memory: Arc<Memory>, server: Arc<Wake>) -> Poster {
        Poster {
            memory,
            server,
            tail: 0,
            head: 0,
        }
    }

    /// Posts a write: it is carried out after all that were posted before, and
    /// before whatever a requester asks for after this returned. `false`: the
    /// ring is full, or `access` is a read; then it goes through a requester,
    /// which pushes all earlier ones.
    #[inline]
    pub fn post(&mut self, access: &Access) -> bool {
        let Operation::Write(value) = access.operation() else {
            return false;
        };
        if self.is_full() {
            return false;
        }
        let entry = at(self.memory.ring(), self.tail);
        entry.offset.store(access.offset(), Ordering::Relaxed);
        entry.value.store(value, Ordering::Relaxed);
        entry.what.store(access.what(), Ordering::Relaxed);
        self.tail = self.tail.wrapping_add(1);
        let control = self.memory.control();
        control.tail.store(self.tail, Ordering::Release);
        if sleep::is_asleep_and_mine_to_wake(&control.server_sleeps) {
            self.server.signal();
        }
        true
    }

    /// A server that lies about its head has a full ring: nothing is lost.
    #[inline]
    fn is_full(&mut self) -> bool {
        let ring = self.memory.ring().len();
        if (self.tail.wrapping_sub(self.head) as usize) < ring {
            return false;
        }
        self.head = self.memory.control().head.load(Ordering::Acquire);
        self.tail.wrapping_sub(self.head) as usize >= ring
    }
}

/// The entry that the counter `index` means; `ring` has a power of two of
/// them, and at least one.
#[inline]
fn at(ring: &[Entry], index: u32) -> &Entry {
    &ring[index as usize & (ring.len() - 1)]
}
