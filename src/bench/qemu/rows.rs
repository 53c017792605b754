//! The rows of a section, and the devices they need.

use super::guest::{Operation, Target};
use super::program::Program;
use crate::device::Register;
use crate::devices::StubRegister;

/// The vendor of all our devices.
const VENDOR: u16 = 0x1af4;

/// A device inside QEMU whose registers cost what QEMU's own work costs.
#[derive(Debug)]
pub(super) struct InProcess {
    /// Its name, for QEMU and in rows.
    name: &'static str,
    id: (u16, u16),
    /// What a read at 0 gives, if that is known.
    reads: Option<u32>,
    /// What is read at 4 after 1 was written there, if that is known.
    holds: Option<u32>,
}

/// The first that a QEMU has is taken (docs/specs/edu.rst, pci-testdev.rst).
const IN_PROCESS: &[InProcess] = &[
    InProcess {
        name: "edu",
        id: (0x1234, 0x11e8),
        reads: Some(0x0100_00ed),
        // The liveness check: inverted.
        holds: Some(!1),
    },
    InProcess {
        name: "pci-testdev",
        id: (0x1b36, 0x0005),
        reads: None,
        holds: None,
    },
];

/// A device of ours, in a server of its own.
#[derive(Debug)]
pub(super) struct Ours {
    /// Its name for `serve`.
    pub(super) device: &'static str,
    /// Whether each write waits for its answer.
    pub(super) acknowledged: bool,
}

impl Ours {
    /// For QEMU's `-device`.
    pub(super) fn argument(&self, socket: &std::path::Path) -> String {
        let socket = serde_json::json!({"type": "unix", "path": socket});
        let mut device = serde_json::json!({"driver": "vfio-user-pci", "socket": socket});
        if self.acknowledged {
            device["x-no-posted-writes"] = true.into();
        }
        device.to_string()
    }
}

/// The devices of ours, in the order of their slots.
pub(super) const OURS: &[Ours] = &[
    Ours {
        device: "stub",
        acknowledged: false,
    },
    Ours {
        device: "stub",
        acknowledged: true,
    },
    // Its BAR 2 is memory.
    Ours {
        device: "copier",
        acknowledged: false,
    },
];

const STUB: (u16, u16) = (VENDOR, 0x1111);
const COPIER: (u16, u16) = (VENDOR, 0x1113);

/// A row.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its name after the section's.
    pub(super) name: String,
    pub(super) what: String,
    /// The row it is compared with.
    pub(super) floor: Option<String>,
    pub(super) operation: Operation,
    pub(super) target: Option<Target>,
    /// What the register holds after a slice, if that is known.
    pub(super) expected: Option<u32>,
}

/// The device inside QEMU to compare with, if it has one.
pub(super) fn in_process(qemu: &Program) -> Option<&'static InProcess> {
    IN_PROCESS.iter().find(|device| qemu.has(device.name))
}

impl InProcess {
    /// For QEMU's `-device`.
    pub(super) fn argument(&self) -> String {
        self.name.to_owned()
    }
}

/// What a guest with these devices measures.
pub(super) fn rows(inside: Option<&InProcess>, ours: bool) -> Vec<Entry> {
    let mut rows = vec![Entry {
        name: "timer".to_owned(),
        what: "floor: two readings of the timer".to_owned(),
        floor: None,
        operation: Operation::Nothing,
        target: None,
        expected: None,
    }];
    if let Some(inside) = inside {
        rows.extend(floors(inside));
    }
    if ours {
        let floor = |write| inside.map(|inside| floor(inside, write));
        rows.extend(of_ours().into_iter().map(|mut entry| {
            let write = matches!(entry.operation, Operation::Write | Operation::Writes);
            entry.floor = floor(write);
            entry
        }));
    }
    rows
}

/// The name of the row of the device inside QEMU.
fn floor(inside: &InProcess, write: bool) -> String {
    format!("{}.{}", if write { "write" } else { "read" }, inside.name)
}

fn floors(inside: &InProcess) -> [Entry; 2] {
    [false, true].map(|write| Entry {
        name: floor(inside, write),
        what: format!(
            "floor: {} {}, inside QEMU",
            if write { "write" } else { "read" },
            inside.name
        ),
        floor: None,
        operation: if write {
            Operation::Write
        } else {
            Operation::Read
        },
        target: Some(Target {
            id: inside.id,
            nth: 0,
            bar: 0,
            offset: if write { 4 } else { 0 },
        }),
        expected: if write { inside.holds } else { inside.reads },
    })
}

/// Without their floors.
fn of_ours() -> [Entry; 5] {
    let entry = |name: &str, what: String, operation, id, nth, bar, offset, expected| Entry {
        name: name.to_owned(),
        what,
        floor: None,
        operation,
        target: Some(Target {
            id,
            nth,
            bar,
            offset,
        }),
        expected,
    };
    let id = StubRegister::ID.row();
    let reads = u32::try_from(id.reset).ok();
    let scratch = StubRegister::SCRATCH.row().offset;
    let batch = "mapped memory: no exit";
    [
        entry(
            "read.stub",
            "read the stub".to_owned(),
            Operation::Read,
            STUB,
            0,
            0,
            id.offset,
            reads,
        ),
        entry(
            "write.posted",
            "write, posted: QEMU does not wait".to_owned(),
            Operation::Write,
            STUB,
            0,
            0,
            scratch,
            Some(1),
        ),
        entry(
            "write.acked",
            "write, x-no-posted-writes=on".to_owned(),
            Operation::Write,
            STUB,
            1,
            0,
            scratch,
            Some(1),
        ),
        entry(
            "read.mapped",
            format!("read {batch}"),
            Operation::Reads,
            COPIER,
            0,
            2,
            0x100,
            None,
        ),
        entry(
            "write.mapped",
            format!("write {batch}"),
            Operation::Writes,
            COPIER,
            0,
            2,
            0x104,
            Some(1),
        ),
    ]
}
