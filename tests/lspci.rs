//! Our decoding of config space against Debian's `lspci`, on the same bytes.
#![expect(
    clippy::unwrap_used,
    reason = "what cannot be unwrapped here fails the test"
)]

mod rig;

use std::fmt::Write;
use std::io::Write as _;
use std::time::Duration;

use tempfile::NamedTempFile;
use vgpu_stub::devices::{KINDS, Kind, Options};
use vgpu_stub::endpoint::Endpoint;
use vgpu_stub::pci::{
    BarKind, BarLayout, Capability, ConfigSpace, Identity, InterruptPin, Msi, Msix, describe,
};

use rig::{Linux, RigError, or_skip};

const CONFIG_REGION: u32 = 7;

/// The config space of a device, after a guest has switched it on.
fn image(kind: &Kind) -> Vec<u8> {
    let mut endpoint = Endpoint::new(kind.builder(Options::default()).unwrap()).unwrap();
    let size = endpoint.region(CONFIG_REGION).unwrap().size;
    let mut image = vec![0; usize::try_from(size).unwrap()];
    let writes: [(u64, &[u8]); 3] = [
        (0x10, &0xfebf_1000_u32.to_le_bytes()),
        (0x04, &[0x06, 0x05]),
        (0x3c, &[11]),
    ];
    for (offset, data) in writes {
        endpoint.write(CONFIG_REGION, offset, data).unwrap();
    }
    endpoint.read(CONFIG_REGION, 0, &mut image).unwrap();
    image
}

/// The dump that `lspci -F` reads.
fn dump(image: &[u8]) -> String {
    let mut text = "00:01.0 a device\n".to_owned();
    for (row, bytes) in image.chunks(16).enumerate() {
        write!(text, "{:02x}:", row * 16).unwrap();
        for byte in bytes {
            write!(text, " {byte:02x}").unwrap();
        }
        text.push('\n');
    }
    text
}

/// What `lspci` says, without what we mean to leave out:
/// - the slot, and the names of classes, which it takes from `pci.ids`;
/// - words that versions after 3.9 say otherwise or in addition;
/// - the upper halves of 64-bit BARs, which 3.13 shows as BARs if it reads a
///   dump;
/// - the registers that version 2 of PCI Express added.
fn expected(theirs: &str, class: &str) -> String {
    let newer = [
        ("00:01.0 Class [", &*format!("{class} [")),
        ("IntMsgNum 0", "MSI 00"),
        ("SlotPowerLimit 0W TEE-IO-", "SlotPowerLimit 0W"),
        ("LnkDisable-", "Disabled-"),
    ];
    let text = newer
        .iter()
        .fold(theirs.to_owned(), |text, (new, old)| text.replace(new, old));
    let mut left_out = false;
    let mut upper_half = String::new();
    let mut kept = String::new();
    for line in text.trim_end().lines() {
        let name = line.trim_start_matches('\t').split(':').next();
        left_out = match name {
            Some("DevCap2" | "DevCtl2" | "LnkCap2" | "LnkCtl2" | "LnkSta2") => true,
            Some(region) if region == upper_half => true,
            // Such registers go on with a space after the tabs.
            _ => left_out && line.starts_with("\t\t\t "),
        };
        if line.contains("(64-bit, ") {
            upper_half = name.and_then(next_region).unwrap_or_default();
        }
        if !left_out {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// `Region 2` for `Region 1`.
fn next_region(name: &str) -> Option<String> {
    let number: usize = name.strip_prefix("Region ")?.parse().ok()?;
    Some(format!("Region {}", number + 1))
}

fn agree(image: &[u8]) -> Result<(), RigError> {
    let failed = |error| RigError::failed("cannot write a dump", error);
    let mut file = NamedTempFile::new().map_err(failed)?;
    file.write_all(dump(image).as_bytes()).map_err(failed)?;
    let mut lspci = Linux::ready()?.lspci();
    lspci.arg("-F").arg(file.path());
    // This machine's pci.ids may know names that another's does not.
    lspci.args(["-i", "/dev/null", "-nn", "-vv"]);
    let theirs = rig::process::run(&mut lspci, Duration::from_secs(10), "")?;
    let ours = describe(image, [0; 6]).unwrap().to_string();
    let expected = expected(&theirs, "Processing accelerators");
    assert!(
        ours == expected,
        "lspci says\n{expected}\nand we say\n{ours}"
    );
    Ok(())
}

#[test]
fn our_devices_read_as_lspci_reads_them() {
    for kind in KINDS {
        if or_skip(agree(&image(kind))).is_none() {
            return;
        }
    }
}

/// Every kind of BAR and every capability that we build.
#[test]
fn a_function_with_one_of_everything_reads_as_lspci_reads_it() {
    let identity = Identity {
        vendor: 0x1af4,
        device: 0x1234,
        subsystem_vendor: 0x1af4,
        subsystem: 0x1100,
        revision: 0xfe,
        class: 0x12_00_00,
    };
    let bar = |kind, prefetchable, size| {
        Some(BarLayout {
            kind,
            prefetchable,
            size,
        })
    };
    let bars = [
        bar(BarKind::Memory32, true, 4096),
        bar(BarKind::Memory64, true, 1 << 33),
        None,
        bar(BarKind::Io, false, 32),
        bar(BarKind::Memory64, false, 1 << 20),
        None,
    ];
    let capabilities = [
        Capability::Vendor(b"first".to_vec()),
        Capability::Msi(Msi {
            vectors: 8,
            per_vector_masking: true,
        }),
        Capability::PciExpress,
        Capability::Msix(Msix {
            vectors: 2048,
            table: (1, 0x1000),
            pba: (4, 0x800),
        }),
        Capability::PowerManagement,
    ];
    let pin = Some(InterruptPin::C);
    let mut space = ConfigSpace::new(&identity, &bars, pin, &capabilities).unwrap();
    let mut image = vec![0; space.size()];
    space.read(0, &mut image);
    let msi = usize::from(image[usize::from(image[0x34]) + 1]);
    let writes: [(usize, &[u8]); 8] = [
        (0x10, &0xfebf_1000_u32.to_le_bytes()),
        (0x14, &0x6_0000_0000_u64.to_le_bytes()),
        (0x1c, &0xe0c0_u32.to_le_bytes()),
        (0x20, &0x7_0010_0000_u64.to_le_bytes()),
        (0x04, &[0x47, 0x01]),
        (0x3c, &[5]),
        (msi + 2, &[0x31, 0]),
        (msi + 4, &0xfee0_1000_u64.to_le_bytes()),
    ];
    for (offset, data) in writes {
        assert!(!space.write(offset, data).function_level_reset);
    }
    space.read(0, &mut image);
    let _ = or_skip(agree(&image));
}
