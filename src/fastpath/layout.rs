//! Where what is in the shared pages (docs/shared-mmio.md, Layout).

use std::sync::atomic::AtomicU8;

use super::sync::{AtomicU32, AtomicU64};

/// The version of shared MMIO that is spoken here.
pub const VERSION: u32 = 1;
/// The most requesters of one session.
pub const MAX_SLOTS: u16 = 64;
/// The entries of the ring that our server offers.
pub const RING: u32 = 256;
/// The most entries of a ring that a client maps: 2 MiB of them.
pub const MAX_RING: u32 = 1 << 16;

/// Where the slots begin, in bytes.
pub const SLOTS_AT: usize = 512;
/// From one slot to the next, in bytes.
pub const SLOT_SIZE: usize = 128;
/// From one entry of the ring to the next, in bytes.
pub const ENTRY_SIZE: usize = 32;
/// The memory's size is a multiple of this, in bytes.
const PAGE: usize = 4096;

/// How many slots and entries the shared pages have: checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    slots: u16,
    ring: u32,
}

impl Layout {
    /// `slots` requesters, 1 to [`MAX_SLOTS`], and a ring of `ring` entries, a
    /// power of two up to [`MAX_RING`]. `None` if they are not.
    pub fn new(slots: u16, ring: u32) -> Option<Layout> {
        let fits = (1..=MAX_SLOTS).contains(&slots) && ring.is_power_of_two() && ring <= MAX_RING;
        fits.then_some(Layout { slots, ring })
    }

    /// How many requesters there are.
    pub fn slots(self) -> u16 {
        self.slots
    }

    /// How many posted writes the ring holds.
    pub fn ring(self) -> u32 {
        self.ring
    }

    /// How many descriptors belong to it: the memory, the server's wake
    /// descriptor, and one for each slot.
    pub fn fds(self) -> usize {
        2 + usize::from(self.slots)
    }

    /// Where the ring begins, in bytes.
    pub fn ring_at(self) -> usize {
        SLOTS_AT + SLOT_SIZE * usize::from(self.slots)
    }

    /// The size of the shared memory, in bytes: whole pages.
    pub fn size(self) -> usize {
        (self.ring_at() + ENTRY_SIZE * self.ring as usize).next_multiple_of(PAGE)
    }
}

/// What the memory begins with. Each field has a pair of cache lines for
/// itself: a CPU fetches two at a time.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Control {
    /// Not 0: the server sleeps, or is about to. Both sides write it.
    pub(super) server_sleeps: AtomicU32,
    gap_4: Gap<124>,
    /// How many entries the client ever put into the ring.
    pub(super) tail: AtomicU32,
    gap_132: Gap<124>,
    /// How many entries the server ever took out of the ring.
    pub(super) head: AtomicU32,
    gap_260: Gap<252>,
}

/// One requester's synchronous access.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Slot {
    /// The client's: what it asks for, as [`Access`](super::Access) packs it.
    pub(super) request: AtomicU64,
    /// The client's: where in the region.
    pub(super) offset: AtomicU64,
    /// The client's: what is written.
    pub(super) value: AtomicU64,
    /// The client's: not 0 if it sleeps, or is about to.
    pub(super) client_sleeps: AtomicU32,
    gap_28: Gap<4>,
    /// The server's: bits 0 to 31 the sequence, 32 to 63 the errno or 0.
    pub(super) answer: AtomicU64,
    /// The server's: what was read.
    pub(super) result: AtomicU64,
    gap_48: Gap<80>,
}

/// A posted write in the ring; the client's.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Entry {
    /// Where in the region.
    pub(super) offset: AtomicU64,
    /// What is written.
    pub(super) value: AtomicU64,
    /// Region and size, as [`Access`](super::Access) packs them.
    pub(super) what: AtomicU64,
    gap_24: Gap<8>,
}

/// Bytes that nobody reads. A peer may write them all the same, so they are
/// no plain bytes.
#[derive(Debug)]
struct Gap<const N: usize>([AtomicU8; N]);

impl<const N: usize> Default for Gap<N> {
    fn default() -> Self {
        Gap(std::array::from_fn(|_| AtomicU8::new(0)))
    }
}
