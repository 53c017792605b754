//! Client memory: what the client lends and takes back.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::wire::{check_argsz, exactly, nothing_after, prefix, put, size};
use super::{Command, Malformed};

const MAP_READABLE: u32 = 1 << 0;
const MAP_WRITEABLE: u32 = 1 << 1;
/// libvfio-user's own: access through a mapping of the fd, which must be there.
const MAP_MMAP: u32 = 1 << 2;
/// libvfio-user's own: access by reading and writing the fd, likewise.
const MAP_FILE_IO: u32 = 1 << 3;

const UNMAP_DIRTY_BITMAP: u32 = 1 << 0;
const UNMAP_ALL: u32 = 1 << 1;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct MapWire {
    argsz: u32,
    flags: u32,
    offset: u64,
    address: u64,
    size: u64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct UnmapWire {
    argsz: u32,
    flags: u32,
    address: u64,
    size: u64,
}

/// What the server may do with a range of client memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaAccess {
    /// The device may read it.
    pub read: bool,
    /// The device may write it.
    pub write: bool,
}

/// A range of client memory (vfio-user, `VFIO_USER_DMA_MAP`).
///
/// The size is not 0, neither `address + size` nor `offset + size` overflows,
/// and the range is readable, writeable or both. Overlap, alignment and the
/// number of maps are for the session to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaMap {
    /// What the server may do there.
    pub access: DmaAccess,
    /// Read and write the fd instead of mapping it; the fd must be there
    /// (libvfio-user's extension).
    pub file_io: bool,
    /// Map the fd, which must be there (libvfio-user's extension; an fd without
    /// either flag means the same).
    pub mmap: bool,
    /// Where the range starts in the file that came along.
    pub offset: u64,
    /// Where the range starts for the device.
    pub address: u64,
    /// How long it is.
    pub size: u64,
}

impl DmaMap {
    /// The request.
    ///
    /// # Errors
    ///
    /// A payload that is not 32 bytes, an `argsz` below that, unknown flags,
    /// neither readable nor writeable, both extensions at once, a size of 0, a
    /// range that overflows.
    pub fn parse(body: &[u8]) -> Result<DmaMap, Malformed> {
        let command = Command::DmaMap;
        let wire: MapWire = exactly(command, body)?;
        check_argsz(command, wire.argsz, size::<MapWire>())?;
        let flags = wire.flags;
        let has = |bit| flags & bit != 0;
        let map = DmaMap {
            access: DmaAccess {
                read: has(MAP_READABLE),
                write: has(MAP_WRITEABLE),
            },
            file_io: has(MAP_FILE_IO),
            mmap: has(MAP_MMAP),
            offset: wire.offset,
            address: wire.address,
            size: wire.size,
        };
        let unknown = has(!(MAP_READABLE | MAP_WRITEABLE | MAP_MMAP | MAP_FILE_IO));
        let useless = !map.access.read && !map.access.write;
        if unknown || useless || (map.file_io && map.mmap) {
            return Err(Malformed::Flags { command, flags });
        }
        check_range(command, map.address, map.size)?;
        check_range(command, map.offset, map.size)?;
        Ok(map)
    }

    /// Appends the request.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let bit = |set, bit| if set { bit } else { 0 };
        put(
            out,
            &MapWire {
                argsz: size::<MapWire>(),
                flags: bit(self.access.read, MAP_READABLE)
                    | bit(self.access.write, MAP_WRITEABLE)
                    | bit(self.mmap, MAP_MMAP)
                    | bit(self.file_io, MAP_FILE_IO),
                offset: self.offset,
                address: self.address,
                size: self.size,
            },
        );
    }
}

fn check_range(command: Command, start: u64, length: u64) -> Result<(), Malformed> {
    if length == 0 {
        let field = "size";
        let value = 0;
        return Err(Malformed::Field {
            command,
            field,
            value,
        });
    }
    match start.checked_add(length) {
        Some(_) => Ok(()),
        None => Err(Malformed::Wraps {
            command,
            start,
            length,
        }),
    }
}

/// What the client takes back (vfio-user, `VFIO_USER_DMA_UNMAP`). The reply is
/// the request again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DmaUnmap {
    /// One map, which must match exactly.
    Range {
        /// Its address.
        address: u64,
        /// Its size; not 0, and the two do not overflow.
        size: u64,
    },
    /// Every map (`VFIO_DMA_UNMAP_FLAG_ALL`, which QEMU and libvfio-user use).
    All,
}

impl DmaUnmap {
    /// The request, or its reply.
    ///
    /// # Errors
    ///
    /// A payload that is not 24 bytes, an `argsz` below that, unknown flags, a
    /// size of 0 or a range that overflows, an address or size where all maps
    /// go. A dirty bitmap is [`Malformed::Unsupported`], whatever follows.
    pub fn parse(body: &[u8]) -> Result<DmaUnmap, Malformed> {
        let command = Command::DmaUnmap;
        let (wire, rest) = prefix::<UnmapWire>(command, body)?;
        let flags = wire.flags;
        if flags & !(UNMAP_DIRTY_BITMAP | UNMAP_ALL) != 0 {
            return Err(Malformed::Flags { command, flags });
        }
        // The bitmap's own fields follow, so this comes before the length.
        if flags & UNMAP_DIRTY_BITMAP != 0 {
            let what = "a dirty bitmap";
            return Err(Malformed::Unsupported { command, what });
        }
        nothing_after(command, size_of::<UnmapWire>(), rest)?;
        check_argsz(command, wire.argsz, size::<UnmapWire>())?;
        if flags & UNMAP_ALL != 0 {
            for (field, value) in [("address", wire.address), ("size", wire.size)] {
                if value != 0 {
                    return Err(Malformed::Field {
                        command,
                        field,
                        value,
                    });
                }
            }
            return Ok(DmaUnmap::All);
        }
        check_range(command, wire.address, wire.size)?;
        Ok(DmaUnmap::Range {
            address: wire.address,
            size: wire.size,
        })
    }

    /// Appends the request, or its reply.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (flags, address, range) = match *self {
            DmaUnmap::Range { address, size } => (0, address, size),
            DmaUnmap::All => (UNMAP_ALL, 0, 0),
        };
        put(
            out,
            &UnmapWire {
                argsz: size::<UnmapWire>(),
                flags,
                address,
                size: range,
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(argsz: u32, flags: u32, offset: u64, address: u64, size: u64) -> Vec<u8> {
        bytes![argsz, flags, offset, address, size]
    }

    fn refused<T: std::fmt::Debug>(result: Result<T, Malformed>) -> i32 {
        result.unwrap_err().errno()
    }

    #[test]
    fn a_map_is_32_bytes() {
        let body = map(32, 3, 0x1000, 0xfee0_0000, 0x2000);
        let expected = DmaMap {
            access: DmaAccess {
                read: true,
                write: true,
            },
            file_io: false,
            mmap: false,
            offset: 0x1000,
            address: 0xfee0_0000,
            size: 0x2000,
        };
        assert_eq!(DmaMap::parse(&body), Ok(expected));
        let mut out = Vec::new();
        expected.encode(&mut out);
        assert_eq!(out, body);
    }

    #[test]
    fn the_two_extensions_of_libvfio_user_are_understood() {
        let mmap = DmaMap::parse(&map(32, 0b0111, 0, 0, 1)).unwrap();
        let file_io = DmaMap::parse(&map(32, 0b1001, 0, 0, 1)).unwrap();
        assert!(mmap.mmap && !mmap.file_io);
        assert!(file_io.file_io && !file_io.mmap && !file_io.access.write);
    }

    #[test]
    fn a_map_with_flags_that_mean_nothing_is_refused() {
        for flags in [0, 0b0100, 0b1111, 0b1_0001, 1 << 31 | 1] {
            let refusal = DmaMap::parse(&map(32, flags, 0, 0, 1)).unwrap_err();
            assert!(matches!(refusal, Malformed::Flags { flags: f, .. } if f == flags));
            assert_eq!(refusal.errno(), libc::EINVAL);
        }
    }

    #[test]
    fn a_map_of_nothing_or_past_the_end_is_refused() {
        assert_eq!(refused(DmaMap::parse(&map(32, 1, 0, 0, 0))), libc::EINVAL);
        for (offset, address, size) in [(0, u64::MAX, 1), (u64::MAX, 0, 1), (0, 1, u64::MAX)] {
            let refusal = DmaMap::parse(&map(32, 1, offset, address, size)).unwrap_err();
            assert!(matches!(refusal, Malformed::Wraps { .. }));
            assert_eq!(refusal.errno(), libc::EINVAL);
        }
    }

    #[test]
    fn a_map_of_the_wrong_length_or_argsz_is_refused() {
        let body = map(32, 1, 0, 0, 1);
        assert_eq!(refused(DmaMap::parse(&[])), libc::EINVAL);
        assert_eq!(refused(DmaMap::parse(&body[..31])), libc::EINVAL);
        let long = [&body[..], &[0]].concat();
        assert_eq!(refused(DmaMap::parse(&long)), libc::EINVAL);
        let argsz = DmaMap::parse(&map(31, 1, 0, 0, 1)).unwrap_err();
        assert!(matches!(
            argsz,
            Malformed::Argsz {
                least: 32,
                got: 31,
                ..
            }
        ));
        assert_eq!(argsz.errno(), libc::EINVAL);
    }

    #[test]
    fn an_unmap_is_24_bytes_and_its_reply_the_same() {
        let body = bytes![24u32, 0u32, 0x1000u64, 0x2000u64];
        let expected = DmaUnmap::Range {
            address: 0x1000,
            size: 0x2000,
        };
        assert_eq!(DmaUnmap::parse(&body), Ok(expected));
        let mut out = Vec::new();
        expected.encode(&mut out);
        assert_eq!(out, body);
    }

    #[test]
    fn unmapping_all_names_no_range() {
        let body = bytes![24u32, 2u32, 0u64, 0u64];
        assert_eq!(DmaUnmap::parse(&body), Ok(DmaUnmap::All));
        let mut out = Vec::new();
        DmaUnmap::All.encode(&mut out);
        assert_eq!(out, body);
        for (address, size) in [(1u64, 0u64), (0, 1)] {
            let body = bytes![24u32, 2u32, address, size];
            assert_eq!(refused(DmaUnmap::parse(&body)), libc::EINVAL);
        }
    }

    #[test]
    fn an_unmap_that_wants_a_dirty_bitmap_is_not_supported() {
        let body = bytes![40u32, 1u32, 0u64, 0x1000u64, 4096u64, 8u64];
        assert_eq!(refused(DmaUnmap::parse(&body)), libc::ENOTSUP);
        assert_eq!(refused(DmaUnmap::parse(&body[..24])), libc::ENOTSUP);
    }

    #[test]
    fn an_unmap_that_means_nothing_is_refused() {
        let wrong = [
            bytes![24u32, 4u32, 0u64, 1u64],
            bytes![24u32, 0u32, 0u64, 0u64],
            bytes![24u32, 0u32, u64::MAX, 1u64],
            bytes![23u32, 0u32, 0u64, 1u64],
            bytes![24u32, 0u32, 0u64, 1u64, 0u8],
            bytes![24u32, 0u32, 0u64, 1u32],
            bytes![24u32],
        ];
        for body in wrong {
            assert_eq!(refused(DmaUnmap::parse(&body)), libc::EINVAL);
        }
    }
}
