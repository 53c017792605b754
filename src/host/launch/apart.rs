//! Sets a keeper apart from whoever started it.
#![allow(
    unsafe_code,
    reason = "descriptors that were inherited by accident have no owner here"
)]

use std::fs;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::thread::UnshareFlags;

/// Closes all descriptors but the standard streams. QEMU's tap devices are
/// among those that a launcher inherits, and a keeper outlives its QEMU by a
/// moment.
///
/// Call it first in a process: nothing may have a descriptor yet.
pub(super) fn close_inherited() {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else {
        return;
    };
    let numbers: Vec<RawFd> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    for number in numbers {
        // The directory's own is closed by now.
        if fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok() {
            // SAFETY: it is open, and as nothing in this process has opened
            // one yet, nobody else will close it.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
        }
    }
}

/// Leaves the host's network: a server needs none. Where this is not allowed,
/// as in a container, it keeps it.
pub(super) fn leave_network() {
    // SAFETY: the process has one thread, and no descriptor's meaning changes.
    let _ = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWIPC) };
}
