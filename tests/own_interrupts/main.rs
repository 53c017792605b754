//! Interrupts of an endpoint whose face keeps none: a guest sets them up in
//! config space and in the MSI-X table, and gets what it set up.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod driver;
mod model;
#[path = "../wire/mod.rs"]
mod wire;

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use driver::{ADDRESS, Apic, Driver, PBA, TABLE};
use vgpu_stub::endpoint::{CONFIG_REGION, InterruptBus};
use vgpu_stub::pci::spec::{capability, command, msi, msix};
use wire::device::{Reg, VECTORS};

#[test]
fn a_driver_that_sets_up_msix_gets_each_vector() {
    let (mut driver, apic) = Driver::with_apic();
    driver.use_msix();
    assert_eq!(apic.messages(), []);
    for vector in 0..VECTORS {
        driver.raise(vector.into());
        assert_eq!(apic.messages(), [(ADDRESS, vector.into())]);
    }
    driver.raise(VECTORS.into());
    assert_eq!(apic.messages(), []);
}

#[test]
fn the_table_takes_writes_of_any_width_at_any_place() {
    let (mut driver, apic) = Driver::with_apic();
    driver.use_msix();
    driver.write(0, TABLE + 16, 8, 0x1_fee0_1004);
    driver.write(0, TABLE + 24, 8, 0x55);
    driver.write(0, TABLE + 24, 1, 0x66);
    // From the middle of an entry to the middle of the one behind the next.
    let bytes: Vec<u8> = [0x77u32, 0, 0xfee0_2000, 0, 0x88, 0, 0xfee0_3000, 0]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect();
    driver.endpoint.write(0, TABLE + 40, &bytes).unwrap();
    for vector in 1..5 {
        driver.raise(vector);
    }
    let expected = [
        (0x1_fee0_1004, 0x66),
        (ADDRESS, 0x77),
        (0xfee0_2000, 0x88),
        (0xfee0_3000, 4),
    ];
    assert_eq!(apic.messages(), expected);
    // The last that are in the table, and what is behind it.
    let end = TABLE + 16 * u64::from(VECTORS);
    driver.endpoint.write(0, end - 4, &[1; 8]).unwrap();
    driver.raise(u64::from(VECTORS) - 1);
    assert_eq!(apic.messages(), []);
}

#[test]
fn pending_bits_are_read_in_the_bar_and_cannot_be_written() {
    let (mut driver, apic) = Driver::with_apic();
    driver.use_msix();
    driver.program(9, true);
    driver.raise(9);
    driver.set_msix(msix::ENABLE | msix::FUNCTION_MASK);
    driver.raise(31);
    driver.write(0, PBA, 8, 0);
    driver.write(0, PBA, 8, u64::MAX);
    assert_eq!(driver.read(0, PBA, 8), 1 << 31 | 1 << 9);
    assert_eq!(driver.read(0, PBA + 3, 1), 0x80);
    assert_eq!(apic.messages(), []);
    driver.set_msix(msix::ENABLE);
    assert_eq!(apic.messages(), [(ADDRESS, 31)]);
    assert_eq!(driver.read(0, PBA, 4), 1 << 9);
    driver.program(9, false);
    assert_eq!(apic.messages(), [(ADDRESS, 9)]);
    assert_eq!(driver.read(0, PBA, 8), 0);
}

#[test]
fn msi_sends_as_many_vectors_as_were_given_to_either_address() {
    for address in [ADDRESS, 0xff_fee0_0000] {
        // The last two of the field are reserved, and more than are offered.
        for (enabled, vectors) in [(0u16, 1u32), (1, 2), (3, 8), (5, 32), (6, 32), (7, 32)] {
            let (mut driver, apic) = Driver::with_apic();
            driver.use_msi(enabled, address, 0x405f);
            driver.raise(30);
            let data = (0x405f & !(vectors - 1)) | (30 % vectors);
            assert_eq!(apic.messages(), [(address, data)]);
        }
    }
}

#[test]
fn msi_shows_what_is_pending_and_sends_it_when_it_is_unmasked() {
    let (mut driver, apic) = Driver::with_apic();
    driver.use_msi(5, ADDRESS, 0x40);
    driver.mask_msi(0x8000_0002);
    for vector in [1, 2, 31] {
        driver.raise(vector);
    }
    assert_eq!(apic.messages(), [(ADDRESS, 0x42)]);
    assert_eq!(driver.msi_pending(), 0x8000_0002);
    let at = driver.find(capability::MSI, msi::DATA_64 + msi::PENDING_AFTER_DATA);
    driver.write(CONFIG_REGION, at, 4, 0);
    assert_eq!(driver.msi_pending(), 0x8000_0002);
    driver.mask_msi(2);
    assert_eq!(apic.messages(), [(ADDRESS, 0x5f)]);
    assert_eq!(driver.msi_pending(), 2);
}

#[test]
fn what_is_raised_without_bus_mastering_comes_with_it() {
    let (mut driver, apic) = Driver::with_apic();
    driver.use_msix();
    driver.set_command(command::MEMORY_SPACE);
    driver.raise(4);
    driver.raise(4);
    assert_eq!(apic.messages(), []);
    assert_eq!(driver.read(0, PBA, 8), 1 << 4);
    driver.set_command(command::MEMORY_SPACE | command::BUS_MASTER);
    assert_eq!(apic.messages(), [(ADDRESS, 4)]);
    assert_eq!(driver.read(0, PBA, 8), 0);
}

#[test]
fn the_level_is_seen_while_neither_disabled_nor_replaced_by_messages() {
    let (mut driver, apic) = Driver::with_apic();
    driver.set(Reg::LEVEL, 1);
    assert_eq!(apic.levels(), [true]);
    driver.set_command(command::INTERRUPT_DISABLE);
    assert_eq!(apic.levels(), [false]);
    // Pending, whether it is disabled or not (PCI 3.0 6.2.3).
    assert!(driver.is_asserted());
    driver.set_command(0);
    assert_eq!(apic.levels(), [true]);
    driver.set_msix(msix::ENABLE | msix::FUNCTION_MASK);
    assert_eq!(apic.levels(), [false]);
    driver.set_msix(0);
    assert_eq!(apic.levels(), [true]);
    driver.use_msi(0, ADDRESS, 0x40);
    assert_eq!(apic.levels(), [false]);
    driver.set(Reg::LEVEL, 0);
    assert!(!driver.is_asserted());
    driver.set_msix(0);
    assert!(apic.levels().is_empty());
}

#[test]
fn a_function_level_reset_takes_all_back() {
    let (mut driver, apic) = Driver::with_apic();
    driver.set(Reg::LEVEL, 1);
    driver.use_msix();
    driver.program(1, true);
    driver.raise(1);
    driver.set_msix(0);
    assert_eq!(apic.levels(), [true, false, true]);
    driver.set_msix(msix::ENABLE);
    driver.raise(1);
    driver.reset_function();
    assert_eq!(apic.levels(), [false]);
    assert_eq!(driver.read(0, PBA, 8), 0);
    driver.raise(0);
    driver.set_command(command::BUS_MASTER);
    driver.set_msix(msix::ENABLE);
    // Masked, as all entries are now.
    driver.raise(2);
    assert_eq!(apic.messages(), []);
    assert_eq!(driver.read(0, PBA, 8), 1 << 2);
    driver.program(2, false);
    assert_eq!(apic.messages(), [(ADDRESS, 2)]);
}

#[test]
fn a_face_that_comes_late_finds_what_the_guest_has_set_up() {
    let mut driver = Driver::new();
    driver.use_msix();
    driver.program(1, true);
    let apic = Arc::new(Apic::default());
    driver.endpoint.own_interrupts(apic.clone());
    driver.raise(0);
    driver.raise(1);
    assert_eq!(apic.messages(), [(ADDRESS, 0)]);
    assert_eq!(driver.read(0, PBA, 8), 1 << 1);
    // No client's leaving takes it away.
    driver.endpoint.disconnect();
    driver.raise(0);
    assert_eq!(apic.messages(), [(ADDRESS, 0)]);
}

/// How often each thread raises its vector or moves the level.
const ROUNDS: u32 = 3000;
const THREADS: usize = 4;

/// What the guest knows of each thread's work when its vector comes.
#[derive(Default)]
struct Observer {
    done: [AtomicU32; THREADS],
    seen: [AtomicU32; THREADS],
    messages: [AtomicU32; THREADS],
}

impl InterruptBus for Observer {
    fn message(&self, _: u64, vector: u32) {
        let vector = vector as usize;
        let done = self.done[vector].load(Ordering::Acquire);
        self.seen[vector].store(done, Ordering::Release);
        self.messages[vector].fetch_add(1, Ordering::AcqRel);
    }

    fn set_intx(&self, _: bool) {}
}

#[test]
fn what_threads_raise_while_a_guest_masks_is_neither_lost_nor_early() {
    let observer = Arc::new(Observer::default());
    let mut driver = Driver::on(&observer);
    driver.use_msix();
    let finished = AtomicUsize::new(0);
    thread::scope(|scope| {
        for (thread, vector) in (0..THREADS).zip(0..) {
            let (irq, observer, finished) = (driver.irq.clone(), &observer, &finished);
            scope.spawn(move || {
                for round in 1..=ROUNDS {
                    observer.done[thread].store(round, Ordering::Release);
                    irq.raise(vector);
                }
                finished.fetch_add(1, Ordering::AcqRel);
            });
        }
        while finished.load(Ordering::Acquire) < THREADS {
            for vector in 0..THREADS {
                let sent = || observer.messages[vector].load(Ordering::Acquire);
                driver.program(vector as u64, true);
                let before = sent();
                driver.read(0, PBA, 8);
                assert_eq!(sent(), before, "vector {vector} is masked");
                driver.program(vector as u64, false);
            }
        }
    });
    assert_eq!(driver.read(0, PBA, 8), 0);
    for seen in &observer.seen {
        assert_eq!(seen.load(Ordering::Acquire), ROUNDS);
    }
}

#[test]
fn threads_that_move_the_level_at_once_leave_the_guest_with_the_last() {
    let (mut driver, apic) = Driver::with_apic();
    let barrier = Barrier::new(THREADS + 1);
    let (mut heard, mut wrong) = (false, None);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (irq, barrier) = (driver.irq.clone(), &barrier);
            scope.spawn(move || {
                for round in 0..ROUNDS as usize {
                    barrier.wait();
                    for turn in 0..4 {
                        irq.set_intx((thread + round + turn).is_multiple_of(2));
                    }
                    barrier.wait();
                }
            });
        }
        for round in 0..ROUNDS {
            barrier.wait();
            barrier.wait();
            for level in apic.levels() {
                // It is told of changes only.
                wrong = wrong.or((level == heard).then_some(round));
                heard = level;
            }
            wrong = wrong.or((driver.is_asserted() != heard).then_some(round));
        }
    });
    // Not before: the threads would wait for ever.
    assert_eq!(wrong, None);
}
