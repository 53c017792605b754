//! The server asks for guest memory before it answers an access.

use std::io;
use std::sync::{Arc, Mutex};

use crate::fake::{Fake, Peer, Then, is};
use crate::rig::Memory;
use crate::rig::qtest::RAM;
use crate::rig::require;
use crate::stage::{Card, MAILBOX, board};
use crate::wire::device::Reg;
use crate::wire::messages::{ERROR, REPLY};
use crate::wire::{Cmd, Received, bytes};

/// What a server does before it answers a read of SCRATCH.
type Meanwhile = fn(&Peer<'_>) -> io::Result<Vec<Received>>;

/// A server that asks, and what it was answered.
fn asking(meanwhile: Meanwhile) -> (Fake, Arc<Mutex<Vec<Received>>>) {
    let answers = Arc::new(Mutex::new(Vec::new()));
    let kept = answers.clone();
    let fake = Fake::start(move |peer, message| {
        let is_read = is(message, Cmd::RegionRead);
        if is_read && message.u64(16) == 4 && message.u32(24) == 0 {
            match meanwhile(peer) {
                Ok(answers) => kept.lock().unwrap().extend(answers),
                Err(_) => return Then::Leave,
            }
        }
        Then::Honest
    });
    (fake, answers)
}

fn read(address: u64, count: u64) -> Vec<u8> {
    bytes![address, count]
}

fn write(address: u64, data: &[u8]) -> Vec<u8> {
    [&bytes![address, data.len() as u64][..], data].concat()
}

#[track_caller]
fn check(received: &Received, id: u16, command: Cmd, body: &[u8]) {
    assert_eq!((received.id(), received.command()), (id, command as u16));
    assert_eq!(received.flags(), REPLY, "errno {}", received.errno());
    assert!(received.body() == body, "{:02x?}", received.body());
}

#[track_caller]
fn check_refused(received: &Received, command: Cmd) {
    assert_eq!(received.command(), command as u16);
    assert_eq!(received.flags(), REPLY | ERROR);
    assert_ne!(received.u32(12), 0, "an errno of 0 says nothing");
}

fn card(fake: &Fake) -> Result<Card, crate::rig::RigError> {
    let mut card = Card::start(board(&fake.socket(), "")?.memory(Memory::Private));
    card.qemu.set_memory(MAILBOX, b"guest memory");
    card.set(Reg::SCRATCH, 0x600d);
    Ok(card)
}

#[test]
fn questions_are_answered_before_the_access_ends() {
    let (fake, answers) = asking(|peer| {
        Ok(vec![
            peer.ask(7, Cmd::DmaRead, &read(MAILBOX, 12))?,
            peer.ask(8, Cmd::DmaWrite, &write(MAILBOX + 3, b"XYZ"))?,
            peer.ask(9, Cmd::DmaRead, &read(MAILBOX + 1, 5))?,
            peer.ask(10, Cmd::DmaWrite, &write(MAILBOX, b""))?,
        ])
    });
    let mut card = require!(card(&fake));
    assert_eq!(card.get(Reg::SCRATCH), 0x600d);
    assert_eq!(card.qemu.memory(MAILBOX, 12), b"gueXYZmemory");
    let answers = answers.lock().unwrap();
    let head = |address: u64, count: u64| bytes![address, count];
    let with = |head: Vec<u8>, data: &[u8]| [&head[..], data].concat();
    check(
        &answers[0],
        7,
        Cmd::DmaRead,
        &with(head(MAILBOX, 12), b"guest memory"),
    );
    check(&answers[1], 8, Cmd::DmaWrite, &head(MAILBOX + 3, 3));
    check(
        &answers[2],
        9,
        Cmd::DmaRead,
        &with(head(MAILBOX + 1, 5), b"ueXYZ"),
    );
    check(&answers[3], 10, Cmd::DmaWrite, &head(MAILBOX, 0));
}

#[test]
fn questions_may_be_large() {
    // As large as the device says that they may be.
    const LARGE: usize = 16 << 10;
    let (fake, answers) = asking(|peer| {
        let data: Vec<u8> = (0..=250).cycle().take(LARGE).collect();
        Ok(vec![
            peer.ask(1, Cmd::DmaWrite, &write(MAILBOX, &data))?,
            peer.ask(2, Cmd::DmaRead, &read(MAILBOX, LARGE as u64))?,
        ])
    });
    let mut card = require!(card(&fake));
    assert_eq!(card.get(Reg::SCRATCH), 0x600d);
    let answers = answers.lock().unwrap();
    check(
        &answers[0],
        1,
        Cmd::DmaWrite,
        &bytes![MAILBOX, LARGE as u64],
    );
    assert_eq!(answers[1].body().len(), 16 + LARGE);
    assert!(
        answers[1].body()[16..]
            .iter()
            .copied()
            .eq((0..=250).cycle().take(LARGE))
    );
}

/// More than was agreed upon: a read is refused, a write breaks the device.
#[test]
fn questions_that_are_too_large_are_survived() {
    let (fake, answers) = asking(|peer| {
        Ok(vec![
            peer.ask(1, Cmd::DmaRead, &read(MAILBOX, 1 << 20))?,
            peer.ask(2, Cmd::DmaWrite, &write(MAILBOX, &[0x77; 1 << 20]))?,
        ])
    });
    let mut card = require!(card(&fake));
    assert_eq!(card.get(Reg::SCRATCH), 0xffff_ffff);
    card.qemu.alive();
    drop(fake);
    assert!(answers.lock().unwrap().is_empty());
    assert_eq!(card.qemu.memory(MAILBOX, 12), b"guest memory");
}

/// All are sent before the first is answered.
#[test]
fn questions_may_come_all_at_once() {
    const MANY: u16 = 100;
    let (fake, answers) = asking(|peer| {
        for id in 0..MANY {
            peer.send(&crate::wire::message(id, Cmd::DmaRead, &read(MAILBOX, 12)));
        }
        (0..MANY).map(|_| peer.receive()).collect()
    });
    let mut card = require!(card(&fake));
    assert_eq!(card.get(Reg::SCRATCH), 0x600d);
    let answers = answers.lock().unwrap();
    let body = [&read(MAILBOX, 12)[..], b"guest memory"].concat();
    for (id, answer) in (0..MANY).zip(answers.iter()) {
        check(answer, id, Cmd::DmaRead, &body);
    }
    assert_eq!(answers.len(), usize::from(MANY));
}

#[test]
fn questions_about_no_memory_are_refused_and_the_access_goes_on() {
    let (fake, answers) = asking(|peer| {
        let nowhere = [
            (RAM, 8),
            (RAM - 4, 8),
            (0x1_0000_0000, 16),
            (u64::MAX - 3, 8),
            (u64::MAX, u64::MAX),
            (MAILBOX, u64::MAX),
            (MAILBOX, 1 << 32),
        ];
        let mut answers = Vec::new();
        for (address, count) in nowhere {
            answers.push(peer.ask(1, Cmd::DmaRead, &read(address, count))?);
        }
        for (address, _) in &nowhere[..5] {
            answers.push(peer.ask(2, Cmd::DmaWrite, &write(*address, &[0; 8]))?);
        }
        Ok(answers)
    });
    let mut card = require!(card(&fake));
    assert_eq!(card.get(Reg::SCRATCH), 0x600d);
    let answers = answers.lock().unwrap();
    assert_eq!(answers.len(), 12);
    for (number, answer) in answers.iter().enumerate() {
        let command = if number < 7 {
            Cmd::DmaRead
        } else {
            Cmd::DmaWrite
        };
        check_refused(answer, command);
    }
    drop(answers);
    // Still so, and the device is not broken by it.
    assert_eq!(card.get(Reg::SCRATCH), 0x600d);
    card.qemu.alive();
}

/// A guest that is no bus master has not asked for DMA.
#[test]
fn questions_are_refused_without_bus_mastering() {
    const BUS_MASTER: u64 = 1 << 2;
    let (fake, answers) = asking(|peer| Ok(vec![peer.ask(1, Cmd::DmaRead, &read(MAILBOX, 8))?]));
    let mut card = require!(card(&fake));
    card.slot.command(&mut card.qemu, 0, BUS_MASTER);
    assert_eq!(card.get(Reg::SCRATCH), 0x600d);
    card.slot.command(&mut card.qemu, BUS_MASTER, 0);
    assert_eq!(card.get(Reg::SCRATCH), 0x600d);
    let answers = answers.lock().unwrap();
    check_refused(&answers[0], Cmd::DmaRead);
    assert_eq!(answers[1].flags(), REPLY);
}

/// One that is not about memory: the access goes on, whatever the answer.
#[test]
fn other_commands_of_the_server_are_refused() {
    let (fake, answers) = asking(|peer| Ok(vec![peer.ask(3, Cmd::GetInfo, &[0; 16])?]));
    let mut card = require!(card(&fake));
    let value = card.get(Reg::SCRATCH);
    card.qemu.alive();
    // Either it was refused, or its sender is broken from here on.
    match answers.lock().unwrap().first() {
        Some(answer) => {
            check_refused(answer, Cmd::GetInfo);
            assert_eq!(value, 0x600d);
        }
        None => assert_eq!(value, 0xffff_ffff),
    }
}
