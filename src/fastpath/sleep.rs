//! How a side falls asleep without missing what is put in at that moment
//! (docs/shared-mmio.md, Sleeping).
//!
//! Who sleeps sets its flag, then looks for work. Who makes work publishes it,
//! then looks at the flag. A full fence between the two steps of each: one of
//! them sees the other.
//!
//! A flag is only ever exchanged: who takes down the server's is one of
//! several, and each change follows the one that it saw.

use super::sync::{AtomicU32, Ordering, fence};

/// Sets the flag of a side that is about to sleep. `false`: there is
/// something to do, and the flag is down again.
pub(super) fn falls_asleep(flag: &AtomicU32, has_work: impl FnOnce() -> bool) -> bool {
    flag.swap(1, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    if has_work() {
        wakes_up(flag);
        return false;
    }
    true
}

/// Takes the flag down again.
pub(super) fn wakes_up(flag: &AtomicU32) {
    flag.swap(0, Ordering::Relaxed);
}

/// Whether a side that sleeps has to be woken, asked by the only one who wakes
/// it, after it published what the other waits for.
#[inline]
pub(super) fn is_asleep(flag: &AtomicU32) -> bool {
    fence(Ordering::SeqCst);
    flag.load(Ordering::Relaxed) != 0
}

/// The same, asked by one of several: only one of them is told to wake it.
#[inline]
pub(super) fn is_asleep_and_mine_to_wake(flag: &AtomicU32) -> bool {
    // Who swaps needs no other fence to see its own request before the flag,
    // but the load before spares the line when nobody sleeps.
    is_asleep(flag) && flag.swap(0, Ordering::Relaxed) != 0
}
