//! The guest memory that a client opened for DMA.
//!
//! A map with a descriptor is mapped or read and written as a file; a map
//! without one is reached by asking the client. No reference into guest memory
//! leaves this file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, PoisonError, RwLock};

use thiserror::Error;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use super::{copy, sigbus};
use crate::device::{DmaBus, DmaError};

/// The page size that maps are aligned to unless a client negotiates others.
pub const PAGE_SIZE: u64 = 4096;

/// How many maps a client may have unless it negotiates fewer.
pub const MAX_MAPS: usize = 65_535;

/// How much a client may have mapped: more than any guest's memory, and a
/// small part of our address space, which other devices need as well.
const MAX_MAPPED: u64 = 1 << 43;

/// Guest memory that only the client can reach; the server implements it
/// with messages.
pub trait ClientMemory: Send + Sync {
    /// Asks the client for `data` at guest address `address`.
    ///
    /// # Errors
    ///
    /// See [`DmaError`].
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), DmaError>;

    /// Has the client write `data` at guest address `address`.
    ///
    /// # Errors
    ///
    /// See [`DmaError`].
    fn write(&self, address: u64, data: &[u8]) -> Result<(), DmaError>;

    /// While suspended, accesses end with [`DmaError::Reset`], those under
    /// way as well: the thread that serves the client waits for the device
    /// and cannot receive for it.
    fn suspend(&self, suspended: bool);
}

/// How a map's memory is reached.
#[derive(Debug)]
pub enum Backing {
    /// A descriptor to map, from this offset.
    Mapped(OwnedFd, u64),
    /// A descriptor to read and write, from this offset.
    File(OwnedFd, u64),
    /// Through [`ClientMemory`].
    Messages,
}

/// A map as a client asks for it. `address + size` does not wrap.
#[derive(Debug)]
pub struct MapRequest {
    /// The guest address.
    pub address: u64,
    /// The size in bytes, not 0.
    pub size: u64,
    /// Whether the device may read it.
    pub readable: bool,
    /// Whether the device may write it.
    pub writeable: bool,
    /// How it is reached.
    pub backing: Backing,
}

/// Why a map or unmap was refused: a mistake of the client.
#[derive(Debug, Error)]
pub enum MapError {
    /// The range overlaps one that is mapped.
    #[error("the range overlaps a DMA map")]
    Exists,
    /// No map has exactly this range.
    #[error("no DMA map has exactly this range")]
    Absent,
    /// As many maps as were negotiated exist.
    #[error("all negotiated DMA maps are in use")]
    TooMany,
    /// Address, size or file offset is not aligned to the page size.
    #[error("the DMA map is not aligned to its page size")]
    Unaligned,
    /// The descriptor is not a regular file, or too short.
    #[error("the DMA map's descriptor is not a file of that size")]
    NotMemory,
    /// All maps with descriptors would take too much of our address space.
    #[error("DMA maps of more than {MAX_MAPPED:#x} bytes in all")]
    TooLarge,
    /// The kernel refused to map the descriptor.
    #[error("cannot map the DMA map's descriptor: {0}")]
    Mmap(#[from] io::Error),
}

impl MapError {
    /// The errno for the client, never 0.
    pub fn errno(&self) -> i32 {
        match self {
            MapError::Exists => libc::EEXIST,
            MapError::Absent => libc::ENOENT,
            MapError::TooMany => libc::ENOSPC,
            MapError::TooLarge => libc::ENOMEM,
            MapError::Unaligned | MapError::NotMemory => libc::EINVAL,
            MapError::Mmap(error) => error.raw_os_error().unwrap_or(libc::EINVAL),
        }
    }
}

/// Memory of the client, mapped.
#[derive(Debug)]
struct Mapping {
    // Declared before the region, so that it is dropped before.
    guard: sigbus::Guard,
    region: MmapRegion<()>,
}

#[derive(Debug)]
enum Memory {
    Mapped(Mapping),
    File(File, u64),
    Messages,
}

#[derive(Debug)]
struct Map {
    size: u64,
    readable: bool,
    writeable: bool,
    memory: Memory,
}

struct Maps {
    by_address: BTreeMap<u64, Map>,
    /// How much of it is mapped, at most [`MAX_MAPPED`].
    mapped: u64,
    client: Option<Arc<dyn ClientMemory>>,
    page_size: u64,
    limit: usize,
    suspended: bool,
}

/// All DMA maps of a function. Shared with the device's [`Dma`] handles.
///
/// [`Dma`]: crate::device::Dma
pub(crate) struct DmaTable(RwLock<Maps>);

/// What remains to be done once the table is no longer locked: an answer of
/// the client must not wait for an unmap by the client, nor the other way
/// round.
enum Step {
    Done(usize),
    Ask(Arc<dyn ClientMemory>, usize),
}

impl DmaTable {
    pub(crate) fn new() -> Self {
        DmaTable(RwLock::new(Maps {
            by_address: BTreeMap::new(),
            mapped: 0,
            client: None,
            page_size: PAGE_SIZE,
            limit: MAX_MAPS,
            suspended: false,
        }))
    }

    /// Begins a session: who answers for unmapped memory, and what was
    /// negotiated.
    pub(crate) fn connect(&self, client: Arc<dyn ClientMemory>, page_size: u64, limit: usize) {
        let mut maps = self.0.write().unwrap_or_else(PoisonError::into_inner);
        maps.client = Some(client);
        maps.page_size = page_size;
        maps.limit = limit;
    }

    /// Ends a session: all memory is released when this returns.
    pub(crate) fn disconnect(&self) {
        let mut maps = self.0.write().unwrap_or_else(PoisonError::into_inner);
        maps.clear();
        maps.client = None;
        maps.page_size = PAGE_SIZE;
        maps.limit = MAX_MAPS;
    }

    /// Takes guest memory away from the device, or gives it back: while a
    /// reset is under way, no access of before may go on.
    pub(crate) fn suspend(&self, suspended: bool) {
        let mut maps = self.0.write().unwrap_or_else(PoisonError::into_inner);
        maps.suspended = suspended;
        let client = maps.client.clone();
        drop(maps);
        if let Some(client) = client {
            client.suspend(suspended);
        }
    }

    pub(crate) fn map(&self, request: MapRequest) -> Result<(), MapError> {
        let mut maps = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let (address, size) = (request.address, request.size);
        if !(address | size).is_multiple_of(maps.page_size) {
            return Err(MapError::Unaligned);
        }
        if maps.overlaps(address, size) {
            return Err(MapError::Exists);
        }
        if maps.by_address.len() >= maps.limit {
            return Err(MapError::TooMany);
        }
        if matches!(request.backing, Backing::Mapped(..)) && size > MAX_MAPPED - maps.mapped {
            return Err(MapError::TooLarge);
        }
        let map = Map::new(request)?;
        maps.mapped += map.mapped();
        maps.by_address.insert(address, map);
        Ok(())
    }

    /// Releases a range. No access to it is under way when this returns.
    pub(crate) fn unmap(&self, address: u64, size: u64) -> Result<(), MapError> {
        let mut maps = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match maps.by_address.get(&address) {
            Some(map) if map.size == size => {
                let mapped = map.mapped();
                maps.by_address.remove(&address);
                maps.mapped -= mapped;
                Ok(())
            }
            _ => Err(MapError::Absent),
        }
    }

    pub(crate) fn unmap_all(&self) {
        let mut maps = self.0.write().unwrap_or_else(PoisonError::into_inner);
        maps.clear();
    }

    fn locked<T>(&self, work: impl FnOnce(&Maps) -> T) -> T {
        work(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl DmaBus for DmaTable {
    fn read(&self, mut address: u64, mut data: &mut [u8]) -> Result<(), DmaError> {
        while !data.is_empty() {
            let step = self.locked(|maps| maps.read(address, data))?;
            let count = match step {
                Step::Done(count) => count,
                Step::Ask(client, count) => {
                    client.read(address, &mut data[..count])?;
                    count
                }
            };
            address = address.wrapping_add(count as u64);
            data = &mut data[count..];
        }
        Ok(())
    }

    fn write(&self, mut address: u64, mut data: &[u8]) -> Result<(), DmaError> {
        while !data.is_empty() {
            let step = self.locked(|maps| maps.write(address, data))?;
            let count = match step {
                Step::Done(count) => count,
                Step::Ask(client, count) => {
                    client.write(address, &data[..count])?;
                    count
                }
            };
            address = address.wrapping_add(count as u64);
            data = &data[count..];
        }
        Ok(())
    }
}

impl Maps {
    fn clear(&mut self) {
        self.by_address.clear();
        self.mapped = 0;
    }

    fn overlaps(&self, address: u64, size: u64) -> bool {
        // The wire type promises that `address + size` does not wrap; the
        // last byte then never does.
        let last = address + (size - 1);
        let before = self.by_address.range(..=last).next_back();
        before.is_some_and(|(start, map)| start + (map.size - 1) >= address)
    }

    /// The map at an address, the offset in it, and how many of `length`
    /// bytes it holds.
    fn find(&self, address: u64, length: usize) -> Result<(&Map, u64, usize), DmaError> {
        if self.suspended {
            return Err(DmaError::Reset);
        }
        let (start, map) = self
            .by_address
            .range(..=address)
            .next_back()
            .filter(|(start, map)| address - *start < map.size)
            .ok_or(DmaError::Unmapped { address })?;
        let offset = address - start;
        let rest = usize::try_from(map.size - offset).unwrap_or(usize::MAX);
        Ok((map, offset, rest.min(length)))
    }

    fn read(&self, address: u64, data: &mut [u8]) -> Result<Step, DmaError> {
        let (map, offset, count) = self.find(address, data.len())?;
        if !map.readable {
            return Err(DmaError::Denied { address });
        }
        let gone = DmaError::Gone { address };
        let data = &mut data[..count];
        match &map.memory {
            Memory::Mapped(mapping) => mapping.read(offset, data).ok_or(gone)?,
            Memory::File(file, start) => {
                file.read_exact_at(data, start + offset).map_err(|_| gone)?;
            }
            Memory::Messages => return self.ask(count),
        }
        Ok(Step::Done(count))
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<Step, DmaError> {
        let (map, offset, count) = self.find(address, data.len())?;
        if !map.writeable {
            return Err(DmaError::Denied { address });
        }
        let gone = DmaError::Gone { address };
        let data = &data[..count];
        match &map.memory {
            Memory::Mapped(mapping) => mapping.write(offset, data).ok_or(gone)?,
            Memory::File(file, start) => {
                file.write_all_at(data, start + offset).map_err(|_| gone)?;
            }
            Memory::Messages => return self.ask(count),
        }
        Ok(Step::Done(count))
    }

    fn ask(&self, count: usize) -> Result<Step, DmaError> {
        let client = self.client.clone().ok_or(DmaError::Disconnected)?;
        Ok(Step::Ask(client, count))
    }
}

impl Map {
    /// What it takes of our address space.
    fn mapped(&self) -> u64 {
        match self.memory {
            Memory::Mapped(_) => self.size,
            Memory::File(..) | Memory::Messages => 0,
        }
    }

    fn new(request: MapRequest) -> Result<Self, MapError> {
        let memory = match request.backing {
            Backing::Mapped(fd, offset) => {
                let file = regular_file(fd, offset, request.size)?;
                if !offset.is_multiple_of(PAGE_SIZE) {
                    return Err(MapError::Unaligned);
                }
                let size = usize::try_from(request.size).map_err(|_| MapError::NotMemory)?;
                let mut prot = 0;
                if request.readable {
                    prot |= libc::PROT_READ;
                }
                if request.writeable {
                    prot |= libc::PROT_WRITE;
                }
                Memory::Mapped(Mapping::new(file, offset, size, prot)?)
            }
            Backing::File(fd, offset) => {
                Memory::File(regular_file(fd, offset, request.size)?, offset)
            }
            Backing::Messages => Memory::Messages,
        };
        Ok(Map {
            size: request.size,
            readable: request.readable,
            writeable: request.writeable,
            memory,
        })
    }
}

/// The descriptor as a file, if it is one and long enough: a pipe, a socket
/// or a device could block or do anything.
fn regular_file(fd: OwnedFd, offset: u64, size: u64) -> Result<File, MapError> {
    let file = File::from(fd);
    let metadata = file.metadata()?;
    let end = offset.checked_add(size).ok_or(MapError::NotMemory)?;
    if metadata.is_file() && end <= metadata.len() {
        Ok(file)
    } else {
        Err(MapError::NotMemory)
    }
}

impl Mapping {
    fn new(file: File, offset: u64, size: usize, prot: i32) -> Result<Self, MapError> {
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        let region = MmapRegion::build(Some(FileOffset::new(file, offset)), size, prot, flags)
            .map_err(|error| match error {
                vm_memory::mmap::MmapRegionError::Mmap(error) => MapError::Mmap(error),
                _ => MapError::NotMemory,
            })?;
        let guard = sigbus::Guard::new(region.as_ptr() as usize, size)?;
        Ok(Mapping { guard, region })
    }

    fn slice(&self, offset: u64, length: usize) -> Option<VolatileSlice<'_>> {
        self.region
            .get_slice(usize::try_from(offset).ok()?, length)
            .ok()
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> Option<()> {
        if self.guard.is_gone() {
            return None;
        }
        copy::read(&self.slice(offset, data.len())?, data)?;
        (!self.guard.is_gone()).then_some(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Option<()> {
        if self.guard.is_gone() {
            // What is there instead would take real memory.
            return None;
        }
        copy::write(&self.slice(offset, data.len())?, data)?;
        (!self.guard.is_gone()).then_some(())
    }
}
