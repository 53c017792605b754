//! Interrupts: seen at the interrupt controller, or as writes to memory.

use crate::fake::Fake;
use crate::rig::RigError;
use crate::rig::qtest::{Msix, Slot};
use crate::rig::require;
use crate::stage::{Card, MAILBOX, board};
use crate::wire::device::{Reg, VECTORS};

const LINE: u8 = 11;

fn device() -> Result<(Fake, Card), RigError> {
    let fake = Fake::honest();
    let card = Card::start(board(&fake.socket(), "")?);
    Ok((fake, card))
}

/// Where a vector writes, and what.
fn message(vector: u64) -> (u64, u64) {
    (MAILBOX + 4 * vector, 0xcafe_0000 + vector)
}

/// All vectors point at memory, unmasked, and MSI-X is on.
fn with_msix() -> Result<(Fake, Card, Msix), RigError> {
    let (fake, mut card) = device()?;
    let msix = card.msix();
    for vector in 0..msix.vectors {
        let (address, data) = message(vector);
        msix.point(&mut card.qemu, vector, address, data);
        msix.mask(&mut card.qemu, vector, false);
    }
    msix.control(&mut card.qemu, true, false);
    Ok((fake, card, msix))
}

impl Card {
    #[track_caller]
    fn wait_line(&mut self, high: bool) {
        let what = format!("line {LINE} {}", if high { "high" } else { "low" });
        self.qemu
            .until(&what, |qemu| (Slot::line(qemu, LINE) == high).then_some(()));
    }

    /// Waits for a vector's message and takes it away.
    #[track_caller]
    fn wait_message(&mut self, vector: u64) {
        let (address, data) = message(vector);
        let what = format!("vector {vector}");
        self.qemu
            .until(&what, |qemu| (qemu.read(address, 4) == data).then_some(()));
        self.qemu.write(address, 4, 0);
    }

    /// Lets QEMU handle all that has come: the server has raised before it
    /// answers, and then the loop goes round.
    fn settle(&mut self) {
        for _ in 0..20 {
            self.get(Reg::ID);
        }
    }

    fn came(&mut self, vector: u64) -> bool {
        self.settle();
        self.qemu.read(message(vector).0, 4) != 0
    }
}

#[test]
fn intx_follows_the_devices_level() {
    let (_fake, mut card) = require!(device());
    card.slot.route(&mut card.qemu, LINE);
    assert!(!Slot::line(&mut card.qemu, LINE));
    for _ in 0..3 {
        card.set(Reg::LEVEL, 1);
        card.wait_line(true);
        card.set(Reg::LEVEL, 0);
        card.wait_line(false);
    }
}

/// The device holds its level, so whatever the guest does in between, the
/// interrupt comes again.
#[test]
fn intx_comes_again_while_the_device_holds_its_level() {
    let (_fake, mut card) = require!(device());
    card.slot.route(&mut card.qemu, LINE);
    card.set(Reg::LEVEL, 1);
    for _ in 0..5 {
        card.wait_line(true);
        // An access is what ends an interrupt.
        card.get(Reg::ID);
    }
    card.wait_line(true);
    card.set(Reg::LEVEL, 0);
    card.wait_line(false);
}

#[test]
fn intx_can_be_disabled_by_the_command_register() {
    const INTX_DISABLE: u64 = 1 << 10;
    let (_fake, mut card) = require!(device());
    card.slot.route(&mut card.qemu, LINE);
    card.slot.command(&mut card.qemu, INTX_DISABLE, 0);
    card.set(Reg::LEVEL, 1);
    card.settle();
    assert!(!Slot::line(&mut card.qemu, LINE));
    card.slot.command(&mut card.qemu, 0, INTX_DISABLE);
    card.wait_line(true);
}

#[test]
fn every_vector_of_msix_writes_its_own_message() {
    let (_fake, mut card, msix) = require!(with_msix());
    assert_eq!(msix.vectors, u64::from(VECTORS));
    for vector in 0..msix.vectors {
        card.set(Reg::RAISE, vector);
        card.wait_message(vector);
    }
    // Nothing came twice, or elsewhere.
    card.settle();
    let mailbox = card.qemu.memory(MAILBOX, 4 * usize::from(VECTORS));
    assert!(mailbox.iter().all(|byte| *byte == 0));
}

#[test]
fn a_masked_vector_is_pending_until_it_is_unmasked() {
    let (_fake, mut card, msix) = require!(with_msix());
    msix.mask(&mut card.qemu, 5, true);
    card.set(Reg::RAISE, 5);
    card.set(Reg::RAISE, 6);
    card.wait_message(6);
    card.qemu
        .until("pending", |qemu| msix.is_pending(qemu, 5).then_some(()));
    assert!(!card.came(5));
    msix.mask(&mut card.qemu, 5, false);
    card.wait_message(5);
    assert!(!msix.is_pending(&mut card.qemu, 5));
    card.set(Reg::RAISE, 5);
    card.wait_message(5);
}

#[test]
fn the_functions_mask_holds_all_vectors_back() {
    let (_fake, mut card, msix) = require!(with_msix());
    msix.control(&mut card.qemu, true, true);
    for vector in [0, 31] {
        card.set(Reg::RAISE, vector);
    }
    card.qemu.until("pending", |qemu| {
        (msix.is_pending(qemu, 0) && msix.is_pending(qemu, 31)).then_some(())
    });
    assert!(!card.came(0) && !card.came(31));
    msix.control(&mut card.qemu, true, false);
    card.wait_message(0);
    card.wait_message(31);
}

/// Vectors that a driver unmasks one by one, after MSI-X is on.
#[test]
fn a_vector_unmasked_late_works() {
    let (_fake, mut card) = require!(device());
    let msix = card.msix();
    msix.control(&mut card.qemu, true, false);
    for vector in [3, 0, 17] {
        let (address, data) = message(vector);
        msix.point(&mut card.qemu, vector, address, data);
        msix.mask(&mut card.qemu, vector, false);
        card.set(Reg::RAISE, vector);
        card.wait_message(vector);
    }
}

/// Nothing is written to memory while the function is no bus master.
#[test]
fn no_message_comes_without_bus_mastering() {
    const BUS_MASTER: u64 = 1 << 2;
    let (_fake, mut card, _) = require!(with_msix());
    card.slot.command(&mut card.qemu, 0, BUS_MASTER);
    card.set(Reg::RAISE, 1);
    assert!(!card.came(1));
    card.slot.command(&mut card.qemu, BUS_MASTER, 0);
    card.set(Reg::RAISE, 2);
    card.wait_message(2);
}

#[test]
fn a_driver_may_change_from_intx_to_msix_and_back() {
    let (_fake, mut card) = require!(device());
    card.slot.route(&mut card.qemu, LINE);
    let msix = card.msix();
    for _ in 0..3 {
        card.set(Reg::LEVEL, 1);
        card.wait_line(true);
        card.set(Reg::LEVEL, 0);
        card.wait_line(false);
        let (address, data) = message(2);
        msix.control(&mut card.qemu, true, false);
        msix.point(&mut card.qemu, 2, address, data);
        msix.mask(&mut card.qemu, 2, false);
        card.set(Reg::RAISE, 2);
        card.wait_message(2);
        msix.control(&mut card.qemu, false, false);
    }
}
