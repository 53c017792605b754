//! The requests of Linux's drivers for Xen, and the call that makes them.
//!
//! Numbers and structures: Linux, `include/uapi/xen/privcmd.h` and `evtchn.h`.
//! Kernel 4.18 is the first that has them all.
#![allow(unsafe_code, reason = "ioctl takes whatever its number means")]

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// A request's number: Linux's `_IOC(_IOC_NONE, driver, number, size)`.
#[allow(
    clippy::cast_possible_truncation,
    reason = "asserted in the first line"
)]
const fn number<T>(driver: u8, number: u8) -> u32 {
    assert!(size_of::<T>() < 1 << 14);
    (size_of::<T>() as u32) << 16 | (driver as u32) << 8 | number as u32
}

/// An argument whose type says which request it belongs to.
///
/// # Safety
///
/// The request of this number reads and writes no memory but the argument, and
/// what it writes there is valid for its type.
pub(super) unsafe trait Request {
    /// The request's number.
    const NUMBER: u32;
}

/// Makes a request that touches its argument only, and returns what the kernel
/// answers.
///
/// # Errors
///
/// The kernel's, or through it Xen's.
pub(super) fn call<T: Request>(fd: BorrowedFd<'_>, argument: &mut T) -> Result<u32, Errno> {
    // SAFETY: the trait's promise.
    unsafe { call_with_pointers(fd, T::NUMBER, argument) }
}

/// Makes a request whose argument may hold pointers.
///
/// # Safety
///
/// `request` takes a `T`, and all that it reads or writes through it may be
/// read and written.
pub(super) unsafe fn call_with_pointers<T>(
    fd: BorrowedFd<'_>,
    request: u32,
    argument: &mut T,
) -> Result<u32, Errno> {
    let argument: *mut T = argument;
    #[allow(
        clippy::cast_possible_wrap,
        clippy::cast_lossless,
        reason = "bits, in a type of the C library's"
    )]
    let request = request as libc::Ioctl;
    // SAFETY: the descriptor is open, and the caller promises the rest.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) };
    u32::try_from(answer).map_err(|_| {
        let error = std::io::Error::last_os_error();
        Errno::from_io_error(&error).unwrap_or(Errno::IO)
    })
}

/// Takes all rights from a privcmd descriptor but those over one domain.
#[repr(C)]
pub(super) struct RestrictCalls {
    pub(super) domain: u16,
}

// SAFETY: Linux, privcmd_ioctl_restrict: reads a domid_t.
unsafe impl Request for RestrictCalls {
    const NUMBER: u32 = number::<Self>(b'P', 6);
}

/// Binds a port of ours to one of another domain; answers with ours.
#[repr(C)]
pub(super) struct BindInterdomain {
    pub(super) remote_domain: u32,
    pub(super) remote_port: u32,
}

// SAFETY: Linux, evtchn_ioctl: reads the structure.
unsafe impl Request for BindInterdomain {
    const NUMBER: u32 = number::<Self>(b'E', 1);
}

/// Makes a port that another domain may bind to; answers with it.
#[repr(C)]
pub(super) struct BindUnbound {
    pub(super) remote_domain: u32,
}

// SAFETY: Linux, evtchn_ioctl: reads the structure.
unsafe impl Request for BindUnbound {
    const NUMBER: u32 = number::<Self>(b'E', 2);
}

/// Signals the other end of a port.
#[repr(C)]
pub(super) struct Notify {
    pub(super) port: u32,
}

// SAFETY: Linux, evtchn_ioctl: reads the structure.
unsafe impl Request for Notify {
    const NUMBER: u32 = number::<Self>(b'E', 4);
}

/// Lets a descriptor bind to ports of one domain only.
#[repr(C)]
pub(super) struct RestrictPorts {
    pub(super) domain: u16,
}

// SAFETY: Linux, evtchn_ioctl: reads a domid_t.
unsafe impl Request for RestrictPorts {
    const NUMBER: u32 = number::<Self>(b'E', 6);
}

/// `struct privcmd_dm_op_buf`.
#[repr(C)]
pub(super) struct DmOpBuffer {
    pub(super) start: *mut u8,
    pub(super) size: usize,
}

/// `struct privcmd_dm_op`: a hypercall of the device model (Linux 4.11).
#[repr(C)]
pub(super) struct DmOpCall {
    pub(super) domain: u16,
    pub(super) count: u16,
    pub(super) pad: u32,
    pub(super) buffers: *const DmOpBuffer,
}

/// The number of [`DmOpCall`].
pub(super) const DM_OP: u32 = number::<DmOpCall>(b'P', 5);

/// `struct privcmd_mmapbatch_v2`: maps frames of a guest (Linux 3.8).
#[repr(C)]
pub(super) struct MapFrames {
    pub(super) count: u32,
    pub(super) domain: u16,
    pub(super) pad: u16,
    pub(super) address: u64,
    pub(super) frames: *const u64,
    pub(super) errors: *mut i32,
}

/// The number of [`MapFrames`].
pub(super) const MAP_FRAMES: u32 = number::<MapFrames>(b'P', 4);

/// `struct privcmd_mmap_resource`: maps what Xen itself made (Linux 4.18).
#[repr(C)]
pub(super) struct MapResource {
    pub(super) domain: u16,
    pub(super) pad: u16,
    pub(super) kind: u32,
    pub(super) id: u32,
    pub(super) index: u32,
    pub(super) count: u64,
    pub(super) address: u64,
}

/// The number of [`MapResource`].
pub(super) const MAP_RESOURCE: u32 = number::<MapResource>(b'P', 7);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_linux_on_64_bits() {
        assert_eq!(DM_OP, 0x0010_5005);
        assert_eq!(MAP_FRAMES, 0x0020_5004);
        assert_eq!(MAP_RESOURCE, 0x0020_5007);
        assert_eq!(RestrictCalls::NUMBER, 0x0002_5006);
        assert_eq!(BindInterdomain::NUMBER, 0x0008_4501);
        assert_eq!(BindUnbound::NUMBER, 0x0004_4502);
        assert_eq!(Notify::NUMBER, 0x0004_4504);
        assert_eq!(RestrictPorts::NUMBER, 0x0002_4506);
    }

    #[test]
    fn what_is_no_xen_driver_refuses() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let answer = call(std::os::fd::AsFd::as_fd(&null), &mut Notify { port: 1 });
        assert_eq!(answer, Err(Errno::NOTTY));
    }
}
