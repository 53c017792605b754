//! Gets the vCPU's thread out of a guest that does not come back.
#![allow(unsafe_code, reason = "no crate has a safe tgkill")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, getpid};
use rustix::thread::gettid;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use crate::bench::{Interrupt, Trouble};

/// How often it looks. So often a CPU has a few microseconds to spare.
const LOOK: Duration = Duration::from_millis(100);

/// How many looks a guest may be away: five seconds, as a busy machine may
/// stall for one.
const LOOKS: u32 = 50;

/// Watches the thread that started it while that is in a guest.
///
/// A signal ends `KVM_RUN`, but only one that comes inside: so it looks, and
/// looks again.
#[derive(Debug)]
pub(super) struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// Who is watched.
    watched: Pid,
    /// Odd while the guest runs.
    crossings: AtomicU64,
    /// The guest was away for too long.
    stuck: AtomicBool,
    /// Nobody is to be watched any more.
    over: AtomicBool,
    /// Ends every guest at once.
    interrupt: Interrupt,
}

impl Watchdog {
    /// Watches the calling thread from now on.
    pub(super) fn start(interrupt: &Interrupt) -> Result<Watchdog, Trouble> {
        let failed = |error: &dyn std::fmt::Display| Trouble::new("cannot watch a guest", error);
        register_signal_handler(SIGRTMIN(), nothing).map_err(|error| failed(&error))?;
        let shared = Arc::new(Shared {
            watched: gettid(),
            crossings: AtomicU64::new(0),
            stuck: AtomicBool::new(false),
            over: AtomicBool::new(false),
            interrupt: interrupt.clone(),
        });
        let watching = shared.clone();
        let thread = thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || watching.watch())
            .map_err(|error| failed(&error))?;
        Ok(Watchdog {
            shared,
            thread: Some(thread),
        })
    }

    /// The guest begins to run, or has stopped.
    #[inline]
    pub(super) fn crossing(&self) {
        // Nobody else writes it.
        let crossings = self.shared.crossings.load(Ordering::Relaxed);
        self.shared
            .crossings
            .store(crossings + 1, Ordering::Relaxed);
    }

    /// Says after a signal whether the guest may go on.
    pub(super) fn check(&self) -> Result<(), Trouble> {
        if self.shared.interrupt.raised() {
            return Err(Trouble("interrupted".to_owned()));
        }
        if self.shared.stuck.swap(false, Ordering::Relaxed) {
            let limit = LOOK * LOOKS;
            return Err(Trouble(format!("the guest made no exit for {limit:?}")));
        }
        Ok(())
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It does not panic.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn watch(&self) {
        let (mut last, mut looks) = (0, 0);
        while !self.over.load(Ordering::Relaxed) {
            thread::park_timeout(LOOK);
            let crossings = self.crossings.load(Ordering::Relaxed);
            looks = if crossings == last { looks + 1 } else { 0 };
            last = crossings;
            if crossings.is_multiple_of(2) {
                continue;
            }
            if looks >= LOOKS {
                self.stuck.store(true, Ordering::Relaxed);
            }
            if looks >= LOOKS || self.interrupt.raised() {
                self.signal();
            }
        }
    }

    fn signal(&self) {
        let (process, thread) = (getpid().as_raw_pid(), self.watched.as_raw_pid());
        // SAFETY: a system call that takes three numbers. Whichever thread of
        // this process gets the signal, its handler does nothing.
        unsafe {
            libc::syscall(libc::SYS_tgkill, process, thread, SIGRTMIN());
        }
    }
}

/// Being called is all that it is for: `KVM_RUN` returns.
extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
