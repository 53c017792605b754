//! BARs that the guest reaches without the server, and doorbells.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use crate::fake::{Fake, Then, is};
use crate::rig::require;
use crate::stage::{Card, board};
use crate::wire::device::{BAR2, Reg};
use crate::wire::{Cmd, memory};

type Memory = Arc<Mutex<Option<OwnedFd>>>;

/// An honest server, and what backs one of its regions.
fn with_memory_of(region: u32) -> (Fake, Memory) {
    let memory = Memory::default();
    let kept = memory.clone();
    let fake = Fake::start(move |peer, message| {
        if !is(message, Cmd::GetRegionInfo) || message.u32(16 + 8) != region {
            return Then::Honest;
        }
        peer.lie(message, |answer| {
            if let Some(fd) = answer.fds.first() {
                let fd = fd.as_fd().try_clone_to_owned().unwrap();
                *kept.lock().unwrap() = Some(fd);
            }
        })
    });
    (fake, memory)
}

fn file(memory: &Memory) -> File {
    let memory = memory.lock().unwrap();
    File::from(
        memory
            .as_ref()
            .expect("a descriptor came")
            .try_clone()
            .unwrap(),
    )
}

fn accesses(fake: &Fake) -> usize {
    fake.count(|heard| heard.is(Cmd::RegionRead) || heard.is(Cmd::RegionWrite))
}

#[test]
fn a_mapped_bar_is_the_servers_memory_and_costs_no_message() {
    let (fake, memory) = with_memory_of(2);
    let mut card = Card::start(require!(board(&fake.socket(), "")));
    let file = file(&memory);
    let bar = card.bar(2);
    fake.clear();
    for (offset, width) in [(0, 8), (0x1001, 1), (0x1f_fffc, 4)] {
        let value = 0x1122_3344_5566_7788 >> (64 - 8 * width);
        card.qemu.write(bar.address + offset, width, value);
        assert_eq!(card.qemu.read(bar.address + offset, width), value);
        let mut bytes = [0; 8];
        let width = width as usize;
        file.read_exact_at(&mut bytes[..width], offset).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), value);
    }
    file.write_all_at(&[0xa5; 4], BAR2 / 2).unwrap();
    assert_eq!(card.qemu.read(bar.address + BAR2 / 2, 4), 0xa5a5_a5a5);
    assert_eq!(accesses(&fake), 0);
}

#[test]
fn a_sparse_bar_is_mapped_where_it_says_and_trapped_elsewhere() {
    let (fake, memory) = with_memory_of(0);
    let mut card = Card::start(require!(board(&fake.socket(), "")));
    let file = file(&memory);
    fake.clear();
    // Pages 1 and 3 are mapped, both from their first byte to their last.
    for offset in [0x1000, 0x1ffc, 0x3000, 0x3ffc] {
        card.write(offset, 4, offset + 1);
        assert_eq!(card.read(offset, 4), offset + 1);
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, offset).unwrap();
        assert_eq!(u64::from(u32::from_le_bytes(bytes)), offset + 1);
    }
    assert_eq!(accesses(&fake), 0);
    // What is between them is the device's, which has nothing there.
    for offset in [0x0ffc, 0x2000, 0x2ffc] {
        assert_eq!(card.read(offset, 4), 0xffff_ffff);
        assert_eq!(fake.count(|heard| heard.accesses(0, offset)), 1);
    }
    card.set(Reg::SCRATCH, 5);
    assert_eq!(card.get(Reg::SCRATCH), 5);
}

#[test]
fn a_doorbell_rings_without_a_message() {
    let fake = Fake::honest();
    let mut card = Card::start(require!(board(&fake.socket(), "")));
    let bell = u64::from(0x10u32);
    for ring in 1..=3 {
        card.set(Reg::BELL, 0x77);
        let rings = card.bar(0).address + 0x18;
        card.qemu.until("the bell", |qemu| {
            (qemu.read(rings, 4) == ring).then_some(())
        });
    }
    assert_eq!(fake.count(|heard| heard.accesses(0, bell)), 0);
    // Narrower writes are not what rings; they are trapped.
    card.write(bell, 1, 0);
    card.get(Reg::ID);
    assert_eq!(fake.count(|heard| heard.accesses(0, bell)), 1);
}

#[test]
fn a_doorbell_with_a_value_takes_that_value_only() {
    let fake = Fake::honest();
    let mut card = Card::start(require!(board(&fake.socket(), "")));
    let rings = card.bar(0).address + 0x18;
    card.set(Reg::BELL_SEVEN, 7);
    card.qemu
        .until("the bell", |qemu| (qemu.read(rings, 4) == 1).then_some(()));
    assert_eq!(fake.count(|heard| heard.accesses(0, 0x14)), 0);
    card.set(Reg::BELL_SEVEN, 8);
    assert_eq!(card.get(Reg::RINGS), 2);
    assert_eq!(card.get(Reg::LAST), 8);
    assert_eq!(fake.count(|heard| heard.accesses(0, 0x14)), 1);
}

/// A server that hands out other memory than it says.
fn with_file(file: &File) -> Fake {
    let file = file.try_clone().unwrap();
    Fake::start(move |peer, message| {
        if !is(message, Cmd::GetRegionInfo) || message.u32(16 + 8) != 2 {
            return Then::Honest;
        }
        peer.lie(message, |answer| {
            if !answer.fds.is_empty() {
                answer.fds = vec![file.try_clone().unwrap().into()];
            }
        })
    })
}

#[test]
fn memory_that_is_too_short_is_not_mapped() {
    let file = memory(BAR2 - 4096, &[]);
    let fake = with_file(&file);
    let mut card = Card::start(require!(board(&fake.socket(), "")));
    fake.clear();
    let address = card.bar(2).address + BAR2 - 4;
    card.qemu.write(address, 4, 5);
    // The device's own memory, not the file.
    assert_eq!(card.qemu.read(address, 4), 5);
    assert_eq!(accesses(&fake), 2);
}

/// It would kill QEMU at the guest's next access.
#[test]
fn memory_does_not_shrink_under_qemu() {
    let file = memory(BAR2, &[0x5a; 16]);
    let fake = with_file(&file);
    let mut card = Card::start(require!(board(&fake.socket(), "")));
    let address = card.bar(2).address;
    let _ = file.set_len(0);
    for offset in [0, BAR2 - 4] {
        card.qemu.read(address + offset, 4);
        card.qemu.write(address + offset, 4, 0);
    }
    card.qemu.alive();
}
