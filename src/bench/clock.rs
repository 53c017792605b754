//! What time is read from.
#![allow(unsafe_code, reason = "reading the time-stamp counter is an intrinsic")]

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::statistics::median;

/// How long the counter is compared with the kernel's clock.
const CALIBRATION: Duration = Duration::from_millis(20);

/// How often the clock is read to learn what that costs.
const READS: usize = 1001;

/// A clock that counts in ticks of its own: the processor's time-stamp
/// counter where it runs evenly, `CLOCK_MONOTONIC` elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    counter: bool,
    nanoseconds: f64,
    overhead: f64,
}

impl Clock {
    /// Chooses the clock and measures it, which takes about 20 ms.
    pub fn new() -> Self {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Clock::measured(cfg!(target_arch = "x86_64") && counter_is_even(&info))
    }

    fn measured(counter: bool) -> Self {
        let mut clock = Clock {
            counter,
            nanoseconds: 1.0,
            overhead: 0.0,
        };
        if clock.counter {
            clock.nanoseconds = calibrate();
        }
        let mut costs: Vec<f64> = (0..READS)
            .map(|_| {
                let before = clock.now();
                clock.nanoseconds(clock.now().wrapping_sub(before))
            })
            .collect();
        clock.overhead = median(&mut costs);
        clock
    }

    /// The time, in ticks.
    #[inline]
    pub fn now(&self) -> u64 {
        if self.counter {
            return counter();
        }
        // The same in all processes, as the counter is. Since the machine was
        // started; 584 years of nanoseconds fit.
        let time = clock_gettime(ClockId::Monotonic);
        time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
    }

    /// A number of ticks in nanoseconds.
    pub fn nanoseconds(&self, ticks: u64) -> f64 {
        // Below 2^52 ticks, which are weeks, nothing is lost.
        #[allow(clippy::cast_precision_loss)]
        let ticks = ticks as f64;
        ticks * self.nanoseconds
    }

    /// A time in ticks.
    pub fn ticks(&self, time: Duration) -> u64 {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        // The nearest one: times here are far below 2^52 ns.
        let ticks = (time.as_nanos() as f64 / self.nanoseconds).round() as u64;
        ticks
    }

    /// What one tick is, in nanoseconds.
    pub fn tick(&self) -> f64 {
        self.nanoseconds
    }

    /// What reading the clock adds to a sample, in nanoseconds: the median
    /// distance of two readings. It is in every sample, and not taken off.
    pub fn overhead(&self) -> f64 {
        self.overhead
    }

    /// Its name, for people.
    pub fn name(&self) -> &'static str {
        if self.counter {
            "rdtsc"
        } else {
            "CLOCK_MONOTONIC"
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// Nanoseconds for each tick of the counter.
fn calibrate() -> f64 {
    let (start, first) = (Instant::now(), counter());
    while start.elapsed() < CALIBRATION {
        std::hint::spin_loop();
    }
    let (elapsed, last) = (start.elapsed(), counter());
    #[allow(clippy::cast_precision_loss)]
    let ticks = last.wrapping_sub(first).max(1) as f64;
    elapsed.as_secs_f64() * 1e9 / ticks
}

/// Whether the kernel says, in `/proc/cpuinfo`, that the counter runs evenly,
/// on all CPUs and through their sleep.
fn counter_is_even(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    let has = |flag| flags.is_some_and(|flags| flags.split(' ').any(|has| has == flag));
    has("constant_tsc") && has("nonstop_tsc")
}

/// The time-stamp counter, after all that goes before it.
#[cfg(target_arch = "x86_64")]
#[inline]
fn counter() -> u64 {
    use std::arch::x86_64::{_mm_lfence, _rdtsc};
    // SAFETY: all x86_64 processors have both instructions. An operating
    // system that forbids RDTSC ends the process; Linux does on request only.
    unsafe {
        _mm_lfence();
        _rdtsc()
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn counter() -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes_at_the_kernels_pace(clock: &Clock) {
        let (start, first) = (Instant::now(), clock.now());
        while start.elapsed() < CALIBRATION {}
        let nanoseconds = clock.nanoseconds(clock.now() - first);
        // Whatever interrupts this can only make it longer.
        assert!(nanoseconds >= 0.95 * CALIBRATION.as_secs_f64() * 1e9);
    }

    #[test]
    fn time_passes_at_the_kernels_pace() {
        passes_at_the_kernels_pace(&Clock::new());
    }

    #[test]
    fn without_an_even_counter_the_kernels_clock_is_read() {
        let clock = Clock::measured(false);
        assert_eq!(clock.name(), "CLOCK_MONOTONIC");
        passes_at_the_kernels_pace(&clock);
    }

    #[test]
    fn only_a_counter_that_never_stops_is_even() {
        let info = |flags| format!("processor\t: 0\nflags\t\t: fpu tsc {flags} sse\n");
        assert!(counter_is_even(&info("constant_tsc nonstop_tsc")));
        assert!(!counter_is_even(&info("constant_tsc")));
        assert!(!counter_is_even(&info("nonstop_tsc_s3 constant_tsc")));
        assert!(!counter_is_even(""));
    }
}
