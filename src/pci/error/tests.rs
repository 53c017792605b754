use super::*;
use crate::pci::fixture::{BAR0_4K, IDENTITY, MSI, MSIX, bar, with_bar, with_capabilities};
use crate::pci::{BarKind, BarLayout, Capability, ConfigSpace, Identity, Msi, Msix};

#[test]
fn each_mistake_in_the_identity_is_named() {
    let new = |identity: &Identity| ConfigSpace::new(identity, &[None; 6], None, &[]).unwrap_err();
    let vendor = Identity {
        vendor: 0xffff,
        ..IDENTITY
    };
    assert_eq!(new(&vendor), ConfigError::NoVendor);
    let class = 0x0112_0000;
    let identity = Identity { class, ..IDENTITY };
    assert_eq!(new(&identity), ConfigError::Class { class });
}

#[test]
fn each_mistake_in_a_bar_is_named() {
    for size in [0, 24, u64::MAX] {
        let error = with_bar(bar(BarKind::Memory64, size)).unwrap_err();
        assert_eq!(error, ConfigError::BarSizeNotPowerOfTwo { index: 0, size });
    }
    let bounds = [
        (BarKind::Memory32, 16, 1 << 31, 8),
        (BarKind::Memory32, 16, 1 << 31, 1 << 32),
        (BarKind::Memory64, 16, 1 << 63, 8),
        (BarKind::Io, 4, 256, 2),
        (BarKind::Io, 4, 256, 512),
    ];
    for (kind, minimum, maximum, size) in bounds {
        let error = with_bar(bar(kind, size)).unwrap_err();
        let index = 0;
        let expected = ConfigError::BarSize {
            index,
            size,
            minimum,
            maximum,
        };
        assert_eq!(error, expected);
    }
    let io = BarLayout {
        prefetchable: true,
        ..bar(BarKind::Io, 32)
    };
    assert_eq!(
        with_bar(io).unwrap_err(),
        ConfigError::IoBarPrefetchable { index: 0 }
    );
}

#[test]
fn a_64_bit_bar_needs_the_next_slot() {
    let wide = Some(bar(BarKind::Memory64, 4096));
    let taken = [wide, Some(BAR0_4K), None, None, None, None];
    let last = [None, None, None, None, None, wide];
    for (bars, index) in [(taken, 0), (last, 5)] {
        let error = ConfigSpace::new(&IDENTITY, &bars, None, &[]).unwrap_err();
        assert_eq!(error, ConfigError::BarUpperHalf { index });
    }
}

#[test]
fn each_mistake_in_msix_is_named() {
    let bars = [
        Some(BAR0_4K),
        Some(bar(BarKind::Io, 256)),
        Some(bar(BarKind::Memory64, 4096)),
        None,
        None,
        None,
    ];
    let error = |vectors, table, pba| {
        let msix = Capability::Msix(Msix {
            vectors,
            table,
            pba,
        });
        ConfigSpace::new(&IDENTITY, &bars, None, &[msix]).unwrap_err()
    };
    let (table, pba) = ((0, 0x800), (0, 0xc00));
    for vectors in [0, 2049, u16::MAX] {
        assert_eq!(
            error(vectors, table, pba),
            ConfigError::MsixVectors { vectors }
        );
    }
    // An I/O BAR, the upper half of a BAR, an empty slot, no slot at all.
    for bar in [1, 3, 4, 6, 255] {
        let part = MsixPart::Table;
        assert_eq!(error(16, (bar, 0), pba), ConfigError::MsixBar { part, bar });
        let part = MsixPart::Pba;
        assert_eq!(
            error(16, table, (bar, 0)),
            ConfigError::MsixBar { part, bar }
        );
    }
    let (part, offset) = (MsixPart::Pba, 0xc04);
    let expected = ConfigError::MsixAlignment { part, offset };
    assert_eq!(error(16, table, (0, offset)), expected);
    for (part, offset, length) in [(MsixPart::Table, 0xf08, 0x100), (MsixPart::Pba, !7, 8)] {
        let (bar, size) = (0, 4096);
        let found = match part {
            MsixPart::Table => error(16, (0, offset), pba),
            MsixPart::Pba => error(16, table, (0, offset)),
        };
        let expected = ConfigError::MsixOutside {
            part,
            bar,
            offset,
            length,
            size,
        };
        assert_eq!(found, expected);
    }
    for pba in [0x800, 0x8f8] {
        let (bar, table) = (0, 0x800);
        let expected = ConfigError::MsixOverlap { bar, table, pba };
        assert_eq!(error(16, (bar, table), (bar, pba)), expected);
    }
}

#[test]
fn msix_structures_may_touch_and_fill_their_bar() {
    for (vectors, table, pba) in [(16, 0x800, 0x900), (16, 0xf00, 0xef8), (65, 0, 0xff0)] {
        let msix = Msix {
            vectors,
            table: (0, table),
            pba: (0, pba),
        };
        assert!(
            with_capabilities(&[Capability::Msix(msix)]).is_ok(),
            "{msix:?}"
        );
    }
}

#[test]
fn each_mistake_in_the_other_capabilities_is_named() {
    for vectors in [0, 3, 33, 64, 128, 255] {
        let per_vector_masking = true;
        let msi = Capability::Msi(Msi {
            vectors,
            per_vector_masking,
        });
        let error = with_capabilities(&[msi]).unwrap_err();
        assert_eq!(error, ConfigError::MsiVectors { vectors });
    }
    for length in [190, 10_000] {
        let error = with_capabilities(&[Capability::Vendor(vec![0; length])]).unwrap_err();
        let maximum = 189;
        assert_eq!(error, ConfigError::VendorLength { length, maximum });
    }
    assert!(with_capabilities(&[Capability::Vendor(vec![0; 189])]).is_ok());
    let twice = [
        ("Power Management", Capability::PowerManagement),
        ("MSI-X", Capability::Msix(MSIX)),
    ];
    for (name, twice) in twice {
        let error = with_capabilities(&[twice.clone(), Capability::Msi(MSI), twice]).unwrap_err();
        assert_eq!(error, ConfigError::Duplicate { name });
    }
    let vendor = |length| Capability::Vendor(vec![0; length]);
    let error = with_capabilities(&[vendor(100), vendor(86)]).unwrap_err();
    let (name, length, offset) = ("vendor", 89, 0xa8);
    assert_eq!(
        error,
        ConfigError::NoSpace {
            name,
            length,
            offset
        }
    );
    assert!(with_capabilities(&[vendor(100), vendor(85)]).is_ok());
}
