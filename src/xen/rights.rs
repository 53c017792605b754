//! Gives up rights for good: the user that the process runs as, and the system
//! calls that it may make.
#![allow(
    unsafe_code,
    reason = "a change of user is for all threads, which only the C library makes; \
              and a filter is passed by pointer"
)]

use std::io;

use seccompiler::{BpfProgram, sock_filter};

/// Runs as another user from now on, in the group of the same number and in no
/// other, and can never again become more.
///
/// # Errors
///
/// The kernel's, such as `EPERM` for who is not root.
pub fn run_as(user: u32) -> io::Result<()> {
    // Without it a program that belongs to root would be run as root.
    rustix::thread::set_no_new_privs(true)?;
    // SAFETY: no list is read; the C library changes all threads.
    checked(unsafe { libc::setgroups(0, std::ptr::null()) }.into())?;
    // SAFETY: numbers only, as for the next.
    checked(unsafe { libc::setresgid(user, user, user) }.into())?;
    // SAFETY: as above.
    checked(unsafe { libc::setresuid(user, user, user) }.into())
}

/// `struct sock_fprog` (Linux, `include/uapi/linux/filter.h`).
#[repr(C)]
struct Program {
    length: libc::c_ushort,
    filter: *const sock_filter,
}

/// Holds all threads of the process, and those to come, to a filter.
///
/// Not seccompiler's own call: before 5.16 the kernel would slow down whatever
/// has a filter, against what foreign code might speculate on (in a PV dom0
/// with a trap at each change of thread). Here no foreign code runs.
///
/// # Errors
///
/// The kernel's.
pub(super) fn hold_to(filter: &BpfProgram) -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    let too_long = |_| io::Error::from_raw_os_error(libc::E2BIG);
    let program = Program {
        length: filter.len().try_into().map_err(too_long)?,
        filter: filter.as_ptr(),
    };
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: the kernel reads the program, which has as many instructions as
    // it says, and keeps a copy.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    match answer {
        // A thread that has a filter of its own.
        1.. => Err(io::Error::from_raw_os_error(libc::EBUSY)),
        _ => checked(answer),
    }
}

fn checked(answer: libc::c_long) -> io::Result<()> {
    match answer {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
