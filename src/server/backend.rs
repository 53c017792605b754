//! The `vfio_user` crate's backend, so that any device also runs on that
//! crate's server: the baseline that our own is compared with.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use vfio_user::{DmaMapFlags, DmaUnmapFlags, ServerBackend};

use super::commands::apply_set_irqs;
use super::refusal::Refusal;
use crate::endpoint::{Backing, Endpoint, MapRequest};
use crate::protocol::SetIrqs;

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        io::Error::from_raw_os_error(refusal.errno())
    }
}

impl ServerBackend for Endpoint {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        Ok(self.read(region, offset, data).map_err(Refusal::from)?)
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        Ok(self.write(region, offset, data).map_err(Refusal::from)?)
    }

    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> io::Result<()> {
        // The crate checks none of this.
        if size == 0 || address.checked_add(size - 1).is_none() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let request = MapRequest {
            address,
            size,
            readable: flags.contains(DmaMapFlags::READ),
            writeable: flags.contains(DmaMapFlags::WRITE),
            backing: fd.map_or(Backing::Messages, |fd| {
                Backing::Mapped(OwnedFd::from(fd), offset)
            }),
        };
        Ok(Endpoint::dma_map(self, request).map_err(Refusal::from)?)
    }

    fn dma_unmap(&mut self, flags: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        if flags.contains(DmaUnmapFlags::UNMAP_ALL) {
            self.dma_unmap_all();
            return Ok(());
        }
        Ok(Endpoint::dma_unmap(self, address, size).map_err(Refusal::from)?)
    }

    fn reset(&mut self) -> io::Result<()> {
        Endpoint::reset(self);
        Ok(())
    }

    fn set_irqs(
        &mut self,
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    ) -> io::Result<()> {
        let set = SetIrqs::from_fields(index, flags, start, count, &[]).map_err(Refusal::from)?;
        let fds = fds.into_iter().map(OwnedFd::from).collect();
        Ok(apply_set_irqs(self, &set, fds)?)
    }
}
