//! Which eventfds stand for parts of a region.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::wire::{check_argsz, length, prefix, put, query, size};
use super::{Command, Malformed};

/// `VFIO_USER_IO_FD_TYPE_IOEVENTFD`.
const TYPE_IOEVENTFD: u32 = 0;
/// `VFIO_USER_IO_FD_TYPE_IOEVENTFD_SHADOW` of libvfio-user; not in the
/// specification.
const TYPE_SHADOW: u32 = 2;
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

/// An entry as libvfio-user has it, and as we have it in a reply with shadows.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ShadowWire {
    offset: u64,
    size: u64,
    fd_index: u32,
    kind: u32,
    flags: u32,
    shadow_fd_index: u32,
    shadow_offset: u64,
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
    /// Where the value written is kept. Only for a client that said
    /// `shadow_doorbells` in VERSION.
    pub shadow: Option<Shadow>,
}

/// Where a doorbell keeps the value that was written last (libvfio-user,
/// `vfio_user_sub_region_ioeventfd`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// Which of the fds that come along is its memory.
    pub fd_index: u32,
    /// Where in that.
    pub offset: u64,
}

impl IoEventFd {
    fn flags(&self) -> u32 {
        if self.datamatch.is_some() {
            DATAMATCH
        } else {
            0
        }
    }

    /// An entry of the specification.
    fn parse(bytes: &[u8]) -> Result<Option<IoEventFd>, Malformed> {
        let (sub, _) = prefix::<IoEventFdWire>(Command::DeviceGetRegionIoFds, bytes)?;
        Ok((sub.kind == TYPE_IOEVENTFD).then_some(IoEventFd {
            offset: sub.offset,
            size: sub.size,
            fd_index: sub.fd_index,
            datamatch: (sub.flags & DATAMATCH != 0).then_some(sub.datamatch),
            shadow: None,
        }))
    }

    /// An entry of libvfio-user's length and layout.
    fn parse_with_shadow(bytes: &[u8]) -> Result<Option<IoEventFd>, Malformed> {
        let (sub, _) = prefix::<ShadowWire>(Command::DeviceGetRegionIoFds, bytes)?;
        let shadow = (sub.kind == TYPE_SHADOW).then_some(Shadow {
            fd_index: sub.shadow_fd_index,
            offset: sub.shadow_offset,
        });
        let known = matches!(sub.kind, TYPE_IOEVENTFD | TYPE_SHADOW);
        Ok(known.then_some(IoEventFd {
            offset: sub.offset,
            size: sub.size,
            fd_index: sub.fd_index,
            datamatch: (sub.flags & DATAMATCH != 0).then_some(sub.datamatch),
            shadow,
        }))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put(
            out,
            &IoEventFdWire {
                offset: self.offset,
                size: self.size,
                fd_index: self.fd_index,
                kind: TYPE_IOEVENTFD,
                flags: self.flags(),
                padding: 0,
                datamatch: self.datamatch.unwrap_or(0),
            },
        );
    }

    fn encode_with_shadow(&self, out: &mut Vec<u8>) {
        let shadow = self.shadow;
        put(
            out,
            &ShadowWire {
                offset: self.offset,
                size: self.size,
                fd_index: self.fd_index,
                kind: shadow.map_or(TYPE_IOEVENTFD, |_| TYPE_SHADOW),
                flags: self.flags(),
                shadow_fd_index: shadow.map_or(0, |shadow| shadow.fd_index),
                shadow_offset: shadow.map_or(0, |shadow| shadow.offset),
                datamatch: self.datamatch.unwrap_or(0),
            },
        );
    }
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
    /// [`needed_argsz`](super::needed_argsz). Those that are no eventfds are
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
        // argsz says how long an entry is: libvfio-user's are longer.
        let entry = ((wire.argsz - IoFds::SIZE) / wire.count) as usize;
        if entry < size_of::<IoEventFdWire>() {
            return Err(Malformed::Count {
                command,
                count: u64::from(wire.count),
                got: rest.len(),
            });
        }
        for bytes in rest.chunks_exact(entry).take(wire.count as usize) {
            let known = if entry < size_of::<ShadowWire>() {
                IoEventFd::parse(bytes)?
            } else {
                IoEventFd::parse_with_shadow(bytes)?
            };
            fds.sub_regions.extend(known);
        }
        Ok(fds)
    }

    fn has_shadows(&self) -> bool {
        self.sub_regions.iter().any(|sub| sub.shadow.is_some())
    }

    /// The payload of the whole reply.
    pub fn full_size(&self) -> u32 {
        let entry = if self.has_shadows() {
            size_of::<ShadowWire>()
        } else {
            size_of::<IoEventFdWire>()
        };
        length(size_of::<IoFdsWire>() + self.sub_regions.len() * entry)
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
            if self.has_shadows() {
                sub.encode_with_shadow(out);
            } else {
                sub.encode(out);
            }
        }
    }
}

#[cfg(test)]
mod tests;
