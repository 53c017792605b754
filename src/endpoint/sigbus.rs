//! Survives mapped memory that goes away, as a client does by truncating it.
//!
//! An access to a mapping beyond the end of its file raises SIGBUS. The
//! handler replaces the whole mapping by fresh zeroed memory and marks it, so
//! that the access ends and its caller reports an error; a SIGBUS from
//! anywhere else ends the process as it always does.
#![allow(unsafe_code, reason = "a signal handler that changes mappings")]

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use vmm_sys_util::signal::register_signal_handler;

/// The most mappings in the process at once: vfio-user's default for one
/// session. Untouched, the table takes no memory.
const SLOTS: usize = 65_536;

/// A watched mapping: `start..end`, or `0..0` while free.
struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    gone: AtomicBool,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        gone: AtomicBool::new(false),
    }
}; SLOTS];

/// How many slots from the first were ever used.
static USED: AtomicUsize = AtomicUsize::new(0);

/// Slots that were used and are free again.
static FREE: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// Watches one mapping while it lives.
#[derive(Debug)]
pub(crate) struct Guard(usize);

impl Guard {
    /// Watches `size` bytes at address `start`.
    ///
    /// # Errors
    ///
    /// If the handler cannot be set or too many mappings are watched.
    pub(crate) fn new(start: usize, size: usize) -> io::Result<Self> {
        install()?;
        let number = free_slot().ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSPC))?;
        let slot = &TABLE[number];
        slot.gone.store(false, Ordering::Relaxed);
        slot.end.store(start + size, Ordering::Relaxed);
        slot.start.store(start, Ordering::Release);
        Ok(Guard(number))
    }

    /// Whether the mapping was lost.
    pub(crate) fn is_gone(&self) -> bool {
        TABLE[self.0].gone.load(Ordering::Acquire)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        TABLE[self.0].start.store(0, Ordering::Release);
        TABLE[self.0].end.store(0, Ordering::Release);
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(self.0);
    }
}

/// A slot of the table that is nobody's, below [`SLOTS`].
fn free_slot() -> Option<usize> {
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    free.pop().or_else(|| {
        // Only changed under the lock.
        let next = USED.load(Ordering::Relaxed);
        (next < SLOTS).then(|| USED.fetch_add(1, Ordering::Release))
    })
}

fn install() -> io::Result<()> {
    static ONCE: Once = Once::new();
    static WORKED: AtomicBool = AtomicBool::new(false);
    ONCE.call_once(|| {
        WORKED.store(
            register_signal_handler(libc::SIGBUS, on_sigbus).is_ok(),
            Ordering::Relaxed,
        );
    });
    if WORKED.load(Ordering::Relaxed) {
        Ok(())
    } else {
        Err(io::Error::other("cannot set a SIGBUS handler"))
    }
}

/// Only loads, stores and system calls: all of it async-signal-safe.
extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler, and
    // for SIGBUS it holds an address.
    let address = unsafe { (*info).si_addr() } as usize;
    let used = USED.load(Ordering::Acquire);
    for slot in &TABLE[..used] {
        let start = slot.start.load(Ordering::Acquire);
        let end = slot.end.load(Ordering::Acquire);
        if start != 0 && (start..end).contains(&address) && replace(start, end - start) {
            slot.gone.store(true, Ordering::Release);
            return;
        }
    }
    // SAFETY: setting the default action is always allowed; the access is
    // tried again on return and ends the process.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

fn replace(start: usize, size: usize) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // SAFETY: start..start+size is a mapping of this process that its owner
    // still holds: a Guard is dropped before its mapping is. Only volatile
    // copies touch it, and they see zeros from now on.
    let mapped = unsafe {
        libc::mmap(
            start as *mut libc::c_void,
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    mapped != libc::MAP_FAILED
}
