//! The rows of a section, and the devices that they are about.

use super::guest::{Operation, Target};
use super::program::Program;
use crate::device::Register;
use crate::devices::StubRegister;

/// A device inside QEMU whose registers cost what QEMU's own work costs.
#[derive(Debug)]
pub(in crate::bench) struct InProcess {
    /// Its name, for QEMU and in rows.
    pub(in crate::bench) name: &'static str,
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

/// The vendor of all our devices, and the stub.
pub(in crate::bench) const VENDOR: u16 = 0x1af4;
const STUB: (u16, u16) = (VENDOR, 0x1111);

/// A row.
#[derive(Debug)]
pub(in crate::bench) struct Entry {
    /// Its name after the section's.
    pub(in crate::bench) name: String,
    pub(in crate::bench) what: String,
    /// The row it is compared with.
    pub(in crate::bench) floor: Option<String>,
    pub(in crate::bench) operation: Operation,
    pub(in crate::bench) target: Option<Target>,
    /// What the register holds after a slice, if that is known.
    pub(in crate::bench) expected: Option<u32>,
}

/// The device inside QEMU to compare with, if it has one.
pub(in crate::bench) fn in_process(qemu: &Program) -> Option<&'static InProcess> {
    IN_PROCESS.iter().find(|device| qemu.has(device.name))
}

impl InProcess {
    /// The name of its row of this operation.
    pub(in crate::bench) fn row(&self, operation: Operation) -> String {
        format!("{}.{}", verb(operation), self.name)
    }

    /// Its row, a floor for others.
    pub(in crate::bench) fn entry(&self, operation: Operation) -> Entry {
        let (bar, offset, expected) = match operation {
            Operation::Config => (0, 0, Some(whole(self.id))),
            Operation::Write => (0, 4, self.holds),
            _ => (0, 0, self.reads),
        };
        let target = target(self.id, 0, bar, offset);
        let what = format!("floor: {} {}, inside QEMU", verb(operation), self.name);
        let name = self.row(operation);
        entry(&name, &what, operation, target, expected)
    }
}

/// What a row of this operation is called.
fn verb(operation: Operation) -> &'static str {
    match operation {
        Operation::Nothing => "nothing",
        Operation::Exit => "exit",
        Operation::Read | Operation::Reads => "read",
        Operation::Write | Operation::Writes => "write",
        Operation::Config => "config",
    }
}

/// What the guest's counter costs: two readings of it.
pub(in crate::bench) fn timer() -> Entry {
    bare(
        "timer",
        "floor: two readings of the timer",
        Operation::Nothing,
    )
}

/// What the hypervisor costs.
pub(in crate::bench) fn exit() -> Entry {
    let what = "floor: to the hypervisor and back, by CPUID";
    bare("exit", what, Operation::Exit)
}

fn bare(name: &str, what: &str, operation: Operation) -> Entry {
    Entry {
        name: name.to_owned(),
        what: what.to_owned(),
        floor: None,
        operation,
        target: None,
        expected: None,
    }
}

/// An access to the nth stub.
pub(in crate::bench) fn of_stub(nth: u32, operation: Operation, name: &str, what: &str) -> Entry {
    let id = StubRegister::ID.row();
    let (offset, expected) = match operation {
        Operation::Config => (0, Some(whole(STUB))),
        Operation::Write => (StubRegister::SCRATCH.row().offset, Some(1)),
        _ => (id.offset, u32::try_from(id.reset).ok()),
    };
    entry(
        name,
        what,
        operation,
        target(STUB, nth, 0, offset),
        expected,
    )
}

/// The first word of configuration space (PCI 3.0, 6.1).
fn whole((vendor, device): (u16, u16)) -> u32 {
    u32::from(device) << 16 | u32::from(vendor)
}

pub(in crate::bench) fn target(id: (u16, u16), nth: u32, bar: u32, offset: u32) -> Target {
    Target {
        id,
        nth,
        bar,
        offset,
    }
}

/// An access without a floor.
pub(in crate::bench) fn entry(
    name: &str,
    what: &str,
    operation: Operation,
    target: Target,
    expected: Option<u32>,
) -> Entry {
    Entry {
        target: Some(target),
        expected,
        ..bare(name, what, operation)
    }
}
