//! Lies in the messages themselves, and in what a session agrees upon.

use super::liar::{Lie, Verdict, at, check, field, liar, put, resized, u32_is, verdict};
use crate::fake::{Fake, Then, is};
use crate::rig::require;
use crate::wire::messages::{ERROR, REPLY, reply};
use crate::wire::{Cmd, memory};

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
            false,
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
            false,
            capability(r#"{"max_msg_fds":"many"}"#)
        ),
        ("-1 fds", false, capability(r#"{"max_msg_fds":-1}"#)),
        (
            "no bytes of data",
            false,
            capability(r#"{"max_data_xfer_size":0}"#)
        ),
        (
            "-1 bytes of data",
            false,
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
