//! How long to look for work before sleeping: as long as it recently paid off.

use std::time::{Duration, Instant};

/// The time, and a way to let others run: a test has its own.
pub trait Clock {
    /// Nanoseconds since some moment.
    fn now(&self) -> u64;
    /// Lets another thread have the CPU, if one waits for it.
    fn give_way(&self);
}

/// The kernel's clock.
#[derive(Clone, Copy, Debug)]
pub struct Monotonic(Instant);

/// Spins before a sleep.
#[derive(Debug)]
pub struct Spin<C = Monotonic> {
    clock: C,
    longest: u64,
    window: u64,
}

impl Spin {
    /// Sleeps at once, always.
    pub fn never() -> Spin {
        todo!()
    }
    /// Never sleeps.
    pub fn always() -> Spin {
        todo!()
    }
    /// Spins up to `longest` at a time while it pays off, and for at most
    /// `percent` of one CPU's time in the long run. On one CPU: never.
    pub fn adaptive(_longest: Duration, _percent: u8) -> Spin {
        todo!()
    }
}

impl<C: Clock> Spin<C> {
    /// Looks until `look` finds something, or it is time to sleep: `None`.
    #[inline]
    pub fn look<T>(&mut self, _look: impl FnMut() -> Option<T>) -> Option<T> {
        todo!()
    }
    /// Sleeps by `wait`, and learns from how long it took.
    pub fn sleep<T>(&mut self, _wait: impl FnOnce() -> T) -> T {
        todo!()
    }
}
