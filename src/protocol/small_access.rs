//! Region accesses of at most eight bytes, which are nearly all that a client
//! sends: read where they were received, answered in the same shape.

use zerocopy::{FromBytes, Immutable, IntoBytes, transmute};

use super::header::{NO_REPLY, TYPE_COMMAND, TYPE_MASK, TYPE_REPLY};
use super::{Command, Header, Kind};

/// The most bytes of such an access.
pub const SMALL: u32 = 8;

/// The bytes of the longest request and of the longest reply.
pub const SMALL_MESSAGE: usize = size_of::<Wire>();

/// A request of a write and a reply to a read of 8 bytes; others end earlier.
/// In words, as most fields only travel from the one to the other.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Wire {
    /// A [`Start`].
    start: u64,
    flags: u32,
    error: u32,
    offset: u64,
    region: u32,
    count: u32,
    data: u64,
}

/// A reply before its data.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ReplyWire {
    start: u64,
    flags: u32,
    error: u32,
    offset: u64,
    region: u32,
    count: u32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Start {
    id: u16,
    command: u16,
    size: u32,
}

const fn start(id: u16, command: u16, size: u32) -> u64 {
    transmute!(Start { id, command, size })
}

/// The bits of an id, a read without data, a write without data, and what is
/// to be added for a byte of data.
const ID: u64 = start(u16::MAX, 0, 0);
const READ: u64 = start(0, Command::RegionRead as u16, FIXED);
const WRITE: u64 = start(0, Command::RegionWrite as u16, FIXED);
const BYTE: u64 = start(0, 0, 1);

/// The bytes before the data.
const FIXED: u32 = 32;

/// Where the data begin in a request of a write and in a reply to a read.
pub const SMALL_DATA: usize = size_of::<ReplyWire>();

/// A `REGION_READ` or `REGION_WRITE` of 1 to [`SMALL`] bytes.
#[derive(Clone, Copy)]
pub struct SmallAccess {
    wire: Wire,
    reads: bool,
}

impl SmallAccess {
    /// The access at the front of `bytes`, of which `here` were received, and
    /// its size; `None` if it is anything else than a whole and sound access
    /// of at most `most` bytes, which is at most [`SMALL`].
    #[allow(clippy::inline_always, reason = "every access comes through here")]
    #[inline(always)]
    pub(super) fn parse(bytes: &[u8], here: usize, most: u32) -> Option<(SmallAccess, usize)> {
        let wire: Wire = transmute!(*bytes.first_chunk::<SMALL_MESSAGE>()?);
        let what = wire.start & !ID;
        let data = u64::from(wire.count) * BYTE;
        let (reads, size) = if what == READ {
            (true, FIXED)
        } else if what == WRITE.wrapping_add(data) {
            (false, FIXED + wire.count)
        } else {
            return None;
        };
        let size = size as usize;
        // A count of 0 becomes the largest number.
        let sound = wire.count.wrapping_sub(1) < most
            && wire.flags & TYPE_MASK == TYPE_COMMAND
            && size <= here;
        sound.then_some((SmallAccess { wire, reads }, size))
    }

    /// Where in the region.
    #[inline]
    pub fn offset(&self) -> u64 {
        self.wire.offset
    }

    /// The region's index.
    #[inline]
    pub fn region(&self) -> u32 {
        self.wire.region
    }

    /// How many bytes, 1 to [`SMALL`].
    #[inline]
    pub fn count(&self) -> u32 {
        self.wire.count
    }

    /// What to write, in the low bytes, if this is a write. What is above them
    /// means nothing.
    #[inline]
    pub fn data(&self) -> Option<u64> {
        (!self.reads).then_some(u64::from_le(self.wire.data))
    }

    /// Whether the client wants no reply.
    #[inline]
    pub fn no_reply(&self) -> bool {
        self.wire.flags & NO_REPLY != 0
    }

    /// The header as it was received.
    #[inline]
    pub fn header(&self) -> Header {
        let Start { id, command, size } = transmute!(self.wire.start);
        Header {
            id,
            command,
            size,
            kind: Kind::Command,
            no_reply: self.no_reply(),
            error: None,
        }
    }

    /// The fixed part of the request's body.
    pub fn body(&self) -> [u8; 16] {
        let mut body = [0; 16];
        body[..8].copy_from_slice(&self.wire.offset.to_ne_bytes());
        body[8..12].copy_from_slice(&self.wire.region.to_ne_bytes());
        body[12..].copy_from_slice(&self.wire.count.to_ne_bytes());
        body
    }

    /// The reply without its data, and its size with them.
    #[allow(clippy::inline_always, reason = "every access comes through here")]
    #[inline(always)]
    pub fn encode_reply(&self) -> ([u8; SMALL_DATA], usize) {
        let count = self.wire.count;
        let data = u64::from(count) * BYTE;
        // A read's has data, a write's has none any more.
        let (start, size) = if self.reads {
            (self.wire.start.wrapping_add(data), FIXED + count)
        } else {
            (self.wire.start.wrapping_sub(data), FIXED)
        };
        let reply = ReplyWire {
            start,
            flags: TYPE_REPLY,
            error: 0,
            offset: self.wire.offset,
            region: self.wire.region,
            count,
        };
        (transmute!(reply), size as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::RegionAccess;

    /// A message with 8 bytes behind it.
    fn message(id: u16, command: Command, flags: u32, body: &[u8]) -> Vec<u8> {
        let size = 16 + u32::try_from(body.len()).unwrap();
        let header = bytes![id, command.to_wire(), size, flags, 0u32];
        [&header, body, &[0x77; 8]].concat()
    }

    fn parse(message: &[u8], most: u32) -> Option<SmallAccess> {
        let here = message.len() - 8;
        let (access, size) = SmallAccess::parse(message, here, most)?;
        assert_eq!(size, here);
        // The same as the one that parses all of them.
        let body = &message[16..here];
        let (same, data) = if access.data().is_none() {
            (RegionAccess::parse(body).unwrap(), None)
        } else {
            let (access, data) = RegionAccess::parse_write(body).unwrap();
            (access, Some(data))
        };
        assert_eq!(
            (same.offset, same.region, same.count),
            (access.offset(), access.region(), access.count())
        );
        if let (Some(data), Some(value)) = (data, access.data()) {
            assert_eq!(value.to_le_bytes()[..data.len()], *data);
        }
        let header = Header::parse(message.first_chunk().unwrap()).unwrap();
        assert_eq!(access.header(), header);
        assert_eq!(access.body(), body[..16]);
        Some(access)
    }

    #[test]
    fn reads_and_writes_of_up_to_eight_bytes_are_found() {
        for count in 1..=8u32 {
            for flags in [0u32, 0x10, 0x20] {
                let mut body = bytes![0x18u64, 2u32, count];
                let read = parse(&message(7, Command::RegionRead, flags, &body), SMALL).unwrap();
                assert_eq!((read.data(), read.no_reply()), (None, flags == 0x10));
                body.extend_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8][..count as usize]);
                let write = message(7, Command::RegionWrite, flags, &body);
                assert!(parse(&write, SMALL).unwrap().data().is_some());
            }
        }
    }

    #[test]
    fn what_is_anything_else_is_left_to_others() {
        let access = |count: u32| bytes![0x18u64, 2u32, count];
        let write = |count: u32, data: &[u8]| [&access(count), data].concat();
        for (command, flags, body) in [
            (Command::RegionRead, 0, access(0)),
            (Command::RegionRead, 0, access(9)),
            (Command::RegionRead, 0, access(u32::MAX)),
            (Command::RegionRead, 0, write(4, &[0])),
            (Command::RegionRead, 0, access(4)[..15].to_vec()),
            (Command::RegionRead, 1, access(4)),
            (Command::RegionRead, 2, access(4)),
            (Command::RegionWrite, 0, access(4)),
            (Command::RegionWrite, 0, write(4, &[0; 3])),
            (Command::RegionWrite, 0, write(4, &[0; 5])),
            (Command::RegionWrite, 0, write(9, &[0; 9])),
            (Command::RegionWrite, 0, write(0, &[])),
            (Command::DmaRead, 0, access(4)),
        ] {
            assert!(parse(&message(7, command, flags, &body), SMALL).is_none());
        }
        let four = message(7, Command::RegionRead, 0, &access(4));
        assert!(parse(&four, 3).is_none());
        assert!(SmallAccess::parse(&four, 31, SMALL).is_none());
        // Its last bytes might be another message's, but not beyond the end.
        assert!(SmallAccess::parse(&four[..39], 32, SMALL).is_none());
    }

    #[test]
    fn a_reply_is_as_long_as_its_data() {
        let body = bytes![0x18u64, 2u32, 4u32];
        let read = parse(&message(7, Command::RegionRead, 0, &body), SMALL).unwrap();
        let (out, size) = read.encode_reply();
        let reply = bytes![7u16, 9u16, 36u32, 1u32, 0u32, 0x18u64, 2u32, 4u32];
        assert_eq!((out.to_vec(), size), (reply, 36));
        let body = bytes![0x18u64, 2u32, 4u32, 5u32];
        let write = parse(&message(7, Command::RegionWrite, 0, &body), SMALL).unwrap();
        let (out, size) = write.encode_reply();
        let reply = bytes![7u16, 10u16, 32u32, 1u32, 0u32, 0x18u64, 2u32, 4u32];
        assert_eq!((out.to_vec(), size), (reply, 32));
    }
}
