//! The guest's code: 32-bit, flat, without paging, stack or interrupts. Its
//! registers are set from outside, so a program is its loop alone. Only plain
//! instructions: some hypervisors emulate them all.

/// Where the code is, in the guest's RAM.
pub(super) const CODE: u64 = 0x1000;

/// The size of the guest's RAM, which begins at 0.
pub(super) const RAM: usize = 0x4000;

/// A page of RAM that no program uses.
pub(super) const DATA: u64 = 0x2000;

/// Where the device's BAR 0 is, a page. No RAM is there.
pub(super) const BAR: u64 = 0xd000_0000;

/// The port whose write ends a batch.
pub(super) const PORT: u16 = 0xf4;

/// Code that never ends. It accesses 4 bytes at ESI; EAX is what it writes or
/// has read, EBX the length of a batch in [`UNROLLED`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Program(pub(super) &'static [u8]);

/// What a guest does again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

impl Access {
    /// Its name, in rows' names too.
    pub(super) fn name(self) -> &'static str {
        match self {
            Access::Read => "read",
            Access::Write => "write",
        }
    }

    /// Without end, each of them traps.
    pub(super) fn endless(self) -> Program {
        match self {
            Access::Read => READ,
            Access::Write => WRITE,
        }
    }

    /// In batches that end in a trap.
    pub(super) fn batches(self) -> Program {
        match self {
            Access::Read => READ_BATCH,
            Access::Write => WRITE_BATCH,
        }
    }
}

/// How many accesses stand in a row, so that loops do not count: a hypervisor
/// that emulates the guest takes microseconds for a jump as well.
pub(super) const UNROLLED: u32 = 16;

/// Reads.
#[rustfmt::skip]
const READ: Program = Program(&[
    // read:
    0x8b, 0x06, 0x8b, 0x06, 0x8b, 0x06, 0x8b, 0x06, // mov eax, [esi], 16 times
    0x8b, 0x06, 0x8b, 0x06, 0x8b, 0x06, 0x8b, 0x06,
    0x8b, 0x06, 0x8b, 0x06, 0x8b, 0x06, 0x8b, 0x06,
    0x8b, 0x06, 0x8b, 0x06, 0x8b, 0x06, 0x8b, 0x06,
    0xeb, 0xde, // jmp read
]);

/// Writes.
#[rustfmt::skip]
const WRITE: Program = Program(&[
    // write:
    0x89, 0x06, 0x89, 0x06, 0x89, 0x06, 0x89, 0x06, // mov [esi], eax, 16 times
    0x89, 0x06, 0x89, 0x06, 0x89, 0x06, 0x89, 0x06,
    0x89, 0x06, 0x89, 0x06, 0x89, 0x06, 0x89, 0x06,
    0x89, 0x06, 0x89, 0x06, 0x89, 0x06, 0x89, 0x06,
    0xeb, 0xde, // jmp write
]);

/// Reads in batches, each with a write to [`PORT`] behind it.
#[rustfmt::skip]
const READ_BATCH: Program = Program(&[
    // batch:
    0x89, 0xd9, // mov ecx, ebx
    // read:
    0x8b, 0x06, 0x8b, 0x06, 0x8b, 0x06, 0x8b, 0x06, // mov eax, [esi], 16 times
    0x8b, 0x06, 0x8b, 0x06, 0x8b, 0x06, 0x8b, 0x06,
    0x8b, 0x06, 0x8b, 0x06, 0x8b, 0x06, 0x8b, 0x06,
    0x8b, 0x06, 0x8b, 0x06, 0x8b, 0x06, 0x8b, 0x06,
    0x49, // dec ecx
    0x75, 0xdd, // jnz read
    0xe6, 0xf4, // out 0xf4, al
    0xeb, 0xd7, // jmp batch
]);

/// Writes in batches, each with a write to [`PORT`] behind it.
#[rustfmt::skip]
const WRITE_BATCH: Program = Program(&[
    // batch:
    0x89, 0xd9, // mov ecx, ebx
    // write:
    0x89, 0x06, 0x89, 0x06, 0x89, 0x06, 0x89, 0x06, // mov [esi], eax, 16 times
    0x89, 0x06, 0x89, 0x06, 0x89, 0x06, 0x89, 0x06,
    0x89, 0x06, 0x89, 0x06, 0x89, 0x06, 0x89, 0x06,
    0x89, 0x06, 0x89, 0x06, 0x89, 0x06, 0x89, 0x06,
    0x49, // dec ecx
    0x75, 0xdd, // jnz write
    0xe6, 0xf4, // out 0xf4, al
    0xeb, 0xd7, // jmp batch
]);

/// Comes back never, for tests.
#[cfg(test)]
pub(super) const NEVER: Program = Program(&[
    0xeb, 0xfe, // never: jmp never
]);

/// Ends in an exception that nobody handles, for tests.
#[cfg(test)]
pub(super) const BREAKS: Program = Program(&[
    0x0f, 0x0b, // ud2
]);
