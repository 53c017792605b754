//! Registers as rows of a table: name, offset, width, kind, reset value, a
//! line of documentation. [`registers!`](crate::registers) checks at build
//! time that the table covers its BAR without overlap or gap.

use std::marker::PhantomData;
use std::ops::{BitOrAssign, Range};

use super::{Access, AccessError, Width};

/// What reads and writes of a register do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Read-only: writes are dropped.
    Ro,
    /// Read and write, plain storage: a narrow write keeps the other bytes.
    Rw,
    /// Write 1 to clear: a narrow write leaves the other bytes.
    W1c,
    /// Write-only: writing acts, so only the whole width may be written.
    Wo,
}

impl Kind {
    /// The kind as the register table prints it.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Ro => "ro",
            Kind::Rw => "rw",
            Kind::W1c => "w1c",
            Kind::Wo => "wo",
        }
    }
}

/// One register.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The name as the table prints it.
    pub name: &'static str,
    /// Offset in the BAR, in bytes; a multiple of the width.
    pub offset: u32,
    /// The width.
    pub width: Width,
    /// What reads and writes do.
    pub kind: Kind,
    /// The value after a reset.
    pub reset: u64,
    /// One line of documentation.
    pub doc: &'static str,
}

impl Row {
    /// The bytes of the BAR that the register covers.
    #[inline]
    pub const fn range(&self) -> Range<u32> {
        self.offset..self.offset + self.width.bytes()
    }
}

/// The registers of one BAR, made by [`registers!`](crate::registers).
#[derive(Debug)]
pub struct RegisterMap {
    /// One line of documentation.
    pub doc: &'static str,
    /// The registers, in the order of the table.
    pub rows: &'static [Row],
    /// For each byte of the BAR the number of its row plus one, or 0 where it
    /// is reserved.
    pub index: &'static [u16],
}

impl RegisterMap {
    /// The size of the map, in bytes: that of its BAR.
    #[inline]
    pub const fn size(&self) -> usize {
        self.index.len()
    }

    /// The register that covers the byte at `offset`, if any does.
    #[inline]
    pub fn row_at(&self, offset: u32) -> Option<&'static Row> {
        let number = *self.index.get(offset as usize)?;
        self.rows.get(usize::from(number).checked_sub(1)?)
    }
}

/// An enum of registers, made by [`registers!`](crate::registers).
pub trait Register: Copy + 'static {
    /// The table behind the enum.
    const MAP: &'static RegisterMap;
    /// Every register, in the order of the table.
    const ALL: &'static [Self];

    /// The register's place in [`Register::ALL`].
    fn index(self) -> usize;

    /// The register that an access means.
    ///
    /// # Errors
    ///
    /// [`AccessError::NoRegister`] if the access is not exactly a register.
    #[inline]
    fn at(access: Access) -> Result<Self, AccessError> {
        let number = Self::MAP.index.get(access.offset as usize).copied();
        number
            .and_then(|number| Self::ALL.get(usize::from(number).checked_sub(1)?))
            .copied()
            .ok_or(AccessError::NoRegister {
                offset: access.offset,
            })
    }

    /// The register's row.
    #[inline]
    fn row(self) -> &'static Row {
        &Self::MAP.rows[self.index()]
    }

    /// An access to the whole register through BAR `bar`.
    fn access(self, bar: u8) -> Access {
        let row = self.row();
        Access {
            bar,
            offset: row.offset,
            width: row.width,
        }
    }
}

/// The stored values of a map's registers.
///
/// It gives `rw` and `w1c` registers their meaning, so that a device only
/// writes code for registers that do something.
#[derive(Clone, Debug)]
pub struct RegisterFile<R> {
    values: Box<[u64]>,
    registers: PhantomData<R>,
}

impl<R: Register> RegisterFile<R> {
    /// All registers at their reset values.
    pub fn new() -> Self {
        RegisterFile {
            values: R::MAP.rows.iter().map(|row| row.reset).collect(),
            registers: PhantomData,
        }
    }

    /// Returns all registers to their reset values.
    pub fn reset(&mut self) {
        for (value, row) in self.values.iter_mut().zip(R::MAP.rows) {
            *value = row.reset;
        }
    }

    /// The stored value.
    #[inline]
    pub fn get(&self, register: R) -> u64 {
        self.values[register.index()]
    }

    /// Stores a value whatever the register's kind, cut to its width.
    #[inline]
    pub fn set(&mut self, register: R, value: u64) {
        self.values[register.index()] = value & register.row().width.mask();
    }

    /// Sets bits.
    #[inline]
    pub fn set_bits(&mut self, register: R, bits: u64) {
        self.values[register.index()].bitor_assign(bits & register.row().width.mask());
    }

    /// Adds one, and wraps at the register's width.
    #[inline]
    pub fn count(&mut self, register: R) {
        self.set(register, self.get(register).wrapping_add(1));
    }

    /// Writes as the guest does: stores into `rw`, clears bits of `w1c`.
    ///
    /// # Errors
    ///
    /// [`AccessError::ReadOnly`]; a `wo` register has no value to store, its
    /// device handles it first, so it ends as [`AccessError::Value`].
    #[inline]
    pub fn write(&mut self, register: R, value: u64) -> Result<(), AccessError> {
        let row = register.row();
        match row.kind {
            Kind::Rw => self.set(register, value),
            Kind::W1c => self.values[register.index()] &= !value,
            Kind::Ro => return Err(AccessError::ReadOnly { name: row.name }),
            Kind::Wo => {
                return Err(AccessError::Value {
                    name: row.name,
                    value,
                });
            }
        }
        Ok(())
    }
}

impl<R: Register> Default for RegisterFile<R> {
    fn default() -> Self {
        Self::new()
    }
}

/// The index of a [`RegisterMap`]; evaluated at build time by
/// [`registers!`](crate::registers).
///
/// # Panics
///
/// At build time, when the rows and reserved ranges overlap, leave a gap,
/// leave the map or are not aligned, or when a reset value is too wide.
pub const fn build_index<const SIZE: usize>(rows: &[Row], reserved: &[Range<u32>]) -> [u16; SIZE] {
    let mut index = [0; SIZE];
    let mut covered = [false; SIZE];
    let mut number = 0;
    while number < rows.len() {
        let row = &rows[number];
        assert!(
            row.offset.is_multiple_of(row.width.bytes()),
            "a register is not aligned to its width"
        );
        assert!(
            row.reset & !row.width.mask() == 0,
            "a reset value is wider than its register"
        );
        number += 1;
        assert!(number <= u16::MAX as usize, "too many registers");
        #[allow(clippy::cast_possible_truncation, reason = "asserted above")]
        let entry = number as u16;
        (index, covered) = cover(index, covered, row.range(), entry);
    }
    let mut number = 0;
    while number < reserved.len() {
        let range = reserved[number].start..reserved[number].end;
        (index, covered) = cover(index, covered, range, 0);
        number += 1;
    }
    let mut byte = 0;
    while byte < SIZE {
        assert!(
            covered[byte],
            "a gap in the register map: add a register or a reserved range"
        );
        byte += 1;
    }
    index
}

const fn cover<const SIZE: usize>(
    mut index: [u16; SIZE],
    mut covered: [bool; SIZE],
    range: Range<u32>,
    entry: u16,
) -> ([u16; SIZE], [bool; SIZE]) {
    assert!(
        range.start < range.end && range.end as usize <= SIZE,
        "a register or reserved range ends beyond the map"
    );
    let mut byte = range.start as usize;
    while byte < range.end as usize {
        assert!(
            !covered[byte],
            "two registers or reserved ranges overlap in the register map"
        );
        covered[byte] = true;
        index[byte] = entry;
        byte += 1;
    }
    (index, covered)
}

/// Declares the registers of a BAR: an enum with a row for each register.
///
/// The number in brackets is the size of the BAR in bytes. Each row is
/// `offset NAME: width kind = reset, "documentation";` with the widths `u8`,
/// `u16`, `u32`, `u64` and the kinds of [`Kind`]: `ro`,
/// `rw`, `w1c`, `wo`. What is not a register must be named as reserved: an
/// overlap or a gap fails the build.
///
/// ```
/// vgpu_stub::registers! {
///     /// A counter.
///     pub enum Reg[16] {
///         0x0 ID: u32 ro = 0x1234, "always 0x1234";
///         0x4 COUNT: u32 ro = 0, "rings since reset";
///         0x8 RING: u32 wo = 0, "any value rings";
///     }
///     reserved { 0xc..0x10 }
/// }
/// use vgpu_stub::device::Register;
/// assert_eq!(Reg::RING.row().offset, 8);
/// ```
#[macro_export]
macro_rules! registers {
    (
        #[doc = $map_doc:literal]
        $vis:vis enum $Map:ident[$size:literal] {
            $($offset:literal $name:ident: $width:ident $kind:ident = $reset:expr, $doc:literal;)+
        }
        reserved { $($from:literal..$to:literal),* $(,)? }
    ) => {
        #[doc = $map_doc]
        #[allow(
            non_camel_case_types,
            clippy::upper_case_acronyms,
            reason = "registers are named as their table names them"
        )]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        $vis enum $Map {
            $(#[doc = $doc] $name,)+
        }

        impl $crate::device::Register for $Map {
            const MAP: &'static $crate::device::RegisterMap = {
                const ROWS: &[$crate::device::Row] = &[$($crate::device::Row {
                    name: stringify!($name),
                    offset: $offset,
                    width: $crate::registers!(@width $width),
                    kind: $crate::registers!(@kind $kind),
                    reset: $reset,
                    doc: $doc,
                }),+];
                const INDEX: [u16; $size] =
                    $crate::device::build_index(ROWS, &[$($from..$to),*]);
                &$crate::device::RegisterMap { doc: $map_doc, rows: ROWS, index: &INDEX }
            };
            const ALL: &'static [Self] = &[$($Map::$name),+];

            #[inline]
            fn index(self) -> usize {
                self as usize
            }
        }
    };
    (@width u8) => { $crate::device::Width::U8 };
    (@width u16) => { $crate::device::Width::U16 };
    (@width u32) => { $crate::device::Width::U32 };
    (@width u64) => { $crate::device::Width::U64 };
    (@kind ro) => { $crate::device::Kind::Ro };
    (@kind rw) => { $crate::device::Kind::Rw };
    (@kind w1c) => { $crate::device::Kind::W1c };
    (@kind wo) => { $crate::device::Kind::Wo };
}
