//! What a base address register claims.

use super::error::ConfigError;
use super::registers::Registers;
use super::spec::{BAR_COUNT, BAR0, bar};

/// Where a BAR may be placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarKind {
    /// Memory below 4 GiB, one register.
    Memory32,
    /// Memory anywhere, two registers.
    Memory64,
    /// I/O ports, one register.
    Io,
}

/// One BAR of a function (PCI 3.0 6.2.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarLayout {
    /// Where it may be placed.
    pub kind: BarKind,
    /// Reads have no side effects and writes may be merged. Memory only.
    pub prefetchable: bool,
    /// Length in bytes, a power of two.
    pub size: u64,
}

impl BarLayout {
    /// The bits that name the kind.
    fn flags(&self) -> u32 {
        let kind = match self.kind {
            BarKind::Memory32 => 0,
            BarKind::Memory64 => bar::TYPE_64,
            BarKind::Io => bar::IO,
        };
        if self.prefetchable {
            kind | bar::PREFETCHABLE
        } else {
            kind
        }
    }

    /// The bits that hold the address: those at and above the size.
    fn address_mask(&self) -> u64 {
        !(self.size - 1)
    }

    fn check(&self, index: usize) -> Result<(), ConfigError> {
        let (minimum, maximum) = match self.kind {
            BarKind::Memory32 => (bar::MEMORY_MIN, bar::MEMORY32_MAX),
            BarKind::Memory64 => (bar::MEMORY_MIN, bar::MEMORY64_MAX),
            BarKind::Io => (bar::IO_MIN, bar::IO_MAX),
        };
        let size = self.size;
        if !size.is_power_of_two() {
            return Err(ConfigError::BarSizeNotPowerOfTwo { index, size });
        }
        if !(minimum..=maximum).contains(&size) {
            return Err(ConfigError::BarSize {
                index,
                size,
                minimum,
                maximum,
            });
        }
        if self.kind == BarKind::Io && self.prefetchable {
            return Err(ConfigError::IoBarPrefetchable { index });
        }
        Ok(())
    }
}

/// The BARs of a function, checked.
#[derive(Debug, Clone)]
pub(super) struct Bars([Option<BarLayout>; BAR_COUNT]);

impl Bars {
    pub(super) fn new(bars: &[Option<BarLayout>; BAR_COUNT]) -> Result<Self, ConfigError> {
        for (index, layout) in bars.iter().enumerate() {
            let Some(layout) = layout else { continue };
            layout.check(index)?;
            let next_is_free = bars.get(index + 1).is_some_and(Option::is_none);
            if layout.kind == BarKind::Memory64 && !next_is_free {
                return Err(ConfigError::BarUpperHalf { index });
            }
        }
        Ok(Self(*bars))
    }

    pub(super) fn get(&self, index: usize) -> Option<&BarLayout> {
        self.0.get(index)?.as_ref()
    }

    pub(super) fn any(&self, is_io: bool) -> bool {
        let mut kinds = self.0.iter().flatten().map(|layout| layout.kind);
        kinds.any(|kind| (kind == BarKind::Io) == is_io)
    }

    /// Lays down the registers. All-ones written to them read back as the size
    /// (PCI 3.0 6.2.5.1) because only the address bits can be written.
    pub(super) fn lay_out(&self, registers: &mut Registers) {
        for (index, layout) in self.0.iter().enumerate() {
            let Some(layout) = layout else { continue };
            let (lower, upper) = halves(layout.address_mask());
            registers.set_u32(BAR0 + 4 * index, layout.flags(), lower);
            if layout.kind == BarKind::Memory64 {
                registers.set_u32(BAR0 + 4 * (index + 1), 0, upper);
            }
        }
    }

    /// Where the guest has put a BAR.
    pub(super) fn address(&self, index: usize, registers: &Registers) -> Option<u64> {
        let layout = self.get(index)?;
        let lower = u64::from(registers.u32(BAR0 + 4 * index));
        let upper = match layout.kind {
            BarKind::Memory64 => u64::from(registers.u32(BAR0 + 4 * (index + 1))),
            BarKind::Memory32 | BarKind::Io => 0,
        };
        Some((upper << 32 | lower) & layout.address_mask())
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the halves are meant")]
fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}
