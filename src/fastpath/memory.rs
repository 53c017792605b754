//! The shared pages themselves: made by the server, checked by the client,
//! seen by both as atomics only.
#![allow(unsafe_code, reason = "references into memory that a peer maps too")]

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::slice;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use vm_memory::{FileOffset, MmapRegion};

use super::layout::{Control, ENTRY_SIZE, Entry, Layout, SLOT_SIZE, SLOTS_AT, Slot};
use super::open::OpenError;

/// `f_type` of a memfd's file system whose pages are ordinary ones (Linux,
/// `TMPFS_MAGIC`). One of huge pages may have none left when it is touched.
const TMPFS: i64 = 0x0102_1994;

const _: () = {
    assert!(size_of::<Control>() == SLOTS_AT);
    assert!(size_of::<Slot>() == SLOT_SIZE && SLOTS_AT.is_multiple_of(align_of::<Slot>()));
    assert!(size_of::<Entry>() == ENTRY_SIZE && SLOT_SIZE.is_multiple_of(align_of::<Entry>()));
};

/// The shared pages, mapped.
#[derive(Debug)]
pub(super) struct Memory {
    /// At least `layout.size()` bytes that can not be taken away.
    region: MmapRegion<()>,
    layout: Layout,
}

impl Memory {
    /// New, zeroed, and with all its pages; and the descriptor to send.
    pub(super) fn create(layout: Layout) -> io::Result<(Memory, OwnedFd)> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memfd = rustix::fs::memfd_create("vgpu-stub-mmio", flags)?;
        // With all its pages now, so that none is missing later.
        rustix::fs::fallocate(&memfd, FallocateFlags::empty(), 0, layout.size() as u64)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&memfd, seals)?;
        let memory = Memory::map(layout, memfd.try_clone()?)?;
        Ok((memory, memfd))
    }

    /// A server's, if it can neither shrink nor is too small.
    pub(super) fn open(layout: Layout, fd: OwnedFd) -> Result<Memory, OpenError> {
        // Only a memfd has seals.
        let seals = rustix::fs::fcntl_get_seals(&fd).unwrap_or(SealFlags::empty());
        if !seals.contains(SealFlags::SHRINK) {
            return Err(OpenError::Unsealed);
        }
        if rustix::fs::fstatfs(&fd).map_err(io::Error::from)?.f_type != TMPFS {
            return Err(OpenError::HugePages);
        }
        let size = rustix::fs::fstat(&fd).map_err(io::Error::from)?.st_size;
        if u64::try_from(size).unwrap_or(0) < layout.size() as u64 {
            return Err(OpenError::Small {
                size,
                needed: layout.size(),
            });
        }
        Ok(Memory::map(layout, fd)?)
    }

    fn map(layout: Layout, fd: OwnedFd) -> io::Result<Memory> {
        // Populated: the first access faults no more than the others.
        let region = MmapRegion::build(
            Some(FileOffset::new(File::from(fd), 0)),
            layout.size(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_POPULATE,
        )
        .map_err(io::Error::other)?;
        Ok(Memory { region, layout })
    }

    /// The fields that are there once.
    #[inline]
    #[expect(clippy::cast_ptr_alignment, reason = "a page is aligned to more")]
    pub(super) fn control(&self) -> &Control {
        // SAFETY: the mapping is page-aligned, at least `Layout::size` long,
        // which is more than a `Control`, lives as long as `self`, and its
        // file is sealed against shrinking. All of a `Control` is atomics, for
        // which any bytes are valid and which a peer may change at any time.
        unsafe { &*self.region.as_ptr().cast::<Control>() }
    }

    /// The slots, as many as the layout says.
    #[inline]
    #[expect(clippy::cast_ptr_alignment, reason = "a page is aligned to more")]
    pub(super) fn slots(&self) -> &[Slot] {
        // SAFETY: as for `control`. `SLOTS_AT` is a multiple of a slot's
        // alignment, and `Layout::size` covers `slots` slots from there on.
        unsafe {
            let first = self.region.as_ptr().add(SLOTS_AT).cast::<Slot>();
            slice::from_raw_parts(first, usize::from(self.layout.slots()))
        }
    }

    /// The ring's entries, as many as the layout says.
    #[inline]
    #[expect(clippy::cast_ptr_alignment, reason = "a page is aligned to more")]
    pub(super) fn ring(&self) -> &[Entry] {
        // SAFETY: as for `control`. `ring_at` is a multiple of an entry's
        // alignment, and `Layout::size` covers `ring` entries from there on.
        unsafe {
            let first = self.region.as_ptr().add(self.layout.ring_at());
            slice::from_raw_parts(first.cast::<Entry>(), self.layout.ring() as usize)
        }
    }
}
