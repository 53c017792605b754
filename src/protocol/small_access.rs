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
pub struct SmallAccess(Wire);

impl SmallAccess {
    /// What may be such an access at the front of `bytes`.
    #[allow(clippy::inline_always, reason = "every access comes through here")]
    #[inline(always)]
    pub(super) fn front(bytes: &[u8]) -> Option<SmallAccess> {
        let wire = transmute!(*bytes.first_chunk::<SMALL_MESSAGE>()?);
        Some(SmallAccess(wire))
    }

    /// Its size if it is a whole and sound read of at most `most` bytes, of
    /// which `here` were received.
    #[allow(clippy::inline_always, reason = "every access comes through here")]
    #[inline(always)]
    pub(super) fn size_of_read(&self, here: usize, most: u32) -> Option<usize> {
        let size = FIXED as usize;
        (self.0.start & !ID == READ && self.is_sound(most) && size <= here).then_some(size)
    }

    /// The same for a write.
    #[allow(clippy::inline_always, reason = "every access comes through here")]
    #[inline(always)]
    pub(super) fn size_of_write(&self, here: usize, most: u32) -> Option<usize> {
        let with_data = WRITE.wrapping_add(u64::from(self.0.count) * BYTE);
        if self.0.start & !ID != with_data || !self.is_sound(most) {
            return None;
        }
        let size = (FIXED + self.0.count) as usize;
        (size <= here).then_some(size)
    }

    #[allow(clippy::inline_always, reason = "every access comes through here")]
    #[inline(always)]
    fn is_sound(&self, most: u32) -> bool {
        // A count of 0 becomes the largest number.
        self.0.count.wrapping_sub(1) < most && self.0.flags & TYPE_MASK == TYPE_COMMAND
    }

    /// Where in the region.
    #[inline]
    pub fn offset(&self) -> u64 {
        self.0.offset
    }

    /// The region's index.
    #[inline]
    pub fn region(&self) -> u32 {
        self.0.region
    }

    /// How many bytes, 1 to [`SMALL`].
    #[inline]
    pub fn count(&self) -> u32 {
        self.0.count
    }

    /// What to write, in the low bytes, if this is a write. What is above them
    /// means nothing.
    #[inline]
    pub fn data(&self) -> u64 {
        u64::from_le(self.0.data)
    }

    /// Whether the client wants no reply.
    #[inline]
    pub fn no_reply(&self) -> bool {
        self.0.flags & NO_REPLY != 0
    }

    /// The header as it was received.
    #[inline]
    pub fn header(&self) -> Header {
        let Start { id, command, size } = transmute!(self.0.start);
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
        body[..8].copy_from_slice(&self.0.offset.to_ne_bytes());
        body[8..12].copy_from_slice(&self.0.region.to_ne_bytes());
        body[12..].copy_from_slice(&self.0.count.to_ne_bytes());
        body
    }

    /// The reply without its data, and its size with them. `reads`: whether it
    /// is a read.
    #[allow(clippy::inline_always, reason = "every access comes through here")]
    #[inline(always)]
    pub fn encode_reply(&self, reads: bool) -> ([u8; SMALL_DATA], usize) {
        let count = self.0.count;
        let data = u64::from(count) * BYTE;
        // A read's has data, a write's has none any more.
        let (start, size) = if reads {
            (self.0.start.wrapping_add(data), FIXED + count)
        } else {
            (self.0.start.wrapping_sub(data), FIXED)
        };
        let reply = ReplyWire {
            start,
            flags: TYPE_REPLY,
            error: 0,
            offset: self.0.offset,
            region: self.0.region,
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

    fn parse(message: &[u8], most: u32) -> Option<(SmallAccess, bool)> {
        let here = message.len() - 8;
        let access = SmallAccess::front(message)?;
        let read = access.size_of_read(here, most);
        let write = access.size_of_write(here, most);
        assert!(read.is_none() || write.is_none());
        assert_eq!(read.or(write)?, here);
        // The same as the one that parses all of them.
        let body = &message[16..here];
        let (same, data) = if read.is_some() {
            (RegionAccess::parse(body).unwrap(), &[][..])
        } else {
            RegionAccess::parse_write(body).unwrap()
        };
        assert_eq!(
            (same.offset, same.region, same.count),
            (access.offset(), access.region(), access.count())
        );
        assert_eq!(access.data().to_le_bytes()[..data.len()], *data);
        let header = Header::parse(message.first_chunk().unwrap()).unwrap();
        assert_eq!(access.header(), header);
        assert_eq!(access.body(), body[..16]);
        Some((access, read.is_some()))
    }

    #[test]
    fn reads_and_writes_of_up_to_eight_bytes_are_found() {
        for count in 1..=8u32 {
            for flags in [0u32, 0x10, 0x20] {
                let mut body = bytes![0x18u64, 2u32, count];
                let read = message(7, Command::RegionRead, flags, &body);
                let (read, reads) = parse(&read, SMALL).unwrap();
                assert_eq!((reads, read.no_reply()), (true, flags == 0x10));
                body.extend_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8][..count as usize]);
                let write = message(7, Command::RegionWrite, flags, &body);
                assert!(!parse(&write, SMALL).unwrap().1);
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
        let front = SmallAccess::front(&four).unwrap();
        assert_eq!(front.size_of_read(31, SMALL), None);
        // Its last bytes might be another message's, but not beyond the end.
        assert!(SmallAccess::front(&four[..39]).is_none());
    }

    #[test]
    fn a_reply_is_as_long_as_its_data() {
        let body = bytes![0x18u64, 2u32, 4u32];
        let (read, _) = parse(&message(7, Command::RegionRead, 0, &body), SMALL).unwrap();
        let (out, size) = read.encode_reply(true);
        let reply = bytes![7u16, 9u16, 36u32, 1u32, 0u32, 0x18u64, 2u32, 4u32];
        assert_eq!((out.to_vec(), size), (reply, 36));
        let body = bytes![0x18u64, 2u32, 4u32, 5u32];
        let (write, _) = parse(&message(7, Command::RegionWrite, 0, &body), SMALL).unwrap();
        let (out, size) = write.encode_reply(false);
        let reply = bytes![7u16, 10u16, 32u32, 1u32, 0u32, 0x18u64, 2u32, 4u32];
        assert_eq!((out.to_vec(), size), (reply, 32));
    }
}
