//! The endpoint: the one place that turns "region 0, offset 8, 4 bytes" into
//! an access to a device, whichever face it came through.
//!
//! It keeps what every function has: config space, BARs, interrupts, the DMA
//! table and the meaning of a reset. A mistake of the guest ends here (reads
//! give all-ones, writes are dropped); a mistake of the client is a
//! [`RegionError`] or a [`MapError`].

mod areas;
mod bar;
pub(crate) mod copy;
mod decode;
mod dma_table;
mod eventfd;
mod events;
mod interrupts;
mod irqs;
mod kept;
mod messages;
pub(crate) mod sigbus;

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use thiserror::Error;

pub use decode::DecodedBar;
pub use dma_table::{Backing, ClientMemory, MAX_MAPS, MapError, MapRequest, PAGE_SIZE};
pub use events::OfferedDoorbell;
pub use interrupts::{IrqDescription, IrqError, MaskEvent};
pub use irqs::IrqIndex;
pub use messages::InterruptBus;

/// Why an access to guest memory failed.
pub use crate::device::DmaError;

use crate::device::{Device, Dma, Function, Irq};
use crate::pci::{Capability, ConfigError, ConfigSpace, InterruptPin};
use bar::{BarSpace, Mistake, Trap, Trapped};
use dma_table::DmaTable;
use events::{Doorbells, Event};
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
    bars: [Option<Box<BarSpace>>; 6],
    trapped: [Trapped; 6],
    irqs: Arc<IrqTable>,
    dma: Arc<DmaTable>,
    events: Vec<Event>,
    /// How often `events` changed.
    event_changes: u32,
    doorbells: Doorbells,
    guest_errors: u64,
    /// How often the guest may have changed what is not the device's.
    function_writes: u64,
}

/// A register from one of its bytes on.
pub(crate) struct PartOfRegister<'a> {
    trap: &'a Trap,
    first: u64,
    device: &'a mut dyn Device,
    guest_errors: &'a mut u64,
}

impl PartOfRegister<'_> {
    /// Reads it: the low bytes of the value.
    #[allow(clippy::inline_always, reason = "as for all accesses")]
    #[inline(always)]
    pub(crate) fn read(self) -> u64 {
        let value = self.trap.read(self.device, self.first);
        value.unwrap_or_else(|Mistake| {
            *self.guest_errors += 1;
            u64::MAX
        })
    }

    /// Writes the low `length` bytes of `value`: as many as it has at most.
    #[allow(clippy::inline_always, reason = "as for all accesses")]
    #[inline(always)]
    pub(crate) fn write(self, length: usize, value: u64) {
        let written = self.trap.write(self.device, self.first, length, value);
        if written.is_err() {
            *self.guest_errors += 1;
        }
    }
}

/// Why a device cannot be an endpoint: a mistake of its author.
#[derive(Debug, Error)]
pub enum EndpointError {
    /// Its identity, BARs or capabilities do not make a config space.
    #[error("the device's config space: {0}")]
    Config(#[from] ConfigError),
    /// A BAR's mapped areas do not fit its memory or pages.
    #[error("BAR {bar}: mapped areas must be whole pages inside one memory as large as the BAR")]
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

/// What a client may know of a region.
#[derive(Debug)]
pub struct Region<'a> {
    /// Its size in bytes, 0 if the function lacks it.
    pub size: u64,
    /// The memory that shows parts of it to a client, at the same offsets.
    pub memory: Option<BorrowedFd<'a>>,
    /// Where the client may read and write the memory.
    pub mapped: &'a [Range<u64>],
    /// Where the client may read the memory, and must not write it.
    pub read_only: &'a [Range<u64>],
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
        let doorbells = Doorbells::new(&function.bars)?;
        let mut bars = <[Option<Box<BarSpace>>; 6]>::default();
        let mut trapped = <[Trapped; 6]>::default();
        for (number, bar) in function.bars.into_iter().enumerate() {
            let Some(bar) = bar else { continue };
            let space = BarSpace::new(number, bar, function.msix.as_ref())?;
            trapped[number] = space.trapped();
            bars[number] = Some(Box::new(space));
        }
        Ok(Endpoint {
            device,
            config,
            bars,
            trapped,
            irqs,
            dma,
            events: Vec::new(),
            event_changes: 0,
            doorbells,
            guest_errors: 0,
            function_writes: 0,
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
        let bar = self.bars.get(region as usize).and_then(Option::as_deref);
        Some(bar.map_or_else(
            || Region {
                size: self.size(region),
                memory: None,
                mapped: &[],
                read_only: &[],
            },
            BarSpace::region,
        ))
    }

    /// Reads a region. `data` may have any length: registers are read whole
    /// and in order, and what is no register reads as all-ones.
    ///
    /// # Errors
    ///
    /// [`RegionError`] if the range is not inside the region.
    #[inline]
    pub fn read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), RegionError> {
        let value = match data.len() {
            length @ 1..=8 => self.load(region, offset, length)?.to_le_bytes(),
            _ => return self.read_any(region, offset, data),
        };
        match data.len() {
            // A store, where a length that is not known means a call of memcpy.
            4 => data.copy_from_slice(&value[..4]),
            length => data.copy_from_slice(&value[..length]),
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
        let mut value = [0; 8];
        match data.len() {
            4 => value[..4].copy_from_slice(data),
            length @ 1..=8 => value[..length].copy_from_slice(data),
            _ => return self.write_any(region, offset, data),
        }
        self.store(region, offset, data.len(), u64::from_le_bytes(value))
    }

    /// Reads `length` bytes, 1 to 8, as [`Endpoint::read`] does. They are the
    /// low bytes of the value; what is above them means nothing.
    ///
    /// # Errors
    ///
    /// [`RegionError`] if the range is not inside the region.
    #[allow(
        clippy::inline_always,
        reason = "a call of it would be 20 instructions"
    )]
    #[inline(always)]
    pub fn load(&mut self, region: u32, offset: u64, length: usize) -> Result<u64, RegionError> {
        match self.find_register(region, offset, length) {
            Some(register) => Ok(register.read()),
            None => self.load_any(region, offset, length),
        }
    }

    /// The register that an access of `length` bytes, not 0, is inside of.
    #[allow(clippy::inline_always, reason = "as for all accesses")]
    #[inline(always)]
    pub(crate) fn find_register(
        &mut self,
        region: u32,
        offset: u64,
        length: usize,
    ) -> Option<PartOfRegister<'_>> {
        let trapped = self.trapped.get(region as usize)?;
        let (trap, first) = trapped.find(offset, length)?;
        Some(PartOfRegister {
            trap,
            first,
            device: self.device.as_mut(),
            guest_errors: &mut self.guest_errors,
        })
    }

    /// Writes the low `length` bytes of `value`, 1 to 8, as
    /// [`Endpoint::write`] does. What is above them is ignored.
    ///
    /// # Errors
    ///
    /// [`RegionError`] if the range is not inside the region.
    #[allow(clippy::inline_always, reason = "as for reads")]
    #[inline(always)]
    pub fn store(
        &mut self,
        region: u32,
        offset: u64,
        length: usize,
        value: u64,
    ) -> Result<(), RegionError> {
        match self.find_register(region, offset, length) {
            Some(register) => register.write(length, value),
            None => return self.store_any(region, offset, length, value),
        }
        Ok(())
    }

    /// Checks an access without carrying it out.
    ///
    /// # Errors
    ///
    /// [`RegionError`] if the range is not inside the region.
    pub fn check_access(&self, region: u32, offset: u64, length: usize) -> Result<(), RegionError> {
        inside(self.size(region), region, offset, length).map(|_| ())
    }

    /// The size of a region, 0 if the function lacks it.
    fn size(&self, region: u32) -> u64 {
        match self.bars.get(region as usize) {
            Some(Some(bar)) => bar.size,
            _ if region == CONFIG_REGION => self.config.size() as u64,
            _ => 0,
        }
    }

    #[cold]
    fn load_any(&mut self, region: u32, offset: u64, length: usize) -> Result<u64, RegionError> {
        let mut value = [0; 8];
        self.read_any(region, offset, &mut value[..length])?;
        Ok(u64::from_le_bytes(value))
    }

    #[cold]
    fn store_any(
        &mut self,
        region: u32,
        offset: u64,
        length: usize,
        value: u64,
    ) -> Result<(), RegionError> {
        self.write_any(region, offset, &value.to_le_bytes()[..length])
    }

    /// Reads what is not inside one register.
    #[cold]
    fn read_any(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), RegionError> {
        let start = inside(self.size(region), region, offset, data.len())?;
        if let Some(Some(bar)) = self.bars.get(region as usize) {
            self.guest_errors += bar.read(self.device.as_mut(), &self.irqs, start, data);
        } else {
            self.config.set_interrupt_status(self.irqs.intx_level());
            self.config.set_msi_pending(self.irqs.msi_pending());
            self.config.read(start as usize, data);
        }
        Ok(())
    }

    /// Writes what is not inside one register.
    #[cold]
    fn write_any(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), RegionError> {
        let start = inside(self.size(region), region, offset, data.len())?;
        self.function_writes += 1;
        if let Some(Some(bar)) = self.bars.get_mut(region as usize) {
            self.guest_errors += bar.write(self.device.as_mut(), &self.irqs, start, data);
            return Ok(());
        }
        let effects = self.config.write(start as usize, data);
        if effects.function_level_reset {
            self.reset();
        }
        self.irqs.follow(self.config.interrupts());
        Ok(())
    }

    /// Resets the function: config space, interrupts and device are as after
    /// power-on. For a client's reset and, through config space, for a
    /// function level reset by the guest. What the client set up (DMA maps,
    /// eventfds) stays.
    pub fn reset(&mut self) {
        self.function_writes += 1;
        self.dma.suspend(true);
        self.device.reset();
        self.dma.suspend(false);
        self.config.reset();
        for bar in self.bars.iter_mut().flatten() {
            bar.reset();
            bar.refresh_pages(self.device.as_mut());
        }
        self.irqs.reset();
        self.irqs.follow(self.config.interrupts());
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
        self.events_changed();
        self.doorbells.renew();
        self.device.disconnected();
        for bar in self.bars.iter_mut().flatten() {
            bar.renew_pages(self.device.as_mut());
        }
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
}

/// The offset of an access that is inside its region of `size` bytes.
#[inline]
fn inside(size: u64, region: u32, offset: u64, length: usize) -> Result<u32, RegionError> {
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

fn config_space(function: &Function) -> Result<ConfigSpace, ConfigError> {
    let layouts =
        std::array::from_fn(|number| function.bars[number].as_ref().map(|bar| bar.layout));
    let mut capabilities = function.capabilities.clone();
    capabilities.extend(function.msi.map(Capability::Msi));
    capabilities.extend(function.msix.map(Capability::Msix));
    let pin = function.intx.then_some(InterruptPin::A);
    ConfigSpace::new(&function.identity, &layouts, pin, &capabilities)
}
