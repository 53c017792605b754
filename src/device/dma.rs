//! How a device reads and writes guest memory.
//!
//! Rules: a device never holds a reference into guest memory, it copies; each
//! access reports its own error, because memory may go at any time; an aligned
//! access of 4 or 8 bytes to mapped memory is a single load or store, so a
//! fence value is never seen half-written.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// Why an access to guest memory failed. It ends that access, nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DmaError {
    /// No DMA map covers the address.
    #[error("guest address {address:#x} is not mapped for DMA")]
    Unmapped {
        /// The guest address.
        address: u64,
    },
    /// The DMA map does not allow this direction.
    #[error("the DMA map at guest address {address:#x} does not allow it")]
    Denied {
        /// The guest address.
        address: u64,
    },
    /// The mapped memory is gone (its file was truncated) or cannot be read.
    #[error("the memory behind guest address {address:#x} is gone")]
    Gone {
        /// The guest address.
        address: u64,
    },
    /// The client refused a `DMA_READ` or `DMA_WRITE`.
    #[error("the client refused the access to guest address {address:#x}: errno {errno}")]
    Refused {
        /// The guest address.
        address: u64,
        /// The client's errno.
        errno: u32,
    },
    /// The client did not answer a `DMA_READ` or `DMA_WRITE` in time.
    #[error("the client did not answer for guest address {address:#x} in time")]
    TimedOut {
        /// The guest address.
        address: u64,
    },
    /// The device is being reset: what was under way ends.
    #[error("the device is being reset")]
    Reset,
    /// There is no client, or it left during the access.
    #[error("no client")]
    Disconnected,
}

/// Guest memory; the endpoint implements it.
pub trait DmaBus: Send + Sync {
    /// Fills `data` from guest address `address`.
    ///
    /// # Errors
    ///
    /// See [`DmaError`]; `data` may then be partly filled.
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), DmaError>;

    /// Writes `data` to guest address `address`.
    ///
    /// # Errors
    ///
    /// See [`DmaError`]; part of `data` may then be written.
    fn write(&self, address: u64, data: &[u8]) -> Result<(), DmaError>;
}

/// A device's handle to guest memory; may be cloned into worker threads.
///
/// Where the client shares its memory an access is a copy. Where it does not,
/// an access is a message to the client that takes as long as the client
/// does (at most a few seconds): do such work on a worker thread. QEMU in
/// particular answers only when its guest is not waiting for the device.
#[derive(Clone)]
pub struct Dma(Arc<dyn DmaBus>);

/// How much `copy` and `fill` move at a time.
const CHUNK: usize = 4096;

impl Dma {
    /// A handle to `bus`; tests give their own.
    pub fn new(bus: Arc<dyn DmaBus>) -> Self {
        Dma(bus)
    }

    /// Fills `data` from guest address `address`.
    ///
    /// # Errors
    ///
    /// See [`DmaError`]; `data` may then be partly filled.
    pub fn read(&self, address: u64, data: &mut [u8]) -> Result<(), DmaError> {
        self.0.read(address, data)
    }

    /// Writes `data` to guest address `address`.
    ///
    /// # Errors
    ///
    /// See [`DmaError`]; part of `data` may then be written.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), DmaError> {
        self.0.write(address, data)
    }

    /// Writes one little-endian 32-bit value.
    ///
    /// # Errors
    ///
    /// See [`DmaError`].
    pub fn write_u32(&self, address: u64, value: u32) -> Result<(), DmaError> {
        self.write(address, &value.to_le_bytes())
    }

    /// Copies `length` bytes of guest memory, upwards.
    ///
    /// # Errors
    ///
    /// See [`DmaError`]; part may then be copied.
    pub fn copy(&self, source: u64, destination: u64, length: u64) -> Result<(), DmaError> {
        let mut chunk = [0; CHUNK];
        for (offset, size) in chunks(length) {
            self.read(advance(source, offset)?, &mut chunk[..size])?;
            self.write(advance(destination, offset)?, &chunk[..size])?;
        }
        Ok(())
    }

    /// Fills `length` bytes of guest memory with a repeated 32-bit
    /// little-endian value.
    ///
    /// # Errors
    ///
    /// See [`DmaError`]; part may then be filled.
    pub fn fill(&self, destination: u64, pattern: u32, length: u64) -> Result<(), DmaError> {
        let mut chunk = [0; CHUNK];
        for word in chunk.chunks_exact_mut(4) {
            word.copy_from_slice(&pattern.to_le_bytes());
        }
        for (offset, size) in chunks(length) {
            self.write(advance(destination, offset)?, &chunk[..size])?;
        }
        Ok(())
    }
}

/// Offsets and sizes of the chunks that make up `length` bytes.
fn chunks(length: u64) -> impl Iterator<Item = (u64, usize)> {
    (0..length).step_by(CHUNK).map(move |offset| {
        let size = usize::try_from(length - offset).unwrap_or(CHUNK);
        (offset, size.min(CHUNK))
    })
}

fn advance(address: u64, offset: u64) -> Result<u64, DmaError> {
    address
        .checked_add(offset)
        .ok_or(DmaError::Unmapped { address })
}

impl fmt::Debug for Dma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dma")
    }
}
