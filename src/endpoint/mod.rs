//! The endpoint: the one place that turns "region 0, offset 8, 4 bytes" into
//! an access to a device, whichever face it came through.
//!
//! It keeps what every function has: config space, BARs, interrupts, the DMA
//! table and the meaning of a reset. A mistake of the guest ends here (reads
//! give all-ones, writes are dropped); a mistake of the client is a
//! [`RegionError`] or a [`MapError`].

mod bar;
mod dma_table;
mod eventfd;
mod irqs;
mod sigbus;

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use thiserror::Error;

pub use dma_table::{Backing, ClientMemory, MAX_MAPS, MapError, MapRequest, PAGE_SIZE};
pub use irqs::IrqIndex;

use crate::device::{Access, Bar, Device, Dma, Function, Irq, SharedMemory};
use crate::pci::spec::command;
use crate::pci::{Capability, ConfigError, ConfigSpace, InterruptPin};
use bar::BarSpace;
use dma_table::DmaTable;
use eventfd::EventFd;
use irqs::IrqTable;

/// The region of config space, numbered as VFIO's PCI regions: BARs are 0 to
/// 5, the expansion ROM 6, config space 7, legacy VGA 8.
pub const CONFIG_REGION: u32 = 7;

/// How many regions a function has.
pub const REGIONS: u32 = 9;

/// A device and all that a PCI function has around it.
pub struct Endpoint {
    device: Box<dyn Device>,
    config: ConfigSpace,
    bars: [Option<BarSpace>; 6],
    irqs: Arc<IrqTable>,
    dma: Arc<DmaTable>,
    events: Vec<Event>,
    doorbells: Vec<Doorbell>,
    guest_errors: u64,
}

/// A register whose whole writes may come as a counted event.
struct Doorbell {
    at: Access,
    datamatch: Option<u64>,
    event: Arc<EventFd>,
    offered: bool,
}

/// Something that may happen besides a client's commands.
struct Event {
    source: Source,
    fd: Arc<EventFd>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The doorbell of this number rang.
    Doorbell(usize),
    /// The client masks or unmasks an interrupt.
    Mask(IrqIndex, u32),
    Unmask(IrqIndex, u32),
}

/// Which way an interrupt's mask is moved by an eventfd of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskEvent {
    /// A signal masks.
    Mask,
    /// A signal unmasks.
    Unmask,
}

/// Why a device cannot be an endpoint: a mistake of its author.
#[derive(Debug, Error)]
pub enum EndpointError {
    /// Its identity, BARs or capabilities do not make a config space.
    #[error("the device's config space: {0}")]
    Config(#[from] ConfigError),
    /// A BAR's mapped areas do not fit its memory or pages.
    #[error("BAR {bar}: mapped areas must be whole pages inside memory as large as the BAR")]
    Areas {
        /// The BAR.
        bar: usize,
    },
    /// The MSI-X table or pending bits are on registers or in mapped memory.
    #[error("BAR {bar}: the MSI-X table and pending bits need a reserved place in the map")]
    MsixPlace {
        /// The BAR.
        bar: usize,
    },
    /// The system refused the device a thread, memory or an eventfd.
    #[error("cannot start the device: {0}")]
    Start(#[from] io::Error),
}

/// An access that does not fit the function's regions: a mistake of the
/// client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{length} bytes at {offset:#x} are not inside region {region}")]
pub struct RegionError {
    /// The region's number.
    pub region: u32,
    /// Where the access began, in bytes.
    pub offset: u64,
    /// Its length, in bytes.
    pub length: usize,
}

/// A client named an interrupt that the function lacks, or gave a descriptor
/// that is no eventfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IrqError {
    /// There are fewer interrupts.
    #[error("there is no interrupt {number} of {index:?}")]
    Absent {
        /// The kind.
        index: IrqIndex,
        /// The first that is absent.
        number: u32,
    },
    /// A descriptor is not an eventfd.
    #[error("a descriptor for {index:?} is not an eventfd")]
    NotAnEventFd {
        /// The kind.
        index: IrqIndex,
    },
}

/// What a client may know of a region.
#[derive(Debug)]
pub struct Region<'a> {
    /// Its size in bytes, 0 if the function lacks it.
    pub size: u64,
    /// What the client may map, and where: offsets in the region and in the
    /// memory alike.
    pub mapped: Option<(&'a SharedMemory, &'a [Range<u64>])>,
}

/// What a client may know of a kind of interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IrqDescription {
    /// How many there are.
    pub count: u32,
    /// Whether each masks itself when it is signalled.
    pub automasked: bool,
}

/// A doorbell as it is offered to a client.
#[derive(Debug)]
pub struct OfferedDoorbell<'a> {
    /// The register.
    pub at: Access,
    /// Only writes of this value ring, if set.
    pub datamatch: Option<u64>,
    /// What to signal.
    pub event: BorrowedFd<'a>,
}

impl Endpoint {
    /// Builds the device and all around it. `build` gets the handles that the
    /// device keeps.
    ///
    /// # Errors
    ///
    /// See [`EndpointError`].
    pub fn new(
        build: impl FnOnce(Irq, Dma) -> io::Result<Box<dyn Device>>,
    ) -> Result<Self, EndpointError> {
        let irqs = Arc::new(IrqTable::new());
        let dma = Arc::new(DmaTable::new());
        let device = build(Irq::new(irqs.clone()), Dma::new(dma.clone()))?;
        let function = device.function();
        irqs.configure(&function);
        let config = config_space(&function)?;
        let mut doorbells = Vec::new();
        let mut bars = <[Option<BarSpace>; 6]>::default();
        for (number, bar) in function.bars.into_iter().enumerate() {
            let Some(bar) = bar else { continue };
            doorbells.extend(make_doorbells(number, &bar)?);
            bars[number] = Some(BarSpace::new(number, bar, function.msix.as_ref())?);
        }
        Ok(Endpoint {
            device,
            config,
            bars,
            irqs,
            dma,
            events: Vec::new(),
            doorbells,
            guest_errors: 0,
        })
    }

    /// How often the guest made a mistake since the endpoint was built.
    pub fn guest_errors(&self) -> u64 {
        self.guest_errors
    }

    /// A region's size and what of it may be mapped; `None` if there is no
    /// region of this number.
    pub fn region(&self, region: u32) -> Option<Region<'_>> {
        if region >= REGIONS {
            return None;
        }
        let bar = self.bars.get(region as usize).and_then(Option::as_ref);
        let size = match region {
            CONFIG_REGION => self.config.size() as u64,
            _ => bar.map_or(0, |bar| bar.size),
        };
        let mapped = bar.and_then(BarSpace::mapped);
        Some(Region { size, mapped })
    }

    /// Reads a region. `data` may have any length: registers are read whole
    /// and in order, and what is no register reads as all-ones.
    ///
    /// # Errors
    ///
    /// [`RegionError`] if the range is not inside the region.
    #[inline]
    pub fn read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), RegionError> {
        let start = self.check(region, offset, data.len())?;
        if let Some(Some(bar)) = self.bars.get_mut(region as usize) {
            self.guest_errors += bar.read(self.device.as_mut(), &self.irqs, start, data);
        } else {
            self.config.set_interrupt_status(self.irqs.intx_level());
            self.config.read(start as usize, data);
        }
        Ok(())
    }

    /// Writes a region. `data` may have any length: registers are written
    /// whole and in order; what cannot be written is dropped.
    ///
    /// # Errors
    ///
    /// [`RegionError`] if the range is not inside the region.
    #[inline]
    pub fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), RegionError> {
        let start = self.check(region, offset, data.len())?;
        if let Some(Some(bar)) = self.bars.get_mut(region as usize) {
            self.guest_errors += bar.write(self.device.as_mut(), start, data);
        } else {
            self.write_config(start as usize, data);
        }
        Ok(())
    }

    /// Checks an access without carrying it out.
    ///
    /// # Errors
    ///
    /// [`RegionError`] if the range is not inside the region.
    pub fn check_access(&self, region: u32, offset: u64, length: usize) -> Result<(), RegionError> {
        self.check(region, offset, length).map(|_| ())
    }

    /// The offset of an access that is inside its region.
    #[inline]
    fn check(&self, region: u32, offset: u64, length: usize) -> Result<u32, RegionError> {
        let size = match self.bars.get(region as usize) {
            Some(Some(bar)) => bar.size,
            _ if region == CONFIG_REGION => self.config.size() as u64,
            _ => 0,
        };
        let end = offset.checked_add(length as u64);
        match (end, u32::try_from(offset)) {
            (Some(end), Ok(offset)) if end <= size => Ok(offset),
            _ => Err(RegionError {
                region,
                offset,
                length,
            }),
        }
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        let effects = self.config.write(offset, data);
        if effects.function_level_reset {
            self.reset();
        }
        let disabled = self.config.command() & command::INTERRUPT_DISABLE != 0;
        self.irqs.set_intx_disabled(disabled);
    }

    /// Resets the function: config space, interrupts and device are as after
    /// power-on. For a client's reset and, through config space, for a
    /// function level reset by the guest. What the client set up (DMA maps,
    /// eventfds) stays.
    pub fn reset(&mut self) {
        self.dma.suspend(true);
        self.device.reset();
        self.dma.suspend(false);
        self.config.reset();
        for bar in self.bars.iter_mut().flatten() {
            bar.reset();
        }
        self.irqs.reset();
    }

    /// Begins a session: how guest memory that is not mapped is reached, and
    /// the page size and number of DMA maps that were negotiated.
    pub fn connect(&mut self, client: Arc<dyn ClientMemory>, page_size: u64, max_maps: usize) {
        self.dma.connect(client, page_size, max_maps);
    }

    /// Ends a session (vfio-user, client disconnection): all that came from
    /// the client is released, the device keeps its state.
    pub fn disconnect(&mut self) {
        self.dma.disconnect();
        self.irqs.disconnect();
        self.events.clear();
        for doorbell in &mut self.doorbells {
            doorbell.offered = false;
        }
        self.device.disconnected();
    }

    /// Opens guest memory for DMA.
    ///
    /// # Errors
    ///
    /// See [`MapError`].
    pub fn dma_map(&mut self, request: MapRequest) -> Result<(), MapError> {
        self.dma.map(request)
    }

    /// Closes exactly one DMA map; no access to it is under way afterwards.
    ///
    /// # Errors
    ///
    /// [`MapError::Absent`].
    pub fn dma_unmap(&mut self, address: u64, size: u64) -> Result<(), MapError> {
        self.dma.unmap(address, size)
    }

    /// Closes all DMA maps.
    pub fn dma_unmap_all(&mut self) {
        self.dma.unmap_all();
    }

    /// What there is of a kind of interrupt.
    pub fn irq(&self, index: IrqIndex) -> IrqDescription {
        IrqDescription {
            count: self.irqs.count(index),
            automasked: index == IrqIndex::Intx,
        }
    }

    /// Takes all eventfds of a kind of interrupt away.
    pub fn irq_disable(&mut self, index: IrqIndex) {
        self.irqs.disable(index);
        self.events.retain(|event| {
            !matches!(event.source,
            Source::Mask(of, _) | Source::Unmask(of, _) if of == index)
        });
    }

    /// Gives a range of interrupts the eventfds to signal, or takes theirs
    /// away if `fds` is empty. There are as many as the range is long.
    ///
    /// # Errors
    ///
    /// See [`IrqError`]; then nothing has changed.
    pub fn irq_assign(
        &mut self,
        index: IrqIndex,
        range: Range<u32>,
        fds: Vec<OwnedFd>,
    ) -> Result<(), IrqError> {
        self.check_irqs(index, &range)?;
        let mut events = client_events(index, fds)?.into_iter();
        self.irqs.assign(index, range, || events.next());
        Ok(())
    }

    /// Gives a range of interrupts eventfds with which the client masks or
    /// unmasks them, or takes theirs away if `fds` is empty.
    ///
    /// # Errors
    ///
    /// See [`IrqError`]; then nothing has changed.
    pub fn irq_assign_mask_events(
        &mut self,
        index: IrqIndex,
        range: Range<u32>,
        event: MaskEvent,
        fds: Vec<OwnedFd>,
    ) -> Result<(), IrqError> {
        self.check_irqs(index, &range)?;
        let events = client_events(index, fds)?;
        let source = |number| match event {
            MaskEvent::Mask => Source::Mask(index, number),
            MaskEvent::Unmask => Source::Unmask(index, number),
        };
        let replaced: Vec<Source> = range.clone().map(source).collect();
        self.events
            .retain(|event| !replaced.contains(&event.source));
        self.events
            .extend(replaced.into_iter().zip(events).map(|(source, fd)| Event {
                source,
                fd: Arc::new(fd),
            }));
        Ok(())
    }

    /// Masks an interrupt: it stays pending instead of being signalled.
    ///
    /// # Errors
    ///
    /// [`IrqError::Absent`].
    pub fn irq_mask(&mut self, index: IrqIndex, number: u32) -> Result<(), IrqError> {
        self.check_irqs(index, &(number..number.saturating_add(1)))?;
        self.irqs.mask(index, number);
        Ok(())
    }

    /// Unmasks an interrupt; a pending one is signalled.
    ///
    /// # Errors
    ///
    /// [`IrqError::Absent`].
    pub fn irq_unmask(&mut self, index: IrqIndex, number: u32) -> Result<(), IrqError> {
        self.check_irqs(index, &(number..number.saturating_add(1)))?;
        self.irqs.unmask(index, number);
        Ok(())
    }

    /// Signals an interrupt on behalf of the client.
    ///
    /// # Errors
    ///
    /// [`IrqError::Absent`].
    pub fn irq_trigger(&mut self, index: IrqIndex, number: u32) -> Result<(), IrqError> {
        self.check_irqs(index, &(number..number.saturating_add(1)))?;
        self.irqs.trigger(index, number);
        Ok(())
    }

    /// Checks that a range of interrupts exists.
    ///
    /// # Errors
    ///
    /// [`IrqError::Absent`].
    pub fn check_irqs(&self, index: IrqIndex, range: &Range<u32>) -> Result<(), IrqError> {
        let count = self.irqs.count(index);
        if range.end <= count {
            return Ok(());
        }
        let number = range.start.max(count);
        Err(IrqError::Absent { index, number })
    }

    /// The doorbells of a region. From now on they are among the
    /// [`Endpoint::event_fds`].
    pub fn offer_doorbells(&mut self, region: u32) -> Vec<OfferedDoorbell<'_>> {
        for (number, doorbell) in self.doorbells.iter_mut().enumerate() {
            if u32::from(doorbell.at.bar) == region && !doorbell.offered {
                doorbell.offered = true;
                self.events.push(Event {
                    source: Source::Doorbell(number),
                    fd: doorbell.event.clone(),
                });
            }
        }
        let of_region = self
            .doorbells
            .iter()
            .filter(|doorbell| u32::from(doorbell.at.bar) == region);
        of_region
            .map(|doorbell| OfferedDoorbell {
                at: doorbell.at,
                datamatch: doorbell.datamatch,
                event: doorbell.event.as_fd(),
            })
            .collect()
    }

    /// Whether anything but the client's commands must be waited for.
    #[inline]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// What to wait for besides the client's commands: whenever one of these
    /// is readable, [`Endpoint::handle_events`] is due.
    pub fn event_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.events.iter().map(|event| event.fd.as_fd())
    }

    /// Deals with all events that were signalled.
    pub fn handle_events(&mut self) {
        for event in &self.events {
            let times = event.fd.take();
            if times == 0 {
                continue;
            }
            match event.source {
                Source::Doorbell(number) => {
                    let doorbell = &self.doorbells[number];
                    let value = doorbell.datamatch.unwrap_or(0);
                    self.device.rung(doorbell.at, value, times);
                }
                Source::Mask(index, number) => self.irqs.mask(index, number),
                Source::Unmask(index, number) => self.irqs.unmask(index, number),
            }
        }
    }
}

fn config_space(function: &Function) -> Result<ConfigSpace, ConfigError> {
    let layouts =
        std::array::from_fn(|number| function.bars[number].as_ref().map(|bar| bar.layout));
    let mut capabilities = function.capabilities.clone();
    capabilities.extend(function.msi.map(Capability::Msi));
    capabilities.extend(function.msix.map(Capability::Msix));
    let pin = function.intx.then_some(InterruptPin::A);
    ConfigSpace::new(&function.identity, &layouts, pin, &capabilities)
}

fn make_doorbells(number: usize, bar: &Bar) -> io::Result<Vec<Doorbell>> {
    let make = |doorbell: &crate::device::Doorbell| {
        Ok(Doorbell {
            at: Access {
                // Six BARs.
                bar: u8::try_from(number).unwrap_or(u8::MAX),
                ..doorbell.at
            },
            datamatch: doorbell.datamatch,
            event: Arc::new(EventFd::new()?),
            offered: false,
        })
    };
    bar.doorbells.iter().map(make).collect()
}

fn client_events(index: IrqIndex, fds: Vec<OwnedFd>) -> Result<Vec<EventFd>, IrqError> {
    let events: Option<Vec<EventFd>> = fds.into_iter().map(EventFd::from_client).collect();
    events.ok_or(IrqError::NotAnEventFd { index })
}
