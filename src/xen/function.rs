//! One PCI function: its config space, which Xen sends us because we asked
//! for it, and where its BARs want to be.

use std::str::FromStr;
use std::sync::Arc;

use super::ioreq::Operation;
use super::ranges::Place;
use super::{Bdf, BusMaster};
use crate::endpoint::{Backing, MapRequest};
use crate::endpoint::{CONFIG_REGION, Endpoint, MAX_MAPS, MapError, PAGE_SIZE};
use crate::pci::spec::{CONFIG_SIZE, command};

/// All guest memory that a processor of today can have: 52 bits of address.
const GUEST_MEMORY: u64 = 1 << 52;

/// Where a function is in the guest: a device on bus 0, from 1 to 31. Xen
/// routes INTx of bus 0 only, and the header says that there is one function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u8);

impl Slot {
    /// Where the first function is put unless somebody says otherwise, and the
    /// next behind it.
    pub const FIRST: u8 = 0xc;

    /// The device of this number, if it may have one of ours.
    pub fn new(device: u8) -> Option<Self> {
        (1..=31).contains(&device).then_some(Slot(device))
    }

    /// The device's number.
    pub fn device(self) -> u8 {
        self.0
    }

    /// The function's address.
    pub fn bdf(self) -> Bdf {
        Bdf {
            bus: 0,
            device: self.0,
            function: 0,
        }
    }
}

impl FromStr for Slot {
    type Err = String;

    /// `[DDDD:]BB:DD.F`, `DD.F` or `0xDD`, all of it hexadecimal.
    fn from_str(text: &str) -> Result<Self, String> {
        let refuse =
            || format!("'{text}' is not 0000:00:DD.0, DD.0 or 0xDD with a device DD from 01 to 1f");
        let hex = |text: &str| u16::from_str_radix(text, 16).map_err(|_| refuse());
        if text.contains('+') {
            return Err(refuse());
        }
        let (bus, rest) = text.rsplit_once(':').unwrap_or(("0", text));
        let (segment, bus) = bus.rsplit_once(':').unwrap_or(("0", bus));
        let (device, function) = match text.strip_prefix("0x") {
            Some(device) => (device, "0"),
            None => rest.split_once('.').ok_or_else(refuse)?,
        };
        let device = u8::try_from(hex(device)?).map_err(|_| refuse())?;
        if hex(segment)? != 0 || hex(bus)? != 0 || hex(function)? != 0 {
            return Err(refuse());
        }
        Slot::new(device).ok_or_else(refuse)
    }
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.bdf().fmt(f)
    }
}

/// A device as a function of the guest.
pub(super) struct PciFunction {
    pub(super) slot: Slot,
    pub(super) endpoint: Endpoint,
    memory: Arc<BusMaster>,
}

impl PciFunction {
    /// Puts a device there, with its bus master's view of guest memory.
    pub(super) fn new(
        slot: Slot,
        mut endpoint: Endpoint,
        memory: Arc<BusMaster>,
    ) -> Result<Self, MapError> {
        endpoint.connect(memory.clone(), PAGE_SIZE, MAX_MAPS);
        endpoint.dma_map(MapRequest {
            address: 0,
            size: GUEST_MEMORY,
            readable: true,
            writeable: true,
            backing: Backing::Messages,
        })?;
        let function = PciFunction {
            slot,
            endpoint,
            memory,
        };
        function.follow_command();
        Ok(function)
    }

    /// What it is and where, for who goes on with its state.
    pub(super) fn name(&mut self) -> String {
        let identity = self.endpoint.load(CONFIG_REGION, 0, 4).unwrap_or(u64::MAX);
        let (device, vendor) = (identity >> 16 & 0xffff, identity & 0xffff);
        format!("{vendor:04x}:{device:04x} at {}", self.slot)
    }

    /// One access to config space: what a read gives. The machine has no way
    /// to the registers beyond 256 bytes.
    pub(super) fn config(&mut self, register: u32, size: usize, operation: Operation) -> u64 {
        let register = u64::from(register);
        if register + size as u64 > CONFIG_SIZE as u64 {
            return u64::MAX;
        }
        match operation {
            Operation::Read => {
                let value = self.endpoint.load(CONFIG_REGION, register, size);
                value.unwrap_or(u64::MAX)
            }
            Operation::Write(value) => {
                // It is inside: checked above.
                let _ = self.endpoint.store(CONFIG_REGION, register, size, value);
                self.follow_command();
                value
            }
        }
    }

    /// Where its BARs are now, for the function of this number.
    pub(super) fn places(&self, function: usize) -> impl Iterator<Item = Place> {
        self.endpoint.bars().map(move |bar| Place {
            function,
            bar: bar.number,
            first: bar.address,
            last: bar.address + (bar.size - 1),
        })
    }

    /// Lets the device reach guest memory while the guest allows it.
    pub(super) fn follow_command(&self) {
        let is_master = self.endpoint.command() & command::BUS_MASTER != 0;
        self.memory.set_enabled(is_master);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_on_bus_0_is_named_in_three_ways() {
        let slot = Slot::new(0x1c);
        for text in ["0000:00:1c.0", "00:1c.0", "1c.0", "0x1c", "0:1c.0"] {
            assert_eq!(text.parse::<Slot>().ok(), slot, "{text}");
        }
        assert_eq!(
            slot.map(|slot| slot.to_string()).as_deref(),
            Some("0000:00:1c.0")
        );
    }

    #[test]
    fn other_places_are_refused() {
        for text in [
            "",
            "0",
            "1c",
            "00:1c",
            "1c.1",
            "20.0",
            "00.0",
            "0x0",
            "0x20",
            "01:1c.0",
            "0001:00:1c.0",
            "0:0:0:1c.0",
            "+c.0",
            "0x+c",
            "zz.0",
            "0x1c.0",
            "100.0",
            "1c.",
        ] {
            let refused = text.parse::<Slot>().unwrap_err();
            assert!(refused.starts_with(&format!("'{text}'")), "{refused}");
        }
    }
}
