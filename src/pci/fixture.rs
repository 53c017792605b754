//! A function for the tests of this room.

use super::{
    BarKind, BarLayout, Capability, ConfigError, ConfigSpace, Identity, InterruptPin, Msi, Msix,
};

pub(super) const IDENTITY: Identity = Identity {
    vendor: 0x1af4,
    device: 0x1111,
    subsystem_vendor: 0x1af4,
    subsystem: 0x1100,
    revision: 1,
    class: 0x12_00_00,
};
pub(super) const BAR0_4K: BarLayout = bar(BarKind::Memory32, 4096);
pub(super) const MSIX: Msix = Msix {
    vectors: 16,
    table: (0, 0x800),
    pba: (0, 0xc00),
};
pub(super) const MSI: Msi = Msi {
    vectors: 8,
    per_vector_masking: true,
};

pub(super) const fn bar(kind: BarKind, size: u64) -> BarLayout {
    BarLayout {
        kind,
        prefetchable: false,
        size,
    }
}

/// One BAR in slot 0 and nothing else.
pub(super) fn with_bar(layout: BarLayout) -> Result<ConfigSpace, ConfigError> {
    let bars = [Some(layout), None, None, None, None, None];
    ConfigSpace::new(&IDENTITY, &bars, None, &[])
}

pub(super) fn with_capabilities(capabilities: &[Capability]) -> Result<ConfigSpace, ConfigError> {
    let bars = [Some(BAR0_4K), None, None, None, None, None];
    ConfigSpace::new(&IDENTITY, &bars, Some(InterruptPin::A), capabilities)
}
