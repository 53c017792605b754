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
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ours {
    /// Its name for `serve`.
    pub(super) device: &'static str,
    through: Through,
    /// Whether its server spins.
    pub(super) polled: bool,
}

/// What of QEMU it is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Through {
    /// `vfio-user-pci`; whether each write waits for its answer.
    VfioUser { acknowledged: bool },
    /// `vgpu-stub`, the device of qemu-patches/; whether it may use shared
    /// memory.
    Shim { shared: bool },
}

impl Ours {
    /// For QEMU's `-device`.
    pub(super) fn argument(&self, socket: &std::path::Path) -> String {
        match self.through {
            Through::VfioUser { acknowledged } => {
                let socket = serde_json::json!({"type": "unix", "path": socket});
                let mut device = serde_json::json!({"driver": "vfio-user-pci", "socket": socket});
                if acknowledged {
                    device["x-no-posted-writes"] = true.into();
                }
                device.to_string()
            }
            Through::Shim { shared } => {
                // Older ones take no JSON. A comma in a path is doubled.
                let socket = socket.display().to_string().replace(',', ",,");
                let shared = if shared { "on" } else { "off" };
                format!("vgpu-stub,socket={socket},shared-mmio={shared}")
            }
        }
    }
}

/// The devices of ours that this QEMU can have, in the order of their slots.
/// One that is polled is alone: its server leaves no time for others.
pub(super) fn ours(qemu: &Program, polled: bool) -> Vec<Ours> {
    let through = |device, through| Ours {
        device,
        through,
        polled,
    };
    let mut ours = Vec::new();
    let acknowledged = |acknowledged| Through::VfioUser { acknowledged };
    if !polled && qemu.why_not_vfio_user().is_none() {
        ours.push(through("stub", acknowledged(false)));
        ours.push(through("stub", acknowledged(true)));
        // Its BAR 2 is memory.
        ours.push(through("copier", acknowledged(false)));
    }
    if qemu.why_no_shim().is_none() {
        if !polled {
            ours.push(through("stub", Through::Shim { shared: false }));
        }
        ours.push(through("stub", Through::Shim { shared: true }));
    }
    ours
}

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
pub(super) fn rows(inside: Option<&InProcess>, ours: &[Ours]) -> Vec<Entry> {
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
    for (number, device) in ours.iter().enumerate() {
        let same = |other: &&Ours| other.device == device.device;
        let nth = ours[..number].iter().filter(same).count();
        // There are a handful.
        let nth = u32::try_from(nth).unwrap_or(u32::MAX);
        rows.extend(of(device, nth).into_iter().map(|mut entry| {
            let write = matches!(entry.operation, Operation::Write | Operation::Writes);
            entry.floor = inside.map(|inside| floor(inside, write));
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

/// What is measured of a device of ours, the nth of its kind. Without floors.
fn of(ours: &Ours, nth: u32) -> Vec<Entry> {
    let read = |name, what| read_stub(nth, name, what);
    let write = |name, what| write_stub(nth, name, what);
    match ours.through {
        Through::VfioUser { .. } if ours.device == "copier" => mapped(nth),
        Through::VfioUser {
            acknowledged: false,
        } => vec![
            read("read.stub", "read the stub"),
            write("write.posted", "write, posted: QEMU does not wait"),
        ],
        Through::VfioUser { acknowledged: true } => {
            vec![write("write.acked", "write, x-no-posted-writes=on")]
        }
        Through::Shim { shared: false } => vec![
            read("read.shim", "read, the shim, by the socket"),
            write("write.shim", "write, the shim, posted by the socket"),
        ],
        Through::Shim { shared: true } => vec![
            read("read.shim-shared", "read, the shim, by shared memory"),
            write(
                "write.shim-shared",
                "write, the shim, posted by shared memory",
            ),
        ],
    }
}

fn read_stub(nth: u32, name: &str, what: &str) -> Entry {
    let row = StubRegister::ID.row();
    let expected = u32::try_from(row.reset).ok();
    let target = target(STUB, nth, 0, row.offset);
    entry(name, what, Operation::Read, target, expected)
}

fn write_stub(nth: u32, name: &str, what: &str) -> Entry {
    let target = target(STUB, nth, 0, StubRegister::SCRATCH.row().offset);
    entry(name, what, Operation::Write, target, Some(1))
}

fn mapped(nth: u32) -> Vec<Entry> {
    let at = |offset| target(COPIER, nth, 2, offset);
    let (reads, writes) = (Operation::Reads, Operation::Writes);
    let read = "read mapped memory: no exit";
    let write = "write mapped memory: no exit";
    vec![
        entry("read.mapped", read, reads, at(0x100), None),
        entry("write.mapped", write, writes, at(0x104), Some(1)),
    ]
}

fn target(id: (u16, u16), nth: u32, bar: u32, offset: u32) -> Target {
    Target {
        id,
        nth,
        bar,
        offset,
    }
}

fn entry(
    name: &str,
    what: &str,
    operation: Operation,
    target: Target,
    expected: Option<u32>,
) -> Entry {
    Entry {
        name: name.to_owned(),
        what: what.to_owned(),
        floor: None,
        operation,
        target: Some(target),
        expected,
    }
}
