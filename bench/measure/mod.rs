//! What one access costs, as counts that come out the same on every machine:
//! system calls, context switches, heap allocations, instructions. And what the program as a
//! whole costs: start, memory, size.
//!
//! `bench/budget.rs` prints them all beside their goals, `tests/counts.rs`
//! asserts the cheap ones. Both include this and the rig, for its processes
//! and its policy for what is missing.
//!
//! A count per access is the difference between a run with few and a run with
//! many accesses, so that what is done once cancels.
#![allow(
    dead_code,
    reason = "the test and the bench each use their own part of this"
)]

pub(crate) mod allocations;
pub(crate) mod client;
pub(crate) mod instructions;
pub(crate) mod served;
pub(crate) mod switches;
pub(crate) mod system_calls;

/// The accesses of the short run and of the long one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Runs {
    pub(crate) short: u32,
    pub(crate) long: u32,
}

impl Runs {
    /// What each access of the long run added.
    pub(crate) fn per_access(self, short: u64, long: u64) -> f64 {
        let (fewer, more) = (exact(short), exact(long));
        (more - fewer) / f64::from(self.long - self.short)
    }
}

/// A count as a float.
fn exact(count: u64) -> f64 {
    // Two halves, each of which a float holds: no count here is near 2^52.
    let low = u32::try_from(count & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    let high = u32::try_from(count >> 32).unwrap_or(u32::MAX);
    f64::from(high) * 2f64.powi(32) + f64::from(low)
}
