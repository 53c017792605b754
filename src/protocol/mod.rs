//! The vfio-user wire: what a message means, and how it is written.
//!
//! Everything here is a checked value. A `parse` turns the bytes of the other
//! side into one, or into a [`Malformed`] that knows its errno; an `encode`
//! appends the bytes of one to a buffer that the caller keeps. Both directions
//! are here, because the server and the built-in client share this room.
//!
//! The specification is `docs/interop/vfio-user.rst` of QEMU; the doc comments
//! name its sections. All integers have the byte order of the host
//! (vfio-user, Protocol Specification).
//!
//! | command | request | reply |
//! |---|---|---|
//! | `VERSION` 1 | [`Proposal`] | [`Proposal`] |
//! | `DMA_MAP` 2 | [`DmaMap`] | empty |
//! | `DMA_UNMAP` 3 | [`DmaUnmap`] | [`DmaUnmap`] |
//! | `DEVICE_GET_INFO` 4 | [`DeviceInfoQuery`] | [`DeviceInfo`] |
//! | `DEVICE_GET_REGION_INFO` 5 | [`RegionInfoQuery`] | [`RegionInfo`] |
//! | `DEVICE_GET_REGION_IO_FDS` 6 | [`IoFdsQuery`] | [`IoFds`] |
//! | `DEVICE_GET_IRQ_INFO` 7 | [`IrqInfoQuery`] | [`IrqInfo`] |
//! | `DEVICE_SET_IRQS` 8 | [`SetIrqs`] | empty |
//! | `REGION_READ` 9 | [`RegionAccess`] | [`RegionAccess`] and data |
//! | `REGION_WRITE` 10 | [`RegionAccess`] and data | [`RegionAccess`] |
//! | `DMA_READ` 11, to the client | [`DmaTransfer`] | [`DmaTransfer`] and data |
//! | `DMA_WRITE` 12, to the client | [`DmaTransfer`] and data | [`DmaTransfer`] |
//! | `DEVICE_RESET` 13 | empty | empty |
//! | `REGION_WRITE_MULTI` 15 | [`WriteMulti`] | [`WriteMultiReply`] |
//! | `DEVICE_FEATURE` 16 | [`Feature`] | [`Feature`] |
//! | `MIG_DATA_READ` 17 | [`MigDataRead`] | [`MigData`] |
//! | `MIG_DATA_WRITE` 18 | [`MigData`] | empty |
//!
//! A server reads a client's message with [`Header::parse`],
//! [`Command::from_wire`] and [`Request::parse`].

/// The bytes of a row of integers, as a peer would send them.
#[cfg(test)]
macro_rules! bytes {
    ($($value:expr),* $(,)?) => {{
        let mut bytes = Vec::<u8>::new();
        $(bytes.extend_from_slice(&$value.to_ne_bytes());)*
        bytes
    }};
}

mod command;
mod device;
mod dma;
mod header;
mod inbox;
mod io_fds;
mod irq;
mod malformed;
mod message;
#[cfg(test)]
mod properties;
mod receive;
mod region;
mod region_info;
mod request;
mod small_access;
mod socket;
mod transfer;
pub mod version;
mod wire;

pub use command::Command;
pub use device::{DeviceInfo, DeviceInfoQuery, Feature, MigData, MigDataRead};
pub use dma::{DmaAccess, DmaMap, DmaUnmap};
pub use header::{Header, Kind};
pub use inbox::{Inbox, Small, Wait};
pub use io_fds::{IoEventFd, IoFds, IoFdsQuery, Shadow};
pub use irq::{IrqAction, IrqData, IrqInfo, IrqInfoQuery, SetIrqs};
pub use malformed::Malformed;
pub use message::{MAX_DATA, MAX_MESSAGE, Message, ReceiveError};
pub use region::{RegionAccess, WriteMulti, WriteMultiReply};
pub use region_info::{Area, RegionInfo, RegionInfoQuery};
pub use request::{Request, reply_size};
pub use small_access::{SMALL, SMALL_DATA, SMALL_MESSAGE, SmallAccess};
pub use socket::{MAX_FDS, Outgoing, Socket};
pub use transfer::DmaTransfer;
pub use version::{Capabilities, Migration, Proposal, SharedMmio, TwinSocket};
pub use wire::needed_argsz;
