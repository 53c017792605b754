//! Memory that a device shares with its client: mapped BARs.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{MemfdFlags, SealFlags};
use thiserror::Error;
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

use super::Width;

/// An access left the shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{length} bytes at {offset:#x} are not inside shared memory of {size:#x} bytes")]
pub struct MemoryError {
    /// Where the access began.
    pub offset: u64,
    /// Its length, in bytes.
    pub length: usize,
    /// The memory's size, in bytes.
    pub size: usize,
}

/// Memory behind a mapped BAR: a sealed memfd that client and device both
/// map. The client writes it at any time, so it is only ever copied.
#[derive(Clone, Debug)]
pub struct SharedMemory(Arc<MmapRegion<()>>);

impl SharedMemory {
    /// New, zeroed memory of `size` bytes.
    ///
    /// # Errors
    ///
    /// What the kernel answers to `memfd_create`, `ftruncate` and `mmap`.
    pub fn new(size: usize) -> io::Result<Self> {
        let memfd = rustix::fs::memfd_create(
            "vgpu-stub-bar",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
        )?;
        rustix::fs::ftruncate(&memfd, size as u64)?;
        // Sealed, a client cannot shrink it under our feet.
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&memfd, seals)?;
        let region = MmapRegion::from_file(FileOffset::new(File::from(memfd), 0), size)
            .map_err(io::Error::other)?;
        Ok(SharedMemory(Arc::new(region)))
    }

    /// The size, in bytes.
    pub fn size(&self) -> usize {
        self.0.size()
    }

    /// The file descriptor that a client maps.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.file_offset().map(|file| file.file().as_fd())
    }

    /// Copies out of the memory.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if the range is not inside.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), MemoryError> {
        let length = data.len();
        self.slice(offset, length)?
            .read_slice(data, 0)
            .map_err(|_| self.error(offset, length))
    }

    /// Copies into the memory.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if the range is not inside.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), MemoryError> {
        self.slice(offset, data.len())?
            .write_slice(data, 0)
            .map_err(|_| self.error(offset, data.len()))
    }

    /// Loads a value that whoever shares the memory stores whole. What is not
    /// inside, or not aligned, is all-ones.
    #[inline]
    pub(crate) fn load(&self, offset: u32, width: Width) -> u64 {
        let memory = self.0.as_volatile_slice();
        let offset = offset as usize;
        let value = match width {
            Width::U8 => memory.load::<u8>(offset, Ordering::Acquire).map(u64::from),
            Width::U16 => memory.load::<u16>(offset, Ordering::Acquire).map(u64::from),
            Width::U32 => memory.load::<u32>(offset, Ordering::Acquire).map(u64::from),
            Width::U64 => memory.load::<u64>(offset, Ordering::Acquire),
        };
        value.unwrap_or(width.mask())
    }

    /// Stores a value so that whoever shares the memory sees it whole. What is
    /// not inside, or not aligned, is dropped.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "cut to the width")]
    pub(crate) fn store(&self, offset: u32, width: Width, value: u64) {
        let memory = self.0.as_volatile_slice();
        let offset = offset as usize;
        let _ = match width {
            Width::U8 => memory.store(value as u8, offset, Ordering::Release),
            Width::U16 => memory.store(value as u16, offset, Ordering::Release),
            Width::U32 => memory.store(value as u32, offset, Ordering::Release),
            Width::U64 => memory.store(value, offset, Ordering::Release),
        };
    }

    fn slice(
        &self,
        offset: u64,
        length: usize,
    ) -> Result<vm_memory::VolatileSlice<'_>, MemoryError> {
        usize::try_from(offset)
            .ok()
            .and_then(|start| self.0.get_slice(start, length).ok())
            .ok_or_else(|| self.error(offset, length))
    }

    fn error(&self, offset: u64, length: usize) -> MemoryError {
        MemoryError {
            offset,
            length,
            size: self.size(),
        }
    }
}
