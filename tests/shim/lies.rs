//! Servers that do not tell the truth about the device. QEMU either refuses
//! them with one line, or lives with what they say; it never crashes, hangs
//! or takes memory without bound.

use std::fs::File;
use std::os::fd::OwnedFd;

use crate::fake::{Fake, Then, is};
use crate::require;
use crate::rig::RigError;
use crate::stage::{Card, SLOT, board, device, reason};
use crate::wire::messages::{ERROR, REPLY, reply};
use crate::wire::{Cmd, Received, memory};

const TIMEOUT: &str = ",connect-timeout=300,msg-timeout=300";

/// Where a reply's fields are.
mod at {
    pub(super) const ID: usize = 0;
    pub(super) const COMMAND: usize = 2;
    pub(super) const SIZE: usize = 4;
    pub(super) const FLAGS: usize = 8;
    pub(super) const ERRNO: usize = 12;
    pub(super) const BODY: usize = 16;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Refused,
    Taken,
}

/// What QEMU makes of a server. If it takes the device, it must stay alive.
#[track_caller]
fn verdict(name: &str, fake: &Fake) -> Result<Verdict, RigError> {
    let mut qemu = board(&fake.socket(), TIMEOUT)?.start();
    if !qemu.is_up() {
        let ended = qemu.ended();
        let code = ended.status.code();
        assert_eq!(code, Some(1), "{name}: {ended:?}");
        println!(
            "{name}: {}",
            reason(&ended, &device(&fake.socket(), TIMEOUT))
        );
        return Ok(Verdict::Refused);
    }
    let mut card = Card::at(qemu, SLOT);
    for bar in card.bars.into_iter().flatten() {
        for offset in [0, 0x800, bar.size - 8] {
            card.qemu.read(bar.address + offset, 4);
            card.qemu.write(bar.address + offset, 4, 0);
            card.qemu.read(bar.address + offset, 8);
        }
    }
    card.slot.config(&mut card.qemu);
    card.qemu.reset();
    card.qemu.alive();
    card.qemu.quit();
    println!("{name}: taken");
    Ok(Verdict::Taken)
}

type Lie = Box<dyn Fn(&mut Received) + Send>;

/// A server that lies in each reply to a command for which `when` holds.
fn liar(command: Cmd, when: impl Fn(&Received) -> bool + Send + 'static, lie: Lie) -> Fake {
    Fake::start(move |peer, message| {
        if is(message, command) && when(message) {
            peer.lie(message, |answer| lie(answer))
        } else {
            Then::Honest
        }
    })
}

fn put(answer: &mut Received, at: usize, bytes: &[u8]) {
    if let Some(place) = answer.bytes.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// A field is this.
fn field(at: usize, value: impl Into<u64>, width: usize) -> Lie {
    let bytes = value.into().to_ne_bytes();
    Box::new(move |answer| put(answer, at, &bytes[..width]))
}

fn u32_is(at: usize, value: u32) -> Lie {
    field(at, value, 4)
}

fn u64_is(at: usize, value: u64) -> Lie {
    field(at, value, 8)
}

/// The message has this size, and says so.
fn resized(change: fn(usize) -> usize) -> Lie {
    Box::new(move |answer| {
        let size = change(answer.bytes.len());
        answer.bytes.resize(size, 0);
        let size = u32::try_from(size).unwrap();
        put(answer, at::SIZE, &size.to_ne_bytes());
    })
}

/// All are survived; those of which it is said must be refused.
fn check(lies: Vec<(&str, bool, Fake)>) -> Result<(), RigError> {
    let mut taken = Vec::new();
    for (name, must_refuse, fake) in lies {
        if verdict(name, &fake)? == Verdict::Taken && must_refuse {
            taken.push(name);
        }
    }
    assert!(taken.is_empty(), "taken: {taken:?}");
    Ok(())
}

fn headers(command: Cmd) -> Vec<(&'static str, bool, Fake)> {
    let of = |lie: Lie| liar(command, |_| true, lie);
    vec![
        ("another id", true, of(field(at::ID, 0x7777u32, 2))),
        ("another command", true, of(field(at::COMMAND, 13u32, 2))),
        ("a size of 0", true, of(u32_is(at::SIZE, 0))),
        ("a size below the header's", true, of(u32_is(at::SIZE, 15))),
        ("a header only", true, of(resized(|_| 16))),
        ("a size of 4 GiB", true, of(u32_is(at::SIZE, u32::MAX))),
        ("a size of 1 GiB", true, of(u32_is(at::SIZE, 1 << 30))),
        ("fewer bytes", true, of(resized(|size| size - 4))),
        (
            "a command instead of a reply",
            true,
            of(u32_is(at::FLAGS, 0)),
        ),
        ("a type that there is not", true, of(u32_is(at::FLAGS, 0xf))),
        (
            "an error",
            true,
            of(Box::new(|answer| {
                put(answer, at::FLAGS, &(REPLY | ERROR).to_ne_bytes());
                put(answer, at::ERRNO, &22u32.to_ne_bytes());
            })),
        ),
        (
            "an error of errno 0",
            true,
            of(u32_is(at::FLAGS, REPLY | ERROR)),
        ),
        (
            "an error of a negative errno",
            true,
            of(Box::new(|answer| {
                put(answer, at::FLAGS, &(REPLY | ERROR).to_ne_bytes());
                put(answer, at::ERRNO, &u32::MAX.to_ne_bytes());
            })),
        ),
        ("all bits of flags", true, of(u32_is(at::FLAGS, u32::MAX))),
        (
            "sixty descriptors",
            false,
            of(Box::new(|answer| {
                let file = memory(4096, &[]);
                let again = || file.try_clone().unwrap().into();
                answer.fds.extend((0..60).map(|_| again()));
            })),
        ),
    ]
}

#[test]
fn headers_of_version_are_checked() {
    require!(check(headers(Cmd::Version)));
}

#[test]
fn headers_of_device_info_are_checked() {
    require!(check(headers(Cmd::GetInfo)));
}

#[test]
fn headers_of_region_info_are_checked() {
    require!(check(headers(Cmd::GetRegionInfo)));
}

#[test]
fn headers_of_irq_info_are_checked() {
    require!(check(headers(Cmd::GetIrqInfo)));
}

fn json(text: Vec<u8>) -> Fake {
    Fake::start(move |peer, message| {
        if is(message, Cmd::Version) {
            // The honest server is to know that there is a client.
            let _ = peer.honest(message);
            let body = [&[0, 0, 0, 0][..], &text].concat();
            peer.send(&reply(message.id(), Cmd::Version, &body));
            return Then::Done;
        }
        Then::Honest
    })
}

#[test]
fn versions_and_capabilities_are_checked() {
    let capability = |text: &str| json(format!("{{\"capabilities\":{text}}}\0").into_bytes());
    let of = |lie: Lie| liar(Cmd::Version, |_| true, lie);
    let deep = |depth: usize| json([vec![b'['; depth], vec![0]].concat());
    require!(check(vec![
        ("major 7", true, of(field(at::BODY, 7u32, 2))),
        ("major 1", true, of(field(at::BODY, 1u32, 2))),
        ("minor 65535", false, of(field(at::BODY + 2, 0xffffu32, 2))),
        ("no JSON", true, json(b"no JSON\0".to_vec())),
        (
            "truncated JSON",
            true,
            json(b"{\"capabilities\":{\"max_msg\0".to_vec())
        ),
        (
            "JSON without NUL",
            true,
            json(b"{\"capabilities\":{}}".to_vec())
        ),
        (
            "NUL in the middle",
            false,
            json(b"{}\0{\"capabilities\":7}\0".to_vec())
        ),
        ("an array", true, json(b"[1,2,3]\0".to_vec())),
        (
            "bytes that are no UTF-8",
            true,
            json(b"{\"\xff\xfe\":1}\0".to_vec())
        ),
        ("a lot of brackets", true, deep(4000)),
        (
            "1 MiB of spaces",
            true,
            json([vec![b' '; 1 << 20], b"{}\0".to_vec()].concat())
        ),
        ("1 MiB of brackets", true, deep(1 << 20)),
        ("capabilities that are none", false, capability("7")),
        (
            "fds that are a text",
            true,
            capability(r#"{"max_msg_fds":"many"}"#)
        ),
        ("-1 fds", true, capability(r#"{"max_msg_fds":-1}"#)),
        (
            "no bytes of data",
            true,
            capability(r#"{"max_data_xfer_size":0}"#)
        ),
        (
            "-1 bytes of data",
            true,
            capability(r#"{"max_data_xfer_size":-1}"#)
        ),
        (
            "2^63 bytes of data",
            false,
            capability(r#"{"max_data_xfer_size":9223372036854775807}"#)
        ),
        (
            "2^70 bytes of data",
            false,
            capability(r#"{"max_data_xfer_size":1180591620717411303424}"#)
        ),
        ("no DMA maps", false, capability(r#"{"max_dma_maps":0}"#)),
        ("pages of 3 bytes", false, capability(r#"{"pgsizes":3}"#)),
        (
            "unknown ones",
            false,
            capability(r#"{"teapot":{"short":[true,null,1e300]}}"#)
        ),
    ]));
}

#[test]
fn what_needs_no_capabilities_has_none() {
    for text in [&b"{}\0"[..], b"{\"capabilities\":{}}\0"] {
        let fake = json(text.to_vec());
        assert_eq!(require!(verdict("{}", &fake)), Verdict::Taken);
    }
}

#[test]
fn the_device_is_a_pci_device_of_some_regions() {
    let of = |lie: Lie| liar(Cmd::GetInfo, |_| true, lie);
    require!(check(vec![
        ("no PCI device", true, of(u32_is(at::BODY + 4, 1))),
        (
            "all kinds of device",
            false,
            of(u32_is(at::BODY + 4, u32::MAX))
        ),
        ("no regions", true, of(u32_is(at::BODY + 8, 0))),
        ("too few regions", true, of(u32_is(at::BODY + 8, 7))),
        (
            "10^9 regions",
            false,
            of(u32_is(at::BODY + 8, 1_000_000_000))
        ),
        ("no interrupts", false, of(u32_is(at::BODY + 12, 0))),
        (
            "10^9 interrupts",
            false,
            of(u32_is(at::BODY + 12, 1_000_000_000))
        ),
        ("argsz 0", false, of(u32_is(at::BODY, 0))),
        ("argsz of 4 GiB", false, of(u32_is(at::BODY, u32::MAX))),
    ]));
}

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
                    put(answer, info::ARGSZ, &u32::to_ne_bytes(argsz))
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
            true,
            sparse(u32_is(info::CAP_OFFSET, 0x1000))
        ),
        (
            "capabilities at 4 GiB",
            true,
            sparse(u32_is(info::CAP_OFFSET, u32::MAX))
        ),
        (
            "capabilities in the fixed part",
            true,
            sparse(u32_is(info::CAP_OFFSET, 4))
        ),
        (
            "a capability that follows itself",
            true,
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
            true,
            sparse(u32_is(info::AREAS, 3))
        ),
        (
            "2^32 - 1 areas",
            true,
            sparse(u32_is(info::AREAS, u32::MAX))
        ),
        ("2^28 areas", true, sparse(u32_is(info::AREAS, 1 << 28))),
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
        ("a map without a descriptor", false, fds(|fds| fds.clear())),
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

/// Config space that says something else at an offset.
fn config(offset: usize, bytes: &'static [u8]) -> Fake {
    liar(
        Cmd::RegionRead,
        |message| message.u32(16 + 8) == 7,
        Box::new(move |answer| {
            let from = usize::try_from(answer.u64(at::BODY)).unwrap();
            for (number, byte) in bytes.iter().enumerate() {
                if let Some(place) = (offset + number).checked_sub(from) {
                    put(answer, at::BODY + 16 + place, &[*byte]);
                }
            }
        }),
    )
}

/// Where a capability is in the honest config space.
fn capability(id: u8) -> usize {
    let served = crate::stage::served("test");
    let mut client = served.client_of("test");
    let bytes = client.read(7, 0, 256);
    let mut at = usize::from(bytes[0x34]);
    while bytes[at] != id {
        at = usize::from(bytes[at + 1]);
    }
    at
}

#[test]
fn config_space_is_checked() {
    let msix = capability(0x11);
    require!(check(vec![
        ("no vendor", false, config(0, &[0xff, 0xff, 0xff, 0xff])),
        ("a bridge", true, config(0x0e, &[0x01])),
        ("many functions", false, config(0x0e, &[0x80])),
        (
            "capabilities that are not aligned",
            false,
            config(0x34, &[0xff])
        ),
        ("capabilities in the header", true, config(0x34, &[0x10])),
        (
            "a capability that follows itself",
            true,
            config(0x40, &[0x01, 0x40])
        ),
        ("an interrupt pin 9", false, config(0x3d, &[9])),
        ("BAR 0 of ports", false, config(0x10, &[1])),
        ("BAR 0 of reserved type", false, config(0x10, &[6])),
        ("BAR 0 of 64 bits", false, config(0x10, &[4])),
        ("MSI-X in BAR 6", true, config(msix + 4, &[6])),
        ("MSI-X in a BAR that is not", true, config(msix + 4, &[1])),
        (
            "MSI-X beyond its BAR",
            true,
            config(msix + 4, &[0, 0, 0x10, 0])
        ),
        (
            "MSI-X at 4 GiB",
            true,
            config(msix + 4, &[0xf8, 0xff, 0xff, 0xff])
        ),
        (
            "MSI-X's pending bits beyond",
            true,
            config(msix + 8, &[0, 0x40, 0, 0])
        ),
        (
            "MSI-X's pending bits in the table",
            true,
            config(msix + 8, &[0, 0x08, 0, 0])
        ),
        ("2048 vectors", true, config(msix + 2, &[0xff, 0x07])),
        ("everything", true, config(0, &[0xff; 256])),
        ("nothing", false, config(0, &[0; 256])),
    ]));
}

#[test]
fn reads_of_config_space_are_checked() {
    let of = |lie: Lie| liar(Cmd::RegionRead, |message| message.u32(16 + 8) == 7, lie);
    require!(check(vec![
        ("another offset", false, of(u64_is(at::BODY, 4))),
        ("another region", false, of(u32_is(at::BODY + 8, 0))),
        ("a count of 0", false, of(u32_is(at::BODY + 12, 0))),
        (
            "a count of 4 GiB",
            false,
            of(u32_is(at::BODY + 12, u32::MAX))
        ),
        (
            "fewer bytes than counted",
            true,
            of(resized(|size| size - 1))
        ),
        (
            "more bytes than counted",
            true,
            of(resized(|size| size + 1000))
        ),
        ("an error", true, of(u32_is(at::FLAGS, REPLY | ERROR))),
    ]));
}

/// Bits that fall over at random, always the same ones.
#[test]
fn any_bit_may_be_wrong() {
    let mut state = 0x2026_1121u64;
    println!("seed {state:#x}");
    for _ in 0..40 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let mut random = state;
        let mut next = move |limit: usize| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            usize::try_from(random >> 33).unwrap() % limit
        };
        let mut until = next(20);
        let fake = Fake::start(move |peer, message| {
            if until > 0 {
                until -= 1;
                return Then::Honest;
            }
            until = next(20);
            let (first, second) = (next(1 << 20), next(1 << 20));
            peer.lie(message, |answer| {
                let bits = 8 * answer.bytes.len();
                for bit in [first % bits, second % bits] {
                    answer.bytes[bit / 8] ^= 1 << (bit % 8);
                }
            })
        });
        require!(verdict("random bits", &fake));
    }
}
