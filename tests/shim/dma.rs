//! The device reaches guest memory: by itself where memory has descriptors,
//! through QEMU where it has not.

use vgpu_stub::devices::StubRegister as Stub;

use crate::fake::{Fake, Heard};
use crate::rig::qtest::RAM;
use crate::rig::require;
use crate::rig::{Memory, RigError};
use crate::stage::{Card, MAILBOX, board, card, private_card, served};
use crate::wire::Cmd;
use crate::wire::device::{Reg, result};

const SOURCE: u64 = MAILBOX;
const DESTINATION: u64 = 0x100_0000;
const COPY: u64 = 1;

fn pattern(length: usize, start: u8) -> Vec<u8> {
    (0..=u8::MAX)
        .cycle()
        .take(length)
        .map(|at| at.wrapping_mul(31).wrapping_add(start))
        .collect()
}

/// Has the stub's engine copy, and compares.
#[track_caller]
fn copy(card: &mut Card, source: u64, destination: u64, length: usize) {
    let data = pattern(length, u8::try_from(length % 256).unwrap());
    card.qemu.set_memory(source, &data);
    card.set(Stub::STATUS, 3);
    card.set(Stub::DMA_SOURCE, source);
    card.set(Stub::DMA_DESTINATION, destination);
    card.set(Stub::DMA_LENGTH, length as u64);
    card.set(Stub::DMA_COMMAND, COPY);
    let status = card.bar(0).address + 0x18;
    let done = card.qemu.until("the copy", |qemu| {
        let status = qemu.read(status, 4);
        (status & 3 != 0).then_some(status)
    });
    assert_eq!(done & 3, 1, "the engine reports an error");
    assert!(
        card.qemu.memory(destination, length) == data,
        "{length} bytes from {source:#x} to {destination:#x} differ"
    );
}

fn copies(card: &mut Card) {
    for length in [1, 7, 4096, 70_001, 1 << 20] {
        copy(card, SOURCE + 3, DESTINATION + 5, length);
    }
    // The last bytes of memory.
    copy(card, SOURCE, RAM - 4096, 4096);
    // The first megabyte, below the hole for the display.
    copy(card, 0x1000, 0x8000, 0x1000);
}

#[test]
fn memory_with_descriptors_is_copied_by_the_device() {
    let served = served("stub");
    let mut card = require!(card(&served, "stub", ""));
    copies(&mut card);
}

#[test]
fn memory_without_descriptors_is_copied_by_messages() {
    let served = served("stub");
    let mut card = require!(private_card(&served, "stub", ""));
    copies(&mut card);
}

#[test]
fn a_bad_address_is_an_error_of_the_engine_and_nothing_more() {
    for memory in [Memory::Shared, Memory::Private] {
        let served = served("stub");
        let board = require!(board(&served.path("stub"), ""));
        let mut card = Card::start(board.memory(memory));
        for bad in [RAM, 0x1_0000_0000, u64::MAX - 100] {
            let errors = card.get(Stub::ERRORS);
            card.set(Stub::DMA_SOURCE, bad);
            card.set(Stub::DMA_DESTINATION, DESTINATION);
            card.set(Stub::DMA_LENGTH, 64);
            card.set(Stub::DMA_COMMAND, COPY);
            let at = card.bar(0).address + 0x78;
            card.qemu.until("the error", |qemu| {
                (qemu.read(at, 4) == errors + 1).then_some(())
            });
        }
        copy(&mut card, SOURCE, DESTINATION, 4096);
    }
}

fn on(memory: Memory) -> Result<(Fake, Card), RigError> {
    let fake = Fake::honest();
    let card = Card::start(board(&fake.socket(), "")?.memory(memory));
    Ok((fake, card))
}

fn is_map(heard: &Heard) -> bool {
    heard.is(Cmd::DmaMap)
}

fn is_dma_answer(heard: &Heard) -> bool {
    [Cmd::DmaRead as u16, Cmd::DmaWrite as u16].contains(&heard.command())
}

/// The device reads and writes within an access.
fn within_an_access(card: &mut Card) {
    card.qemu.set_memory(SOURCE, &[1, 2, 3, 4, 5, 6, 7, 8]);
    card.set(Reg::ADDRESS, SOURCE);
    card.set(Reg::GO, 1);
    assert_eq!(card.get(Reg::RESULT), result::DONE);
    assert_eq!(card.get(Reg::VALUE), 0x0807_0605_0403_0201);
    card.set(Reg::ADDRESS, DESTINATION);
    card.set(Reg::VALUE, 0x1122_3344_5566_7788);
    card.set(Reg::GO, 2);
    assert_eq!(card.get(Reg::RESULT), result::DONE);
    assert_eq!(card.qemu.read(DESTINATION, 8), 0x1122_3344_5566_7788);
}

#[test]
fn maps_carry_the_descriptors_of_memory_that_has_them() {
    let (fake, mut card) = require!(on(Memory::Shared));
    within_an_access(&mut card);
    assert!(fake.count(|heard| is_map(heard) && heard.fds == 1) > 0);
    assert_eq!(fake.count(is_dma_answer), 0);
}

#[test]
fn maps_of_memory_without_descriptors_are_reached_by_messages() {
    let (fake, mut card) = require!(on(Memory::Private));
    within_an_access(&mut card);
    assert!(fake.count(is_map) > 0);
    assert_eq!(fake.count(|heard| is_map(heard) && heard.fds > 0), 0);
    assert!(fake.count(is_dma_answer) >= 2);
}

/// The write itself waits for its answer, and before that the server asks.
#[test]
fn a_device_may_ask_within_a_write_that_is_not_posted() {
    let fake = Fake::honest();
    let board = require!(board(&fake.socket(), ",posted-writes=off"));
    let mut card = Card::start(board.memory(Memory::Private));
    within_an_access(&mut card);
    assert!(fake.count(is_dma_answer) >= 2);
}

/// Maps cover memory, whole, and nothing twice.
#[test]
fn maps_are_of_all_memory_and_do_not_overlap() {
    let (fake, card) = require!(on(Memory::Shared));
    let field = |heard: &Heard, at| u64::from(heard.u32(at)) | u64::from(heard.u32(at + 4)) << 32;
    let range = |heard: &Heard, at| (field(heard, at), field(heard, at + 8));
    let mut mapped: Vec<(u64, u64)> = Vec::new();
    for heard in fake.heard(|heard| is_map(heard) || heard.is(Cmd::DmaUnmap)) {
        if is_map(&heard) {
            mapped.push(range(&heard, 32));
        } else {
            let gone = range(&heard, 24);
            mapped.retain(|map| *map != gone);
        }
    }
    mapped.sort_unstable();
    assert!(
        mapped
            .windows(2)
            .all(|pair| pair[0].0 + pair[0].1 <= pair[1].0)
    );
    let high = mapped.iter().find(|map| map.0 + map.1 == RAM);
    assert!(high.is_some(), "{mapped:x?}");
    drop(card);
}
