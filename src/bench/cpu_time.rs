//! What CPU time another process has used.
#![allow(unsafe_code, reason = "rustix has no clock of another process")]

use std::io;
use std::time::Duration;

/// The kernel's number of a process's CPU clock (`CPUCLOCK_SCHED` of
/// `linux/posix-timers.h`): to the nanosecond, also of what is running.
const SCHED: libc::clockid_t = 2;

/// The CPU time of all threads of a process so far, in user mode and in the
/// kernel.
///
/// # Errors
///
/// If there is no such process.
pub(super) fn cpu_time(process: u32) -> io::Result<Duration> {
    let process = libc::clockid_t::try_from(process).map_err(io::Error::other)?;
    let clock = !process << 3 | SCHED;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure lives until the call returns, which writes it.
    match unsafe { libc::clock_gettime(clock, &raw mut time) } {
        0 => Ok(Duration::new(
            time.tv_sec.unsigned_abs(),
            // Below 10^9.
            u32::try_from(time.tv_nsec).unwrap_or_default(),
        )),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, id};

    use super::*;

    #[test]
    fn cpu_time_grows_with_work_and_ends_with_the_process() {
        let before = cpu_time(id()).unwrap();
        let more = || cpu_time(id()).unwrap() > before + Duration::from_millis(1);
        while !more() {}
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert!(cpu_time(child.id()).is_err());
    }
}
