//! What is found on the bus is what the server says.

use crate::fake::Fake;
use crate::rig::require;
use crate::stage::{Card, board, card, served};
use crate::wire::device::{BAR0, BAR2, VECTORS};

const POWER_MANAGEMENT: u64 = 0x01;
const PCI_EXPRESS: u64 = 0x10;
const MSIX: u64 = 0x11;

#[test]
fn ids_class_and_subsystem_are_the_servers() {
    for (device, id) in [
        ("stub", 0x1111u16),
        ("doorbell", 0x1112),
        ("copier", 0x1113),
    ] {
        let served = served(device);
        let mut card = require!(card(&served, device, ""));
        let config = card.slot.config(&mut card.qemu);
        let [low, high] = id.to_le_bytes();
        assert_eq!(config[0x00..0x04], [0xf4, 0x1a, low, high], "{device}");
        assert_eq!(config[0x08..0x0c], [0x01, 0x00, 0x00, 0x12], "{device}");
        assert_eq!(config[0x2c..0x30], [0xf4, 0x1a, 0x00, 0x11], "{device}");
    }
}

#[test]
fn bars_are_as_large_as_the_regions_and_of_their_kinds() {
    let fake = Fake::honest();
    let card = Card::start(require!(board(&fake.socket(), "")));
    assert_eq!((card.bar(0).size, card.bar(0).kind), (BAR0, 0x0));
    // 64 bits wide and prefetchable.
    assert_eq!((card.bar(2).size, card.bar(2).kind), (BAR2, 0xc));
    let others = [1, 3, 4, 5].map(|index| card.bars[index]);
    assert_eq!(others, [None; 4]);
}

#[test]
fn msix_has_the_servers_vectors_at_the_servers_place() {
    let fake = Fake::honest();
    let mut card = Card::start(require!(board(&fake.socket(), "")));
    let at = card.slot.capability(&mut card.qemu, MSIX).unwrap();
    let read = |card: &mut Card, offset| card.slot.get(&mut card.qemu, at + offset, 4);
    assert_eq!(read(&mut card, 4), 0x800);
    assert_eq!(read(&mut card, 8), 0xc00);
    assert_eq!(card.msix().vectors, u64::from(VECTORS));
    // A table of its own, not the device's registers.
    card.msix().point(&mut card.qemu, 3, 0x1234_5000, 7);
    assert_eq!(card.read(0x800 + 3 * 16, 4), 0x1234_5000);
}

#[test]
fn the_pin_and_the_other_capabilities_are_there() {
    let fake = Fake::honest();
    let mut card = Card::start(require!(board(&fake.socket(), "")));
    assert_eq!(card.slot.get(&mut card.qemu, 0x3d, 1), 1, "INTA");
    let mut has = |id| card.slot.capability(&mut card.qemu, id).is_some();
    assert!(has(POWER_MANAGEMENT));
    // On a conventional bus it says nothing, so it may be left out.
    let _ = has(PCI_EXPRESS);
}
