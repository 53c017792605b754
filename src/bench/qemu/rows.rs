//! The rows of a section, and the devices of ours that they need.

use crate::bench::bare::guest::Operation;
use crate::bench::bare::program::Program;
use crate::bench::bare::rows::{Entry, InProcess, VENDOR, entry, of_stub, target, timer};

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

const COPIER: (u16, u16) = (VENDOR, 0x1113);

/// What a guest with these devices measures.
pub(super) fn rows(inside: Option<&InProcess>, ours: &[Ours]) -> Vec<Entry> {
    let floors = [Operation::Read, Operation::Write];
    let mut rows = vec![timer()];
    if let Some(inside) = inside {
        rows.extend(floors.map(|operation| inside.entry(operation)));
    }
    for (number, device) in ours.iter().enumerate() {
        let same = |other: &&Ours| other.device == device.device;
        let nth = ours[..number].iter().filter(same).count();
        // There are a handful.
        let nth = u32::try_from(nth).unwrap_or(u32::MAX);
        rows.extend(of(device, nth).into_iter().map(|mut entry| {
            let write = matches!(entry.operation, Operation::Write | Operation::Writes);
            entry.floor = inside.map(|inside| inside.row(floors[usize::from(write)]));
            entry
        }));
    }
    rows
}

/// What is measured of a device of ours, the nth of its kind. Without floors.
fn of(ours: &Ours, nth: u32) -> Vec<Entry> {
    let read = |name, what| of_stub(nth, Operation::Read, name, what);
    let write = |name, what| of_stub(nth, Operation::Write, name, what);
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
