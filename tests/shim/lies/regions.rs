//! Lies about regions, their memory, and interrupts.

use std::fs::File;
use std::os::fd::OwnedFd;

use super::liar::{Lie, at, check, field, liar, put, u32_is, u64_is};
use crate::fake::{Fake, Then, is};
use crate::rig::require;
use crate::wire::{Cmd, memory};

/// A lie about one region.
fn region(index: u32, lie: Lie) -> Fake {
    liar(
        Cmd::GetRegionInfo,
        move |message| message.u32(16 + 8) == index,
        lie,
    )
}

/// Fields of `GET_REGION_INFO`, and of its sparse areas where our server puts
/// them.
mod info {
    use super::at::BODY;
    pub(super) const ARGSZ: usize = BODY;
    pub(super) const FLAGS: usize = BODY + 4;
    pub(super) const INDEX: usize = BODY + 8;
    pub(super) const CAP_OFFSET: usize = BODY + 12;
    pub(super) const SIZE: usize = BODY + 16;
    pub(super) const OFFSET: usize = BODY + 24;
    pub(super) const CAP_ID: usize = BODY + 32;
    pub(super) const CAP_NEXT: usize = BODY + 36;
    pub(super) const AREAS: usize = BODY + 40;
    pub(super) const AREA_OFFSET: usize = BODY + 48;
    pub(super) const AREA_SIZE: usize = BODY + 56;
}

#[test]
fn sizes_of_regions_are_checked() {
    let size = |index, size: u64| region(index, u64_is(info::SIZE, size));
    require!(check(vec![
        ("BAR 0 of 3 bytes", true, size(0, 3)),
        ("BAR 0 of 5000 bytes", true, size(0, 5000)),
        ("BAR 0 of 8 bytes", true, size(0, 8)),
        ("BAR 0 of 0 bytes with MSI-X in it", true, size(0, 0)),
        ("BAR 0 that ends before the table", true, size(0, 0x400)),
        ("BAR 0 of 8 GiB in 32 bits", true, size(0, 1 << 33)),
        ("BAR 2 of 2^63 bytes", true, size(2, 1 << 63)),
        ("BAR 2 of 2^64 - 1 bytes", true, size(2, u64::MAX)),
        ("BAR 1 where there is none", false, size(1, 4096)),
        ("BAR 3, which is BAR 2's upper half", false, size(3, 4096)),
        ("config space of 0 bytes", true, size(7, 0)),
        ("config space of 10 bytes", true, size(7, 10)),
        ("config space of 4096 bytes", false, size(7, 4096)),
        ("config space of 2^40 bytes", false, size(7, 1 << 40)),
        (
            "config space that is not readable",
            false,
            region(7, u32_is(info::FLAGS, 0))
        ),
        ("another index", false, region(0, u32_is(info::INDEX, 5))),
        ("argsz 0", false, region(0, u32_is(info::ARGSZ, 0))),
        (
            "argsz of 4 GiB",
            false,
            region(0, u32_is(info::ARGSZ, u32::MAX))
        ),
        ("argsz that grows at each question", false, {
            let mut argsz = 100;
            Fake::start(move |peer, message| {
                if !is(message, Cmd::GetRegionInfo) {
                    return Then::Honest;
                }
                argsz += 16;
                peer.lie(message, |answer| {
                    put(answer, info::ARGSZ, &u32::to_ne_bytes(argsz));
                })
            })
        }),
    ]));
}

/// What cannot be mapped is trapped, or refused.
#[test]
fn sparse_areas_are_checked() {
    let sparse = |lie: Lie| region(0, lie);
    let area = |offset: u64, size: u64| -> Fake {
        sparse(Box::new(move |answer| {
            put(answer, info::AREA_OFFSET, &offset.to_ne_bytes());
            put(answer, info::AREA_SIZE, &size.to_ne_bytes());
        }))
    };
    require!(check(vec![
        (
            "capabilities beyond the reply",
            false,
            sparse(u32_is(info::CAP_OFFSET, 0x1000))
        ),
        (
            "capabilities at 4 GiB",
            false,
            sparse(u32_is(info::CAP_OFFSET, u32::MAX))
        ),
        (
            "capabilities in the fixed part",
            false,
            sparse(u32_is(info::CAP_OFFSET, 4))
        ),
        (
            "a capability that follows itself",
            false,
            sparse(u32_is(info::CAP_NEXT, 32))
        ),
        (
            "an unknown capability",
            false,
            sparse(field(info::CAP_ID, 77u32, 2))
        ),
        ("no areas", false, sparse(u32_is(info::AREAS, 0))),
        (
            "more areas than there are",
            false,
            sparse(u32_is(info::AREAS, 3))
        ),
        (
            "2^32 - 1 areas",
            false,
            sparse(u32_is(info::AREAS, u32::MAX))
        ),
        ("2^28 areas", false, sparse(u32_is(info::AREAS, 1 << 28))),
        ("an area beyond the region", false, area(0x4000, 0x1000)),
        ("an area over the end", false, area(0x3000, 0x2000)),
        (
            "an area whose end overflows",
            false,
            area(u64::MAX - 0xfff, 0x2000)
        ),
        ("an area of no size", false, area(0x1000, 0)),
        ("an area of 2^64 - 1 bytes", false, area(0, u64::MAX)),
        ("an area that is no page", false, area(0x1004, 0x100)),
        ("an area over the other", false, area(0x3000, 0x1000)),
        ("an area over the MSI-X table", false, area(0, 0x1000)),
    ]));
}

/// What cannot be mapped is trapped, or refused.
#[test]
fn memory_of_regions_is_checked() {
    let fds = |lie: fn(&mut Vec<OwnedFd>)| -> Fake {
        region(
            2,
            Box::new(move |answer| {
                if !answer.fds.is_empty() {
                    lie(&mut answer.fds);
                }
            }),
        )
    };
    require!(check(vec![
        ("a map without a descriptor", false, fds(Vec::clear)),
        (
            "a map of a file that is too short",
            false,
            fds(|fds| {
                *fds = vec![memory(4096, &[]).into()];
            })
        ),
        (
            "a map of an empty file",
            false,
            fds(|fds| *fds = vec![memory(0, &[]).into()])
        ),
        (
            "a map of a pipe",
            false,
            fds(|fds| {
                let (pipe, _) = std::io::pipe().unwrap();
                *fds = vec![pipe.into()];
            })
        ),
        (
            "a map of a directory",
            false,
            fds(|fds| {
                *fds = vec![File::open("/").unwrap().into()];
            })
        ),
        (
            "a map of what may not be written",
            false,
            fds(|fds| {
                *fds = vec![File::open("/proc/self/exe").unwrap().into()];
            })
        ),
        (
            "two descriptors",
            false,
            fds(|fds| {
                fds.push(memory(4096, &[]).into());
            })
        ),
        (
            "a map that starts behind the file",
            false,
            region(2, u64_is(info::OFFSET, 1 << 40))
        ),
        (
            "a map whose end overflows",
            false,
            region(2, u64_is(info::OFFSET, u64::MAX - 0xfff))
        ),
        (
            "a map that starts in a page",
            false,
            region(2, u64_is(info::OFFSET, 0x10))
        ),
    ]));
}

#[test]
fn interrupts_are_checked() {
    let irq = |index: u32, at: usize, value: u32| {
        liar(
            Cmd::GetIrqInfo,
            move |message| message.u32(16 + 8) == index,
            u32_is(at, value),
        )
    };
    let (flags, number, count) = (at::BODY + 4, at::BODY + 8, at::BODY + 12);
    require!(check(vec![
        ("10^9 INTx", false, irq(0, count, 1_000_000_000)),
        ("no INTx", false, irq(0, count, 0)),
        ("INTx without eventfds", false, irq(0, flags, 0)),
        ("10^9 vectors", false, irq(2, count, 1_000_000_000)),
        ("no vectors", false, irq(2, count, 0)),
        ("one vector", false, irq(2, count, 1)),
        ("vectors without eventfds", false, irq(2, flags, 0)),
        ("another index", false, irq(2, number, 7)),
    ]));
}
