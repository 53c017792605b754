//! A doorbell of the device, as a client rings it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use super::region::map;
use crate::protocol::{Area, IoEventFd};

const PAGE: u64 = 4096;

const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// A doorbell of [`Client::io_fds`](super::Client::io_fds).
#[derive(Debug)]
pub struct Doorbell {
    event: OwnedFd,
    shadow: Option<Shadow>,
}

/// Where the value is kept.
#[derive(Debug)]
struct Shadow {
    memory: MmapRegion<()>,
    offset: usize,
    width: u64,
}

impl Doorbell {
    /// The doorbell, with the descriptors that came with it.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a descriptor that did not come, or a shadow of a
    /// width that is no register's or that is not aligned; what `dup` and
    /// `mmap` answer; `UnexpectedEof` if the memory is too short.
    pub fn new(bell: &IoEventFd, fds: &[OwnedFd]) -> io::Result<Doorbell> {
        let fd = |index: u32| fds.get(index as usize).ok_or(WRONG);
        let shadow = match bell.shadow {
            Some(shadow) => Some(Shadow::new(
                fd(shadow.fd_index)?.try_clone()?,
                shadow.offset,
                bell.size,
            )?),
            None => None,
        };
        let event = fd(bell.fd_index)?.try_clone()?;
        Ok(Doorbell { event, shadow })
    }

    /// Rings, without waiting for the device. The value matters if the doorbell
    /// has a shadow; it is cut to the register's width.
    ///
    /// A server that never looks lets the count go up; at the eventfd's end,
    /// 2^64, it is rung already.
    ///
    /// # Errors
    ///
    /// What the kernel answers to the write of the eventfd.
    pub fn ring(&self, value: u64) -> io::Result<()> {
        if let Some(shadow) = &self.shadow {
            shadow.store(value);
        }
        let mut fds = [PollFd::new(&self.event, PollFlags::OUT)];
        // Full, a write would wait.
        if poll(&mut fds, Some(&AT_ONCE))? == 1 {
            rustix::io::write(&self.event, &1u64.to_ne_bytes())?;
        }
        Ok(())
    }
}

impl Shadow {
    fn new(fd: OwnedFd, offset: u64, width: u64) -> io::Result<Shadow> {
        if !matches!(width, 1 | 2 | 4 | 8) || !offset.is_multiple_of(width) {
            return Err(WRONG.into());
        }
        let end = offset % PAGE + width;
        let area = Area {
            offset: 0,
            size: end,
        };
        let memory = map(&File::from(fd), offset - offset % PAGE, area, true)?;
        Ok(Shadow {
            memory,
            // Below a page.
            offset: usize::try_from(offset % PAGE).unwrap_or(0),
            width,
        })
    }

    /// One store of the register's width, so that the device sees it whole.
    #[allow(clippy::cast_possible_truncation, reason = "cut to the width")]
    fn store(&self, value: u64) {
        let (memory, offset) = (self.memory.as_volatile_slice(), self.offset);
        // Inside, as it was mapped for this.
        let _ = match self.width {
            1 => memory.store(value as u8, offset, Ordering::Release),
            2 => memory.store(value as u16, offset, Ordering::Release),
            4 => memory.store(value as u32, offset, Ordering::Release),
            _ => memory.store(value, offset, Ordering::Release),
        };
    }
}

const WRONG: io::ErrorKind = io::ErrorKind::InvalidInput;
