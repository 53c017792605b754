//! Registers as rows of a table: name, offset, width, kind, reset value, a
//! line of documentation. [`registers!`](crate::registers) checks at build
//! time that the table covers its BAR without overlap or gap.

use std::ops::Range;

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

/// Which accesses of a register need no exit of the guest, because a page of
/// its BAR is memory that the client maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// None: each reaches the device.
    Trapped,
    /// Reads. They have no effect, and memory shows the value; writes reach the
    /// device.
    Shown,
    /// Reads and writes. They have no effect: the register is memory. What the
    /// guest writes is there when the device asks.
    Mapped,
}

impl Sharing {
    /// The word as a row has it; none for a trapped register.
    pub const fn name(self) -> &'static str {
        match self {
            Sharing::Trapped => "",
            Sharing::Shown => "shown",
            Sharing::Mapped => "mapped",
        }
    }

    /// Whether memory shows the value.
    #[inline]
    pub const fn is_shared(self) -> bool {
        !matches!(self, Sharing::Trapped)
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
    /// Which of them need no exit.
    pub sharing: Sharing,
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

    /// Whether memory shows any of the registers.
    pub const fn is_shared(&self) -> bool {
        let mut number = 0;
        while number < self.rows.len() {
            if self.rows[number].sharing.is_shared() {
                return true;
            }
            number += 1;
        }
        false
    }

    /// What a page of the BAR may be to a client: that to which all of its
    /// registers agree. A write-only register shows all-ones, as reserved bytes
    /// do. In a page without a value there is nothing to map.
    pub(crate) fn page(&self, page: &Range<u32>) -> Sharing {
        let mut shared = false;
        let mut writes_trap = false;
        let here = |row: &&Row| page.contains(&row.offset);
        for row in self.rows.iter().filter(here) {
            match (row.sharing, row.kind) {
                (Sharing::Mapped, _) => shared = true,
                (Sharing::Shown, _) => (shared, writes_trap) = (true, true),
                (Sharing::Trapped, Kind::Wo) => writes_trap = true,
                (Sharing::Trapped, _) => return Sharing::Trapped,
            }
        }
        match (shared, writes_trap) {
            (false, _) => Sharing::Trapped,
            (true, true) => Sharing::Shown,
            (true, false) => Sharing::Mapped,
        }
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

/// The index of a [`RegisterMap`]; evaluated at build time by
/// [`registers!`](crate::registers).
///
/// # Panics
///
/// At build time, when the rows and reserved ranges overlap, leave a gap,
/// leave the map or are not aligned, when a reset value is too wide, or when a
/// register cannot be `mapped` or `shown`.
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
        check_sharing(row);
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

const fn check_sharing(row: &Row) {
    assert!(
        !(row.sharing.is_shared() && matches!(row.kind, Kind::Wo)),
        "a write-only register has no value to be mapped or shown"
    );
    assert!(
        !(matches!(row.sharing, Sharing::Mapped) && matches!(row.kind, Kind::W1c)),
        "writes of a mapped register have no effect: use shown for w1c"
    );
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
/// A kind may be followed by one of [`Sharing`]: `mapped` for a register that
/// is memory, `shown` for one whose reads have no effect. With
/// [`RegisterFile::mapped`](crate::device::RegisterFile::mapped) and
/// [`Bar::of`](crate::device::Bar::of) a guest then reads it without an exit.
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
            $($offset:literal $name:ident: $width:ident $kind:ident $($sharing:ident)? = $reset:expr,
                $doc:literal;)+
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
                    sharing: $crate::registers!(@sharing $($sharing)?),
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
    (@sharing) => { $crate::device::Sharing::Trapped };
    (@sharing shown) => { $crate::device::Sharing::Shown };
    (@sharing mapped) => { $crate::device::Sharing::Mapped };
}
