//! A region as the server describes it, and maps of its parts.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use super::ClientError;
use crate::protocol::{Area, RegionInfo};

/// A region and the file behind it.
#[derive(Debug)]
pub struct Region {
    /// What the server says of it.
    pub info: RegionInfo,
    file: Option<File>,
}

impl Region {
    pub(super) fn new(info: RegionInfo, file: Option<OwnedFd>) -> Self {
        let file = file.map(File::from);
        Region { info, file }
    }

    /// The file that holds what can be mapped, if any came. The region starts
    /// in it at `info.offset`.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// What of the region can be mapped.
    pub fn areas(&self) -> Vec<Area> {
        match &self.info {
            info if !info.mappable => Vec::new(),
            info if info.areas.is_empty() => vec![Area {
                offset: 0,
                size: info.size,
            }],
            info => info.areas.clone(),
        }
    }

    /// Maps a part of the region: for reading and writing, or one of
    /// `info.read_only` for reading.
    ///
    /// A server that shrinks its file afterwards makes the next access of the
    /// map raise SIGBUS, as for any shared map.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unmappable`] if the area is not inside what the server
    /// offers, no file came with it, the file is shorter than that, or the
    /// kernel refuses.
    pub fn map(&self, area: Area) -> Result<MappedArea, ClientError> {
        let unmappable = |why: String| ClientError::Unmappable {
            index: self.info.index,
            offset: area.offset,
            size: area.size,
            why,
        };
        let inside = |outer: &Area| {
            end(outer).is_some_and(|end| end <= self.info.size)
                && outer.offset <= area.offset
                && end(&area) <= end(outer)
        };
        let writeable = self.areas().iter().any(inside);
        let offered = writeable || self.info.read_only.iter().any(inside);
        if area.size == 0 || end(&area).is_none() || !offered {
            return Err(unmappable("the server does not offer it".to_owned()));
        }
        let Some(file) = &self.file else {
            return Err(unmappable("no file came with the region".to_owned()));
        };
        let memory = map(file, self.info.offset, area, writeable);
        let memory = memory.map_err(|error| unmappable(error.to_string()))?;
        Ok(MappedArea {
            area,
            memory,
            writeable,
        })
    }
}

/// Maps a part of a file, which must reach so far.
pub(super) fn map(
    file: &File,
    start: u64,
    area: Area,
    writeable: bool,
) -> io::Result<MmapRegion<()>> {
    let start = start.checked_add(area.offset).ok_or(OUTSIDE)?;
    let end = start.checked_add(area.size).ok_or(OUTSIDE)?;
    let metadata = file.metadata()?;
    // Beyond the end of a file, a map is there and every access is SIGBUS.
    if metadata.is_file() && metadata.len() < end {
        return Err(OUTSIDE.into());
    }
    let size = usize::try_from(area.size).map_err(|_| OUTSIDE)?;
    let file = FileOffset::new(file.try_clone()?, start);
    let protection = if writeable {
        libc::PROT_READ | libc::PROT_WRITE
    } else {
        libc::PROT_READ
    };
    let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
    MmapRegion::build(Some(file), size, protection, flags).map_err(io::Error::other)
}

/// The file does not reach so far.
const OUTSIDE: io::ErrorKind = io::ErrorKind::UnexpectedEof;

fn end(area: &Area) -> Option<u64> {
    area.offset.checked_add(area.size)
}

/// A mapped part of a region. The server changes it at any time, so it is only
/// ever copied.
#[derive(Debug)]
pub struct MappedArea {
    area: Area,
    memory: MmapRegion<()>,
    writeable: bool,
}

impl MappedArea {
    /// Which part of the region it is.
    pub fn area(&self) -> Area {
        self.area
    }

    /// Copies out, from `offset` in the area. Returns whether the range is
    /// inside.
    #[must_use]
    pub fn read(&self, offset: usize, data: &mut [u8]) -> bool {
        let slice = self.slice(offset, data.len());
        slice.is_some_and(|slice| slice.read_slice(data, 0).is_ok())
    }

    /// Copies in, to `offset` in the area. Returns whether the range is inside
    /// and not for reading only.
    #[must_use]
    pub fn write(&self, offset: usize, data: &[u8]) -> bool {
        let slice = self.slice(offset, data.len());
        let slice = slice.filter(|_| self.writeable);
        slice.is_some_and(|slice| slice.write_slice(data, 0).is_ok())
    }

    fn slice(&self, offset: usize, length: usize) -> Option<VolatileSlice<'_>> {
        self.memory.get_slice(offset, length).ok()
    }
}
