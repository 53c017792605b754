//! Registers, read and written with each width.

use crate::fake::Fake;
use crate::rig::require;
use crate::stage::{Card, board, card};
use crate::wire::device::Reg;
use crate::wire::{Cmd, PATIENT, Served, model};

#[test]
fn each_width_reads_and_writes_its_part_of_a_register() {
    let fake = Fake::honest();
    let mut card = Card::start(require!(board(&fake.socket(), "")));
    card.set(Reg::SCRATCH64, 0x0123_4567_89ab_cdef);
    assert_eq!(card.read(0x08, 8), 0x0123_4567_89ab_cdef);
    assert_eq!(card.read(0x0c, 4), 0x0123_4567);
    assert_eq!(card.read(0x0a, 2), 0x89ab);
    assert_eq!(card.read(0x0f, 1), 0x01);
    card.write(0x08, 1, 0x11);
    card.write(0x0a, 2, 0x2233);
    card.write(0x0c, 4, 0x4455_6677);
    assert_eq!(card.read(0x08, 8), 0x4455_6677_2233_cd11);
    // Nothing is there.
    assert_eq!(card.read(0x5c, 4), 0xffff_ffff);
    card.write(0x5c, 4, 0);
}

/// One access of the guest is one message.
#[test]
fn an_access_arrives_whole_whatever_its_width() {
    let fake = Fake::honest();
    let mut card = Card::start(require!(board(&fake.socket(), "")));
    for width in [1, 2, 4, 8] {
        fake.clear();
        card.read(0x08, width);
        card.write(0x08, width, 0);
        // The write has arrived with this.
        card.get(Reg::ID);
        let counts = |command| {
            let heard = fake.heard(|heard| heard.is(command) && heard.accesses(0, 0x08));
            heard.iter().map(|heard| heard.u32(28)).collect::<Vec<_>>()
        };
        assert_eq!(counts(Cmd::RegionRead), [width]);
        assert_eq!(counts(Cmd::RegionWrite), [width]);
    }
}

/// A generator that needs no library (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// On the model's device, by its own server.
fn random_accesses_of_served(seed: u64, accesses: usize, properties: &str) {
    let served = Served::of(PATIENT, [("model", model::endpoint())]);
    let mut card = require!(card(&served, "model", properties));
    random_accesses(&mut card, seed, accesses);
}

/// Each does to the device what it does to the model.
pub(crate) fn random_accesses(card: &mut Card, seed: u64, accesses: usize) {
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    let mut bytes = model::bytes();
    for access in 0..accesses {
        let width = 1 << random.below(4);
        let offset = random.below(model::SIZE / width) * width;
        let (at, bits) = (offset as u64, u32::try_from(width).unwrap());
        if random.below(2) == 0 {
            let mut expected = [0; 8];
            expected[..width].copy_from_slice(&model::read(&bytes[offset..offset + width]));
            let expected = u64::from_le_bytes(expected);
            assert_eq!(
                card.read(at, bits),
                expected,
                "access {access}: {width} bytes at {offset:#x}"
            );
        } else {
            let value = random.next().to_le_bytes();
            let mut narrow = [0; 8];
            narrow[..width].copy_from_slice(&value[..width]);
            card.write(at, bits, u64::from_le_bytes(narrow));
            model::write(&mut bytes, offset, &value[..width]);
        }
    }
}

#[test]
fn ten_thousand_random_accesses_do_what_the_model_does() {
    random_accesses_of_served(0x2026_1121, 10_000, "");
}

#[test]
fn random_accesses_do_the_same_when_writes_are_not_posted() {
    random_accesses_of_served(0x1111_1af4, 2_000, ",posted-writes=off");
}

#[test]
fn random_accesses_do_the_same_by_the_socket() {
    random_accesses_of_served(0x2026_1122, 10_000, ",shared-mmio=off");
    random_accesses_of_served(0x1111_1af5, 2_000, ",shared-mmio=off,posted-writes=off");
}
