use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::pci::{BarKind, BarLayout, Capability, ConfigSpace, InterruptPin, Msi, Msix};

const NO_SIZES: [u64; BAR_COUNT] = [0; BAR_COUNT];

/// A function with one of everything, as a guest has set it up.
fn configured() -> Vec<u8> {
    let identity = Identity {
        vendor: 0x1af4,
        device: 0x1111,
        subsystem_vendor: 0x1af4,
        subsystem: 0x1100,
        revision: 1,
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
        bar(BarKind::Memory32, false, 4096),
        bar(BarKind::Memory64, true, 1 << 33),
        None,
        bar(BarKind::Io, false, 32),
        bar(BarKind::Memory32, false, 1 << 20),
        None,
    ];
    let capabilities = [
        Capability::PowerManagement,
        Capability::PciExpress,
        Capability::Msix(Msix {
            vectors: 16,
            table: (0, 0x800),
            pba: (0, 0xc00),
        }),
        Capability::Msi(Msi {
            vectors: 8,
            per_vector_masking: true,
        }),
        Capability::Vendor(b"vgpu!".to_vec()),
    ];
    let pin = Some(InterruptPin::A);
    let mut space = ConfigSpace::new(&identity, &bars, pin, &capabilities).unwrap();
    let writes: [(usize, &[u8]); 6] = [
        (0x10, &0xfebf_1000_u32.to_le_bytes()),
        (0x14, &0x6_0000_0000_u64.to_le_bytes()),
        (0x1c, &0xe0c0_u32.to_le_bytes()),
        (0x04, &[0x06, 0x05]),
        (0x0c, &[16]),
        (0x3c, &[11]),
    ];
    for (offset, data) in writes {
        assert!(!space.write(offset, data).function_level_reset);
    }
    // MSI-X enable.
    assert!(!space.write(0x87, &[0x80]).function_level_reset);
    let mut image = vec![0; space.size()];
    space.read(0, &mut image);
    image
}

/// A header and a capability list that starts at 0x40.
fn with_list(capabilities: &[u8]) -> Vec<u8> {
    let mut config = vec![0; 256];
    config[STATUS] = 0x10;
    config[0x34] = 0x40;
    config[0x40..0x40 + capabilities.len()].copy_from_slice(capabilities);
    config
}

fn kinds(config: &[u8]) -> Vec<(usize, CapabilityKind)> {
    let description = describe(config, NO_SIZES).unwrap();
    let found = description.capabilities.into_iter();
    found.map(|found| (found.offset, found.kind)).collect()
}

/// The text that lspci 3.9.0 prints for this image, without the lines of the
/// registers that version 2 of PCI Express added, and with the sizes.
#[test]
fn a_configured_function_prints_as_lspci_prints_it() {
    let sizes = [4096, 1 << 33, 0, 32, 1 << 20, 0];
    let text = describe(&configured(), sizes).unwrap().to_string();
    let expected = "\
Processing accelerators [1200]: Device [1af4:1111] (rev 01)
\tSubsystem: Device [1af4:1100]
\tControl: I/O- Mem+ BusMaster+ SpecCycle- MemWINV- VGASnoop- ParErr- Stepping- SERR+ FastB2B- DisINTx+
\tStatus: Cap+ 66MHz- UDF- FastB2B- ParErr- DEVSEL=fast >TAbort- <TAbort- <MAbort- >SERR- <PERR- INTx-
\tLatency: 0, Cache Line Size: 64 bytes
\tInterrupt: pin A routed to IRQ 11
\tRegion 0: Memory at febf1000 (32-bit, non-prefetchable) [size=4K]
\tRegion 1: Memory at 600000000 (64-bit, prefetchable) [size=8G]
\tRegion 3: I/O ports at e0c0 [disabled] [size=32]
\tRegion 4: Memory at <unassigned> (32-bit, non-prefetchable) [size=1M]
\tCapabilities: [40] Power Management version 3
\t\tFlags: PMEClk- DSI- D1- D2- AuxCurrent=0mA PME(D0-,D1-,D2-,D3hot-,D3cold-)
\t\tStatus: D0 NoSoftRst+ PME-Enable- DSel=0 DScale=0 PME-
\tCapabilities: [48] Express (v2) Endpoint, MSI 00
\t\tDevCap:\tMaxPayload 128 bytes, PhantFunc 0, Latency L0s <64ns, L1 <1us
\t\t\tExtTag- AttnBtn- AttnInd- PwrInd- RBE+ FLReset+ SlotPowerLimit 0W
\t\tDevCtl:\tCorrErr- NonFatalErr- FatalErr- UnsupReq-
\t\t\tRlxdOrd+ ExtTag- PhantFunc- AuxPwr- NoSnoop+ FLReset-
\t\t\tMaxPayload 128 bytes, MaxReadReq 512 bytes
\t\tDevSta:\tCorrErr- NonFatalErr- FatalErr- UnsupReq- AuxPwr- TransPend-
\t\tLnkCap:\tPort #0, Speed 2.5GT/s, Width x1, ASPM not supported
\t\t\tClockPM- Surprise- LLActRep- BwNot- ASPMOptComp+
\t\tLnkCtl:\tASPM Disabled; RCB 64 bytes, Disabled- CommClk-
\t\t\tExtSynch- ClockPM- AutWidDis- BWInt- AutBWInt-
\t\tLnkSta:\tSpeed 2.5GT/s, Width x1
\t\t\tTrErr- Train- SlotClk- DLActive- BWMgmt- ABWMgmt-
\tCapabilities: [84] MSI-X: Enable+ Count=16 Masked-
\t\tVector table: BAR=0 offset=00000800
\t\tPBA: BAR=0 offset=00000c00
\tCapabilities: [90] MSI: Enable- Count=1/8 Maskable+ 64bit+
\t\tAddress: 0000000000000000  Data: 0000
\t\tMasking: 00000000  Pending: 00000000
\tCapabilities: [a8] Vendor Specific Information: Len=08 <?>
";
    assert_eq!(text, expected);
}

/// The text that lspci 3.9.0 prints for these registers.
#[test]
fn a_busy_express_endpoint_prints_as_lspci_prints_it() {
    let express = [
        0x10, 0x00, 0x02, 0x02, 0xf3, 0x18, 0xc4, 0x13, 0xef, 0x7d, 0x3a, 0x00, 0x04, 0xad, 0xfe,
        0x05, 0xcb, 0x01, 0x83, 0x70,
    ];
    let text = describe(&with_list(&express), NO_SIZES)
        .unwrap()
        .to_string();
    let expected = "\
\tCapabilities: [40] Express (v2) Endpoint, MSI 01
\t\tDevCap:\tMaxPayload 1024 bytes, PhantFunc 3, Latency L0s <512ns, L1 <16us
\t\t\tExtTag+ AttnBtn+ AttnInd- PwrInd- RBE- FLReset+ SlotPowerLimit 275W
\t\tDevCtl:\tCorrErr+ NonFatalErr+ FatalErr+ UnsupReq+
\t\t\tRlxdOrd- ExtTag+ PhantFunc- AuxPwr+ NoSnoop+ FLReset-
\t\t\tMaxPayload 16384 bytes, MaxReadReq 16384 bytes
\t\tDevSta:\tCorrErr- NonFatalErr+ FatalErr- UnsupReq+ AuxPwr+ TransPend+
\t\tLnkCap:\tPort #5, Speed 16GT/s, Width x16, ASPM L0s L1, Exit Latency L0s <256ns, L1 <32us
\t\t\tClockPM+ Surprise+ LLActRep+ BwNot+ ASPMOptComp+
\t\tLnkCtl:\tASPM L0s L1 Enabled; RCB 128 bytes, Disabled- CommClk+
\t\t\tExtSynch+ ClockPM+ AutWidDis- BWInt- AutBWInt-
\t\tLnkSta:\tSpeed 8GT/s (downgraded), Width x8 (downgraded)
\t\t\tTrErr- Train- SlotClk+ DLActive+ BWMgmt+ ABWMgmt-
";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn a_description_serializes_by_name() {
    let description = describe(&configured(), NO_SIZES).unwrap();
    let json = serde_json::to_value(&description).unwrap();
    assert_eq!(json["identity"]["vendor"], 0x1af4);
    assert_eq!(json["bars"][1]["space"], "memory64");
    assert_eq!(json["bars"][1]["address"], 0x6_0000_0000_u64);
    assert_eq!(json["bars"][1]["size"], serde_json::Value::Null);
    let express = &json["capabilities"][1];
    assert_eq!(express["kind"], "express");
    assert_eq!(express["offset"], 0x48);
    assert_eq!(express["function_level_reset"], true);
    assert_eq!(json["capabilities"][2]["vectors"], 16);
}

#[test]
fn short_config_space_is_refused_and_the_bare_header_is_not() {
    let config = configured();
    for length in [0, 1, 63] {
        let error = describe(&config[..length], NO_SIZES).unwrap_err();
        assert_eq!(error, DescribeError::Short { length });
    }
    let expected = [(0x40, CapabilityKind::Truncated)];
    assert_eq!(kinds(&config[..64]), expected);
}

#[test]
fn all_ones_are_no_device() {
    let error = describe(&[0xff; 256], NO_SIZES).unwrap_err();
    assert_eq!(error, DescribeError::NoDevice);
}

#[test]
fn a_list_that_loops_ends_where_it_meets_itself() {
    let unknown = CapabilityKind::Unknown {
        id: 0x33,
        register: 0,
    };
    let to_itself = with_list(&[0x33, 0x41, 0, 0]);
    let expected = [(0x40, unknown.clone()), (0x40, CapabilityKind::Looped)];
    assert_eq!(kinds(&to_itself), expected);
    let there_and_back = with_list(&[0x33, 0x44, 0, 0, 0x33, 0x40, 0, 0]);
    assert_eq!(kinds(&there_and_back)[2], (0x40, CapabilityKind::Looped));
}

#[test]
fn a_list_that_points_at_nothing_is_broken() {
    let into_the_header = with_list(&[0x33, 0x10, 0, 0]);
    assert_eq!(kinds(&into_the_header)[1], (0x10, CapabilityKind::Broken));
    let at_ones = with_list(&[0x33, 0x44, 0, 0, 0xff, 0xff]);
    assert_eq!(kinds(&at_ones)[1], (0x44, CapabilityKind::Broken));
}

#[test]
fn a_capability_across_the_end_is_truncated() {
    for id in [0x01, 0x05, 0x10, 0x11] {
        let mut config = with_list(&[]);
        config[0x34] = 0xfc;
        config[0xfc] = id;
        assert_eq!(kinds(&config), [(0xfc, CapabilityKind::Truncated)]);
    }
}

#[test]
fn a_list_is_believed_only_with_the_status_bit() {
    let mut config = with_list(&[0x33, 0, 0, 0]);
    config[STATUS] = 0;
    assert_eq!(kinds(&config), []);
}

#[test]
fn msi_with_a_32_bit_address_has_its_data_right_after_it() {
    let msi = [0x05, 0, 0x12, 0x00, 0x00, 0x10, 0xe0, 0xfe, 0x21, 0x40];
    let text = describe(&with_list(&msi), NO_SIZES).unwrap().to_string();
    let expected = "\tCapabilities: [40] MSI: Enable- Count=2/2 Maskable- 64bit-\n\
        \t\tAddress: fee01000  Data: 4021\n";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn a_64_bit_bar_in_the_last_register_is_invalid() {
    let mut config = vec![0; 64];
    config[0x24..0x28].copy_from_slice(&0xc_u32.to_le_bytes());
    let description = describe(&config, NO_SIZES).unwrap();
    assert_eq!(description.bars[0].space, BarSpace::Invalid64);
    let line = "\tRegion 5: Memory at <invalid-64bit-slot> (64-bit, prefetchable) [disabled]\n";
    assert!(description.to_string().ends_with(line), "{description}");
}

#[test]
fn the_extended_list_is_walked_behind_pci_express() {
    let mut config = configured();
    let headers = [(0x100, 0x1482_0001_u32), (0x148, 0x1001_0003)];
    for (at, header) in headers {
        config[at..at + 4].copy_from_slice(&header.to_le_bytes());
    }
    let text = describe(&config, NO_SIZES).unwrap().to_string();
    let expected = "\tCapabilities: [100 v2] Extended Capability ID 0x1\n\
        \tCapabilities: [148 v1] Extended Capability ID 0x3\n\
        \tCapabilities: [100] <chain looped>\n";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn a_bridge_shows_two_bars_and_says_that_there_is_more() {
    let mut config = vec![0; 64];
    config[HEADER_TYPE] = 0x81;
    config[0x10..0x28].fill(0x10);
    let description = describe(&config, NO_SIZES).unwrap();
    assert!(description.multifunction);
    assert_eq!(description.bars.len(), 2);
    let line = "\t!!! Header type 01 is not decoded in full\n";
    assert!(description.to_string().contains(line));
}

proptest! {
    #[test]
    fn any_bytes_are_described_or_refused(
        mut config in vec(any::<u8>(), 0..4200),
        list: bool,
        sizes: [u64; BAR_COUNT],
    ) {
        if list && config.len() > STATUS {
            config[STATUS] |= 0x10;
        }
        if let Ok(description) = describe(&config, sizes) {
            let _ = description.to_string();
            prop_assert!(serde_json::to_string(&description).is_ok());
        }
    }

    #[test]
    fn any_damage_to_a_real_function_is_survived(
        damage in vec((0_usize..4096, any::<u8>()), 0..64),
        length in 0_usize..4096,
    ) {
        let mut config = configured();
        for (at, byte) in damage {
            config[at] = byte;
        }
        if let Ok(description) = describe(&config[..length], NO_SIZES) {
            prop_assert!(description.capabilities.len() <= 49);
            let _ = description.to_string();
        }
    }
}
