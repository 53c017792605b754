//! Descriptors that whoever started the program left open for it.
#![allow(
    unsafe_code,
    reason = "a number on the command line names a descriptor"
)]

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use super::failure::Failure;

/// Numbers that were taken: each only once, as each is closed only once.
static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// Takes over an inherited descriptor. It is not passed on to programs that
/// we start.
pub(super) fn take(number: RawFd) -> Result<OwnedFd, Failure> {
    let refuse = |why: &str| Failure::usage(format!("file descriptor {number} {why}"));
    if number < 3 {
        return Err(refuse("is a standard stream; pass one from 3 on"));
    }
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    if taken.contains(&number) {
        return Err(refuse("is named twice; pass a descriptor for each"));
    }
    // SAFETY: the number is not negative; whether it is open is what the
    // call finds out.
    let inherited = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(inherited, rustix::io::FdFlags::CLOEXEC)
        .map_err(|_| refuse("is not open; open it in the program that starts vgpu-stub"))?;
    taken.push(number);
    // SAFETY: it is open, whoever started us gave it to us, and the list
    // keeps it from having a second owner.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
