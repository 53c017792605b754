//! Resets, unplugging, several devices, descriptors instead of paths.

use std::os::unix::net::UnixStream;

use serde_json::json;
use vgpu_stub::devices::{DoorbellRegister as Doorbell, StubRegister as Stub};

use crate::fake::Fake;
use crate::rig::qtest::Slot;
use crate::rig::require;
use crate::stage::{Card, SLOT, board, card, empty, served};
use crate::wire::Cmd;
use crate::wire::device::Reg;

#[test]
fn a_reset_of_the_machine_resets_the_device() {
    let fake = Fake::honest();
    let mut card = Card::start(require!(board(&fake.socket(), "")));
    card.set(Reg::SCRATCH64, 5);
    assert_eq!(card.get(Reg::SCRATCH64), 5);
    let msix = card.msix();
    msix.control(&mut card.qemu, true, false);
    fake.clear();
    card.qemu.reset();
    fake.wait_for("DEVICE_RESET", |heard| heard.is(Cmd::Reset));
    let mut card = Card::at(card.qemu, SLOT);
    assert_eq!(card.get(Reg::SCRATCH64), 0);
    assert_eq!(card.get(Reg::ID), 0x5550_4756);
    // Interrupts work afterwards.
    let msix = card.msix();
    msix.control(&mut card.qemu, true, false);
    msix.point(&mut card.qemu, 1, crate::stage::MAILBOX, 77);
    msix.mask(&mut card.qemu, 1, false);
    card.set(Reg::RAISE, 1);
    card.qemu.until("the interrupt", |qemu| {
        (qemu.read(crate::stage::MAILBOX, 4) == 77).then_some(())
    });
}

#[test]
fn a_connected_descriptor_does_as_well_as_a_path() {
    let served = served("stub");
    let stream = UnixStream::connect(served.path("stub")).unwrap();
    let mut board = require!(empty());
    let fd = board.inherit(stream.into());
    let mut card = Card::start(board.device(format!("vgpu-stub,fd={fd},addr=0xc")));
    card.set(Stub::SCRATCH, 0x77);
    assert_eq!(card.get(Stub::SCRATCH), 0x77);
}

#[test]
fn two_devices_do_not_know_each_other() {
    let (stub, bell) = (served("stub"), served("doorbell"));
    let board = require!(board(&stub.path("stub"), ""));
    let socket = bell.path("doorbell");
    let second = format!("vgpu-stub,socket={},addr=0xd", socket.display());
    let mut first = Card::start(board.device(second));
    first.set(Stub::SCRATCH, 0x1234);
    assert_eq!(first.get(Stub::SCRATCH), 0x1234);
    let mut second = Card::at(first.qemu, Slot(0xd));
    assert_eq!(second.get(Doorbell::ID), 0x4c4c_4542);
    second.set(Doorbell::EVERY, 3);
    assert_eq!(second.get(Doorbell::EVERY), 3);
    let mut first = Card::at(second.qemu, SLOT);
    assert_eq!(first.get(Stub::SCRATCH), 0x1234);
}

/// As a guest with ACPI ejects it.
#[track_caller]
fn unplug(card: &mut Card) {
    /// The i440FX's PCI hot plug block: eject by slot.
    const EJECT: u16 = 0xae08;
    let gone = json!({"id": "gpu"});
    card.qemu.qmp("device_del", &gone).unwrap();
    card.qemu.set_port(EJECT, 4, 1 << SLOT.0);
    card.qemu.event("DEVICE_DELETED");
}

#[test]
fn a_device_can_be_unplugged_and_plugged_again() {
    let fake = Fake::honest();
    let mut card = Card::start(require!(board(&fake.socket(), ",id=gpu")));
    card.set(Reg::SCRATCH, 5);
    for session in 1..=3 {
        assert_ne!(card.get(Reg::ID), 0xffff_ffff);
        unplug(&mut card);
        fake.wait_ended(session);
        assert_eq!(SLOT.get(&mut card.qemu, 0, 4), 0xffff_ffff);
        let new = json!({
            "driver": "vgpu-stub",
            "id": "gpu",
            "addr": "0xc",
            "socket": fake.socket(),
        });
        card.qemu.qmp("device_add", &new).unwrap();
        card = Card::at(card.qemu, SLOT);
    }
    card.qemu.quit();
    fake.wait_ended(4);
}

#[test]
fn plugging_a_device_without_a_server_fails_and_says_why() {
    let mut qemu = require!(empty()).start();
    let new = json!({"driver": "vgpu-stub", "addr": "0xc", "socket": "/nowhere/socket"});
    let refused = qemu.qmp("device_add", &new).unwrap_err().to_string();
    assert!(refused.contains("/nowhere/socket"), "{refused}");
    qemu.alive();
}

/// XCP-ng's QEMU has a command that asks; others are asked to migrate.
#[test]
fn a_machine_with_the_device_does_not_migrate_and_says_why() {
    let served = served("stub");
    let mut card = require!(card(&served, "stub", ""));
    let refused = match card.qemu.qmp("query-migratable", &json!({})) {
        Err(error) if error.to_string().contains("CommandNotFound") => {
            let nowhere = json!({"uri": "exec:cat >/dev/null"});
            card.qemu.qmp("migrate", &nowhere).unwrap_err()
        }
        answer => answer.unwrap_err(),
    };
    assert!(refused.to_string().contains("vgpu-stub"), "{refused}");
    card.qemu.alive();
}

#[test]
fn an_orderly_end_leaves_no_complaint() {
    let served = served("stub");
    let card = require!(card(&served, "stub", ""));
    let said = card.qemu.quit();
    assert!(said.is_empty(), "{said:?}");
}
