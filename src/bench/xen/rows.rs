//! The rows, and the devices of ours that they need.

use std::path::Path;

use crate::bench::Tally;
use crate::bench::bare::guest::Operation;
use crate::bench::bare::program::Program;
use crate::bench::bare::rows::{Entry, InProcess, exit, of_stub, timer};

/// What all names begin with.
pub(super) const PREFIX: &str = "xen.";

/// What is measured of each device.
const OPERATIONS: [Operation; 3] = [Operation::Read, Operation::Write, Operation::Config];

/// Where devices are on the guest's bus: behind all that QEMU places itself.
const INSIDE_SLOT: u8 = 0x18;

/// A stub, in a server of its own.
#[derive(Debug)]
pub(super) struct Ours {
    /// Its name in rows.
    pub(super) name: &'static str,
    /// For people.
    what: &'static str,
    pub(super) face: Face,
    /// Whether its server spins.
    pub(super) poll: &'static str,
    /// Its place on the guest's bus.
    pub(super) slot: u8,
}

/// Who hands its server the accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Face {
    /// QEMU.
    VfioUser,
    /// Xen.
    Ioreq,
}

/// In the order of their places.
const OURS: [Ours; 3] = [
    Ours {
        name: "vfio-user",
        what: "vfio-user",
        face: Face::VfioUser,
        poll: "never",
        slot: 0x19,
    },
    Ours {
        name: "ioreq",
        what: "an ioreq server that sleeps",
        face: Face::Ioreq,
        poll: "never",
        slot: 0x1a,
    },
    Ours {
        name: "ioreq-adaptive",
        what: "an ioreq server that may spin",
        face: Face::Ioreq,
        poll: "adaptive",
        slot: 0x1b,
    },
];

/// The devices of ours that a guest with this device model can have.
pub(super) fn ours(qemu: &Program) -> Vec<Ours> {
    let mut ours = Vec::from(OURS);
    ours.retain(|ours| ours.face == Face::Ioreq || qemu.why_not_vfio_user().is_none());
    ours
}

impl Ours {
    /// For QEMU's `-device`.
    pub(super) fn argument(&self, socket: &Path) -> String {
        let socket = serde_json::json!({"type": "unix", "path": socket});
        let addr = format!("{:#x}", self.slot);
        serde_json::json!({"driver": "vfio-user-pci", "addr": addr, "socket": socket}).to_string()
    }

    /// Whether it is a row of this device.
    pub(super) fn has(&self, entry: &Entry) -> bool {
        let name = entry.name.split_once('.');
        name.is_some_and(|(_, device)| device == self.name)
    }

    /// The row of what its server takes to start.
    pub(super) fn set_up(&self) -> Tally {
        let what = format!("set-up: {}", self.what);
        Tally::named(&format!("{PREFIX}setup.{}", self.name), &what, None, 1)
    }

    /// A row of its own, the nth stub.
    fn entry(&self, nth: u32, operation: Operation) -> Entry {
        let (verb, words) = match operation {
            Operation::Config => ("config", "read configuration space"),
            Operation::Write => ("write", "write"),
            _ => ("read", "read"),
        };
        let (name, what) = (
            format!("{verb}.{}", self.name),
            format!("{words}, {}", self.what),
        );
        of_stub(nth, operation, &name, &what)
    }
}

/// For QEMU's `-device`.
pub(super) fn argument(inside: &InProcess) -> String {
    format!("{},addr={INSIDE_SLOT:#x}", inside.name)
}

/// What a guest with these devices measures.
pub(super) fn rows(inside: Option<&InProcess>, ours: &[Ours]) -> Vec<Entry> {
    let mut rows = vec![timer(), exit()];
    for operation in OPERATIONS {
        rows.extend(inside.map(|inside| inside.entry(operation)));
        let floor = inside.map(|inside| inside.row(operation));
        rows.extend((0..).zip(ours).map(|(nth, ours)| Entry {
            floor: floor.clone(),
            ..ours.entry(nth, operation)
        }));
    }
    rows
}
