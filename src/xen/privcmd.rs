//! `/dev/xen/privcmd`: hypercalls for one domain, and mappings of its memory.
#![allow(
    unsafe_code,
    reason = "hypercalls by pointer, and memory that Xen and a guest write"
)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

use rustix::io::Errno;
use vm_memory::VolatileSlice;

use super::dm_op::{DmOp, Operation};
use super::ioctl::{
    self, DM_OP, DmOpBuffer, DmOpCall, MAP_FRAMES, MAP_RESOURCE, MapFrames, MapResource,
    RestrictCalls,
};

/// A page of Xen's and of the guest's, in bytes.
pub(super) const PAGE: usize = 4096;

/// `XENMEM_resource_ioreq_server` (`xen/include/public/memory.h`).
const IOREQ_SERVER: u32 = 0;
/// `XENMEM_resource_ioreq_server_frame_ioreq(0)`.
const IOREQ_FRAME: u32 = 1;

/// The driver's descriptor, for one domain.
#[derive(Debug)]
pub(super) struct Privcmd {
    fd: OwnedFd,
    domain: u16,
}

impl Privcmd {
    pub(super) fn new(fd: OwnedFd, domain: u16) -> Self {
        Privcmd { fd, domain }
    }

    /// Takes all rights from the descriptor but those over this domain.
    pub(super) fn restrict(&self) -> Result<(), Errno> {
        let domain = self.domain;
        ioctl::call(self.fd.as_fd(), &mut RestrictCalls { domain }).map(drop)
    }

    /// Has Xen carry out an operation, and returns its argument as Xen left it.
    pub(super) fn dm_op<T: Operation>(&self, argument: &T) -> Result<T, Errno> {
        let mut op = DmOp::new(argument);
        let buffer = DmOpBuffer {
            start: (&raw mut op).cast(),
            size: size_of::<DmOp>(),
        };
        let mut call = DmOpCall {
            domain: self.domain,
            count: 1,
            pad: 0,
            buffers: &raw const buffer,
        };
        // SAFETY: one buffer, which is an operation whose arguments hold no
        // pointers; Xen writes to it alone, and any bytes may be in it.
        unsafe { ioctl::call_with_pointers(self.fd.as_fd(), DM_OP, &mut call) }?;
        Ok(op.argument())
    }

    /// Maps the page of requests of an ioreq server.
    pub(super) fn map_ioreq_page(&self, server: u16) -> Result<ResourcePage, Errno> {
        let mapping = Mapping::reserve(self.fd.as_fd(), 1)?;
        let mut call = MapResource {
            domain: self.domain,
            pad: 0,
            kind: IOREQ_SERVER,
            id: server.into(),
            index: IOREQ_FRAME,
            count: 1,
            address: mapping.address(),
        };
        // SAFETY: the kernel fills the one page that was reserved for it, and
        // that nobody else knows.
        unsafe { ioctl::call_with_pointers(self.fd.as_fd(), MAP_RESOURCE, &mut call) }?;
        Ok(ResourcePage(mapping))
    }

    /// Maps frames of the guest, one after the other, as far as they are there.
    pub(super) fn map_frames(&self, frames: &[u64]) -> Result<ForeignPages, Errno> {
        let count = u32::try_from(frames.len()).map_err(|_| Errno::INVAL)?;
        let mapping = Mapping::reserve(self.fd.as_fd(), frames.len())?;
        let mut errors = vec![0; frames.len()].into_boxed_slice();
        let mut call = MapFrames {
            count,
            domain: self.domain,
            pad: 0,
            address: mapping.address(),
            frames: frames.as_ptr(),
            errors: errors.as_mut_ptr(),
        };
        // SAFETY: both arrays have `count` elements; the kernel reads the one,
        // writes the other, and fills the pages that were reserved for it, and
        // that nobody else knows.
        let answer = unsafe { ioctl::call_with_pointers(self.fd.as_fd(), MAP_FRAMES, &mut call) };
        match answer {
            // Some frames are paged out; the errors say which.
            Ok(_) | Err(Errno::NOENT) => Ok(ForeignPages { mapping, errors }),
            Err(error) => Err(error),
        }
    }
}

/// Pages of our address space that the driver fills, given back on drop.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    pages: usize,
}

// SAFETY: the pages belong to the process, not to a thread; what is given out
// is atomic or volatile.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Reserves pages, at least one; until the driver fills them an access is a
    /// SIGBUS.
    fn reserve(fd: BorrowedFd<'_>, pages: usize) -> Result<Self, Errno> {
        let size = pages.checked_mul(PAGE).ok_or(Errno::NOMEM)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let fd = fd.as_raw_fd();
        // SAFETY: a new mapping where the kernel likes; none is replaced.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), size, protection, libc::MAP_SHARED, fd, 0) };
        if start == libc::MAP_FAILED {
            let error = std::io::Error::last_os_error();
            return Err(Errno::from_io_error(&error).unwrap_or(Errno::NOMEM));
        }
        let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        Ok(Mapping { start, pages })
    }

    fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it is ours, and what was given out borrows it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.pages * PAGE) };
    }
}

/// The page of an ioreq server's requests; unmapped on drop.
///
/// Xen writes to it at any time. The domain stays a zombie as long as it is
/// mapped.
#[derive(Debug)]
pub struct ResourcePage(Mapping);

impl ResourcePage {
    /// The page as 512 words.
    #[inline]
    pub fn words(&self) -> &[AtomicU64; 512] {
        const { assert!(size_of::<[AtomicU64; 512]>() == PAGE) };
        // SAFETY: one page, there as long as `self` is, since the driver said
        // that it was mapped. Any bytes are atomics, which Xen may change.
        unsafe { self.0.start.cast::<[AtomicU64; 512]>().as_ref() }
    }
}

/// Frames of the guest, of which some may be missing; unmapped on drop.
#[derive(Debug)]
pub struct ForeignPages {
    mapping: Mapping,
    /// For each page the errno of its absence, negative, or 0.
    errors: Box<[i32]>,
}

impl ForeignPages {
    /// Whether a page is there, by its number in the mapping.
    pub fn is_there(&self, page: usize) -> bool {
        self.errors.get(page) == Some(&0)
    }

    /// How many are there.
    pub fn count(&self) -> usize {
        self.errors.iter().filter(|error| **error == 0).count()
    }

    /// A part of the mapping, by offset and length in bytes, if all of it is
    /// there. The guest may change it at any time.
    pub fn part(&self, offset: usize, length: usize) -> Option<VolatileSlice<'_>> {
        let last = offset.checked_add(length.checked_sub(1)?)?;
        let pages = self.errors.get(offset / PAGE..=last / PAGE)?;
        if pages.iter().any(|error| *error != 0) {
            return None;
        }
        // SAFETY: inside the mapping, which has a page for each error and lives
        // as long as the borrow, and the driver has filled all of these pages.
        Some(unsafe { VolatileSlice::new(self.mapping.start.as_ptr().add(offset), length) })
    }
}

#[cfg(test)]
impl ForeignPages {
    /// As many pages of a file as there are errors, in place of a guest's.
    pub(super) fn of_file(fd: BorrowedFd<'_>, first: u64, errors: Box<[i32]>) -> Self {
        let (size, fd) = (errors.len() * PAGE, fd.as_raw_fd());
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let offset = libc::off_t::try_from(first * PAGE as u64).unwrap();
        // SAFETY: a new mapping where the kernel likes; none is replaced.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size,
                protection,
                libc::MAP_SHARED,
                fd,
                offset,
            )
        };
        assert_ne!(start, libc::MAP_FAILED);
        let mapping = Mapping {
            start: NonNull::new(start.cast()).unwrap(),
            pages: errors.len(),
        };
        ForeignPages { mapping, errors }
    }
}
