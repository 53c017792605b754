//! What a region is: its size and rights, and what of it can be mapped.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::wire::{length, prefix, put, query, size};
use super::{Command, Malformed};

const READ: u32 = 1 << 0;
const WRITE: u32 = 1 << 1;
const MMAP: u32 = 1 << 2;
const CAPS: u32 = 1 << 3;

/// `VFIO_REGION_INFO_CAP_SPARSE_MMAP` of `<linux/vfio.h>`.
const CAP_SPARSE_MMAP: u16 = 1;

/// The read-only areas: `docs/mapped-registers.md`. Far from the numbers of
/// `<linux/vfio.h>`, which go up from 1.
const CAP_READ_ONLY: u16 = 0xff00;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct InfoWire {
    argsz: u32,
    flags: u32,
    index: u32,
    cap_offset: u32,
    size: u64,
    offset: u64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct CapWire {
    id: u16,
    version: u16,
    next: u32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct AreasWire {
    areas: u32,
    reserved: u32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct AreaWire {
    offset: u64,
    size: u64,
}

/// Which region the client asks about (vfio-user,
/// `VFIO_USER_DEVICE_GET_REGION_INFO`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionInfoQuery {
    /// The region.
    pub index: u32,
    /// The room for the reply's payload.
    pub argsz: u32,
}

impl RegionInfoQuery {
    /// The request.
    ///
    /// # Errors
    ///
    /// Fewer than 32 bytes, an `argsz` below that, more bytes than `argsz`.
    pub fn parse(body: &[u8]) -> Result<RegionInfoQuery, Malformed> {
        let command = Command::DeviceGetRegionInfo;
        let wire: InfoWire = query(command, body, |wire: &InfoWire| wire.argsz)?;
        Ok(RegionInfoQuery {
            index: wire.index,
            argsz: wire.argsz,
        })
    }

    /// Appends the request.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(
            out,
            &InfoWire {
                argsz: self.argsz,
                flags: 0,
                index: self.index,
                cap_offset: 0,
                size: 0,
                offset: 0,
            },
        );
    }
}

/// A part of a region that can be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Where in the region.
    pub offset: u64,
    /// How long.
    pub size: u64,
}

/// A region (vfio-user, `VFIO_USER_DEVICE_GET_REGION_INFO`, Reply).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionInfo {
    /// The region.
    pub index: u32,
    /// The client may read it.
    pub readable: bool,
    /// The client may write it.
    pub writeable: bool,
    /// The client may map it, or its `areas` if there are any, with the fd that
    /// comes along.
    pub mappable: bool,
    /// How long it is; 0 if there is no such BAR.
    pub size: u64,
    /// Where it starts in the fd.
    pub offset: u64,
    /// What of it can be mapped; none means no sparse mmap capability.
    pub areas: Vec<Area>,
    /// What of it can be mapped for reading, while writes are still sent. Only
    /// for a client that said `read_only_areas` in VERSION.
    pub read_only: Vec<Area>,
}

impl RegionInfo {
    /// The payload of the reply without capabilities.
    pub const SIZE: u32 = size::<InfoWire>();

    /// The reply. The capabilities of one that was cut are absent: see
    /// [`needed_argsz`](super::needed_argsz). Unknown flags and capabilities
    /// are skipped.
    ///
    /// # Errors
    ///
    /// Fewer than 32 bytes, a capability outside of the reply or before the
    /// last one, more areas than the reply holds.
    pub fn parse(body: &[u8]) -> Result<RegionInfo, Malformed> {
        let (wire, _) = prefix::<InfoWire>(Command::DeviceGetRegionInfo, body)?;
        let has = |bit| wire.flags & bit != 0;
        let whole = wire.argsz as usize <= body.len();
        let mut areas = Areas::default();
        if has(CAPS) && whole {
            areas.parse(body, wire.cap_offset)?;
        }
        Ok(RegionInfo {
            index: wire.index,
            readable: has(READ),
            writeable: has(WRITE),
            mappable: has(MMAP),
            size: wire.size,
            offset: wire.offset,
            areas: areas.sparse,
            read_only: areas.read_only,
        })
    }

    /// The payload of the whole reply.
    pub fn full_size(&self) -> u32 {
        let capabilities = self.capabilities().map(|(_, areas)| capability_size(areas));
        length(size_of::<InfoWire>() + capabilities.iter().sum::<usize>())
    }

    /// The capabilities' ids and areas, in their order; one without areas is
    /// absent.
    fn capabilities(&self) -> [(u16, &[Area]); 2] {
        [
            (CAP_SPARSE_MMAP, &self.areas),
            (CAP_READ_ONLY, &self.read_only),
        ]
    }

    /// Appends the reply, cut to its fixed part if the whole is more than
    /// `argsz` (vfio-user, Message sizes).
    ///
    /// A cut reply does not have the CAPS flag: QEMU refuses that flag without
    /// an offset, and asks again because of the larger `argsz` alone.
    pub fn encode(&self, argsz: u32, out: &mut Vec<u8>) {
        let full = self.full_size();
        let caps = full > RegionInfo::SIZE && full <= argsz;
        let bit = |set, bit| if set { bit } else { 0 };
        put(
            out,
            &InfoWire {
                argsz: full,
                flags: bit(self.readable, READ)
                    | bit(self.writeable, WRITE)
                    | bit(self.mappable, MMAP)
                    | bit(caps, CAPS),
                index: self.index,
                cap_offset: if caps { RegionInfo::SIZE } else { 0 },
                size: self.size,
                offset: self.offset,
            },
        );
        if caps {
            self.encode_capabilities(out);
        }
    }

    fn encode_capabilities(&self, out: &mut Vec<u8>) {
        let mut start = size_of::<InfoWire>();
        let full = self.full_size();
        for (id, areas) in self.capabilities() {
            if areas.is_empty() {
                continue;
            }
            start += capability_size(areas);
            let behind = length(start);
            let next = if behind < full { behind } else { 0 };
            let version = 1;
            put(out, &CapWire { id, version, next });
            let areas_wire = AreasWire {
                areas: length(areas.len()),
                reserved: 0,
            };
            put(out, &areas_wire);
            for Area { offset, size } in areas.iter().copied() {
                put(out, &AreaWire { offset, size });
            }
        }
    }
}

/// A capability's bytes; none if there are no areas.
fn capability_size(areas: &[Area]) -> usize {
    if areas.is_empty() {
        return 0;
    }
    size_of::<CapWire>() + size_of::<AreasWire>() + areas.len() * size_of::<AreaWire>()
}

/// What the capabilities say.
#[derive(Default)]
struct Areas {
    sparse: Vec<Area>,
    read_only: Vec<Area>,
}

impl Areas {
    /// Walks the capabilities from `first`. Each must lie behind the one
    /// before, so that the walk ends.
    fn parse(&mut self, body: &[u8], first: u32) -> Result<(), Malformed> {
        let command = Command::DeviceGetRegionInfo;
        let mut least = RegionInfo::SIZE;
        let mut next = first;
        while next != 0 {
            let outside = Malformed::Field {
                command,
                field: "cap_offset",
                value: u64::from(next),
            };
            if next < least {
                return Err(outside);
            }
            let rest = body.get(next as usize..).ok_or(outside)?;
            let (cap, rest) = CapWire::read_from_prefix(rest).map_err(|_| outside)?;
            match cap.id {
                CAP_SPARSE_MMAP => parse_areas(rest, &mut self.sparse)?,
                CAP_READ_ONLY => parse_areas(rest, &mut self.read_only)?,
                _ => {}
            }
            least = next.saturating_add(size::<CapWire>());
            next = cap.next;
        }
        Ok(())
    }
}

/// Appends a capability's areas.
fn parse_areas(body: &[u8], areas: &mut Vec<Area>) -> Result<(), Malformed> {
    let command = Command::DeviceGetRegionInfo;
    let (fixed, mut rest) = prefix::<AreasWire>(command, body)?;
    if fixed.areas as usize > rest.len() / size_of::<AreaWire>() {
        return Err(Malformed::Count {
            command,
            count: u64::from(fixed.areas),
            got: rest.len(),
        });
    }
    for _ in 0..fixed.areas {
        let (area, after) = prefix::<AreaWire>(command, rest)?;
        areas.push(Area {
            offset: area.offset,
            size: area.size,
        });
        rest = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
