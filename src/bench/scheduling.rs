//! How the kernel schedules the measuring thread.
#![allow(unsafe_code, reason = "rustix has no wrapper for these system calls")]

use std::io;

/// The least real-time priority: above all that is not real-time.
const PRIORITY: i32 = 1;

/// The calling thread, and what it starts, runs under `SCHED_FIFO` until this
/// is dropped: nothing ordinary takes its CPU.
#[derive(Debug)]
pub(super) struct RealTime(());

impl RealTime {
    /// Asks the kernel for it.
    ///
    /// # Errors
    ///
    /// If the kernel refuses: it wants `CAP_SYS_NICE` or `RLIMIT_RTPRIO`.
    pub(super) fn begin() -> io::Result<Self> {
        set(libc::SCHED_FIFO, PRIORITY)?;
        Ok(RealTime(()))
    }
}

impl Drop for RealTime {
    fn drop(&mut self) {
        // To go back is allowed to everybody.
        let _ = set(libc::SCHED_OTHER, 0);
    }
}

fn set(policy: i32, priority: i32) -> io::Result<()> {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: the structure lives until the call returns, and the kernel only
    // reads it. 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
