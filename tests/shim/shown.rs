//! Pages of registers that are mapped for reading, and doorbells with a value.

use std::io;

use vgpu_stub::device::{Access, AccessError, Bar, Device, Function, Irq, Register, RegisterFile};
use vgpu_stub::devices::DoorbellRegister as Bell;
use vgpu_stub::endpoint::Endpoint;
use vgpu_stub::pci::Identity;
use vgpu_stub::registers;

use crate::fake::{Fake, Heard, Then, is};
use crate::rig::RigError;
use crate::rig::qtest::Slot;
use crate::rig::require;
use crate::stage::{Card, board};
use crate::wire::{Cmd, make};

registers! {
    /// Page 0 is shown, page 1 is memory, page 2 is trapped.
    enum Reg[0x4000] {
        0x0000 VALUE: u32 rw shown = 0x1234_5678, "storage";
        0x0004 DOUBLE: u32 ro shown = 0, "twice VALUE";
        0x0008 CLEAR: u32 w1c shown = 0xffff_ffff, "write 1 to clear";
        0x000c WIDE_LOW: u32 wo = 0, "shows nothing";
        0x0010 WIDE: u64 rw shown = 0, "storage";
        0x1000 MEMORY: u32 rw mapped = 7, "the guest's";
        0x2000 LEVEL: u32 rw = 0, "the INTx level";
        0x2004 SET: u32 wo = 0, "sets VALUE";
    }
    reserved { 0x0018..0x1000, 0x1004..0x2000, 0x2008..0x4000 }
}

struct Shown {
    registers: RegisterFile<Reg>,
    irq: Irq,
}

impl Shown {
    fn endpoint() -> Endpoint {
        Endpoint::new(|irq, _| {
            let registers = RegisterFile::mapped()?;
            Ok::<_, io::Error>(Box::new(Shown { registers, irq }) as Box<dyn Device>)
        })
        .unwrap()
    }

    fn set(&mut self, value: u64) {
        self.registers.set(Reg::VALUE, value);
        self.registers.set(Reg::DOUBLE, (value * 2) & 0xffff_ffff);
    }
}

impl Device for Shown {
    fn function(&self) -> Function {
        Function::new(Identity {
            vendor: 0x1af4,
            device: 0x1113,
            subsystem_vendor: 1,
            subsystem: 2,
            revision: 3,
            class: 0x12_0000,
        })
        .bar(0, Bar::of(&self.registers))
        .intx()
    }

    fn read(&mut self, at: Access) -> Result<u64, AccessError> {
        Ok(self.registers.get(Reg::at(at)?))
    }

    fn write(&mut self, at: Access, value: u64) -> Result<(), AccessError> {
        match Reg::at(at)? {
            Reg::VALUE | Reg::SET => self.set(value),
            Reg::LEVEL => {
                self.registers.set(Reg::LEVEL, value);
                self.irq.set_intx(value != 0);
            }
            register => self.registers.write(register, value)?,
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.registers.reset();
    }
}

fn recorded(endpoint: Endpoint) -> (Fake, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let fake = Fake::serve(&socket, endpoint, None, |_, _| Then::Honest);
    (fake, directory)
}

fn card(fake: &Fake, properties: &str) -> Result<Card, RigError> {
    Ok(Card::start(board(&fake.socket(), properties)?))
}

fn accesses(fake: &Fake) -> Vec<Heard> {
    fake.heard(|heard| heard.is(Cmd::RegionRead) || heard.is(Cmd::RegionWrite))
}

#[test]
fn reads_of_a_shown_page_cost_no_message_and_its_writes_are_waited_for() {
    let (fake, _directory) = recorded(Shown::endpoint());
    let mut card = require!(card(&fake, ""));
    fake.clear();
    assert_eq!(card.get(Reg::VALUE), 0x1234_5678);
    assert_eq!(card.read(0, 2), 0x5678);
    assert_eq!(card.read(3, 1), 0x12);
    assert_eq!(card.get(Reg::CLEAR), 0xffff_ffff);
    // Write-only registers and reserved bytes read as ones.
    assert_eq!(card.get(Reg::WIDE_LOW), 0xffff_ffff);
    assert_eq!(card.read(0xff8, 8), u64::MAX);
    assert!(accesses(&fake).is_empty());
    for value in 0..100 {
        card.set(Reg::VALUE, value);
        // At once, and everything that the write has changed.
        assert_eq!(card.get(Reg::VALUE), value);
        assert_eq!(card.get(Reg::DOUBLE), 2 * value);
        card.set(Reg::DOUBLE, 1);
        card.set(Reg::CLEAR, 1 << (value % 32));
        assert_eq!(card.get(Reg::CLEAR) >> (value % 32) & 1, 0);
    }
    card.set(Reg::WIDE, u64::MAX / 3);
    assert_eq!(card.get(Reg::WIDE), u64::MAX / 3);
    let heard = accesses(&fake);
    assert_eq!(heard.len(), 301);
    assert!(heard.iter().all(|heard| heard.is(Cmd::RegionWrite)));
    assert!(!heard.iter().any(Heard::no_reply));
}

/// A trapped register of the same BAR changes what is shown: a read that no
/// one sees pushes no write, so that one is waited for as well.
#[test]
fn a_write_elsewhere_shows_its_effect_before_the_next_read() {
    for properties in ["", ",shared-mmio=off"] {
        let served = crate::wire::Served::of(crate::wire::PATIENT, [("shown", Shown::endpoint())]);
        let mut card = Card::start(require!(board(&served.path("shown"), properties)));
        for value in 0..200 {
            card.set(Reg::SET, value);
            assert_eq!(card.get(Reg::VALUE), value);
            assert_eq!(card.get(Reg::DOUBLE), 2 * value);
        }
    }
}

#[test]
fn a_page_of_mapped_registers_is_memory() {
    let (fake, _directory) = recorded(Shown::endpoint());
    let mut card = require!(card(&fake, ""));
    fake.clear();
    assert_eq!(card.get(Reg::MEMORY), 7);
    card.set(Reg::MEMORY, 8);
    assert_eq!(card.get(Reg::MEMORY), 8);
    assert!(accesses(&fake).is_empty());
    card.set(Reg::LEVEL, 0);
    assert_eq!(card.get(Reg::LEVEL), 0);
    assert_eq!(accesses(&fake).len(), 2);
}

/// The end of an INTx is an access to a BAR, so all are seen until then.
#[test]
fn shown_pages_are_trapped_while_an_intx_is_pending() {
    const LINE: u8 = 10;
    let (fake, _directory) = recorded(Shown::endpoint());
    let mut card = require!(card(&fake, ""));
    card.slot.route(&mut card.qemu, LINE);
    card.set(Reg::LEVEL, 1);
    card.qemu
        .until("INTx", |qemu| Slot::line(qemu, LINE).then_some(()));
    fake.clear();
    assert_eq!(card.get(Reg::VALUE), 0x1234_5678);
    assert_eq!(accesses(&fake).len(), 1);
    card.set(Reg::LEVEL, 0);
    // One that was on its way ends with an access, as for a guest.
    let at = card.bar(0).address;
    card.qemu.until("no INTx", |qemu| {
        qemu.read(at, 4);
        (!Slot::line(qemu, LINE)).then_some(())
    });
    fake.clear();
    card.set(Reg::VALUE, 5);
    assert_eq!(card.get(Reg::VALUE), 5);
    assert_eq!(accesses(&fake).len(), 1);
}

#[test]
fn shown_pages_and_doorbells_are_there_again_after_a_reconnection() {
    let (fake, _directory) = recorded(make("doorbell"));
    let mut card = require!(card(&fake, ",msg-timeout=300,reconnect=20"));
    for session in 1..=3 {
        fake.clear();
        assert_eq!(card.get(Bell::ID), 0x4c4c_4542);
        card.set(Bell::SUBMIT, 40 + session);
        let submitted = card.bar(0).address + 0xc;
        card.qemu.until("SUBMITTED", |qemu| {
            (qemu.read(submitted, 4) == 40 + session).then_some(())
        });
        assert!(accesses(&fake).is_empty());
        fake.hang_up();
        let sessions = usize::try_from(session).unwrap() + 1;
        fake.wait_sessions(sessions);
        // While there is no server it reads as ones.
        card.qemu.until("the device", |qemu| {
            (qemu.read(submitted - 0xc, 4) == 0x4c4c_4542).then_some(())
        });
    }
}

#[test]
fn a_lost_server_shows_nothing_any_more() {
    let (fake, _directory) = recorded(make("doorbell"));
    let mut card = require!(card(&fake, ""));
    assert_eq!(card.get(Bell::ID), 0x4c4c_4542);
    fake.hang_up();
    let at = card.bar(0).address;
    card.qemu.until("the loss", |qemu| {
        (qemu.read(at, 4) == 0xffff_ffff).then_some(())
    });
    card.set(Bell::SUBMIT, 1);
    card.qemu.alive();
}

/// The value is kept, and nobody waits.
#[test]
fn a_doorbell_with_a_value_is_a_store_and_a_signal() {
    let (fake, _directory) = recorded(make("doorbell"));
    let mut card = require!(card(&fake, ""));
    fake.clear();
    let submitted = card.bar(0).address + 0xc;
    for value in [1, 0xffff_ffff, 0, 0x8000_0001] {
        card.set(Bell::SUBMIT, value);
        card.qemu.until("SUBMITTED", |qemu| {
            (qemu.read(submitted, 4) == value).then_some(())
        });
    }
    // One without a value, in the shown page too.
    let rings = card.get(Bell::COUNT);
    card.set(Bell::RING, 9);
    let count = card.bar(0).address + 0x1000;
    card.qemu.until("COUNT", |qemu| {
        (qemu.read(count, 4) == rings + 1).then_some(())
    });
    assert!(accesses(&fake).is_empty());
    // Narrower ones are no rings of it.
    card.write(0x8, 2, 5);
    assert_eq!(accesses(&fake).len(), 1);
}

/// A server that lies about the doorbell's entry, from this byte on.
fn lying(at: usize, bytes: &'static [u8]) -> (Fake, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let fake = Fake::serve(&socket, make("doorbell"), None, move |peer, message| {
        if !is(message, Cmd::GetRegionIoFds) || message.u32(24) != 0 {
            return Then::Honest;
        }
        peer.lie(message, |answer| {
            for entry in [32, 80] {
                let shadows = answer.bytes.get(entry + 20).copied() == Some(2);
                let place = answer.bytes.get_mut(entry + at..entry + at + bytes.len());
                if let (Some(place), true) = (place, shadows) {
                    place.copy_from_slice(bytes);
                }
            }
        })
    });
    (fake, directory)
}

/// What cannot be a doorbell's memory is not; its writes are sent.
#[test]
fn lies_about_a_doorbell_with_a_value_are_survived() {
    let lies: [(&str, usize, &'static [u8]); 8] = [
        ("no such memory", 28, &[7, 0, 0, 0]),
        ("memory -1", 28, &[0xff; 4]),
        ("the eventfd as memory", 28, &[0, 0, 0, 0]),
        ("an offset beyond it", 32, &[0, 0, 0, 1, 0, 0, 0, 0]),
        (
            "an offset of -8",
            32,
            &[0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ),
        ("an offset that is odd", 32, &[1, 0, 0, 0, 0, 0, 0, 0]),
        ("no such eventfd", 16, &[7, 0, 0, 0]),
        ("no such type", 20, &[9, 0, 0, 0]),
    ];
    for (name, at, bytes) in lies {
        println!("{name}");
        let (fake, _directory) = lying(at, bytes);
        let mut card = require!(card(&fake, ""));
        fake.clear();
        card.set(Bell::SUBMIT, 5);
        let submitted = card.bar(0).address + 0xc;
        card.qemu.until("SUBMITTED", |qemu| {
            (qemu.read(submitted, 4) == 5).then_some(())
        });
        assert_eq!(accesses(&fake).len(), 1);
        card.qemu.quit();
    }
}

/// Areas that a server says may be read.
#[test]
fn lies_about_shown_pages_are_survived() {
    let lies: [(&str, u64, u64); 6] = [
        ("an odd offset", 1, 0x1000),
        ("an odd size", 0, 0xfff),
        ("no size", 0, 0),
        ("more than the BAR", 0, 0x2_0000),
        ("behind the BAR", 0x10_0000, 0x1000),
        ("all there is", !0xfff, 0x1000),
    ];
    for (name, offset, size) in lies {
        println!("{name}");
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let fake = Fake::serve(&socket, Shown::endpoint(), None, move |peer, message| {
            if !is(message, Cmd::GetRegionInfo) || message.u32(24) != 0 {
                return Then::Honest;
            }
            peer.lie(message, |answer| {
                // The capability of read-only areas is behind the other one.
                let id = 0xff00u16.to_ne_bytes();
                let mut places = (48..answer.bytes.len()).step_by(8);
                let at = places.find(|at| answer.bytes[*at..*at + 2] == id);
                let Some(at) = at else { return };
                answer.bytes[at + 16..at + 24].copy_from_slice(&offset.to_ne_bytes());
                answer.bytes[at + 24..at + 32].copy_from_slice(&size.to_ne_bytes());
            })
        });
        let mut card = require!(card(&fake, ""));
        fake.clear();
        card.set(Reg::VALUE, 5);
        assert_eq!(card.get(Reg::VALUE), 5);
        assert_eq!(accesses(&fake).len(), 2);
        card.qemu.quit();
    }
}
