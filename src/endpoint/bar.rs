//! One BAR at run time: which byte is a register, mapped memory, MSI-X or
//! nothing, and how accesses of any length become accesses to registers.

use std::ops::Range;

use super::areas::RegisterPages;
use super::dma_table::PAGE_SIZE;
use super::irqs::IrqTable;
use super::{EndpointError, Region};
use crate::device::{Access, AccessError, Bar, Device, Kind, RegisterMap, Row, SharedMemory};
use crate::pci::Msix;

/// Bytes of one MSI-X table entry (PCI 3.0 6.8.2).
const MSIX_ENTRY: usize = 16;

/// The vector control's mask bit, set after a reset (PCI 3.0 6.8.2.7).
const MSIX_MASKED: usize = 12;

/// A BAR.
pub(super) struct BarSpace {
    number: u8,
    pub(super) size: u64,
    registers: Option<&'static RegisterMap>,
    memory: Option<SharedMemory>,
    areas: Vec<Range<u64>>,
    /// The registers that memory shows. They stay registers: who does not map
    /// that memory reads them from the device.
    pages: Option<RegisterPages>,
    /// The MSI-X table, if it is here: where, and its bytes. What they mean
    /// is for [`IrqTable::program`].
    table: Option<(Range<u32>, Vec<u8>)>,
    pba: Option<Range<u32>>,
}

/// The registers of a BAR that has no mapped areas, or none.
#[derive(Default)]
pub(super) struct Trapped {
    /// As in its [`RegisterMap`].
    index: &'static [u16],
    /// One for each of its rows.
    registers: Box<[Trap]>,
}

/// A register, ready to be accessed.
#[derive(Clone, Copy)]
pub(super) struct Trap {
    row: &'static Row,
    access: Access,
    kind: Kind,
}

impl Trap {
    #[inline]
    fn new(bar: u8, row: &'static Row) -> Trap {
        Trap {
            row,
            access: access(bar, row),
            kind: row.kind,
        }
    }
}

/// What the bytes from an offset on are.
enum Place {
    Register(&'static Row),
    Memory,
    MsixTable,
    MsixPba,
    Nothing,
}

/// The guest made a mistake, which was logged: it reads all-ones or loses its
/// write.
pub(super) struct Mistake;

impl BarSpace {
    pub(super) fn new(number: usize, bar: Bar, msix: Option<&Msix>) -> Result<Self, EndpointError> {
        let size = bar.layout.size;
        let whole_pages = bar.areas.iter().all(|area| {
            area.start < area.end
                && area.end <= size
                && (area.start | area.end).is_multiple_of(PAGE_SIZE)
        });
        let fits = |memory: &SharedMemory| memory.size() as u64 == size;
        let one_memory = bar.memory.is_none() || bar.window.is_none();
        if !whole_pages || !bar.memory.as_ref().is_none_or(fits) || !one_memory {
            return Err(EndpointError::Areas { bar: number });
        }
        let here = |(bar, offset): (u8, u32), bytes: u32| {
            (usize::from(bar) == number).then(|| offset..offset + bytes)
        };
        let vectors = msix.map_or(0, |msix| u32::from(msix.vectors));
        // 16 bytes for each vector, and 8 for each 64 of them.
        let table = msix.and_then(|msix| here(msix.table, vectors * 16));
        let pba = msix.and_then(|msix| here(msix.pba, vectors.div_ceil(64) * 8));
        let mut space = BarSpace {
            // Six BARs.
            number: u8::try_from(number).unwrap_or(u8::MAX),
            size,
            registers: bar.registers,
            memory: bar.memory,
            areas: bar.areas,
            pages: None,
            table: table.map(|range| (range.clone(), vec![0; range.len()])),
            pba,
        };
        if !space.msix_place_is_free() {
            return Err(EndpointError::MsixPlace { bar: number });
        }
        let shown = bar.registers.zip(bar.window);
        space.pages = shown.map(|(map, window)| {
            let has_msix =
                |page: &Range<u32>| page.clone().any(|byte| space.msix_place(byte).is_some());
            RegisterPages::new(map, window, has_msix)
        });
        space.reset();
        Ok(space)
    }

    /// Whether no register and no mapped page is where MSI-X keeps its own.
    fn msix_place_is_free(&self) -> bool {
        let table = self.table.iter().map(|(range, _)| range.clone());
        let mut bytes = table.chain(self.pba.clone()).flatten();
        bytes.all(|byte| {
            let register = self.registers.and_then(|map| map.row_at(byte));
            register.is_none() && self.area_at(byte).is_none()
        })
    }

    /// Which BAR it is: its region's number.
    pub(super) fn number(&self) -> u32 {
        self.number.into()
    }

    /// What a client may know of it.
    pub(super) fn region(&self) -> Region<'_> {
        let size = self.size;
        match &self.pages {
            Some(pages) => Region {
                size,
                memory: pages.memory.as_fd(),
                mapped: &pages.mapped,
                read_only: &pages.read_only,
            },
            None => Region {
                size,
                memory: self.memory.as_ref().and_then(SharedMemory::as_fd),
                mapped: &self.areas,
                read_only: &[],
            },
        }
    }

    /// For the next client, memory that the last one does not have.
    pub(super) fn renew_pages(&mut self, device: &mut dyn Device) {
        let bar = self.number;
        if let Some(pages) = &mut self.pages {
            pages.renew(|row| shown(device, bar, row));
        }
    }

    /// After a reset, the registers that memory shows.
    pub(super) fn refresh_pages(&self, device: &mut dyn Device) {
        if let Some(pages) = &self.pages {
            pages.refresh(|row| shown(device, self.number, row));
        }
    }

    /// The MSI-X table as after power-on. Mapped memory belongs to the device.
    pub(super) fn reset(&mut self) {
        if let Some((_, bytes)) = &mut self.table {
            bytes.fill(0);
            for entry in bytes.chunks_exact_mut(MSIX_ENTRY) {
                entry[MSIX_MASKED] = 1;
            }
        }
    }

    /// The MSI-X table's bytes; none if it is not here.
    pub(super) fn table(&self) -> &[u8] {
        self.table.as_ref().map_or(&[], |(_, bytes)| bytes)
    }

    /// The same, to be filled with those of a predecessor.
    pub(super) fn table_mut(&mut self) -> &mut [u8] {
        self.table.as_mut().map_or(&mut [], |(_, bytes)| bytes)
    }

    /// Reads `data` from `offset` on, which is inside the BAR, one thing after
    /// the other. Returns how many mistakes of the guest it met.
    pub(super) fn read(
        &self,
        device: &mut dyn Device,
        irqs: &IrqTable,
        mut offset: u32,
        mut data: &mut [u8],
    ) -> u64 {
        let mut mistakes = 0;
        while !data.is_empty() {
            let (place, run) = self.place(offset, data.len());
            let (now, rest) = data.split_at_mut(run);
            let read = match place {
                Place::Register(row) => {
                    let first = (offset - row.offset).into();
                    let value = Trap::new(self.number, row).read(device, first);
                    now.copy_from_slice(&value.as_ref().unwrap_or(&u64::MAX).to_le_bytes()[..run]);
                    value.map(|_| ())
                }
                other => self.read_other(irqs, &other, offset, now),
            };
            mistakes += u64::from(read.is_err());
            offset = after(offset, run);
            data = rest;
        }
        mistakes
    }

    /// Writes `data` from `offset` on, which is inside the BAR, one thing after
    /// the other. Returns how many mistakes of the guest it met.
    pub(super) fn write(
        &mut self,
        device: &mut dyn Device,
        irqs: &IrqTable,
        mut offset: u32,
        mut data: &[u8],
    ) -> u64 {
        let mut mistakes = 0;
        while !data.is_empty() {
            let (place, run) = self.place(offset, data.len());
            let (now, rest) = data.split_at(run);
            let written = match place {
                Place::Register(row) => {
                    let mut value = [0; 8];
                    value[..run].copy_from_slice(now);
                    let first = (offset - row.offset).into();
                    let value = u64::from_le_bytes(value);
                    Trap::new(self.number, row).write(device, first, run, value)
                }
                other => self.write_other(irqs, &other, offset, now),
            };
            mistakes += u64::from(written.is_err());
            offset = after(offset, run);
            data = rest;
        }
        mistakes
    }

    /// The way to the registers that nearly all accesses take. In a BAR with
    /// mapped areas it takes a search to know.
    pub(super) fn trapped(&self) -> Trapped {
        let map = self.registers.filter(|_| self.areas.is_empty());
        map.map_or_else(Trapped::default, |map| Trapped {
            index: map.index,
            registers: map
                .rows
                .iter()
                .map(|row| Trap::new(self.number, row))
                .collect(),
        })
    }

    /// What is at `offset`, and how many of `length` bytes it holds: at least
    /// one, at most `length`.
    fn place(&self, offset: u32, length: usize) -> (Place, usize) {
        let (place, end) = self
            .area_place(offset)
            .or_else(|| {
                let row = self.registers?.row_at(offset)?;
                Some((Place::Register(row), row.range().end))
            })
            .or_else(|| self.msix_place(offset))
            .unwrap_or((Place::Nothing, offset.saturating_add(1)));
        let run = end.saturating_sub(offset) as usize;
        (place, run.clamp(1, length))
    }

    fn area_at(&self, offset: u32) -> Option<&Range<u64>> {
        let offset = u64::from(offset);
        self.areas.iter().find(|area| area.contains(&offset))
    }

    fn area_place(&self, offset: u32) -> Option<(Place, u32)> {
        let area = self.area_at(offset)?;
        let end = u32::try_from(area.end).unwrap_or(u32::MAX);
        Some((Place::Memory, end))
    }

    fn msix_place(&self, offset: u32) -> Option<(Place, u32)> {
        let table = self.table.as_ref().map(|(range, _)| range);
        if let Some(range) = table.filter(|range| range.contains(&offset)) {
            return Some((Place::MsixTable, range.end));
        }
        let pba = self.pba.as_ref().filter(|range| range.contains(&offset))?;
        Some((Place::MsixPba, pba.end))
    }

    /// Reads what is no register.
    #[cold]
    fn read_other(
        &self,
        irqs: &IrqTable,
        place: &Place,
        offset: u32,
        data: &mut [u8],
    ) -> Result<(), Mistake> {
        match place {
            Place::Memory => self.read_memory(offset, data),
            Place::MsixTable => self.read_table(offset, data),
            Place::MsixPba => self.read_pba(irqs, offset, data),
            Place::Register(_) | Place::Nothing => {
                data.fill(0xff);
                return Err(Mistake);
            }
        }
        Ok(())
    }

    /// Writes what is no register.
    #[cold]
    fn write_other(
        &mut self,
        irqs: &IrqTable,
        place: &Place,
        offset: u32,
        data: &[u8],
    ) -> Result<(), Mistake> {
        match place {
            Place::Memory => self.write_memory(offset, data),
            Place::MsixTable => self.write_table(irqs, offset, data),
            // Read-only (PCI 3.0 6.8.2.9).
            Place::MsixPba => {}
            Place::Register(_) | Place::Nothing => return Err(Mistake),
        }
        Ok(())
    }

    fn read_memory(&self, offset: u32, data: &mut [u8]) {
        let memory = self.memory.as_ref();
        if memory.is_none_or(|memory| memory.read(offset.into(), data).is_err()) {
            data.fill(0xff);
        }
    }

    fn write_memory(&self, offset: u32, data: &[u8]) {
        if let Some(memory) = &self.memory {
            // Mapped areas are inside the memory, checked when it was built.
            let _ = memory.write(offset.into(), data);
        }
    }

    fn read_table(&self, offset: u32, data: &mut [u8]) {
        if let Some((range, bytes)) = &self.table {
            let first = (offset - range.start) as usize;
            data.copy_from_slice(&bytes[first..first + data.len()]);
        }
    }

    fn write_table(&mut self, irqs: &IrqTable, offset: u32, data: &[u8]) {
        if let Some((range, bytes)) = &mut self.table {
            let first = (offset - range.start) as usize;
            let end = first + data.len();
            bytes[first..end].copy_from_slice(data);
            let vector = first / MSIX_ENTRY;
            let whole = vector * MSIX_ENTRY..end.next_multiple_of(MSIX_ENTRY);
            irqs.program(vector, &bytes[whole]);
        }
    }

    /// Tells all of the MSI-X table, if it is here.
    pub(super) fn program(&self, irqs: &IrqTable) {
        if let Some((_, bytes)) = &self.table {
            irqs.program(0, bytes);
        }
    }

    fn read_pba(&self, irqs: &IrqTable, offset: u32, data: &mut [u8]) {
        let start = self.pba.as_ref().map_or(0, |range| range.start);
        let first = (offset - start) as usize;
        for (byte, number) in data.iter_mut().zip(first..) {
            *byte = irqs.pending_byte(number);
        }
    }
}

impl Trapped {
    /// The register that an access of `length` bytes, not 0, is inside of, and
    /// its first byte there.
    #[allow(clippy::inline_always, reason = "every access comes through here")]
    #[inline(always)]
    pub(super) fn find(&self, offset: u64, length: usize) -> Option<(&Trap, u64)> {
        let number = *self.index.get(usize::try_from(offset).ok()?)?;
        // What is no register becomes the largest number.
        let trap = self.registers.get(usize::from(number).wrapping_sub(1))?;
        let first = offset - u64::from(trap.access.offset);
        let left = u64::from(trap.access.width.bytes()) - first;
        (length as u64 <= left).then_some((trap, first))
    }
}

impl Trap {
    /// Reads from its byte `first` on: the low bytes of the value.
    #[inline]
    pub(super) fn read(&self, device: &mut dyn Device, first: u64) -> Result<u64, Mistake> {
        let read = match self.kind {
            Kind::Wo => Err(AccessError::WriteOnly {
                name: self.row.name,
            }),
            _ => device.read(self.access),
        };
        let value = read.map_err(|error| self.mistake(error))?;
        Ok(value >> (8 * first))
    }

    /// Writes the low `length` bytes of `value`, of which it has so many from
    /// its byte `first` on.
    #[inline]
    pub(super) fn write(
        &self,
        device: &mut dyn Device,
        first: u64,
        length: usize,
        value: u64,
    ) -> Result<(), Mistake> {
        let name = self.row.name;
        let whole = length == self.access.width.bytes() as usize;
        let old = match self.kind {
            Kind::Ro => Err(AccessError::ReadOnly { name }),
            Kind::Wo if !whole => Err(AccessError::Narrow { name }),
            // The other bytes stay as they are.
            Kind::Rw if !whole => device.read(self.access),
            Kind::Rw | Kind::Wo | Kind::W1c => Ok(0),
        };
        let old = old.map_err(|error| self.mistake(error))?;
        let mask = (u64::MAX >> (64 - 8 * length)) << (8 * first);
        let value = old & !mask | value << (8 * first) & mask;
        let written = device.write(self.access, value);
        written.map_err(|error| self.mistake(error))
    }

    /// Says what the guest did wrong.
    #[cold]
    fn mistake(&self, error: AccessError) -> Mistake {
        log::debug!("BAR {}: guest: {error}", self.access.bar);
        Mistake
    }
}

#[inline]
fn access(bar: u8, row: &Row) -> Access {
    Access {
        bar,
        offset: row.offset,
        width: row.width,
    }
}

/// What memory shows of a register: what a read of it gives.
fn shown(device: &mut dyn Device, bar: u8, row: &Row) -> u64 {
    let value = device.read(access(bar, row));
    value.unwrap_or(row.width.mask())
}

/// The offset behind `run` bytes; inside the BAR, so it fits.
#[inline]
fn after(offset: u32, run: usize) -> u32 {
    offset.wrapping_add(u32::try_from(run).unwrap_or(u32::MAX))
}
