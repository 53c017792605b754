//! Until when a pool waits for what: one timer for all devices.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// At most one point in time for each device. While there is none, nothing
/// wakes.
#[derive(Debug)]
pub(super) struct Timers {
    fd: OwnedFd,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    by_time: BTreeSet<(Instant, usize)>,
    /// By the device's number.
    of: Vec<Option<Instant>>,
}

impl Timers {
    /// Timers for so many devices, none set.
    ///
    /// # Errors
    ///
    /// If there is no timer.
    pub(super) fn new(devices: usize) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let queue = Queue {
            by_time: BTreeSet::new(),
            of: vec![None; devices],
        };
        Ok(Timers {
            fd: timerfd_create(TimerfdClockId::Monotonic, flags)?,
            queue: Mutex::new(queue),
        })
    }

    /// Sets or ends a device's time.
    pub(super) fn set(&self, device: usize, time: Option<Instant>) {
        let mut queue = self.lock();
        let first = queue.first();
        if let Some(before) = std::mem::replace(&mut queue.of[device], time) {
            queue.by_time.remove(&(before, device));
        }
        queue.by_time.extend(time.map(|time| (time, device)));
        if queue.first() != first {
            self.wait_for(queue.first());
        }
    }

    /// The devices whose time has come, which ends it.
    pub(super) fn take(&self) -> Vec<usize> {
        let now = Instant::now();
        let mut queue = self.lock();
        let mut devices = Vec::new();
        while let Some((time, device)) = queue.by_time.first().copied()
            && time <= now
        {
            queue.by_time.pop_first();
            queue.of[device] = None;
            devices.push(device);
        }
        self.wait_for(queue.first());
        devices
    }

    fn wait_for(&self, time: Option<Instant>) {
        // A time of nothing would be no time.
        let left = time.map(|time| {
            let left = time.saturating_duration_since(Instant::now());
            left.max(Duration::from_nanos(1))
        });
        let zero = Timespec::default();
        // More than any time in use.
        let longest = Timespec {
            tv_sec: i64::from(u32::MAX),
            tv_nsec: 0,
        };
        let it_value = left.map_or(zero, |left| left.try_into().unwrap_or(longest));
        let once = Itimerspec {
            it_interval: zero,
            it_value,
        };
        // Only a descriptor that is none could fail.
        let _ = timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &once);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn first(&self) -> Option<Instant> {
        self.by_time.first().map(|(time, _)| *time)
    }
}

/// Readable whenever [`Timers::take`] has something.
impl AsFd for Timers {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn comes(timers: &Timers, wait: bool) -> bool {
        let mut fds = [PollFd::new(timers, PollFlags::IN)];
        let at_once = Timespec::default();
        poll(&mut fds, (!wait).then_some(&at_once)).unwrap() == 1
    }

    #[test]
    fn devices_come_when_their_time_has_and_once() {
        let timers = Timers::new(3).unwrap();
        assert!(!comes(&timers, false));
        let now = Instant::now();
        let later = now + Duration::from_secs(3600);
        timers.set(0, Some(later));
        timers.set(2, Some(now));
        timers.set(1, Some(now));
        assert!(comes(&timers, true));
        assert_eq!(timers.take(), [1, 2]);
        assert!(!comes(&timers, false));
        assert!(timers.take().is_empty());
        timers.set(0, Some(now));
        assert!(comes(&timers, true));
        assert_eq!(timers.take(), [0]);
    }

    #[test]
    fn a_time_that_was_ended_does_not_come() {
        let timers = Timers::new(1).unwrap();
        timers.set(0, Some(Instant::now()));
        timers.set(0, None);
        assert!(!comes(&timers, false));
        assert!(timers.take().is_empty());
    }
}
