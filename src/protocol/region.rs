//! Region reads and writes: the messages that carry every trapped access.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unalign};

use super::wire::{exactly, prefix, put};
use super::{Command, Header, Malformed};

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct AccessWire {
    offset: u64,
    region: u32,
    count: u32,
}

/// Which bytes of which region (vfio-user, `VFIO_USER_REGION_READ` and
/// `VFIO_USER_REGION_WRITE`).
///
/// In a request the count is not 0 and `offset + count` does not overflow. That
/// the count is within `max_data_xfer_size`, and the range within the region,
/// is for the session and the endpoint to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionAccess {
    /// Where in the region.
    pub offset: u64,
    /// The region's index.
    pub region: u32,
    /// How many bytes.
    pub count: u32,
}

impl RegionAccess {
    /// A read request.
    ///
    /// # Errors
    ///
    /// A payload that is not 16 bytes, a count of 0, a range that overflows.
    #[inline]
    pub fn parse(body: &[u8]) -> Result<RegionAccess, Malformed> {
        let wire: AccessWire = exactly(Command::RegionRead, body)?;
        RegionAccess::check(Command::RegionRead, &wire)
    }

    /// A write request and its data.
    ///
    /// # Errors
    ///
    /// As [`RegionAccess::parse`], and data that is not `count` bytes.
    #[inline]
    pub fn parse_write(body: &[u8]) -> Result<(RegionAccess, &[u8]), Malformed> {
        let command = Command::RegionWrite;
        let (wire, data) = prefix::<AccessWire>(command, body)?;
        let access = RegionAccess::check(command, &wire)?;
        access.check_data(command, data)?;
        Ok((access, data))
    }

    /// A read's reply and its data.
    ///
    /// # Errors
    ///
    /// Fewer than 16 bytes, or data that is not `count` bytes.
    pub fn parse_read_reply(body: &[u8]) -> Result<(RegionAccess, &[u8]), Malformed> {
        let (wire, data) = prefix::<AccessWire>(Command::RegionRead, body)?;
        let access = RegionAccess::from(&wire);
        access.check_data(Command::RegionRead, data)?;
        Ok((access, data))
    }

    /// A write's reply.
    ///
    /// # Errors
    ///
    /// A payload that is not 16 bytes.
    pub fn parse_write_reply(body: &[u8]) -> Result<RegionAccess, Malformed> {
        let wire: AccessWire = exactly(Command::RegionWrite, body)?;
        Ok(RegionAccess::from(&wire))
    }

    /// Appends the 16 bytes that start all four messages. The data of a write
    /// request or of a read reply follows them.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(out, &AccessWire::from(self));
    }

    /// Appends the whole reply to a read, and returns its data, which are zeros
    /// yet.
    pub(super) fn encode_read_reply<'a>(
        &self,
        header: &Header,
        out: &'a mut Vec<u8>,
    ) -> &'a mut [u8] {
        out.extend_from_slice(&header.encode());
        self.encode(out);
        let data = out.len();
        out.resize(data + self.count as usize, 0);
        &mut out[data..]
    }

    #[inline]
    fn check(command: Command, wire: &AccessWire) -> Result<RegionAccess, Malformed> {
        if wire.count == 0 {
            let field = "count";
            let value = 0;
            return Err(Malformed::Field {
                command,
                field,
                value,
            });
        }
        let length = u64::from(wire.count);
        if wire.offset.checked_add(length).is_none() {
            let start = wire.offset;
            return Err(Malformed::Wraps {
                command,
                start,
                length,
            });
        }
        Ok(RegionAccess::from(wire))
    }

    #[inline]
    fn check_data(self, command: Command, data: &[u8]) -> Result<(), Malformed> {
        if data.len() == self.count as usize {
            return Ok(());
        }
        Err(Malformed::Count {
            command,
            count: u64::from(self.count),
            got: data.len(),
        })
    }
}

impl From<&AccessWire> for RegionAccess {
    #[inline]
    fn from(wire: &AccessWire) -> RegionAccess {
        RegionAccess {
            offset: wire.offset,
            region: wire.region,
            count: wire.count,
        }
    }
}

impl From<&RegionAccess> for AccessWire {
    #[inline]
    fn from(access: &RegionAccess) -> AccessWire {
        AccessWire {
            offset: access.offset,
            region: access.region,
            count: access.count,
        }
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct WriteWire {
    access: AccessWire,
    data: [u8; 8],
}

/// Several small writes in one message (vfio-user,
/// `VFIO_USER_REGION_WRITE_MULTI`).
///
/// All of them were checked when the message was: at least one, each of 1 to 8
/// bytes. So a refused message has written nothing.
#[derive(Clone, Copy)]
pub struct WriteMulti<'a> {
    writes: &'a [Unalign<WriteWire>],
}

impl<'a> WriteMulti<'a> {
    /// The request.
    ///
    /// # Errors
    ///
    /// A count of writes that is 0 or does not match the payload, and any write
    /// that is not of 1 to 8 bytes or whose range overflows.
    pub fn parse(body: &'a [u8]) -> Result<WriteMulti<'a>, Malformed> {
        let command = Command::RegionWriteMulti;
        let (count, rest) = prefix::<u64>(command, body)?;
        let mismatch = Malformed::Count {
            command,
            count,
            got: rest.len(),
        };
        let writes = <[Unalign<WriteWire>]>::ref_from_bytes(rest).map_err(|_| mismatch)?;
        if count == 0 || writes.len() as u64 != count {
            return Err(mismatch);
        }
        for write in writes {
            let access = RegionAccess::check(command, &write.get().access)?;
            if access.count > 8 {
                let field = "count";
                let value = u64::from(access.count);
                return Err(Malformed::Field {
                    command,
                    field,
                    value,
                });
            }
        }
        Ok(WriteMulti { writes })
    }

    /// How many writes there are.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether there are none, which a parsed message never says.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// The writes in the order in which the guest made them. The first `count`
    /// of the 8 bytes are the data.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (RegionAccess, [u8; 8])> + use<'a> {
        self.writes.iter().map(|write| {
            let write = write.get();
            (RegionAccess::from(&write.access), write.data)
        })
    }

    /// Appends the message again.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(out, &(self.len() as u64));
        out.extend_from_slice(self.writes.as_bytes());
    }

    /// Appends the message of these writes.
    pub fn encode_writes(writes: &[(RegionAccess, [u8; 8])], out: &mut Vec<u8>) {
        put(out, &(writes.len() as u64));
        for (access, data) in writes {
            access.encode(out);
            out.extend_from_slice(data);
        }
    }
}

impl PartialEq for WriteMulti<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.writes.as_bytes() == other.writes.as_bytes()
    }
}

impl std::fmt::Debug for WriteMulti<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// How many of the writes were done (vfio-user,
/// `VFIO_USER_REGION_WRITE_MULTI`, Reply).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteMultiReply {
    /// The writes that were completed.
    pub completed: u64,
}

impl WriteMultiReply {
    /// The reply.
    ///
    /// # Errors
    ///
    /// A payload that is not 8 bytes.
    pub fn parse(body: &[u8]) -> Result<WriteMultiReply, Malformed> {
        let completed = exactly(Command::RegionWriteMulti, body)?;
        Ok(WriteMultiReply { completed })
    }

    /// Appends the reply.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(out, &self.completed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCESS: RegionAccess = RegionAccess {
        offset: 0x18,
        region: 2,
        count: 4,
    };

    #[test]
    fn a_read_is_offset_region_count() {
        let body = bytes![0x18u64, 2u32, 4u32];
        assert_eq!(RegionAccess::parse(&body), Ok(ACCESS));
        let mut out = Vec::new();
        ACCESS.encode(&mut out);
        assert_eq!(out, body);
    }

    #[test]
    fn a_read_of_any_other_length_is_refused() {
        let body = bytes![0x18u64, 2u32, 4u32, 0u8];
        for cut in 0..16 {
            let refusal = RegionAccess::parse(&body[..cut]).unwrap_err();
            assert!(matches!(refusal, Malformed::Short { least: 16, got, .. } if got == cut));
            assert_eq!(refusal.errno(), libc::EINVAL);
        }
        let refusal = RegionAccess::parse(&body).unwrap_err();
        assert!(matches!(
            refusal,
            Malformed::Long {
                most: 16,
                got: 17,
                ..
            }
        ));
        assert_eq!(refusal.errno(), libc::EINVAL);
    }

    #[test]
    fn an_access_of_no_bytes_is_refused() {
        let body = bytes![0x18u64, 2u32, 0u32];
        let read = RegionAccess::parse(&body).unwrap_err();
        let write = RegionAccess::parse_write(&body).unwrap_err();
        assert!(matches!(read, Malformed::Field { field: "count", .. }));
        assert!(matches!(write, Malformed::Field { field: "count", .. }));
        assert_eq!((read.errno(), write.errno()), (libc::EINVAL, libc::EINVAL));
    }

    #[test]
    fn a_range_past_the_last_offset_is_refused() {
        let body = bytes![u64::MAX - 3, 2u32, 4u32];
        let refusal = RegionAccess::parse(&body).unwrap_err();
        assert!(matches!(refusal, Malformed::Wraps { .. }));
        assert_eq!(refusal.errno(), libc::EINVAL);
        assert!(RegionAccess::parse(&bytes![u64::MAX - 4, 2u32, 4u32]).is_ok());
    }

    #[test]
    fn a_write_brings_exactly_its_count() {
        let body = bytes![0x18u64, 2u32, 4u32, 0x1234_5678u32];
        let (access, data) = RegionAccess::parse_write(&body).unwrap();
        assert_eq!((access, data), (ACCESS, &body[16..]));
        for wrong in [&body[..19], &bytes![0x18u64, 2u32, 4u32, 0u64]] {
            let refusal = RegionAccess::parse_write(wrong).unwrap_err();
            assert!(matches!(refusal, Malformed::Count { count: 4, .. }));
            assert_eq!(refusal.errno(), libc::EINVAL);
        }
        let huge = bytes![0x18u64, 2u32, u32::MAX, 1u32];
        assert!(RegionAccess::parse_write(&huge).is_err());
        assert!(RegionAccess::parse_write(&body[..15]).is_err());
    }

    #[test]
    fn replies_are_the_access_and_for_a_read_the_data() {
        let body = bytes![0x18u64, 2u32, 4u32, 0x1234_5678u32];
        assert_eq!(
            RegionAccess::parse_read_reply(&body),
            Ok((ACCESS, &body[16..]))
        );
        assert_eq!(RegionAccess::parse_write_reply(&body[..16]), Ok(ACCESS));
        assert!(RegionAccess::parse_read_reply(&body[..18]).is_err());
        assert!(RegionAccess::parse_write_reply(&body).is_err());
    }

    #[test]
    fn several_writes_are_a_count_and_24_bytes_each() {
        let body = bytes![
            2u64, 0x24u64, 0u32, 4u32, 0x55u64, 0x28u64, 1u32, 8u32, 0x66u64
        ];
        let multi = WriteMulti::parse(&body).unwrap();
        let writes: Vec<_> = multi.iter().collect();
        let of = |offset, region, count| RegionAccess {
            offset,
            region,
            count,
        };
        assert_eq!(
            writes,
            [
                (of(0x24, 0, 4), 0x55u64.to_ne_bytes()),
                (of(0x28, 1, 8), 0x66u64.to_ne_bytes()),
            ]
        );
        let (mut again, mut built) = (Vec::new(), Vec::new());
        multi.encode(&mut again);
        WriteMulti::encode_writes(&writes, &mut built);
        assert_eq!((&again, &built), (&body, &body));
    }

    #[test]
    fn several_writes_are_found_at_any_alignment() {
        let body = bytes![0u8, 1u64, 0x24u64, 0u32, 4u32, 0x55u64];
        assert_eq!(WriteMulti::parse(&body[1..]).unwrap().len(), 1);
    }

    #[test]
    fn several_writes_must_match_their_count() {
        let one = bytes![1u64, 0x24u64, 0u32, 4u32, 0x55u64];
        let wrong = [
            bytes![0u64],
            bytes![1u64],
            bytes![2u64, 0x24u64, 0u32, 4u32, 0x55u64],
            bytes![u64::MAX, 0x24u64, 0u32, 4u32, 0x55u64],
            [&one[..], &[0]].concat(),
            one[..31].to_vec(),
            one[..7].to_vec(),
        ];
        for body in wrong {
            assert_eq!(WriteMulti::parse(&body).unwrap_err().errno(), libc::EINVAL);
        }
    }

    #[test]
    fn one_bad_write_of_several_refuses_all() {
        for (offset, count) in [(0u64, 0u32), (0, 9), (0, u32::MAX), (u64::MAX, 1)] {
            let body = bytes![2u64, 0u64, 0u32, 4u32, 0u64, offset, 0u32, count, 0u64];
            assert_eq!(WriteMulti::parse(&body).unwrap_err().errno(), libc::EINVAL);
        }
    }

    #[test]
    fn the_reply_to_several_writes_is_their_number() {
        let mut out = Vec::new();
        WriteMultiReply { completed: 73 }.encode(&mut out);
        assert_eq!(out, bytes![73u64]);
        assert_eq!(
            WriteMultiReply::parse(&out),
            Ok(WriteMultiReply { completed: 73 })
        );
        assert!(WriteMultiReply::parse(&out[1..]).is_err());
    }
}
