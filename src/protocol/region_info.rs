//! What a region is: its size and rights, what of it can be mapped, and which
//! eventfds stand for parts of it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::wire::{check_argsz, length, prefix, put, query, size};
use super::{Command, Malformed};

const READ: u32 = 1 << 0;
const WRITE: u32 = 1 << 1;
const MMAP: u32 = 1 << 2;
const CAPS: u32 = 1 << 3;

/// `VFIO_REGION_INFO_CAP_SPARSE_MMAP` of `<linux/vfio.h>`.
const CAP_SPARSE_MMAP: u16 = 1;

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
struct SparseWire {
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
        let areas = if has(CAPS) && whole {
            parse_areas(body, wire.cap_offset)?
        } else {
            Vec::new()
        };
        Ok(RegionInfo {
            index: wire.index,
            readable: has(READ),
            writeable: has(WRITE),
            mappable: has(MMAP),
            size: wire.size,
            offset: wire.offset,
            areas,
        })
    }

    /// The payload of the whole reply.
    pub fn full_size(&self) -> u32 {
        if self.areas.is_empty() {
            return RegionInfo::SIZE;
        }
        let areas = self.areas.len() * size_of::<AreaWire>();
        length(size_of::<InfoWire>() + size_of::<CapWire>() + size_of::<SparseWire>() + areas)
    }

    /// Appends the reply, cut to its fixed part if the whole is more than
    /// `argsz` (vfio-user, Message sizes).
    ///
    /// A cut reply does not have the CAPS flag: QEMU refuses that flag without
    /// an offset, and asks again because of the larger `argsz` alone.
    pub fn encode(&self, argsz: u32, out: &mut Vec<u8>) {
        let full = self.full_size();
        let caps = !self.areas.is_empty() && full <= argsz;
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
            self.encode_areas(out);
        }
    }

    fn encode_areas(&self, out: &mut Vec<u8>) {
        put(
            out,
            &CapWire {
                id: CAP_SPARSE_MMAP,
                version: 1,
                next: 0,
            },
        );
        put(
            out,
            &SparseWire {
                areas: length(self.areas.len()),
                reserved: 0,
            },
        );
        for Area { offset, size } in self.areas.iter().copied() {
            put(out, &AreaWire { offset, size });
        }
    }
}

/// Walks the capabilities from `first`. Each must lie behind the one before, so
/// that the walk ends.
fn parse_areas(body: &[u8], first: u32) -> Result<Vec<Area>, Malformed> {
    let command = Command::DeviceGetRegionInfo;
    let mut areas = Vec::new();
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
        if cap.id == CAP_SPARSE_MMAP {
            let (sparse, rest) = prefix::<SparseWire>(command, rest)?;
            let found = rest.chunks_exact(size_of::<AreaWire>()).len();
            if sparse.areas as usize > found {
                return Err(Malformed::Count {
                    command,
                    count: u64::from(sparse.areas),
                    got: rest.len(),
                });
            }
            let mut rest = rest;
            for _ in 0..sparse.areas {
                let (area, after) = prefix::<AreaWire>(command, rest)?;
                areas.push(Area {
                    offset: area.offset,
                    size: area.size,
                });
                rest = after;
            }
        }
        least = next.saturating_add(size::<CapWire>());
        next = cap.next;
    }
    Ok(areas)
}

/// `VFIO_USER_IO_FD_TYPE_IOEVENTFD`.
const TYPE_IOEVENTFD: u32 = 0;
/// `KVM_IOEVENTFD_FLAG_DATAMATCH` of `<linux/kvm.h>`.
const DATAMATCH: u32 = 1 << 0;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct IoFdsWire {
    argsz: u32,
    flags: u32,
    index: u32,
    count: u32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct IoEventFdWire {
    offset: u64,
    size: u64,
    fd_index: u32,
    kind: u32,
    flags: u32,
    padding: u32,
    datamatch: u64,
}

/// Which region's eventfds the client asks for (vfio-user,
/// `VFIO_USER_DEVICE_GET_REGION_IO_FDS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoFdsQuery {
    /// The region.
    pub index: u32,
    /// The room for the reply's payload.
    pub argsz: u32,
}

impl IoFdsQuery {
    /// The request.
    ///
    /// # Errors
    ///
    /// Fewer than 16 bytes, an `argsz` below that, more bytes than `argsz`,
    /// flags (which "must" be 0 here, and would ask for what we do not know).
    pub fn parse(body: &[u8]) -> Result<IoFdsQuery, Malformed> {
        let command = Command::DeviceGetRegionIoFds;
        let wire: IoFdsWire = query(command, body, |wire: &IoFdsWire| wire.argsz)?;
        if wire.flags != 0 {
            let flags = wire.flags;
            return Err(Malformed::Flags { command, flags });
        }
        Ok(IoFdsQuery {
            index: wire.index,
            argsz: wire.argsz,
        })
    }

    /// Appends the request.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(
            out,
            &IoFdsWire {
                argsz: self.argsz,
                flags: 0,
                index: self.index,
                count: 0,
            },
        );
    }
}

/// A part of a region whose writes an eventfd stands for (vfio-user, Sub-Region
/// IO FD info format (ioeventfd)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoEventFd {
    /// Where in the region.
    pub offset: u64,
    /// How long; 0 if the size of the access does not matter.
    pub size: u64,
    /// Which of the fds that come along.
    pub fd_index: u32,
    /// Only a write of this value counts.
    pub datamatch: Option<u64>,
}

/// A region's eventfds (vfio-user, `VFIO_USER_DEVICE_GET_REGION_IO_FDS`,
/// Reply).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoFds {
    /// The region.
    pub index: u32,
    /// What they stand for.
    pub sub_regions: Vec<IoEventFd>,
}

impl IoFds {
    /// The payload of the reply without sub-regions.
    pub const SIZE: u32 = size::<IoFdsWire>();

    /// The reply. The sub-regions of one that was cut are absent: see
    /// [`needed_argsz`](super::needed_argsz). Those that are not ioeventfds are
    /// left out.
    ///
    /// # Errors
    ///
    /// Fewer than 16 bytes, an `argsz` below that, or a count of sub-regions
    /// that the reply does not hold.
    pub fn parse(body: &[u8]) -> Result<IoFds, Malformed> {
        let command = Command::DeviceGetRegionIoFds;
        let (wire, rest) = prefix::<IoFdsWire>(command, body)?;
        check_argsz(command, wire.argsz, size::<IoFdsWire>())?;
        let mut fds = IoFds {
            index: wire.index,
            sub_regions: Vec::new(),
        };
        if wire.argsz as usize > body.len() || wire.count == 0 {
            return Ok(fds);
        }
        // Entries may grow in later versions: argsz says by how much.
        let entry = ((wire.argsz - IoFds::SIZE) / wire.count) as usize;
        if entry < size_of::<IoEventFdWire>() {
            return Err(Malformed::Count {
                command,
                count: u64::from(wire.count),
                got: rest.len(),
            });
        }
        for bytes in rest.chunks_exact(entry).take(wire.count as usize) {
            let (sub, _) = prefix::<IoEventFdWire>(command, bytes)?;
            if sub.kind == TYPE_IOEVENTFD {
                fds.sub_regions.push(IoEventFd {
                    offset: sub.offset,
                    size: sub.size,
                    fd_index: sub.fd_index,
                    datamatch: (sub.flags & DATAMATCH != 0).then_some(sub.datamatch),
                });
            }
        }
        Ok(fds)
    }

    /// The payload of the whole reply.
    pub fn full_size(&self) -> u32 {
        length(size_of::<IoFdsWire>() + self.sub_regions.len() * size_of::<IoEventFdWire>())
    }

    /// Appends the reply, cut to its fixed part and a count of 0 if the whole
    /// is more than `argsz` (vfio-user, Message sizes). The fds go with a whole
    /// one only.
    pub fn encode(&self, argsz: u32, out: &mut Vec<u8>) {
        let full = self.full_size();
        let sub_regions: &[IoEventFd] = if full <= argsz {
            &self.sub_regions
        } else {
            &[]
        };
        put(
            out,
            &IoFdsWire {
                argsz: full,
                flags: 0,
                index: self.index,
                count: length(sub_regions.len()),
            },
        );
        for sub in sub_regions {
            put(
                out,
                &IoEventFdWire {
                    offset: sub.offset,
                    size: sub.size,
                    fd_index: sub.fd_index,
                    kind: TYPE_IOEVENTFD,
                    flags: if sub.datamatch.is_some() {
                        DATAMATCH
                    } else {
                        0
                    },
                    padding: 0,
                    datamatch: sub.datamatch.unwrap_or(0),
                },
            );
        }
    }
}

#[cfg(test)]
mod tests;
