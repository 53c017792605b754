//! Registers that a guest under upstream QEMU reads without an exit.

use serde_json::json;
use vgpu_stub::device::Register;
use vgpu_stub::devices::DoorbellRegister as Bell;
use vgpu_stub::protocol::Command;

use crate::rig::require;
use crate::stage::{Stage, finish};

/// The guest polls COUNT until all rings have arrived, and writes EVERY and
/// reads it back.
#[test]
fn a_page_of_mapped_registers_costs_no_message() {
    let tests = "device=0x1112 bell";
    let stage = require!(Stage::new("doorbell"));
    let guest = require!(stage.guest(tests, &json!({})));
    finish(guest.start().unwrap(), tests).unwrap();
    for register in [Bell::COUNT, Bell::EVERY] {
        let offset = register.row().offset.into();
        let seen = stage.recorder.all(|seen| seen.accesses(0, Some(offset)));
        assert!(seen.is_empty(), "{register:?}: {seen:?}");
    }
    // QEMU does not know read-only areas: there each read is a message.
    let id = stage.recorder.all(|seen| seen.accesses(0, Some(0)));
    assert!(!id.is_empty() && id.iter().all(|seen| seen.is(Command::RegionRead)));
    stage.end().unwrap();
}
