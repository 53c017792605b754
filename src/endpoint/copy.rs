//! Copies to and from memory that a guest changes at any time.
//!
//! An aligned access of 4 or 8 bytes is a single load or store, so that a fence
//! value is never seen half-written.

use std::sync::atomic::Ordering;

use vm_memory::{Bytes, VolatileSlice};

/// Fills `data` from the first bytes of `memory`, if it has as many.
pub(crate) fn read(memory: &VolatileSlice<'_>, data: &mut [u8]) -> Option<()> {
    // Neither works if it is not aligned.
    if data.len() == 4
        && let Ok(value) = memory.load::<u32>(0, Ordering::Acquire)
    {
        data.copy_from_slice(&value.to_ne_bytes());
    } else if data.len() == 8
        && let Ok(value) = memory.load::<u64>(0, Ordering::Acquire)
    {
        data.copy_from_slice(&value.to_ne_bytes());
    } else {
        memory.read_slice(data, 0).ok()?;
    }
    Some(())
}

/// Copies `data` to the first bytes of `memory`, if it has as many.
pub(crate) fn write(memory: &VolatileSlice<'_>, data: &[u8]) -> Option<()> {
    // Neither works if it is not aligned.
    let stored = match (data.try_into(), data.try_into()) {
        (Ok(bytes), _) => memory.store(u32::from_ne_bytes(bytes), 0, Ordering::Release),
        (_, Ok(bytes)) => memory.store(u64::from_ne_bytes(bytes), 0, Ordering::Release),
        _ => memory.write_slice(data, 0),
    };
    stored.or_else(|_| memory.write_slice(data, 0)).ok()
}
