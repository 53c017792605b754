//! Messages as bytes.

use super::bytes;

/// The commands' numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Cmd {
    Version = 1,
    DmaMap = 2,
    DmaUnmap = 3,
    GetInfo = 4,
    GetRegionInfo = 5,
    GetRegionIoFds = 6,
    GetIrqInfo = 7,
    SetIrqs = 8,
    RegionRead = 9,
    RegionWrite = 10,
    DmaRead = 11,
    DmaWrite = 12,
    Reset = 13,
    DirtyPages = 14,
    WriteMulti = 15,
    Feature = 16,
    MigDataRead = 17,
    MigDataWrite = 18,
}

/// The flag of a command that wants no reply.
pub(crate) const NO_REPLY: u32 = 1 << 4;
/// The flags of a reply, and of one that is an error.
pub(crate) const REPLY: u32 = 1;
pub(crate) const ERROR: u32 = 1 << 5;

fn whole(id: u16, command: u16, flags: u32, error: i32, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(16 + body.len()).unwrap();
    [&bytes![id, command, size, flags, error][..], body].concat()
}

/// A command.
pub(crate) fn message(id: u16, command: Cmd, body: &[u8]) -> Vec<u8> {
    whole(id, command as u16, 0, 0, body)
}

/// A command whose header says what the test wants.
pub(crate) fn header(id: u16, command: u16, size: u32, flags: u32) -> Vec<u8> {
    bytes![id, command, size, flags, 0u32]
}

/// A command that wants no reply.
pub(crate) fn posted(id: u16, command: Cmd, body: &[u8]) -> Vec<u8> {
    whole(id, command as u16, NO_REPLY, 0, body)
}

/// A reply.
pub(crate) fn reply(id: u16, command: Cmd, body: &[u8]) -> Vec<u8> {
    whole(id, command as u16, REPLY, 0, body)
}

/// An error reply with its padding.
pub(crate) fn errno_reply(id: u16, command: u16, errno: i32, padding: &[u8]) -> Vec<u8> {
    whole(id, command, REPLY | ERROR, errno, padding)
}

/// VERSION's body.
pub(crate) fn version(minor: u16, json: &str) -> Vec<u8> {
    [&bytes![0u16, minor][..], json.as_bytes(), &[0]].concat()
}

/// `REGION_READ`'s body, and the head of `REGION_WRITE`'s.
pub(crate) fn access(region: u32, offset: u64, count: u32) -> Vec<u8> {
    bytes![offset, region, count]
}

/// `REGION_WRITE`'s body.
pub(crate) fn write(region: u32, offset: u64, data: &[u8]) -> Vec<u8> {
    let count = u32::try_from(data.len()).unwrap();
    [&access(region, offset, count)[..], data].concat()
}

/// `DMA_MAP`'s flags.
pub(crate) const READABLE: u32 = 1;
pub(crate) const WRITEABLE: u32 = 2;
pub(crate) const MMAP: u32 = 4;
pub(crate) const FILE_IO: u32 = 8;

/// `DMA_MAP`'s body.
pub(crate) fn map(flags: u32, offset: u64, address: u64, size: u64) -> Vec<u8> {
    bytes![32u32, flags, offset, address, size]
}

/// `DMA_UNMAP`'s body.
pub(crate) fn unmap(address: u64, size: u64) -> Vec<u8> {
    bytes![24u32, 0u32, address, size]
}

/// `DMA_UNMAP`'s body for all maps.
pub(crate) fn unmap_all() -> Vec<u8> {
    bytes![24u32, 2u32, 0u64, 0u64]
}

/// `SET_IRQS`' flags.
pub(crate) const NONE: u32 = 1;
pub(crate) const BOOL: u32 = 2;
pub(crate) const EVENTFD: u32 = 4;
pub(crate) const MASK: u32 = 8;
pub(crate) const UNMASK: u32 = 16;
pub(crate) const TRIGGER: u32 = 32;

/// The interrupt indexes.
pub(crate) const INTX: u32 = 0;
pub(crate) const MSI: u32 = 1;
pub(crate) const MSIX: u32 = 2;
pub(crate) const ERR: u32 = 3;
pub(crate) const REQ: u32 = 4;

/// `SET_IRQS`' body, without bools.
pub(crate) fn irqs(flags: u32, index: u32, start: u32, count: u32) -> Vec<u8> {
    bytes![20u32, flags, index, start, count]
}

/// `SET_IRQS`' body with bools.
pub(crate) fn bools(flags: u32, index: u32, start: u32, bools: &[u8]) -> Vec<u8> {
    let count = u32::try_from(bools.len()).unwrap();
    let argsz = 20 + count;
    [&bytes![argsz, flags, index, start, count][..], bools].concat()
}

/// `GET_REGION_INFO`'s body.
pub(crate) fn region_info(argsz: u32, index: u32) -> Vec<u8> {
    bytes![argsz, 0u32, index, 0u32, 0u64, 0u64]
}

/// The body of the other three queries.
pub(crate) fn query(argsz: u32, index: u32) -> Vec<u8> {
    bytes![argsz, 0u32, index, 0u32]
}
