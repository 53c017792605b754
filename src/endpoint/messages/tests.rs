use std::sync::Mutex;

use super::*;
use crate::pci::MsixControl;

/// What a bus was told, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Message(u64, u32),
    Intx(bool),
}

#[derive(Default)]
struct Bus(Mutex<Vec<Told>>);

impl Bus {
    /// What it was told since it was last asked.
    fn take(&self) -> Vec<Told> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl InterruptBus for Bus {
    fn message(&self, address: u64, data: u32) {
        self.0.lock().unwrap().push(Told::Message(address, data));
    }

    fn set_intx(&self, asserted: bool) {
        self.0.lock().unwrap().push(Told::Intx(asserted));
    }
}

const VECTORS: usize = 70;

/// Vector `n` of MSI-X has the address `0xfee0_0000` + 16 n and the data n.
fn sent(vector: u16) -> Told {
    Told::Message(0xfee0_0000 + 16 * u64::from(vector), vector.into())
}

fn entry(vector: usize, masked: bool) -> Vec<u8> {
    let address = 0xfee0_0000 + 16 * vector as u64;
    let data = u32::try_from(vector).unwrap();
    let mut bytes = address.to_le_bytes().to_vec();
    bytes.extend(data.to_le_bytes());
    bytes.extend(u32::from(masked).to_le_bytes());
    bytes
}

fn messages() -> (Messages, Arc<Bus>) {
    let bus = Arc::new(Bus::default());
    let mut messages = Messages::new(bus.clone(), VECTORS, true);
    let table: Vec<u8> = (0..VECTORS).flat_map(|n| entry(n, false)).collect();
    messages.program(0, &table);
    (messages, bus)
}

fn msix(masked: bool) -> InterruptControl {
    InterruptControl {
        bus_master: true,
        msix: Some(MsixControl { masked }),
        ..InterruptControl::default()
    }
}

const MSI: MsiControl = MsiControl {
    vectors: 8,
    address: 0x1_fee0_1000,
    data: 0xabcd,
    masked: 0,
};

fn msi(control: MsiControl) -> InterruptControl {
    InterruptControl {
        bus_master: true,
        msi: Some(control),
        ..InterruptControl::default()
    }
}

/// MSI-X enabled, with nothing told so far.
fn with_msix() -> (Messages, Arc<Bus>) {
    let (mut messages, bus) = messages();
    messages.follow(msix(false), false);
    assert_eq!(bus.take(), [Told::Intx(false)]);
    (messages, bus)
}

fn with_msi(control: MsiControl) -> (Messages, Arc<Bus>) {
    let (mut messages, bus) = messages();
    messages.follow(msi(control), false);
    assert_eq!(bus.take(), [Told::Intx(false)]);
    (messages, bus)
}

fn pending(messages: &Messages) -> Vec<u16> {
    let bit = |n: u16| messages.pending_byte(usize::from(n / 8)) & 1 << (n % 8) != 0;
    (0..VECTORS.next_multiple_of(64).try_into().unwrap())
        .filter(|n| bit(*n))
        .collect()
}

#[test]
fn each_vector_sends_the_message_of_its_entry() {
    let (mut messages, bus) = with_msix();
    for vector in [0, 63, 64, 69, 0] {
        messages.raise(vector);
    }
    assert_eq!(bus.take(), [sent(0), sent(63), sent(64), sent(69), sent(0)]);
    assert!(pending(&messages).is_empty());
}

#[test]
fn a_vector_that_is_not_there_is_lost() {
    let (mut messages, bus) = with_msix();
    messages.raise(70);
    messages.raise(u16::MAX);
    assert_eq!(bus.take(), []);
    assert!(pending(&messages).is_empty());
    let nothing = Arc::new(Bus::default());
    let mut without = Messages::new(nothing.clone(), 0, false);
    without.follow(msix(false), true);
    without.raise(0);
    without.program(0, &[]);
    assert_eq!(nothing.take(), []);
}

#[test]
fn a_masked_vector_is_pending_and_sent_once_when_it_is_unmasked() {
    let (mut messages, bus) = with_msix();
    messages.program(65, &entry(65, true));
    messages.raise(65);
    messages.raise(65);
    messages.raise(64);
    assert_eq!(bus.take(), [sent(64)]);
    assert_eq!(pending(&messages), [65]);
    messages.program(65, &entry(65, false));
    assert_eq!(bus.take(), [sent(65)]);
    assert!(pending(&messages).is_empty());
    messages.program(65, &entry(65, false));
    assert_eq!(bus.take(), []);
}

#[test]
fn a_pending_vector_is_sent_as_its_entry_says_when_it_is_unmasked() {
    let (mut messages, bus) = with_msix();
    messages.program(1, &entry(1, true));
    messages.raise(1);
    // The entry of another vector, and low address bits that do not count.
    let mut moved = entry(2, false);
    moved[0] |= 0b11;
    messages.program(1, &moved);
    assert_eq!(bus.take(), [sent(2)]);
}

#[test]
fn the_function_mask_holds_all_back_and_leaves_the_vectors_masks() {
    let (mut messages, bus) = with_msix();
    messages.program(3, &entry(3, true));
    messages.follow(msix(true), false);
    for vector in [69, 3, 2] {
        messages.raise(vector);
    }
    // Unmasking an entry is not enough.
    messages.program(2, &entry(2, false));
    assert_eq!(bus.take(), []);
    assert_eq!(pending(&messages), [2, 3, 69]);
    messages.follow(msix(false), false);
    assert_eq!(bus.take(), [sent(2), sent(69)]);
    assert_eq!(pending(&messages), [3]);
}

#[test]
fn nothing_is_pending_while_messages_are_disabled() {
    let (mut messages, bus) = messages();
    messages.follow(InterruptControl::default(), false);
    messages.raise(0);
    assert_eq!((pending(&messages), messages.msi_pending()), (vec![], 0));
    messages.follow(msix(true), false);
    messages.raise(1);
    assert_eq!(pending(&messages), [1]);
    messages.follow(InterruptControl::default(), false);
    assert!(pending(&messages).is_empty());
    messages.follow(msix(false), false);
    assert_eq!(bus.take(), [Told::Intx(false)]);
}

#[test]
fn no_message_is_sent_without_bus_mastering_and_none_is_lost() {
    let no_master = |control| InterruptControl {
        bus_master: false,
        ..control
    };
    let (mut messages, bus) = with_msix();
    messages.follow(no_master(msix(false)), false);
    messages.raise(5);
    assert_eq!(pending(&messages), [5]);
    messages.program(5, &entry(5, false));
    assert_eq!(bus.take(), []);
    messages.follow(msix(false), false);
    assert_eq!(bus.take(), [sent(5)]);

    let (mut messages, bus) = with_msi(MSI);
    messages.follow(no_master(msi(MSI)), false);
    messages.raise(5);
    assert_eq!((bus.take(), messages.msi_pending()), (vec![], 1 << 5));
    messages.follow(msi(MSI), false);
    assert_eq!(bus.take(), [Told::Message(MSI.address, 0xabcd)]);
    assert_eq!(messages.msi_pending(), 0);
}

#[test]
fn msi_vectors_change_as_many_low_bits_of_the_data_as_were_given() {
    for (vectors, raised, data) in [
        (1, 0, 0xabcd),
        (1, 7, 0xabcd),
        (2, 3, 0xabcd),
        (2, 4, 0xabcc),
        (8, 0, 0xabc8),
        (8, 7, 0xabcf),
        (8, 9, 0xabc9),
        (32, 31, 0xabdf),
        (32, 0xffff, 0xabdf),
    ] {
        let (mut messages, bus) = with_msi(MsiControl { vectors, ..MSI });
        messages.raise(raised);
        assert_eq!(bus.take(), [Told::Message(MSI.address, data)]);
        assert_eq!(messages.msi_pending(), 0);
    }
}

#[test]
fn msi_goes_to_32_and_to_64_bit_addresses() {
    for address in [0xfee0_1004, !0b11] {
        let (mut messages, bus) = with_msi(MsiControl { address, ..MSI });
        messages.raise(5);
        assert_eq!(bus.take(), [Told::Message(address, 0xabcd)]);
    }
}

#[test]
fn a_masked_msi_vector_is_pending_and_sent_once_when_it_is_unmasked() {
    let masked = |masked| msi(MsiControl { masked, ..MSI });
    let (mut messages, bus) = with_msi(MSI);
    messages.follow(masked(0b1010_0000), false);
    for vector in [5, 7, 15, 0] {
        messages.raise(vector);
    }
    assert_eq!(bus.take(), [Told::Message(MSI.address, 0xabc8)]);
    assert_eq!(messages.msi_pending(), 0b1010_0000);
    messages.follow(masked(0b1000_0000), false);
    assert_eq!(bus.take(), [Told::Message(MSI.address, 0xabcd)]);
    assert_eq!(messages.msi_pending(), 0b1000_0000);
    messages.follow(masked(0), false);
    assert_eq!(bus.take(), [Told::Message(MSI.address, 0xabcf)]);
    assert_eq!(messages.msi_pending(), 0);
}

#[test]
fn a_pending_msi_vector_is_forgotten_if_the_guest_gives_fewer_or_none() {
    let masked = |vectors| {
        msi(MsiControl {
            masked: 0b1_0001,
            vectors,
            ..MSI
        })
    };
    let (mut messages, bus) = with_msi(MSI);
    messages.follow(masked(8), false);
    messages.raise(0);
    messages.raise(4);
    assert_eq!(messages.msi_pending(), 0b1_0001);
    messages.follow(masked(2), false);
    assert_eq!(messages.msi_pending(), 1);
    messages.follow(InterruptControl::default(), false);
    messages.follow(msi(MSI), false);
    assert_eq!((bus.take(), messages.msi_pending()), (vec![], 0));
}

#[test]
fn where_both_are_enabled_msix_is_used() {
    let (mut messages, bus) = messages();
    let both = InterruptControl {
        msi: Some(MSI),
        ..msix(false)
    };
    messages.follow(both, false);
    messages.raise(2);
    assert_eq!(bus.take(), [Told::Intx(false), sent(2)]);
}

#[test]
fn intx_is_a_level_that_is_told_when_it_changes() {
    let (mut messages, bus) = messages();
    messages.follow(InterruptControl::default(), false);
    for level in [true, true, false, false, true] {
        messages.update_intx(level);
    }
    let told = [false, true, false, true].map(Told::Intx);
    assert_eq!(bus.take(), told);
}

#[test]
fn intx_needs_no_bus_mastering_and_is_silent_while_disabled_or_messages_are_used() {
    let disabled = InterruptControl {
        intx_disabled: true,
        ..InterruptControl::default()
    };
    let (mut messages, bus) = messages();
    for silent in [disabled, msix(false), msix(true), msi(MSI)] {
        messages.follow(InterruptControl::default(), true);
        messages.follow(silent, true);
        messages.update_intx(false);
        messages.update_intx(true);
        messages.follow(InterruptControl::default(), true);
        let told = [true, false, true].map(Told::Intx);
        assert_eq!(bus.take(), told);
        messages.update_intx(false);
        bus.take();
    }
}

#[test]
fn a_function_without_the_pin_tells_no_level() {
    let bus = Arc::new(Bus::default());
    let mut messages = Messages::new(bus.clone(), 0, false);
    messages.follow(InterruptControl::default(), true);
    messages.update_intx(false);
    messages.reset();
    assert_eq!(bus.take(), []);
}

#[test]
fn a_reset_masks_all_and_forgets_what_was_pending() {
    let (mut messages, bus) = with_msix();
    messages.program(3, &entry(3, true));
    messages.raise(3);
    messages.reset();
    assert!(pending(&messages).is_empty());
    messages.follow(msix(false), false);
    messages.raise(0);
    assert_eq!(bus.take(), []);
    assert_eq!(pending(&messages), [0]);

    let (mut messages, bus) = with_msi(MsiControl { masked: 1, ..MSI });
    messages.raise(0);
    messages.reset();
    assert_eq!((bus.take(), messages.msi_pending()), (vec![], 0));

    messages.update_intx(true);
    messages.reset();
    assert_eq!(bus.take(), [true, false].map(Told::Intx));
}

fn saved(messages: &Messages) -> Vec<u64> {
    let mut words = Vec::new();
    messages.save(|word| words.push(word));
    words
}

/// Another process goes on from these words.
fn successor(words: &[u64], control: InterruptControl) -> (Messages, Arc<Bus>) {
    let (mut messages, bus) = messages();
    messages.program(68, &entry(68, true));
    let mut words = words.iter();
    let next = || words.next().copied().ok_or(());
    assert_eq!(messages.restore(next), Ok(()));
    messages.follow(control, true);
    (messages, bus)
}

#[test]
fn a_successor_has_what_is_pending_and_sends_what_it_may() {
    let (mut messages, bus) = with_msix();
    messages.follow(msix(true), false);
    messages.program(68, &entry(68, true));
    messages.raise(3);
    messages.raise(68);
    let words = saved(&messages);
    assert_eq!(bus.take(), []);
    let (mut next, bus) = successor(&words, msix(true));
    assert_eq!(bus.take(), [Told::Intx(false)]);
    assert_eq!(saved(&next), words);
    next.follow(msix(false), false);
    assert_eq!(bus.take(), [sent(3)]);
    assert_eq!(pending(&next), [68]);
}

#[test]
fn a_successor_tells_the_level_anew_and_believes_no_bit_of_an_absent_vector() {
    let (_, bus) = successor(&[0, 0, 0], InterruptControl::default());
    assert_eq!(bus.take(), [Told::Intx(true)]);
    let (messages, _) = successor(&[u64::MAX; 3], msix(true));
    assert_eq!(pending(&messages).len(), VECTORS);
    let masked = MsiControl {
        masked: u32::MAX,
        ..MSI
    };
    let (messages, _) = successor(&[u32::MAX.into(), 1, 1], msi(masked));
    assert_eq!((pending(&messages), messages.msi_pending()), (vec![], 0xff));
    let (mut messages, _) = with_msix();
    assert_eq!(messages.restore(|| Err(7)), Err(7));
}
