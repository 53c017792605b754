//! The header that every message starts with.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute};

use super::{Command, Malformed};

pub(super) const TYPE_MASK: u32 = 0xf;
pub(super) const TYPE_COMMAND: u32 = 0;
pub(super) const TYPE_REPLY: u32 = 1;
pub(super) const NO_REPLY: u32 = 1 << 4;
const ERROR: u32 = 1 << 5;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Wire {
    id: u16,
    command: u16,
    size: u32,
    flags: u32,
    error: u32,
}

/// Whether a message asks or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It asks.
    Command,
    /// It answers the command that had the same id.
    Reply,
}

/// A message's header (vfio-user, Header).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The sender's own; a reply echoes it.
    pub id: u16,
    /// The command's number, known or not: see
    /// [`Command::from_wire`](super::Command::from_wire).
    pub command: u16,
    /// The whole message with its header; at least [`Header::SIZE`].
    pub size: u32,
    /// Command or reply.
    pub kind: Kind,
    /// The sender of a command wants no reply, not even an error.
    pub no_reply: bool,
    /// The errno of a reply that has the Error flag; it may be 0.
    pub error: Option<u32>,
}

impl Header {
    /// The bytes of a header.
    pub const SIZE: usize = 16;

    /// Checks a header.
    ///
    /// The reserved flags are ignored, and so are Error and its errno in a
    /// command, where the specification reserves them.
    ///
    /// # Errors
    ///
    /// An unknown type, or a size without room for the header. The stream
    /// cannot be followed after the second.
    #[inline]
    pub fn parse(bytes: &[u8; Header::SIZE]) -> Result<Header, Malformed> {
        Header::check(bytes)?;
        Ok(Header::decode(bytes))
    }

    /// Whether [`Header::parse`] would refuse it.
    #[inline]
    pub(super) fn check(bytes: &[u8; Header::SIZE]) -> Result<(), Malformed> {
        let wire: Wire = transmute!(*bytes);
        let kind = wire.flags & TYPE_MASK;
        if kind > TYPE_REPLY {
            return Err(Malformed::MessageType(kind));
        }
        if (wire.size as usize) < Header::SIZE {
            return Err(Malformed::MessageSize(wire.size));
        }
        Ok(())
    }

    /// The size that a header states.
    #[inline]
    pub(super) fn size_of(bytes: &[u8; Header::SIZE]) -> u32 {
        let wire: Wire = transmute!(*bytes);
        wire.size
    }

    /// A header that was checked.
    #[inline]
    pub(super) fn decode(bytes: &[u8; Header::SIZE]) -> Header {
        let wire: Wire = transmute!(*bytes);
        let reply = wire.flags & TYPE_MASK == TYPE_REPLY;
        let failed = reply && wire.flags & ERROR != 0;
        Header {
            id: wire.id,
            command: wire.command,
            size: wire.size,
            kind: if reply { Kind::Reply } else { Kind::Command },
            no_reply: wire.flags & NO_REPLY != 0,
            error: failed.then_some(wire.error),
        }
    }

    /// The header's bytes.
    #[inline]
    pub fn encode(&self) -> [u8; Header::SIZE] {
        let mut flags = match self.kind {
            Kind::Command => TYPE_COMMAND,
            Kind::Reply => TYPE_REPLY,
        };
        if self.no_reply {
            flags |= NO_REPLY;
        }
        if self.error.is_some() {
            flags |= ERROR;
        }
        transmute!(Wire {
            id: self.id,
            command: self.command,
            size: self.size,
            flags,
            error: self.error.unwrap_or(0),
        })
    }

    /// The header of a command; its size is set when the message is whole.
    pub fn command(id: u16, command: Command) -> Header {
        Header {
            id,
            command: command.to_wire(),
            size: 0,
            kind: Kind::Command,
            no_reply: false,
            error: None,
        }
    }

    /// The header of this command's reply.
    #[must_use]
    #[inline]
    pub fn reply(&self) -> Header {
        Header {
            kind: Kind::Reply,
            no_reply: false,
            error: None,
            size: 0,
            ..*self
        }
    }

    /// The header of this command's refusal.
    #[must_use]
    pub fn refusal(&self, errno: i32) -> Header {
        Header {
            error: Some(errno.unsigned_abs()),
            ..self.reply()
        }
    }

    /// The header of the refusal of a header that [`Header::parse`] does not
    /// take; none if its sender wants no reply.
    pub fn refusal_of(bytes: &[u8; Header::SIZE], errno: i32) -> Option<Header> {
        let wire: Wire = transmute!(*bytes);
        (wire.flags & NO_REPLY == 0).then_some(Header {
            id: wire.id,
            command: wire.command,
            size: 0,
            kind: Kind::Reply,
            no_reply: false,
            error: Some(errno.unsigned_abs()),
        })
    }

    /// The bytes that follow the header.
    #[inline]
    pub fn payload(&self) -> usize {
        (self.size as usize).saturating_sub(Header::SIZE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(
        id: u16,
        command: u16,
        size: u32,
        flags: u32,
        error: u32,
    ) -> Result<Header, Malformed> {
        let bytes = bytes![id, command, size, flags, error];
        Header::parse(&bytes.try_into().unwrap())
    }

    #[test]
    fn a_command_has_its_fields_where_the_specification_puts_them() {
        let header = Header {
            id: 7,
            command: 9,
            size: 32,
            kind: Kind::Command,
            no_reply: false,
            error: None,
        };
        assert_eq!(parse(7, 9, 32, 0, 0), Ok(header));
        assert_eq!(
            header.encode().to_vec(),
            bytes![7u16, 9u16, 32u32, 0u32, 0u32]
        );
        assert_eq!(header.payload(), 16);
    }

    #[test]
    fn a_posted_command_wants_no_reply() {
        assert!(parse(1, 10, 36, 0x10, 0).unwrap().no_reply);
    }

    #[test]
    fn an_error_reply_carries_its_errno_even_when_it_is_zero() {
        assert_eq!(parse(1, 9, 16, 0x21, 22).unwrap().error, Some(22));
        assert_eq!(parse(1, 9, 16, 0x21, 0).unwrap().error, Some(0));
        assert_eq!(parse(1, 9, 16, 0x01, 22).unwrap().error, None);
        assert_eq!(parse(1, 9, 16, 0x21, 0).unwrap().kind, Kind::Reply);
    }

    #[test]
    fn an_error_in_a_command_and_reserved_flags_are_ignored() {
        let header = parse(1, 9, 32, 0xffff_ffe0, 22).unwrap();
        assert_eq!((header.kind, header.error), (Kind::Command, None));
        assert!(!header.no_reply);
    }

    #[test]
    fn a_size_without_room_for_the_header_is_refused() {
        for size in [0, 1, 15] {
            let refusal = parse(1, 9, size, 0, 0).unwrap_err();
            assert_eq!(refusal, Malformed::MessageSize(size));
            assert_eq!(refusal.errno(), libc::EINVAL);
        }
        assert!(parse(1, 9, u32::MAX, 0, 0).is_ok());
    }

    #[test]
    fn a_third_type_is_refused() {
        for kind in 2..=15 {
            let refusal = parse(1, 9, 16, kind, 0).unwrap_err();
            assert_eq!(refusal, Malformed::MessageType(kind));
            assert_eq!(refusal.errno(), libc::EINVAL);
        }
    }
}
