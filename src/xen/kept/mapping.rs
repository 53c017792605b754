//! The mapped file, seen as words that may change at any time.
#![allow(unsafe_code, reason = "references into a file that is mapped")]

use std::fs::File;
use std::io;
use std::slice;
use std::sync::atomic::AtomicU64;

use vm_memory::{FileOffset, MmapRegion};

use crate::device::KeptWords;
use crate::endpoint::sigbus::Guard;

/// A whole file, mapped.
#[derive(Debug)]
pub(super) struct Mapping {
    /// Should somebody shorten the file: what is kept is then lost, no more.
    /// It is dropped before the mapping is.
    _guard: Guard,
    region: MmapRegion<()>,
    words: usize,
}

impl Mapping {
    /// Maps so many words, which the file has.
    pub(super) fn new(file: &File, words: usize) -> io::Result<Self> {
        // Populated: an access faults no more than it must.
        let region = MmapRegion::build(
            Some(FileOffset::new(file.try_clone()?, 0)),
            words * 8,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_POPULATE,
        )
        .map_err(io::Error::other)?;
        let guard = Guard::new(region.as_ptr() as usize, words * 8)?;
        Ok(Mapping {
            _guard: guard,
            region,
            words,
        })
    }
}

impl KeptWords for Mapping {
    #[inline]
    #[expect(clippy::cast_ptr_alignment, reason = "a page is aligned to more")]
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, `words` words long, and lives as
        // long as `self`. All of it is seen as atomics, for which any bits are
        // valid and which others may change. Beyond the end of a file that was
        // shortened the guard gives memory in its place.
        unsafe { slice::from_raw_parts(self.region.as_ptr().cast::<AtomicU64>(), self.words) }
    }
}
