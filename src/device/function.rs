//! What a device is to the bus: its identity, BARs and interrupts.

use std::ops::Range;
use std::sync::Arc;

use super::{Access, Register, RegisterFile, RegisterMap, SharedMemory, Window};
use crate::pci::{BarKind, BarLayout, Capability, Identity, Msi, Msix};

/// A PCI function, described by its [`Device`](super::Device).
#[derive(Clone, Debug)]
pub struct Function {
    /// Vendor, device, subsystem, class and revision.
    pub identity: Identity,
    /// The BARs. A 64-bit BAR takes the slot after it too.
    pub bars: [Option<Bar>; 6],
    /// MSI-X, if offered. Its table and pending bits lie in a BAR, where the
    /// endpoint keeps them; the map reserves their place.
    pub msix: Option<Msix>,
    /// MSI, if offered.
    pub msi: Option<Msi>,
    /// Whether the function has an INTx pin (INTA).
    pub intx: bool,
    /// Further capabilities, in order. MSI and MSI-X are added to them.
    pub capabilities: Vec<Capability>,
}

impl Function {
    /// A function with an identity and nothing else.
    pub fn new(identity: Identity) -> Self {
        Function {
            identity,
            bars: Default::default(),
            msix: None,
            msi: None,
            intx: false,
            capabilities: Vec::new(),
        }
    }

    /// Adds BAR `index`, 0 to 5; others are ignored.
    #[must_use]
    pub fn bar(mut self, index: usize, bar: Bar) -> Self {
        if let Some(slot) = self.bars.get_mut(index) {
            *slot = Some(bar);
        }
        self
    }

    /// Offers MSI-X.
    #[must_use]
    pub fn msix(mut self, msix: Msix) -> Self {
        self.msix = Some(msix);
        self
    }

    /// Offers MSI.
    #[must_use]
    pub fn msi(mut self, msi: Msi) -> Self {
        self.msi = Some(msi);
        self
    }

    /// Offers an INTx pin.
    #[must_use]
    pub fn intx(mut self) -> Self {
        self.intx = true;
        self
    }

    /// Adds a capability.
    #[must_use]
    pub fn capability(mut self, capability: Capability) -> Self {
        self.capabilities.push(capability);
        self
    }
}

/// One BAR: registers whose accesses trap, memory that the client maps, or
/// both.
#[derive(Clone, Debug)]
pub struct Bar {
    pub(crate) layout: BarLayout,
    pub(crate) registers: Option<&'static RegisterMap>,
    pub(crate) memory: Option<SharedMemory>,
    pub(crate) areas: Vec<Range<u64>>,
    pub(crate) window: Option<Arc<Window>>,
    pub(crate) doorbells: Vec<Doorbell>,
}

/// A register whose writes may come as a counted event instead of a trapped
/// access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doorbell {
    /// The register; its width is the width of the write.
    pub at: Access,
    /// Only writes of this value ring, if set.
    pub datamatch: Option<u64>,
    /// Only a client that keeps the value may ring it.
    pub with_value: bool,
}

impl Bar {
    /// A 32-bit memory BAR of trapped registers, as large as its map.
    pub fn registers<R: Register>() -> Self {
        Bar {
            registers: Some(R::MAP),
            ..Bar::new(R::MAP.size() as u64)
        }
    }

    /// The same, where a page of registers that are all `mapped`, or `mapped`
    /// and `shown`, needs no exit, if the file was made by
    /// [`RegisterFile::mapped`].
    pub fn of<R: Register>(file: &RegisterFile<R>) -> Self {
        Bar {
            window: file.window(),
            ..Bar::registers::<R>()
        }
    }

    /// A 32-bit memory BAR that the client maps whole.
    pub fn memory(memory: SharedMemory) -> Self {
        let size = memory.size() as u64;
        Bar {
            areas: Vec::from([Range {
                start: 0,
                end: size,
            }]),
            memory: Some(memory),
            ..Bar::new(size)
        }
    }

    fn new(size: u64) -> Self {
        Bar {
            layout: BarLayout {
                kind: BarKind::Memory32,
                prefetchable: false,
                size,
            },
            registers: None,
            memory: None,
            areas: Vec::new(),
            window: None,
            doorbells: Vec::new(),
        }
    }

    /// Lets the client map `areas` of the BAR, which then show `memory` at the
    /// same offsets; what the map has there is hidden. Areas begin and end
    /// on 4 KiB pages; the rest stays trapped. Not for a BAR that was made
    /// with [`Bar::of`]: a BAR has one memory.
    #[must_use]
    pub fn mapped(mut self, memory: SharedMemory, areas: Vec<Range<u64>>) -> Self {
        self.memory = Some(memory);
        self.areas = areas;
        self
    }

    /// Makes the BAR 64 bits wide.
    #[must_use]
    pub fn wide(mut self) -> Self {
        self.layout.kind = BarKind::Memory64;
        self
    }

    /// Makes the BAR prefetchable: reads have no side effects.
    #[must_use]
    pub fn prefetchable(mut self) -> Self {
        self.layout.prefetchable = true;
        self
    }

    /// Offers whole writes of `register`, or those of `datamatch` only, as an
    /// ioeventfd: KVM then counts them and the guest does not wait. They reach
    /// the device through [`Device::rung`](super::Device::rung).
    #[must_use]
    pub fn doorbell<R: Register>(self, register: R, datamatch: Option<u64>) -> Self {
        self.add_doorbell(register, datamatch, false)
    }

    /// Offers whole writes of `register`, whose value matters, to a client that
    /// keeps the value in shared memory and then counts the write. Of several
    /// writes the device is told the newest; to all other clients it is a
    /// register like any.
    #[must_use]
    pub fn doorbell_with_value<R: Register>(self, register: R) -> Self {
        self.add_doorbell(register, None, true)
    }

    fn add_doorbell<R: Register>(
        mut self,
        register: R,
        datamatch: Option<u64>,
        with_value: bool,
    ) -> Self {
        self.doorbells.push(Doorbell {
            // The endpoint knows which BAR this is and fills it in.
            at: register.access(0),
            datamatch,
            with_value,
        });
        self
    }
}
