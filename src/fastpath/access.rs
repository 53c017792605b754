//! What one access is, as a checked value and in the shared pages.

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reads a value.
    Read,
    /// Writes this value; the bytes above the access's count are 0.
    Write(u64),
}

/// An access that the shared pages can carry: 1 to 8 bytes of a region whose
/// number has 16 bits. Whether the region has such bytes, the server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    region: u16,
    offset: u64,
    count: u8,
    operation: Operation,
}

/// Bits 32 to 39 of a request.
const READ: u8 = 1;
const WRITE: u8 = 2;

impl Access {
    /// A read of `count` bytes at `offset` of `region`. `None` if the shared
    /// pages cannot carry it, and it has to go by the socket.
    #[inline]
    pub fn read(region: u32, offset: u64, count: usize) -> Option<Access> {
        Some(Access {
            region: u16::try_from(region).ok()?,
            offset,
            count: checked_count(count)?,
            operation: Operation::Read,
        })
    }

    /// A write of `data`, little-endian, at `offset` of `region`. `None` if
    /// the shared pages cannot carry it, and it has to go by the socket.
    #[inline]
    pub fn write(region: u32, offset: u64, data: &[u8]) -> Option<Access> {
        let count = checked_count(data.len())?;
        let mut value = [0; 8];
        value[..data.len()].copy_from_slice(data);
        Some(Access {
            region: u16::try_from(region).ok()?,
            offset,
            count,
            operation: Operation::Write(u64::from_le_bytes(value)),
        })
    }

    /// The region's index.
    #[inline]
    pub fn region(&self) -> u32 {
        u32::from(self.region)
    }

    /// Where in the region, in bytes.
    #[inline]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes, 1 to 8.
    #[inline]
    pub fn count(&self) -> usize {
        usize::from(self.count)
    }

    /// Read or write.
    #[inline]
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// The same, as the shared pages have it.
    #[inline]
    pub(super) fn size(&self) -> u8 {
        self.count
    }

    /// The word of a slot that asks for it.
    #[inline]
    pub(super) fn request(&self, sequence: u32) -> u64 {
        let operation = match self.operation {
            Operation::Read => READ,
            Operation::Write(_) => WRITE,
        };
        u64::from(sequence) | u64::from(operation) << 32 | self.what()
    }

    /// The word of an entry of the ring.
    #[inline]
    pub(super) fn what(&self) -> u64 {
        u64::from(self.count) << 40 | u64::from(self.region) << 48
    }

    /// What the peer asks for by a slot's words, each read once. `None` if
    /// it is nonsense.
    #[inline]
    pub(super) fn from_request(request: u64, offset: u64, value: u64) -> Option<Access> {
        let [_, _, _, _, operation, ..] = request.to_le_bytes();
        match operation {
            READ => Access::checked(request, offset, Operation::Read),
            WRITE => Access::checked(request, offset, Operation::Write(value)),
            _ => None,
        }
    }

    /// What the peer posts by an entry's words, each read once. `None` if it
    /// is nonsense.
    #[inline]
    pub(super) fn from_entry(what: u64, offset: u64, value: u64) -> Option<Access> {
        Access::checked(what, offset, Operation::Write(value))
    }

    #[inline]
    fn checked(what: u64, offset: u64, operation: Operation) -> Option<Access> {
        let [_, _, _, _, _, count, low, high] = what.to_le_bytes();
        let count = checked_count(usize::from(count))?;
        let operation = match operation {
            Operation::Read => Operation::Read,
            Operation::Write(value) => Operation::Write(value & low_bytes(count)),
        };
        Some(Access {
            region: u16::from_le_bytes([low, high]),
            offset,
            count,
            operation,
        })
    }
}

#[inline]
fn checked_count(count: usize) -> Option<u8> {
    match count {
        1..=8 => u8::try_from(count).ok(),
        _ => None,
    }
}

/// The bits of the low `count` bytes; `count` is 1 to 8.
#[inline]
pub(super) fn low_bytes(count: u8) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(count))
}
