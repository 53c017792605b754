//! The hypercalls of a device model: Xen's `xen/include/public/hvm/dm_op.h`.
//!
//! All of it is little-endian and for x86; an operation is 8 bytes of header
//! and an argument of at most 24.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The argument of one operation.
pub(super) trait Operation: IntoBytes + FromBytes + Immutable + KnownLayout {
    /// `XEN_DMOP_...`
    const NUMBER: u32;
}

/// `struct xen_dm_op`: what goes to Xen, and comes back with its answer.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub(super) struct DmOp {
    number: u32,
    pad: u32,
    argument: [u64; 3],
}

const _: () = assert!(size_of::<DmOp>() == 32);

impl DmOp {
    /// An operation with its argument.
    pub(super) fn new<T: Operation>(argument: &T) -> DmOp {
        const { assert!(size_of::<T>() <= 24 && align_of::<T>() <= 8) };
        let mut op = DmOp {
            number: T::NUMBER,
            pad: 0,
            argument: [0; 3],
        };
        op.argument.as_mut_bytes()[..size_of::<T>()].copy_from_slice(argument.as_bytes());
        op
    }

    /// The argument as Xen left it.
    pub(super) fn argument<T: Operation>(&self) -> T {
        let mut argument = T::new_zeroed();
        let size = size_of::<T>();
        argument
            .as_mut_bytes()
            .copy_from_slice(&self.argument.as_bytes()[..size]);
        argument
    }
}

/// `HVM_IOREQSRV_BUFIOREQ_OFF`: every request waits for its answer.
const NO_BUFFER: u8 = 0;

/// Makes an ioreq server.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub(super) struct CreateServer {
    buffered: u8,
    pad: [u8; 3],
    /// Xen's answer, if it gives one.
    pub(super) id: u16,
}

impl CreateServer {
    /// What [`id`](Self::id) is until Xen answers. Xen 4.13 says that all is
    /// well and does nothing if the domain is no HVM guest.
    pub(super) const NONE: u16 = u16::MAX;

    pub(super) fn new() -> Self {
        CreateServer {
            buffered: NO_BUFFER,
            pad: [0; 3],
            id: Self::NONE,
        }
    }
}

impl Operation for CreateServer {
    const NUMBER: u32 = 1;
}

/// Asks about an ioreq server; here, whether it is there.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub(super) struct ServerInfo {
    id: u16,
    flags: u16,
    buffered_port: u32,
    frame: u64,
    buffered_frame: u64,
}

impl ServerInfo {
    pub(super) fn new(id: u16) -> Self {
        ServerInfo {
            id,
            // XEN_DMOP_no_gfns: the page is mapped as a resource, and so does
            // not appear in the guest's memory.
            flags: 1,
            buffered_port: 0,
            frame: 0,
            buffered_frame: 0,
        }
    }
}

impl Operation for ServerInfo {
    const NUMBER: u32 = 2;
}

/// `XEN_DMOP_IO_RANGE_MEMORY`: guest addresses, in bytes.
pub(super) const MEMORY: u32 = 1;
/// `XEN_DMOP_IO_RANGE_PCI`: functions, as segment, bus, device and function.
pub(super) const FUNCTIONS: u32 = 2;

/// `struct xen_dm_op_ioreq_server_range`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub(super) struct ServerRange {
    pub(super) id: u16,
    pub(super) pad: u16,
    pub(super) kind: u32,
    pub(super) first: u64,
    pub(super) last: u64,
}

/// Has accesses to a range sent to a server.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(transparent)]
pub(super) struct MapRange(pub(super) ServerRange);

impl Operation for MapRange {
    const NUMBER: u32 = 3;
}

/// Takes a range back.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(transparent)]
pub(super) struct UnmapRange(pub(super) ServerRange);

impl Operation for UnmapRange {
    const NUMBER: u32 = 4;
}

/// Whether a server is sent any requests.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub(super) struct SetState {
    pub(super) id: u16,
    pub(super) enabled: u8,
    pub(super) pad: u8,
}

impl Operation for SetState {
    const NUMBER: u32 = 5;
}

/// Removes a server with all its ranges.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub(super) struct DestroyServer {
    pub(super) id: u16,
    pub(super) pad: u16,
}

impl Operation for DestroyServer {
    const NUMBER: u32 = 6;
}

/// The level of a function's INTx pin.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub(super) struct SetIntx {
    pub(super) segment: u16,
    pub(super) bus: u8,
    pub(super) device: u8,
    /// 0 is INTA.
    pub(super) pin: u8,
    pub(super) level: u8,
}

impl Operation for SetIntx {
    const NUMBER: u32 = 8;
}

/// A message-signalled interrupt.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub(super) struct InjectMsi {
    pub(super) data: u32,
    pub(super) pad: u32,
    pub(super) address: u64,
}

impl Operation for InjectMsi {
    const NUMBER: u32 = 14;
}

/// How many vCPUs the domain was made with (Xen 4.16).
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub(super) struct CountVcpus {
    pub(super) count: u32,
}

impl Operation for CountVcpus {
    const NUMBER: u32 = 20;
}

// Xen copies exactly so many bytes of an argument.
const _: () = {
    assert!(size_of::<CreateServer>() == 6 && size_of::<ServerInfo>() == 24);
    assert!(size_of::<ServerRange>() == 24 && size_of::<SetState>() == 4);
    assert!(size_of::<DestroyServer>() == 4 && size_of::<SetIntx>() == 6);
    assert!(size_of::<InjectMsi>() == 16 && size_of::<CountVcpus>() == 4);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_laid_out_as_xen_reads_it() {
        let range = ServerRange {
            id: 0x0102,
            pad: 0,
            kind: MEMORY,
            first: 0xf000_0000,
            last: 0xf000_0fff,
        };
        let op = DmOp::new(&MapRange(range));
        let bytes = op.as_bytes();
        assert_eq!(bytes[..8], [3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[8..16], [2, 1, 0, 0, 1, 0, 0, 0]);
        assert_eq!(bytes[16..24], [0, 0, 0, 0xf0, 0, 0, 0, 0]);
        assert_eq!(bytes[24..], [0xff, 0x0f, 0, 0xf0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_xen_writes_into_it_is_read_from_where_it_is() {
        let mut op = DmOp::new(&CreateServer::new());
        assert_eq!(op.argument::<CreateServer>().id, CreateServer::NONE);
        op.as_mut_bytes()[12..14].copy_from_slice(&[5, 0]);
        assert_eq!(op.argument::<CreateServer>().id, 5);
    }
}
