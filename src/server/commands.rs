//! What each command does, after VERSION.

use std::mem::take;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::refusal::Refusal;
use super::session::refuse_descriptors;
use super::version::Negotiated;
use crate::endpoint::{Backing, Endpoint, IrqIndex, MapRequest, MaskEvent, REGIONS};
use crate::protocol::{
    Area, Command, DeviceInfo, DmaMap, DmaUnmap, Header, IoEventFd, IoFds, IoFdsQuery, IrqAction,
    IrqData, IrqInfo, Outgoing, RegionAccess, RegionInfo, RegionInfoQuery, Request, SetIrqs,
    Shadow, WriteMulti, WriteMultiReply,
};

/// What commands act on.
pub(super) struct Context<'a> {
    pub(super) endpoint: &'a mut Endpoint,
    pub(super) negotiated: &'a Negotiated,
}

/// Executes a command and appends its reply's body and descriptors to `reply`
/// and `reply_fds`. Takes `fds` if they belong to the command.
pub(super) fn execute(
    mut context: Context<'_>,
    request: Request<'_>,
    fds: &mut Vec<OwnedFd>,
    reply: &mut Vec<u8>,
    reply_fds: &mut Vec<OwnedFd>,
) -> Result<(), Refusal> {
    if !matches!(request, Request::DmaMap(_) | Request::DeviceSetIrqs(_)) {
        refuse_descriptors(fds)?;
    }
    match request {
        Request::RegionWriteMulti(writes) => context.region_write_multi(&writes, reply)?,
        Request::DmaUnmap(unmap) => context.dma_unmap(&unmap, reply)?,
        Request::DeviceGetInfo => device_info(reply),
        Request::DeviceGetRegionInfo(query) => context.region_info(query, reply, reply_fds)?,
        Request::DeviceGetRegionIoFds(query) => context.io_fds(query, reply, reply_fds)?,
        Request::DeviceGetIrqInfo(query) => context.irq_info(query.index, reply)?,
        Request::DeviceReset => context.endpoint.reset(),
        Request::Version(_) => return Err(Refusal::TooLate),
        // Not before a device can save its state.
        Request::DeviceFeature(_)
        | Request::MigDataRead(_)
        | Request::MigDataWrite(_)
        // The session calls the context for these.
        | Request::RegionRead(_)
        | Request::RegionWrite(..) => return Err(Refusal::Unsupported(request.command())),
        Request::DmaMap(map) => context.dma_map(&map, take(fds))?,
        Request::DeviceSetIrqs(set) => apply_set_irqs(context.endpoint, &set, take(fds))?,
    }
    Ok(())
}

impl Context<'_> {
    #[inline]
    fn check_count(&self, count: u32) -> Result<(), Refusal> {
        let max = self.negotiated.max_data;
        if count > max {
            return Err(Refusal::TooMuchData { count, max });
        }
        Ok(())
    }

    /// Reads and begins the reply to a command with this header.
    pub(super) fn region_read(
        self,
        access: &RegionAccess,
        header: &Header,
        reply: &mut Outgoing,
    ) -> Result<(), Refusal> {
        self.check_count(access.count)?;
        let data = reply.begin_read_reply(&header.reply(), access);
        Ok(self.endpoint.read(access.region, access.offset, data)?)
    }

    /// Writes and begins the reply to a command with this header.
    pub(super) fn region_write(
        self,
        access: &RegionAccess,
        data: &[u8],
        header: &Header,
        reply: &mut Outgoing,
    ) -> Result<(), Refusal> {
        self.check_count(access.count)?;
        self.endpoint.write(access.region, access.offset, data)?;
        access.encode(reply.begin(&header.reply()));
        Ok(())
    }

    /// All writes are in bounds or none is done.
    fn region_write_multi(
        &mut self,
        writes: &WriteMulti<'_>,
        reply: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        if !self.negotiated.write_multiple {
            return Err(Refusal::Unsupported(Command::RegionWriteMulti));
        }
        for (access, _) in writes.iter() {
            let (region, offset) = (access.region, access.offset);
            self.endpoint
                .check_access(region, offset, access.count as usize)?;
        }
        for (access, data) in writes.iter() {
            let data = &data[..access.count as usize];
            self.endpoint.write(access.region, access.offset, data)?;
        }
        let completed = writes.len() as u64;
        WriteMultiReply { completed }.encode(reply);
        Ok(())
    }

    fn dma_map(&mut self, map: &DmaMap, fds: Vec<OwnedFd>) -> Result<(), Refusal> {
        let got = fds.len();
        let wanted = usize::from(map.file_io || map.mmap);
        let mut fds = fds.into_iter();
        let backing = match (fds.next(), fds.next()) {
            (Some(_), Some(_)) => return Err(Refusal::Descriptors { got, expected: 1 }),
            (Some(fd), None) if map.file_io => Backing::File(fd, map.offset),
            (Some(fd), None) => Backing::Mapped(fd, map.offset),
            (None, _) if wanted == 0 => Backing::Messages,
            (None, _) => {
                return Err(Refusal::Descriptors {
                    got,
                    expected: wanted,
                });
            }
        };
        self.endpoint.dma_map(MapRequest {
            address: map.address,
            size: map.size,
            readable: map.access.read,
            writeable: map.access.write,
            backing,
        })?;
        Ok(())
    }

    fn dma_unmap(&mut self, unmap: &DmaUnmap, reply: &mut Vec<u8>) -> Result<(), Refusal> {
        match *unmap {
            DmaUnmap::Range { address, size } => self.endpoint.dma_unmap(address, size)?,
            DmaUnmap::All => self.endpoint.dma_unmap_all(),
        }
        unmap.encode(reply);
        Ok(())
    }

    fn region_info(
        &self,
        query: RegionInfoQuery,
        reply: &mut Vec<u8>,
        fds: &mut Vec<OwnedFd>,
    ) -> Result<(), Refusal> {
        let (what, index) = ("region", query.index);
        let region = self.endpoint.region(index);
        let region = region.ok_or(Refusal::NoIndex { what, index })?;
        // A client that takes no descriptors has nothing to map.
        let takes_fds = self.negotiated.client_max_fds > 0;
        let memory = region.memory.filter(|_| takes_fds);
        let has = |areas: &[Range<u64>]| memory.is_some() && !areas.is_empty();
        let mappable = has(region.mapped);
        let read_only = self.negotiated.read_only_areas && has(region.read_only);
        if let Some(fd) = memory
            && (mappable || read_only)
        {
            fds.push(fd.try_clone_to_owned()?);
        }
        // A region that is mapped whole needs no list.
        let whole = region.mapped == std::slice::from_ref(&(0..region.size));
        let info = RegionInfo {
            index,
            readable: region.size > 0,
            writeable: region.size > 0,
            mappable,
            size: region.size,
            offset: 0,
            areas: areas(region.mapped, mappable && !whole),
            read_only: areas(region.read_only, read_only),
        };
        info.encode(query.argsz, reply);
        Ok(())
    }

    fn io_fds(
        &mut self,
        query: IoFdsQuery,
        reply: &mut Vec<u8>,
        fds: &mut Vec<OwnedFd>,
    ) -> Result<(), Refusal> {
        let (what, index) = ("region", query.index);
        if index >= REGIONS {
            return Err(Refusal::NoIndex { what, index });
        }
        let shadows = self.negotiated.shadow_doorbells;
        let doorbells = self.endpoint.offer_doorbells(index, shadows);
        let mut sub_regions = Vec::new();
        for doorbell in &doorbells {
            sub_regions.push(IoEventFd {
                offset: doorbell.at.offset.into(),
                size: doorbell.at.width.bytes().into(),
                fd_index: push(fds, doorbell.event)?,
                datamatch: doorbell.datamatch,
                shadow: None,
            });
        }
        // The memory behind the events: one for all of them.
        let memory = doorbells.iter().find_map(|doorbell| doorbell.shadow);
        if let Some((fd, _)) = memory {
            let fd_index = push(fds, fd)?;
            for (doorbell, sub_region) in doorbells.iter().zip(&mut sub_regions) {
                let shadow = doorbell.shadow;
                sub_region.shadow = shadow.map(|(_, offset)| Shadow { fd_index, offset });
            }
        }
        let expected = self.negotiated.client_max_fds;
        if fds.len() > expected {
            let got = fds.len();
            return Err(Refusal::Descriptors { got, expected });
        }
        let io_fds = IoFds { index, sub_regions };
        io_fds.encode(query.argsz, reply);
        if io_fds.full_size() > query.argsz {
            // The client learns the size and asks again.
            fds.clear();
        }
        Ok(())
    }

    fn irq_info(&self, index: u32, reply: &mut Vec<u8>) -> Result<(), Refusal> {
        let what = "interrupt index";
        let known = IrqIndex::from_wire(index).ok_or(Refusal::NoIndex { what, index })?;
        let irq = self.endpoint.irq(known);
        let info = IrqInfo {
            index,
            count: irq.count,
            eventfd: true,
            maskable: true,
            automasked: irq.automasked,
            noresize: false,
        };
        info.encode(reply);
        Ok(())
    }
}

/// Adds a descriptor to a reply's and returns its index there.
fn push(fds: &mut Vec<OwnedFd>, fd: BorrowedFd<'_>) -> Result<u32, Refusal> {
    let index = u32::try_from(fds.len()).unwrap_or(u32::MAX);
    fds.push(fd.try_clone_to_owned()?);
    Ok(index)
}

/// Areas as they are sent, if they are offered.
fn areas(ranges: &[Range<u64>], offered: bool) -> Vec<Area> {
    let ranges = ranges.iter().filter(|_| offered);
    let areas = ranges.map(|range| Area {
        offset: range.start,
        size: range.end - range.start,
    });
    areas.collect()
}

fn device_info(reply: &mut Vec<u8>) {
    let info = DeviceInfo {
        resettable: true,
        regions: REGIONS,
        irqs: IrqIndex::COUNT,
    };
    info.encode(reply);
}

/// Carries out a `SET_IRQS`, all of it or nothing.
pub(super) fn apply_set_irqs(
    endpoint: &mut Endpoint,
    set: &SetIrqs<'_>,
    fds: Vec<OwnedFd>,
) -> Result<(), Refusal> {
    let (what, index) = ("interrupt index", set.index);
    let index = IrqIndex::from_wire(index).ok_or(Refusal::NoIndex { what, index })?;
    // The codec checked that the sum does not overflow.
    let range = set.start..set.start + set.count;
    endpoint.check_irqs(index, &range)?;
    let expected = match set.data {
        IrqData::EventFd if !fds.is_empty() => set.count as usize,
        _ => 0,
    };
    if fds.len() != expected {
        let got = fds.len();
        return Err(Refusal::Descriptors { got, expected });
    }
    match (set.action, set.data) {
        _ if set.disables_all() => endpoint.irq_disable(index),
        (IrqAction::Trigger, IrqData::EventFd) => endpoint.irq_assign(index, range, fds)?,
        (IrqAction::Mask, IrqData::EventFd) => {
            endpoint.irq_assign_mask_events(index, range, MaskEvent::Mask, fds)?;
        }
        (IrqAction::Unmask, IrqData::EventFd) => {
            endpoint.irq_assign_mask_events(index, range, MaskEvent::Unmask, fds)?;
        }
        (action, data) => {
            for (number, place) in range.zip(0..) {
                let wanted = match data {
                    IrqData::Bool(bytes) => bytes.get(place).is_some_and(|byte| *byte != 0),
                    _ => true,
                };
                if wanted {
                    act(endpoint, index, number, action)?;
                }
            }
        }
    }
    Ok(())
}

fn act(
    endpoint: &mut Endpoint,
    index: IrqIndex,
    number: u32,
    action: IrqAction,
) -> Result<(), Refusal> {
    match action {
        IrqAction::Mask => endpoint.irq_mask(index, number)?,
        IrqAction::Unmask => endpoint.irq_unmask(index, number)?,
        IrqAction::Trigger => endpoint.irq_trigger(index, number)?,
    }
    Ok(())
}
