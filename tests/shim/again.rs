//! Servers that come back: `reconnect`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::fake::{Fake, Heard, Peer, Then, is};
use crate::rig::RigError;
use crate::rig::qtest::Slot;
use crate::rig::require;
use crate::stage::{Card, MAILBOX, board};
use crate::wire::device::Reg;
use crate::wire::messages::reply;
use crate::wire::{Cmd, Received};

const AGAIN: &str = ",msg-timeout=300,reconnect=20";
const ID: u64 = 0x5550_4756;
const ONES: u64 = 0xffff_ffff;

fn device(fake: &Fake) -> Result<Card, RigError> {
    let mut card = Card::start(board(&fake.socket(), AGAIN)?);
    assert_eq!(card.get(Reg::ID), ID);
    Ok(card)
}

impl Card {
    /// Waits until the device works again.
    #[track_caller]
    fn wait_back(&mut self) {
        let at = self.bar(0).address;
        self.qemu
            .until("the device", |qemu| (qemu.read(at, 4) == ID).then_some(()));
    }

    #[track_caller]
    fn wait_interrupt(&mut self, vector: u64) {
        let address = MAILBOX + 4 * vector;
        self.set(Reg::RAISE, vector);
        self.qemu.until("the interrupt", |qemu| {
            (qemu.read(address, 4) == 0x1000 + vector).then_some(())
        });
        self.qemu.write(address, 4, 0);
    }
}

fn of_session(session: usize, command: Cmd) -> impl Fn(&Heard) -> bool {
    move |heard| heard.session == session && heard.is(command)
}

/// Breaks the connection and waits for the next.
#[track_caller]
fn interrupt(fake: &Fake, card: &mut Card, sessions: usize) {
    fake.hang_up();
    fake.wait_sessions(sessions);
    card.wait_back();
}

#[test]
fn a_device_comes_back_with_its_server_and_is_reset() {
    let fake = Fake::honest();
    let mut card = require!(device(&fake));
    for session in 1..=3 {
        card.set(Reg::SCRATCH64, 7);
        assert_eq!(card.get(Reg::SCRATCH64), 7);
        interrupt(&fake, &mut card, session + 1);
        assert_eq!(fake.count(of_session(session, Cmd::Reset)), 1);
        assert_eq!(card.get(Reg::SCRATCH64), 0);
    }
}

#[test]
fn a_device_whose_state_survived_is_not_reset() {
    let fake = Fake::start(survivor);
    let mut card = require!(device(&fake));
    interrupt(&fake, &mut card, 2);
    assert_eq!(fake.count(of_session(1, Cmd::Reset)), 0);
}

fn survivor(peer: &mut Peer<'_>, message: &Received) -> Then {
    if !is(message, Cmd::Version) {
        return Then::Honest;
    }
    let _ = peer.honest(message);
    let json = br#"{"capabilities":{"vgpu_stub":{"state_survived":true}}}"#;
    let body = [&[0, 0, 0, 0][..], json, &[0]].concat();
    peer.send(&reply(message.id(), Cmd::Version, &body));
    Then::Done
}

#[test]
fn vectors_are_set_up_again() {
    let fake = Fake::honest();
    let mut card = require!(device(&fake));
    let msix = card.msix();
    for vector in 0..4 {
        msix.point(
            &mut card.qemu,
            vector,
            MAILBOX + 4 * vector,
            0x1000 + vector,
        );
        msix.mask(&mut card.qemu, vector, false);
    }
    msix.control(&mut card.qemu, true, false);
    card.wait_interrupt(3);
    interrupt(&fake, &mut card, 2);
    let is_set = |heard: &Heard| of_session(1, Cmd::SetIrqs)(heard) && heard.fds > 0;
    assert!(fake.count(is_set) > 0);
    for vector in 0..4 {
        card.wait_interrupt(vector);
    }
}

#[test]
fn intx_is_set_up_again_and_low_meanwhile() {
    const LINE: u8 = 10;
    let fake = Fake::honest();
    let mut card = require!(device(&fake));
    card.slot.route(&mut card.qemu, LINE);
    card.set(Reg::LEVEL, 1);
    let high = |qemu: &mut _| Slot::line(qemu, LINE).then_some(());
    card.qemu.until("INTx", high);
    interrupt(&fake, &mut card, 2);
    // The device is reset, so nothing raises it.
    card.qemu
        .until("no INTx", |qemu| (!Slot::line(qemu, LINE)).then_some(()));
    card.set(Reg::LEVEL, 1);
    card.qemu.until("INTx", high);
}

#[test]
fn memory_is_mapped_again() {
    let fake = Fake::honest();
    let mut card = require!(device(&fake));
    let maps = fake.count(of_session(0, Cmd::DmaMap));
    assert!(maps > 0);
    interrupt(&fake, &mut card, 2);
    assert_eq!(fake.count(of_session(1, Cmd::DmaMap)), maps);
    card.qemu.write(MAILBOX, 8, 0x1122_3344_5566_7788);
    card.set(Reg::ADDRESS, MAILBOX);
    card.set(Reg::GO, 1);
    assert_eq!(card.get(Reg::RESULT), 0);
    assert_eq!(card.get(Reg::VALUE), 0x1122_3344_5566_7788);
}

/// The server's memory may be another one; the guest sees that one then.
#[test]
fn mapped_bars_and_doorbells_are_there_again() {
    let fake = Fake::honest();
    let mut card = require!(device(&fake));
    let bar = card.bar(2).address;
    card.qemu.write(bar, 4, 0x77);
    interrupt(&fake, &mut card, 2);
    fake.clear();
    card.qemu.write(bar + 0x1000, 4, 0x88);
    assert_eq!(card.qemu.read(bar + 0x1000, 4), 0x88);
    card.write(0x1000, 4, 0x99);
    assert_eq!(card.read(0x1000, 4), 0x99);
    assert_eq!(fake.count(|_| true), 0);
    card.set(Reg::BELL, 1);
    let rings = card.bar(0).address + 0x18;
    card.qemu
        .until("the bell", |qemu| (qemu.read(rings, 4) == 1).then_some(()));
    assert_eq!(fake.count(|heard| heard.accesses(0, 0x10)), 0);
}

/// While there is no server the guest's accesses to what was mapped go
/// nowhere, but they are no fault.
#[test]
fn a_server_may_be_absent_for_a_while() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let dies = |_: &mut Peer<'_>, message: &Received| {
        if is(message, Cmd::RegionRead) && message.u64(16) == 4 {
            return Then::Die;
        }
        Then::Honest
    };
    let first = Fake::start_at(&socket, dies);
    let mut card = require!(device(&first));
    assert_eq!(card.get(Reg::SCRATCH), ONES);
    drop(first);
    for _ in 0..50 {
        assert_eq!(card.get(Reg::ID), ONES);
        let bar = card.bar(2).address;
        card.qemu.read(bar, 4);
        card.qemu.write(bar, 4, 1);
        card.qemu.alive();
    }
    let _second = Fake::start_at(&socket, |_, _| Then::Honest);
    card.wait_back();
    card.set(Reg::SCRATCH, 9);
    assert_eq!(card.get(Reg::SCRATCH), 9);
}

/// The guest has seen one device. Another one in its place would be wrong.
#[test]
fn another_device_in_its_place_is_not_taken() {
    let lies: [fn(&mut Received, &Received); 3] = [
        // Another device id.
        |answer, message| {
            if is(message, Cmd::RegionRead) && message.u32(24) == 7 && message.u64(16) == 0 {
                answer.bytes[34] ^= 0x10;
            }
        },
        // A larger BAR 0.
        |answer, message| {
            if is(message, Cmd::GetRegionInfo) && message.u32(24) == 0 {
                answer.bytes[32..40].copy_from_slice(&0x8000u64.to_ne_bytes());
            }
        },
        // Fewer vectors.
        |answer, message| {
            if is(message, Cmd::GetIrqInfo) && message.u32(24) == 2 {
                answer.bytes[28..32].copy_from_slice(&1u32.to_ne_bytes());
            }
        },
    ];
    for lie in lies {
        let fake = Fake::start(move |peer, message| {
            // Honest at first, and again in the end.
            if peer.session == 0 || peer.session >= 4 {
                return Then::Honest;
            }
            let received = Received {
                bytes: message.bytes.clone(),
                fds: Vec::new(),
            };
            peer.lie(message, |answer| lie(answer, &received))
        });
        let mut card = require!(device(&fake));
        fake.hang_up();
        fake.wait_sessions(2);
        fake.wait_ended(2);
        assert_eq!(card.get(Reg::ID), ONES);
        card.qemu.alive();
        // When the right one is there again, it works.
        card.wait_back();
    }
}

/// Each attempt is as short as a message may be.
#[test]
fn a_server_that_comes_back_and_hangs_does_not_stop_qemu() {
    let fake = Fake::start(|peer, _| {
        if peer.session == 0 {
            Then::Honest
        } else {
            Then::Hang
        }
    });
    let mut card = require!(device(&fake));
    fake.hang_up();
    fake.wait_sessions(2);
    for _ in 0..10 {
        card.qemu.alive();
        assert_eq!(card.get(Reg::ID), ONES);
    }
}

#[test]
fn a_device_that_is_not_to_reconnect_does_not() {
    let fake = Fake::honest();
    let mut card = Card::start(require!(board(&fake.socket(), "")));
    fake.hang_up();
    fake.wait_ended(1);
    for _ in 0..100 {
        assert_eq!(card.get(Reg::ID), ONES);
        card.qemu.clock_step(1_000_000_000);
    }
    assert_eq!(fake.count(|heard| heard.session > 0), 0);
}

#[test]
fn a_device_without_a_server_can_be_unplugged_and_the_machine_ended() {
    let alive = Arc::new(AtomicBool::new(true));
    let asked = alive.clone();
    let fake = Fake::start(move |_, _| {
        if asked.load(Ordering::SeqCst) {
            Then::Honest
        } else {
            Then::Die
        }
    });
    let mut card = require!(device(&fake));
    alive.store(false, Ordering::SeqCst);
    assert_eq!(card.get(Reg::ID), ONES);
    card.qemu.reset();
    card.qemu.quit();
}
