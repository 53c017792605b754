//! A server and clients that say exactly what a test wants them to say.
//!
//! - [`Served`]: a device on a socket of its own, served by the library.
//! - [`Client`]: sends bytes and descriptors, receives messages, all within a
//!   deadline.
//! - [`device`]: a device with everything that a client can ask for.
//! - [`model`]: a device of all kinds of registers, and what it must do.
//!
//! Nothing here uses the library's own codec: what is compared are bytes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "every test file includes the whole harness and uses its own part of it"
)]

/// The bytes of a row of integers, as they are on the wire.
macro_rules! bytes {
    ($($value:expr),* $(,)?) => {{
        let mut bytes = Vec::<u8>::new();
        $(bytes.extend_from_slice(&$value.to_ne_bytes());)*
        bytes
    }};
}
pub(crate) use bytes;

mod client;
pub(crate) mod device;
mod files;
pub(crate) mod messages;
pub(crate) mod model;
mod served;
pub(crate) mod shared;

pub(crate) use client::{Client, PATIENCE, Received};
pub(crate) use files::{eventfd, memory, open_descriptors, rung, seal, wait_for, wrong_kinds};
pub(crate) use messages::{Cmd, errno_reply, message, posted, reply};
pub(crate) use served::{PATIENT, SHORT, Served, make};

/// What QEMU 11.1 proposes.
pub(crate) const QEMU: &str = r#"{"capabilities":{"pgsizes":4096,"max_msg_fds":16,"max_dma_maps":65535,"max_data_xfer_size":1048576,"migration":{"max_bitmap_size":268435456,"pgsize":4096},"write_multiple":true}}"#;
