//! Lies about config space.

use super::liar::Lie;
use super::liar::{at, check, liar, put, resized, u32_is, u64_is};
use crate::fake::Fake;
use crate::rig::require;
use crate::wire::Cmd;
use crate::wire::messages::{ERROR, REPLY};

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
            false,
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
