//! Client memory by message: the server's own commands.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::wire::{exactly, prefix, put};
use super::{Command, Malformed};

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct TransferWire {
    address: u64,
    count: u64,
}

/// A write's reply as the specification's table has it: with 4 bytes of count.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
struct NarrowWire {
    address: u64,
    count: u32,
}

/// A transfer to or from client memory by message (vfio-user,
/// `VFIO_USER_DMA_READ` and `VFIO_USER_DMA_WRITE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaTransfer {
    /// Where in the client's memory.
    pub address: u64,
    /// How many bytes; may be 0, and `address + count` does not overflow.
    pub count: u64,
}

impl DmaTransfer {
    /// A read request.
    ///
    /// # Errors
    ///
    /// A payload that is not 16 bytes, or a range that overflows.
    pub fn parse(body: &[u8]) -> Result<DmaTransfer, Malformed> {
        let wire: TransferWire = exactly(Command::DmaRead, body)?;
        DmaTransfer::check(Command::DmaRead, wire.address, wire.count)
    }

    /// A write request and its data.
    ///
    /// # Errors
    ///
    /// As [`DmaTransfer::parse`], and data that is not `count` bytes.
    pub fn parse_write(body: &[u8]) -> Result<(DmaTransfer, &[u8]), Malformed> {
        DmaTransfer::parse_with_data(Command::DmaWrite, body)
    }

    /// A read's reply and its data.
    ///
    /// # Errors
    ///
    /// Fewer than 16 bytes, a range that overflows, or data that is not `count`
    /// bytes. That it answers the request is for the caller to check.
    pub fn parse_read_reply(body: &[u8]) -> Result<(DmaTransfer, &[u8]), Malformed> {
        DmaTransfer::parse_with_data(Command::DmaRead, body)
    }

    /// A write's reply; `None` if it is empty.
    ///
    /// The count may be 4 bytes (as the specification's table has it) or 8 (as
    /// in all its other tables, in QEMU 11.1 and in libvfio-user).
    ///
    /// An empty reply is a warning: QEMU's client as first released (10.1) sends
    /// it, and has a 32 bit count in all four messages, so that its data lies
    /// 4 bytes before where the specification puts it. A `DMA_WRITE` of 0 bytes finds that out
    /// without harm.
    ///
    /// # Errors
    ///
    /// A payload of any other length, or a range that overflows.
    pub fn parse_write_reply(body: &[u8]) -> Result<Option<DmaTransfer>, Malformed> {
        let command = Command::DmaWrite;
        if body.is_empty() {
            return Ok(None);
        }
        let (address, count) = if body.len() == size_of::<NarrowWire>() {
            let wire: NarrowWire = exactly(command, body)?;
            (wire.address, u64::from(wire.count))
        } else {
            let wire: TransferWire = exactly(command, body)?;
            (wire.address, wire.count)
        };
        DmaTransfer::check(command, address, count).map(Some)
    }

    /// Appends the 16 bytes of a read request and of a write reply, after
    /// which the data of a write request or of a read reply follows.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(
            out,
            &TransferWire {
                address: self.address,
                count: self.count,
            },
        );
    }

    /// Appends a write request to `address` with its data.
    pub fn encode_write(address: u64, data: &[u8], out: &mut Vec<u8>) {
        let count = data.len() as u64;
        DmaTransfer { address, count }.encode(out);
        out.extend_from_slice(data);
    }

    fn parse_with_data(command: Command, body: &[u8]) -> Result<(DmaTransfer, &[u8]), Malformed> {
        let (wire, data) = prefix::<TransferWire>(command, body)?;
        let transfer = DmaTransfer::check(command, wire.address, wire.count)?;
        if data.len() as u64 != wire.count {
            return Err(Malformed::Count {
                command,
                count: wire.count,
                got: data.len(),
            });
        }
        Ok((transfer, data))
    }

    fn check(command: Command, address: u64, count: u64) -> Result<DmaTransfer, Malformed> {
        if address.checked_add(count).is_none() {
            return Err(Malformed::Wraps {
                command,
                start: address,
                length: count,
            });
        }
        Ok(DmaTransfer { address, count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T: std::fmt::Debug>(result: Result<T, Malformed>) -> i32 {
        result.unwrap_err().errno()
    }

    #[test]
    fn a_transfer_is_address_and_count() {
        let body = bytes![0x1000u64, 4u64, 0x1234_5678u32];
        let transfer = DmaTransfer {
            address: 0x1000,
            count: 4,
        };
        assert_eq!(DmaTransfer::parse(&body[..16]), Ok(transfer));
        let expected = Ok((transfer, &body[16..]));
        assert_eq!(DmaTransfer::parse_write(&body), expected);
        assert_eq!(DmaTransfer::parse_read_reply(&body), expected);
        let mut out = Vec::new();
        DmaTransfer::encode_write(0x1000, &body[16..], &mut out);
        assert_eq!(out, body);
    }

    #[test]
    fn a_write_reply_may_be_empty_narrow_or_wide() {
        let transfer = DmaTransfer {
            address: 0x1000,
            count: 4,
        };
        let reply = DmaTransfer::parse_write_reply;
        assert_eq!(reply(&[]), Ok(None));
        assert_eq!(reply(&bytes![0x1000u64, 4u32]), Ok(Some(transfer)));
        assert_eq!(reply(&bytes![0x1000u64, 4u64]), Ok(Some(transfer)));
        assert_eq!(refused(reply(&[0])), libc::EINVAL);
        assert_eq!(refused(reply(&[0; 17])), libc::EINVAL);
    }

    #[test]
    fn a_transfer_past_the_end_or_with_other_data_is_refused() {
        assert_eq!(
            refused(DmaTransfer::parse(&bytes![u64::MAX, 1u64])),
            libc::EINVAL
        );
        assert_eq!(refused(DmaTransfer::parse(&[0; 17])), libc::EINVAL);
        let few = bytes![0u64, 4u64, 0u8];
        assert_eq!(refused(DmaTransfer::parse_write(&few)), libc::EINVAL);
    }
}
