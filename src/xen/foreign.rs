//! Guest memory: mappings of it, kept.
//!
//! To map a page, touch it and unmap it takes some 200 us, and to map many at
//! once little more for each. So memory is mapped by the MiB, as QEMU does it,
//! and stays so until others were used more recently.
//!
//! A page that is not there is looked for again by the next access: the guest
//! may have got it meanwhile. One that the guest gives back is told by Xen
//! (`IOREQ_TYPE_INVALIDATE`); until [`forget`](GuestMemory::forget) it is the
//! old one that is mapped.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::domain::Domain;
use super::error::XenError;
use super::privcmd::{ForeignPages, PAGE};
use crate::endpoint::{ClientMemory, DmaError, copy};

/// How many pages are mapped at once.
const CHUNK_PAGES: usize = 256;

/// The same in bytes.
const CHUNK: u64 = (CHUNK_PAGES * PAGE) as u64;

/// How many chunks are kept: 1 GiB, for 2 MiB of page tables.
const CHUNKS: usize = 1024;

/// Beyond the addresses that a page table can hold (Intel SDM 3A, 4.1.4).
const END: u64 = 1 << 52;

/// Who maps the pages of a guest.
pub trait MapGuest: Send + Sync {
    /// Maps `pages` pages from a page number on.
    ///
    /// # Errors
    ///
    /// [`XenError`] if none at all could be mapped.
    fn map_guest(&self, first_page: u64, pages: usize) -> Result<ForeignPages, XenError>;
}

impl MapGuest for Domain {
    fn map_guest(&self, first_page: u64, pages: usize) -> Result<ForeignPages, XenError> {
        Domain::map_guest(self, first_page, pages)
    }
}

/// A guest's memory, for all functions of a domain and all their threads.
pub struct GuestMemory {
    domain: Arc<dyn MapGuest>,
    kept: Mutex<Kept>,
    /// How many chunks may be kept.
    limit: usize,
}

#[derive(Default)]
struct Kept {
    /// By number: the address divided by [`CHUNK`].
    chunks: HashMap<u64, Chunk>,
    /// Counts uses.
    clock: u64,
    /// Counts how often all was forgotten.
    forgotten: u64,
}

struct Chunk {
    pages: Arc<ForeignPages>,
    used: u64,
}

impl GuestMemory {
    /// A domain's memory, of which nothing is mapped yet.
    pub fn new(domain: Arc<dyn MapGuest>) -> Self {
        Self::with_limit(domain, CHUNKS)
    }

    fn with_limit(domain: Arc<dyn MapGuest>, limit: usize) -> Self {
        GuestMemory {
            domain,
            kept: Mutex::default(),
            limit,
        }
    }

    /// Fills `data` from guest address `address`.
    ///
    /// # Errors
    ///
    /// [`DmaError::Unmapped`] if not all of it is RAM; part of `data` may then
    /// be filled.
    pub fn read(&self, mut address: u64, mut data: &mut [u8]) -> Result<(), DmaError> {
        while !data.is_empty() {
            let (part, rest) = data.split_at_mut(in_one_chunk(address, data.len()));
            self.access(address, &mut |pages, offset| {
                copy::read(&pages.part(offset, part.len())?, part)
            })?;
            address = address.wrapping_add(part.len() as u64);
            data = rest;
        }
        Ok(())
    }

    /// Writes `data` to guest address `address`.
    ///
    /// # Errors
    ///
    /// [`DmaError::Unmapped`] if not all of it is RAM; part may then be written.
    pub fn write(&self, mut address: u64, mut data: &[u8]) -> Result<(), DmaError> {
        while !data.is_empty() {
            let (part, rest) = data.split_at(in_one_chunk(address, data.len()));
            self.access(address, &mut |pages, offset| {
                copy::write(&pages.part(offset, part.len())?, part)
            })?;
            address = address.wrapping_add(part.len() as u64);
            data = rest;
        }
        Ok(())
    }

    /// Unmaps all, once the accesses under way are done: the guest gave memory
    /// back, or is about to end.
    pub fn forget(&self) {
        let mut kept = self.lock();
        kept.forgotten += 1;
        let chunks = std::mem::take(&mut kept.chunks);
        drop(kept);
        // Nobody has to wait while they are unmapped.
        drop(chunks);
    }

    /// Carries out an access inside the chunk of `address`: as it is mapped, or
    /// else as it is mapped anew.
    fn access(
        &self,
        address: u64,
        access: &mut dyn FnMut(&ForeignPages, usize) -> Option<()>,
    ) -> Result<(), DmaError> {
        let unmapped = DmaError::Unmapped { address };
        if address >= END {
            return Err(unmapped);
        }
        let number = address / CHUNK;
        let offset = usize::try_from(address % CHUNK).map_err(|_| unmapped)?;
        let (kept, forgotten) = self.look_up(number);
        if let Some(pages) = kept
            && access(&pages, offset).is_some()
        {
            return Ok(());
        }
        let pages = self
            .domain
            .map_guest(number * CHUNK_PAGES as u64, CHUNK_PAGES)
            .map_err(|_| unmapped)?;
        let done = access(&pages, offset);
        if pages.count() > 0 {
            self.keep(number, pages, forgotten);
        }
        done.ok_or(unmapped)
    }

    /// A chunk, if it is mapped, and how often all was forgotten so far.
    fn look_up(&self, number: u64) -> (Option<Arc<ForeignPages>>, u64) {
        let mut kept = self.lock();
        let kept = &mut *kept;
        kept.clock += 1;
        let chunk = kept.chunks.get_mut(&number).map(|chunk| {
            chunk.used = kept.clock;
            chunk.pages.clone()
        });
        (chunk, kept.forgotten)
    }

    /// Keeps a chunk in place of the one used least recently, unless all was
    /// forgotten while it was mapped: it may be of before.
    fn keep(&self, number: u64, pages: ForeignPages, forgotten: u64) {
        let mut kept = self.lock();
        if kept.forgotten != forgotten {
            return;
        }
        let mut oldest = None;
        if kept.chunks.len() >= self.limit && !kept.chunks.contains_key(&number) {
            let by_use = kept.chunks.iter().min_by_key(|(_, chunk)| chunk.used);
            oldest = by_use.map(|(number, _)| *number);
        }
        let oldest = oldest.and_then(|number| kept.chunks.remove(&number));
        let chunk = Chunk {
            pages: Arc::new(pages),
            used: kept.clock,
        };
        let replaced = kept.chunks.insert(number, chunk);
        drop(kept);
        drop((oldest, replaced));
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many of `length` bytes lie in the chunk of `address`.
fn in_one_chunk(address: u64, length: usize) -> usize {
    let rest = CHUNK - address % CHUNK;
    usize::try_from(rest).map_or(length, |rest| rest.min(length))
}

/// Guest memory as one function sees it: through its bus-master bit.
pub struct BusMaster {
    memory: Arc<GuestMemory>,
    enabled: AtomicBool,
    suspended: AtomicBool,
}

impl BusMaster {
    /// A function's view, with bus mastering off as after a reset.
    pub fn new(memory: Arc<GuestMemory>) -> Self {
        BusMaster {
            memory,
            enabled: AtomicBool::new(false),
            suspended: AtomicBool::new(false),
        }
    }

    /// The function's bus-master bit (PCI 3.0 6.2.2). While it is off, no
    /// access reaches the guest.
    pub fn set_enabled(&self, enabled: bool) {
        self.enabled.store(enabled, Ordering::Release);
    }

    fn check(&self, address: u64) -> Result<(), DmaError> {
        if self.suspended.load(Ordering::Acquire) {
            return Err(DmaError::Reset);
        }
        let enabled = self.enabled.load(Ordering::Acquire);
        enabled.then_some(()).ok_or(DmaError::Denied { address })
    }
}

impl ClientMemory for BusMaster {
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), DmaError> {
        self.check(address)?;
        self.memory.read(address, data)
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), DmaError> {
        self.check(address)?;
        self.memory.write(address, data)
    }

    fn suspend(&self, suspended: bool) {
        self.suspended.store(suspended, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
