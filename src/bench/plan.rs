//! How long, how often, and where.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

use super::Trouble;
use super::scheduling::RealTime;

/// How a measurement is carried out.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How often everything is set up anew and measured.
    pub runs: u32,
    /// How many slices a row gets in each run, interleaved with the others'.
    pub slices: u32,
    /// How long a slice should take.
    pub slice: Duration,
    /// Where threads run.
    pub pinning: Pinning,
    /// Whether they run under `SCHED_FIFO`, which the kernel must allow.
    pub fifo: bool,
    /// What ends it early.
    pub interrupt: Interrupt,
}

impl Plan {
    /// A few seconds for each rung.
    pub fn quick(pinning: Pinning) -> Self {
        Plan {
            runs: 5,
            slices: 6,
            slice: Duration::from_millis(4),
            pinning,
            fifo: false,
            interrupt: Interrupt::default(),
        }
    }

    /// A few minutes for all.
    pub fn thorough(pinning: Pinning) -> Self {
        Plan {
            runs: 11,
            slices: 8,
            slice: Duration::from_millis(20),
            pinning,
            fifo: false,
            interrupt: Interrupt::default(),
        }
    }

    /// Asks for `SCHED_FIFO`.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it to this process.
    pub fn with_fifo(mut self) -> Result<Self, Trouble> {
        let remedy = "SCHED_FIFO is not allowed here; run as root, or raise RLIMIT_RTPRIO";
        RealTime::begin().map_err(|error| Trouble::new(remedy, error))?;
        self.fifo = true;
        Ok(self)
    }

    /// Puts the calling thread where it is to measure, until the result is
    /// dropped. What it starts meanwhile inherits that.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn in_place(&self) -> Result<InPlace, Trouble> {
        let real_time = self.fifo.then(RealTime::begin).transpose();
        Ok(InPlace {
            _pinned: Pinned::to(self.pinning.client)?,
            _real_time: real_time.map_err(|error| Trouble::new("SCHED_FIFO", error))?,
        })
    }

    /// As data for the report.
    pub fn method(&self, quick: bool, clock: &super::Clock) -> Method {
        Method {
            quick,
            runs: self.runs,
            slices: self.slices,
            slice_ms: self.slice.as_secs_f64() * 1e3,
            clock: clock.name().to_owned(),
            clock_overhead_ns: clock.overhead(),
            client_cpu: self.pinning.client,
            other_cpu: self.pinning.other,
            fifo: self.fifo,
        }
    }
}

/// See [`Plan::in_place`].
#[derive(Debug)]
pub struct InPlace {
    _pinned: Pinned,
    _real_time: Option<RealTime>,
}

/// How a report was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Method {
    /// With `--quick`.
    pub quick: bool,
    /// Set-ups, each measured on its own.
    pub runs: u32,
    /// Interleaved slices of each row in each run.
    pub slices: u32,
    /// The goal time of a slice, in milliseconds.
    pub slice_ms: f64,
    /// What time was read from.
    pub clock: String,
    /// What a reading of the clock adds to a sample, in nanoseconds.
    pub clock_overhead_ns: f64,
    /// The CPU of the measuring thread, and of a server "on the same CPU".
    pub client_cpu: usize,
    /// The CPU of a server "on two CPUs"; without it these rows are missing.
    pub other_cpu: Option<usize>,
    /// Whether the measuring threads and servers ran under `SCHED_FIFO`.
    pub fifo: bool,
}

/// The CPUs of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pinning {
    /// Where the measuring thread runs.
    pub client: usize,
    /// Where the other side runs if it is not on the same CPU.
    pub other: Option<usize>,
}

impl Pinning {
    /// The last two CPUs that this process may use: the first ones have the
    /// most interrupts.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn choose() -> Result<Self, Trouble> {
        let allowed = allowed()?;
        let mut last = (0..CpuSet::MAX_CPU)
            .rev()
            .filter(|&cpu| allowed.is_set(cpu));
        let client = last
            .next()
            .ok_or_else(|| Trouble("this process may use no CPU".to_owned()))?;
        let other = last.next();
        Ok(Pinning { client, other })
    }

    /// The CPU of a server: one of its own if it is `apart`, which there may
    /// not be.
    pub fn server(&self, apart: bool) -> Option<usize> {
        if apart { self.other } else { Some(self.client) }
    }
}

/// The CPUs of the calling thread.
fn allowed() -> Result<CpuSet, Trouble> {
    sched_getaffinity(None).map_err(|errno| Trouble::new("cannot tell this process's CPUs", errno))
}

/// The CPUs of this process before any thread was pinned here.
fn at_first() -> Result<CpuSet, Trouble> {
    static FIRST: OnceLock<CpuSet> = OnceLock::new();
    if let Some(first) = FIRST.get() {
        return Ok(*first);
    }
    let now = allowed()?;
    Ok(*FIRST.get_or_init(|| now))
}

/// Keeps the calling thread on some CPUs until this is dropped. What it starts
/// meanwhile inherits that.
#[derive(Debug)]
pub struct Pinned(CpuSet);

impl Pinned {
    /// Pins the calling thread.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn to(cpu: usize) -> Result<Self, Trouble> {
        let before = allowed()?;
        if cpu >= CpuSet::MAX_CPU || !at_first()?.is_set(cpu) {
            return Err(Trouble(format!(
                "this process may not run on CPU {cpu}; choose another with --cpus"
            )));
        }
        let mut only = CpuSet::new();
        only.set(cpu);
        sched_setaffinity(None, &only)
            .map_err(|errno| Trouble::new(format!("cannot run on CPU {cpu}"), errno))?;
        Ok(Pinned(before))
    }

    /// Lets the calling thread run where this process could at first, for
    /// what it starts meanwhile.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn unpinned() -> Result<Self, Trouble> {
        let first = at_first()?;
        let before = allowed()?;
        sched_setaffinity(None, &first)
            .map_err(|errno| Trouble::new("cannot run on all CPUs", errno))?;
        Ok(Pinned(before))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // It was allowed before.
        let _ = sched_setaffinity(None, &self.0);
    }
}

/// Ends a measurement early: what was measured until then is kept.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// The flag that raises it, for a signal handler.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }

    /// Whether it was raised.
    pub fn raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
