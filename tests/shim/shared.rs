//! Accesses by shared memory, with a server that speaks it by hand
//! ([`pages`](crate::pages)).

use std::fs;
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::accesses::random_accesses;
use crate::fake::{Fake, Heard, Peer, Then, is};
use crate::pages::{self, Sharing};
use crate::rig::RigError;
use crate::rig::qtest::{Qtest, Slot};
use crate::rig::require;
use crate::stage::{Card, MAILBOX, SLOT, board};
use crate::wire::device::Reg;
use crate::wire::messages::{REPLY, UNMASK};
use crate::wire::{Cmd, Received, bytes, model};

const ID: u64 = 0x5550_4756;
const ONES: u64 = 0xffff_ffff;
const SCRATCH: u64 = 0x04;
const TIMEOUT: &str = ",msg-timeout=300";

fn honest() -> Fake {
    Fake::sharing(Sharing::default(), |_, _| Then::Honest)
}

fn card(fake: &Fake, properties: &str) -> Result<Card, RigError> {
    let mut card = Card::start(board(&fake.socket(), properties)?);
    assert_eq!(card.get(Reg::ID), ID);
    Ok(card)
}

fn is_access(heard: &Heard) -> bool {
    heard.is(Cmd::RegionRead) || heard.is(Cmd::RegionWrite)
}

fn writes(fake: &Fake) -> Vec<Heard> {
    fake.heard(|heard| heard.is(Cmd::RegionWrite) && heard.accesses(0, SCRATCH))
}

/// How many mappings of a server's memory QEMU has.
fn mappings(qemu: &Qtest) -> usize {
    let maps = fs::read_to_string(format!("/proc/{}/maps", qemu.id())).unwrap();
    maps.lines()
        .filter(|line| line.contains(pages::NAME))
        .count()
}

#[test]
fn accesses_of_all_widths_go_through_the_memory() {
    let fake = honest();
    let mut card = require!(card(&fake, ""));
    fake.clear();
    for (width, value) in [(8, u64::MAX / 3), (4, 0x1234_5678), (2, 0x9abc), (1, 0xde)] {
        card.write(0x08, width, value);
        assert_eq!(card.read(0x08, width), value);
    }
    assert_eq!(card.read(0x08, 8), 0x5555_5555_1234_9ade);
    // Config space as well.
    let word = card.slot.get(&mut card.qemu, 0x40, 4);
    assert_ne!(word, ONES);
    let heard = fake.heard(|_| true);
    assert!(heard.iter().all(|heard| heard.by_memory), "{heard:?}");
    assert!(heard.iter().any(|heard| heard.accesses(7, 0x40)));
    let counts = heard.iter().map(|heard| heard.u32(28));
    let counts: Vec<u32> = counts.take(9).collect();
    assert_eq!(counts, [8, 8, 4, 4, 2, 2, 1, 1, 8]);
}

#[test]
fn ten_thousand_random_accesses_by_memory_do_what_the_model_does() {
    for (entries, properties) in [(256, ""), (2, ""), (256, ",posted-writes=off")] {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let sharing = Sharing {
            entries,
            ..Sharing::default()
        };
        let endpoint = model::endpoint();
        let fake = Fake::serve(&socket, endpoint, Some(sharing), |_, _| Then::Honest);
        let mut card = Card::start(require!(board(&socket, properties)));
        fake.clear();
        random_accesses(&mut card, 0x2026_1121 + u64::from(entries), 10_000);
        assert!(fake.heard(is_access).iter().all(|heard| heard.by_memory));
    }
}

#[test]
fn a_server_that_is_not_asked_is_not_offered_memory() {
    let fake = Fake::honest();
    let asked = |fake: &Fake| {
        let version = &fake.heard(|heard| heard.is(Cmd::Version))[0];
        String::from_utf8_lossy(&version.bytes).contains("shared_mmio")
    };
    let mut card = require!(card(&fake, ""));
    assert!(asked(&fake));
    // It did not answer: the socket it is.
    card.set(Reg::SCRATCH, 5);
    assert_eq!(card.get(Reg::SCRATCH), 5);
    drop(card);
    fake.wait_ended(1);
    fake.clear();
    let _card = require!(self::card(&fake, ",shared-mmio=off"));
    assert!(!asked(&fake));
}

#[test]
fn posted_writes_go_into_the_ring_and_a_read_pushes_them() {
    let fake = honest();
    let mut card = require!(card(&fake, ""));
    for value in 0..1000 {
        card.set(Reg::SCRATCH, value);
    }
    assert_eq!(card.get(Reg::SCRATCH), 999);
    let writes = writes(&fake);
    assert!(writes.iter().map(|heard| heard.u32(32)).eq(0..1000));
    assert!(writes.iter().all(|heard| heard.by_memory));
    assert!(writes.iter().filter(|heard| heard.no_reply()).count() > 100);
}

#[test]
fn writes_that_are_not_posted_go_through_the_slot() {
    let fake = honest();
    let mut card = require!(card(&fake, ",posted-writes=off"));
    for value in 0..100 {
        card.set(Reg::SCRATCH, value);
        assert_eq!(fake.count(|heard| heard.u32(32) == 99), 0);
        if value == 98 {
            break;
        }
    }
    let writes = writes(&fake);
    assert_eq!(writes.len(), 99);
    assert!(
        writes
            .iter()
            .all(|heard| heard.by_memory && !heard.no_reply())
    );
}

/// The server holds the first write until there is a request. The ring takes
/// one more if the first has been taken out of it by then; the next must be
/// acknowledged.
#[test]
fn a_write_that_finds_the_ring_full_goes_through_the_slot() {
    let sharing = Sharing {
        entries: 1,
        ..Sharing::default()
    };
    let fake = Fake::sharing(sharing, |peer, message| {
        let is_write = is(message, Cmd::RegionWrite) && message.u32(24) == 0;
        if is_write && message.u64(16) == SCRATCH && message.u32(32) == 1 {
            peer.wait_asked();
        }
        Then::Honest
    });
    let mut card = require!(card(&fake, ""));
    for value in 1..=3 {
        card.set(Reg::SCRATCH, value);
    }
    assert_eq!(card.get(Reg::SCRATCH), 3);
    let writes = writes(&fake);
    assert!(writes.iter().map(|heard| heard.u32(32)).eq(1..=3));
    let posted: Vec<bool> = writes.iter().map(Heard::no_reply).collect();
    assert!(posted[0]);
    assert_eq!(posted.iter().filter(|posted| !**posted).count(), 1);
}

/// What was posted comes before a command on the socket.
#[test]
fn posted_writes_are_done_before_a_later_command() {
    let fake = honest();
    let mut card = require!(card(&fake, ""));
    for value in 1..50 {
        fake.clear();
        card.set(Reg::SCRATCH, value);
        card.msix().control(&mut card.qemu, value % 2 == 1, false);
        fake.wait_for("SET_IRQS", |heard| heard.is(Cmd::SetIrqs));
        let heard = fake.heard(|_| true);
        let at = |condition: &dyn Fn(&Heard) -> bool| heard.iter().position(condition).unwrap();
        let write = at(&|heard| heard.accesses(0, SCRATCH));
        assert!(write < at(&|heard| heard.is(Cmd::SetIrqs)));
    }
}

/// The unmasking of INTx asks for no reply. Memory would overtake it, so the
/// next access goes behind it, and is acknowledged.
#[test]
fn an_access_does_not_overtake_a_command_without_reply() {
    const LINE: u8 = 10;
    let fake = honest();
    let mut card = require!(card(&fake, ""));
    card.slot.route(&mut card.qemu, LINE);
    card.set(Reg::LEVEL, 1);
    let high = |qemu: &mut _| Slot::line(qemu, LINE).then_some(());
    card.qemu.until("INTx", high);
    fake.clear();
    // Ends the interrupt, for the device has no reason any more.
    card.set(Reg::LEVEL, 0);
    card.set(Reg::SCRATCH, 7);
    assert_eq!(card.get(Reg::SCRATCH), 7);
    let heard = fake.heard(|_| true);
    let is_unmask = |heard: &Heard| heard.is(Cmd::SetIrqs) && heard.u32(20) & UNMASK != 0;
    let at = heard.iter().position(is_unmask).expect("it was unmasked");
    assert!(heard[at].no_reply());
    let [write, read] = &heard[at + 1..at + 3] else {
        panic!("{heard:?}")
    };
    assert!(write.accesses(0, SCRATCH) && !write.by_memory && !write.no_reply());
    assert!(read.accesses(0, SCRATCH) && read.by_memory);
}

/// A server that asks for memory while it serves a read of SCRATCH.
fn asking(
    mut asks: impl FnMut(&Peer<'_>) -> std::io::Result<Vec<Received>> + Send + 'static,
) -> (Fake, Arc<Mutex<Vec<Received>>>) {
    let answers = Arc::new(Mutex::new(Vec::new()));
    let kept = answers.clone();
    let fake = Fake::sharing(Sharing::default(), move |peer, message| {
        if is(message, Cmd::RegionRead) && message.u64(16) == SCRATCH {
            match asks(peer) {
                Ok(answers) => kept.lock().unwrap().extend(answers),
                Err(_) => return Then::Leave,
            }
        }
        Then::Honest
    });
    (fake, answers)
}

#[test]
fn questions_by_the_socket_are_answered_in_the_middle_of_an_access() {
    let (fake, answers) = asking(|peer| {
        let write = [&bytes![MAILBOX, 3u64][..], b"new"].concat();
        Ok(vec![
            peer.ask(1, Cmd::DmaRead, &bytes![MAILBOX, 3u64])?,
            peer.ask(2, Cmd::DmaWrite, &write)?,
            peer.ask(3, Cmd::DmaRead, &bytes![MAILBOX, 3u64])?,
        ])
    });
    let mut card = require!(card(&fake, ""));
    card.qemu.set_memory(MAILBOX, b"old");
    card.set(Reg::SCRATCH, 0x600d);
    for _ in 0..10 {
        assert_eq!(card.get(Reg::SCRATCH), 0x600d);
        assert_eq!(card.qemu.memory(MAILBOX, 3), b"new");
    }
    let answers = answers.lock().unwrap();
    assert_eq!(answers.len(), 30);
    assert!(answers.iter().all(|answer| answer.flags() == REPLY));
    assert_eq!(&answers[0].body()[16..], b"old");
    assert_eq!(&answers[2].body()[16..], b"new");
}

/// DMA that leads back to the device: reads are refused, for the server waits
/// for their end itself; writes are posted, into the ring.
#[test]
fn dma_to_the_device_itself_does_not_wait_for_it() {
    const BAR0: u64 = 0xe000_0000 + 0xc * 0x0100_0000;
    let (fake, answers) = asking(|peer| {
        let write = [&bytes![BAR0 + 8, 8u64][..], &[0x77; 8]].concat();
        Ok(vec![
            peer.ask(1, Cmd::DmaRead, &bytes![BAR0, 4u64])?,
            peer.ask(2, Cmd::DmaWrite, &write)?,
        ])
    });
    let mut card = require!(card(&fake, ""));
    assert_eq!(card.bar(0).address, BAR0);
    card.set(Reg::SCRATCH, 0x600d);
    assert_eq!(card.get(Reg::SCRATCH), 0x600d);
    let answers = answers.lock().unwrap();
    assert_ne!(answers[0].errno(), 0);
    // A QEMU that forbids a device to reach itself refuses that as well.
    let expected = match answers[1].errno() {
        0 => 0x7777_7777_7777_7777,
        _ => 0,
    };
    assert_eq!(card.get(Reg::SCRATCH64), expected);
    let written = fake.heard(|heard| heard.is(Cmd::RegionWrite) && heard.accesses(0, 8));
    assert!(
        written
            .iter()
            .all(|heard| heard.by_memory && heard.no_reply())
    );
}

#[test]
fn a_server_that_comes_back_shares_new_memory() {
    let fake = honest();
    let properties = ",msg-timeout=300,reconnect=20";
    let mut card = require!(card(&fake, properties));
    assert_eq!(mappings(&card.qemu), 1);
    for session in 1..=3 {
        card.set(Reg::SCRATCH64, 7);
        fake.hang_up();
        fake.wait_sessions(session + 1);
        let at = card.bar(0).address;
        card.qemu
            .until("the device", |qemu| (qemu.read(at, 4) == ID).then_some(()));
        assert_eq!(mappings(&card.qemu), 1);
        assert_eq!(card.get(Reg::SCRATCH64), 0);
        let now = |heard: &Heard| heard.session == session && is_access(heard);
        assert!(fake.count(|heard| now(heard) && heard.by_memory) > 0);
    }
}

#[test]
fn a_device_that_goes_takes_its_memory_along() {
    /// The i440FX's PCI hot plug block: eject by slot.
    const EJECT: u16 = 0xae08;
    let fake = honest();
    let mut card = require!(card(&fake, ",id=gpu"));
    assert_eq!(mappings(&card.qemu), 1);
    card.qemu.qmp("device_del", &json!({"id": "gpu"})).unwrap();
    card.qemu.set_port(EJECT, 4, 1 << SLOT.0);
    card.qemu.event("DEVICE_DELETED");
    fake.wait_ended(1);
    assert_eq!(mappings(&card.qemu), 0);
    card.qemu.alive();
}

/// A server that begins to fail at SCRATCH, and its device.
fn failing(
    sharing: Sharing,
    mut does: impl FnMut(&Peer<'_>) -> Then + Send + 'static,
) -> Result<(Fake, Card), RigError> {
    let fake = Fake::sharing(sharing, move |peer, message| {
        let is_access = is(message, Cmd::RegionRead) || is(message, Cmd::RegionWrite);
        if is_access && message.u64(16) == SCRATCH && message.u32(24) == 0 {
            does(peer)
        } else {
            Then::Honest
        }
    });
    let card = card(&fake, TIMEOUT)?;
    Ok((fake, card))
}

#[test]
fn a_server_that_fails_in_the_middle_of_an_access_breaks_the_device() {
    for (name, then) in [
        ("leaves", (|_| Then::Leave) as fn(&Peer<'_>) -> Then),
        ("hangs", |_| Then::Hang),
        ("does not answer", |_| Then::Done),
    ] {
        println!("{name}");
        let (fake, mut card) = require!(failing(Sharing::default(), then));
        assert_eq!(card.get(Reg::SCRATCH), ONES);
        assert_eq!(mappings(&card.qemu), 0);
        card.is_broken(&fake);
        // With writes that nobody takes.
        let (fake, mut card) = require!(failing(Sharing::default(), then));
        for value in 0..1000 {
            card.set(Reg::SCRATCH, value);
        }
        assert_eq!(card.get(Reg::SCRATCH), ONES);
        card.is_broken(&fake);
    }
}

#[test]
fn a_server_that_leaves_unasked_breaks_the_device() {
    let (fake, mut card) = require!(failing(Sharing::default(), |_| Then::Honest));
    fake.hang_up();
    assert_eq!(card.get(Reg::SCRATCH), ONES);
    card.is_broken(&fake);
}

/// An answer to another access is none.
#[test]
fn answers_to_what_was_not_asked_break_the_device() {
    let lies: [fn(u32) -> u32; 4] = [
        |sequence| sequence + 1,
        |sequence| sequence + (1 << 31),
        |_| 0,
        |_| u32::MAX,
    ];
    for answer in lies {
        let sharing = Sharing {
            answer,
            ..Sharing::default()
        };
        let fake = Fake::sharing(sharing, |_, _| Then::Honest);
        // The first access is part of the start, which may therefore fail.
        let mut qemu = require!(board(
            &fake.socket(),
            ",connect-timeout=300,msg-timeout=300"
        ))
        .start();
        assert!(!qemu.is_up());
        let ended = qemu.ended();
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    }
}

#[test]
fn a_server_that_takes_more_than_there_was_breaks_the_device() {
    let lies: [fn(u32) -> u32; 3] = [
        |head| head + 1,
        |head| head.wrapping_sub(1000),
        |head| head + (1 << 31),
    ];
    for taken in lies {
        let sharing = Sharing {
            taken,
            ..Sharing::default()
        };
        let (fake, mut card) = require!(failing(sharing, |_| Then::Honest));
        for value in 0..3 {
            card.set(Reg::SCRATCH, value);
            // It has taken the write when it answers.
            card.get(Reg::ID);
        }
        assert_eq!(card.get(Reg::ID), ONES);
        card.is_broken(&fake);
    }
}

/// It answers, but who sleeps is not told: that costs one timeout, not one for
/// each access.
#[test]
fn a_server_that_wakes_nobody_breaks_the_device() {
    let sharing = Sharing {
        wakes: false,
        ..Sharing::default()
    };
    let fake = Fake::sharing(sharing, |peer, message| {
        if is(message, Cmd::RegionRead) && message.u64(16) == SCRATCH {
            // Until the device sleeps.
            peer.wait_asleep();
        }
        Then::Honest
    });
    let mut qemu = require!(board(&fake.socket(), TIMEOUT)).start();
    if qemu.is_up() {
        let mut card = Card::at(qemu, SLOT);
        card.get(Reg::SCRATCH);
        card.is_broken(&fake);
    }
}

/// Signals that nobody needs, until the socket takes no more.
#[test]
fn a_server_that_always_says_that_it_sleeps_is_served() {
    let sharing = Sharing {
        spins: true,
        flips: true,
        ..Sharing::default()
    };
    let (_fake, mut card) = require!(failing(sharing, |_| Then::Honest));
    for value in 0..5000 {
        card.set(Reg::SCRATCH, value);
        assert_eq!(card.get(Reg::SCRATCH), value);
    }
}

/// What the server refuses reads as all-ones; the device goes on.
#[test]
fn an_errno_in_an_answer_is_all_ones_for_that_read() {
    for errno in [libc::EINVAL, libc::EPROTO, libc::ENOSPC, -1, i32::MIN] {
        let fake = Fake::sharing(Sharing::default(), move |peer, message| {
            let is_access = is(message, Cmd::RegionRead) || is(message, Cmd::RegionWrite);
            if !is_access || message.u64(16) != SCRATCH {
                return Then::Honest;
            }
            let error = crate::wire::errno_reply(message.id(), message.command(), errno, &[]);
            peer.pass(&Received {
                bytes: error,
                fds: Vec::new(),
            });
            Then::Done
        });
        let mut card = require!(card(&fake, ",posted-writes=off"));
        for _ in 0..3 {
            card.set(Reg::SCRATCH, 1);
            assert_eq!(card.get(Reg::SCRATCH), ONES, "errno {errno}");
            assert_eq!(card.get(Reg::ID), ID);
        }
    }
}
