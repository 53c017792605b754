use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use super::super::function::Slot;
use super::super::ioreq::tests::{Asked, DOWN, POINTS, READS, answer, page};
use super::super::ioreq::{Slots, Words};
use super::super::ranges::Refused;
use super::super::{BusMaster, DomainId, ForeignPages, MapGuest, XenError};
use super::*;
use crate::device::DmaError;
use crate::devices::{Kind, Options};
use crate::endpoint::Endpoint;
use crate::pci::spec::{BAR0, COMMAND, command};

const BAR: u64 = 0xf000_0000;
const SCRATCH: u64 = 0xc;
const SCRATCH64: u64 = 0x10;
const DOORBELL: u64 = 0x24;
const DOORBELL_COUNT: u64 = 0x28;
const DOORBELL_VALUE: u64 = 0x2c;
const ID: u64 = 0x1111_1af4;

/// Xen's ranges of one server.
#[derive(Clone, Default)]
struct Fake(Rc<RefCell<Vec<(u64, u64)>>>);

impl Routes for Fake {
    fn map(&self, first: u64, last: u64) -> Result<(), Refused> {
        let mut ranges = self.0.borrow_mut();
        if ranges.iter().any(|at| at.0 <= last && first <= at.1) {
            return Err(Refused::Exists);
        }
        ranges.push((first, last));
        Ok(())
    }

    fn unmap(&self, first: u64, last: u64) {
        self.0.borrow_mut().retain(|at| *at != (first, last));
    }
}

/// A page of RAM from 0x1000 on, and how often all of it was let go.
#[derive(Clone)]
struct Ram {
    bytes: Rc<RefCell<Vec<u8>>>,
    forgotten: Arc<AtomicU32>,
}

impl Ram {
    fn range(address: u64, length: usize) -> Result<std::ops::Range<usize>, DmaError> {
        let start = usize::try_from(address.wrapping_sub(0x1000)).unwrap_or(usize::MAX);
        match start.checked_add(length) {
            Some(end) if end <= 0x1000 => Ok(start..end),
            _ => Err(DmaError::Unmapped { address }),
        }
    }
}

impl Memory for Ram {
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), DmaError> {
        data.copy_from_slice(&self.bytes.borrow()[Ram::range(address, data.len())?]);
        Ok(())
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), DmaError> {
        self.bytes.borrow_mut()[Ram::range(address, data.len())?].copy_from_slice(data);
        Ok(())
    }

    fn forget(&self) {
        self.forgotten
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// A domain without memory.
struct Nothing;

impl MapGuest for Nothing {
    fn map_guest(&self, _: u64, _: usize) -> Result<ForeignPages, XenError> {
        Err(XenError::NoDomain(DomainId::new(1).unwrap()))
    }
}

/// A guest and its devices.
struct Machine {
    words: Box<Words>,
    dispatch: Dispatch<Fake, Ram>,
    xen: Fake,
    ram: Ram,
}

impl Machine {
    /// With stubs in these places.
    fn with(slots: &[u8]) -> Self {
        let (xen, ram) = (
            Fake::default(),
            Ram {
                bytes: Rc::new(RefCell::new(vec![0; 0x1000])),
                forgotten: Arc::default(),
            },
        );
        let mut dispatch = Dispatch::new(xen.clone(), ram.clone());
        for slot in slots {
            let stub = Kind::find("stub").unwrap().builder(Options::default());
            let endpoint = Endpoint::new(stub.unwrap()).unwrap();
            let memory = Arc::new(BusMaster::new(Arc::new(GuestMemory::new(Arc::new(
                Nothing,
            )))));
            let slot = Slot::new(*slot).unwrap();
            let function = PciFunction::new(slot, endpoint, memory).unwrap();
            dispatch.functions.push(function);
        }
        Machine {
            words: page(),
            dispatch,
            xen,
            ram,
        }
    }

    /// With one stub whose BAR is where it is expected.
    fn set_up() -> Self {
        let mut machine = Machine::with(&[0xc]);
        machine.place(0xc, BAR);
        machine
    }

    /// A request of a vCPU, taken and answered.
    fn ask(&mut self, vcpu: usize, asked: Asked) -> u64 {
        asked.put(&self.words, vcpu);
        let slots = Slots::new(&self.words, vcpu + 1);
        let request = slots.take(vcpu).unwrap();
        let outcome = self.dispatch.carry_out(&request);
        if let Some(value) = outcome.value {
            slots.put(vcpu, value);
        }
        slots.finish(vcpu);
        answer(&self.words, vcpu).expect("no request stays unanswered")
    }

    fn read(&mut self, address: u64, size: u32) -> u64 {
        let read = self.ask(0, Asked::memory(address, size, READS));
        read & (u64::MAX >> (64 - 8 * size.clamp(1, 8)))
    }

    fn write(&mut self, address: u64, size: u32, value: u64) {
        self.ask(0, Asked::memory(address, size, 0).data(value));
    }

    fn config_read(&mut self, device: u32, register: u32, size: u32) -> u64 {
        let read = self.ask(0, Asked::config(device << 3, register, size, READS));
        read & (u64::MAX >> (64 - 8 * size))
    }

    fn config_write(&mut self, device: u32, register: usize, value: u64) {
        let register = u32::try_from(register).unwrap();
        self.ask(0, Asked::config(device << 3, register, 4, 0).data(value));
    }

    fn place(&mut self, device: u32, address: u64) {
        self.config_write(device, BAR0, address);
        self.config_write(device, COMMAND, command::MEMORY_SPACE.into());
    }
}

#[test]
fn config_space_is_read_by_who_names_the_function() {
    let mut machine = Machine::with(&[0xc, 0xd]);
    for device in [0xc, 0xd] {
        assert_eq!(machine.config_read(device, 0, 4), ID);
        assert_eq!(machine.config_read(device, 2, 2), ID >> 16);
        assert_eq!(machine.config_read(device, 3, 1), 0x11);
    }
    assert_eq!(machine.config_read(0xe, 0, 4), 0xffff_ffff);
    // Across a register's end, at the end, and beyond it.
    assert_eq!(machine.config_read(0xc, 1, 4), 0x0011_111a);
    assert_eq!(machine.config_read(0xc, 0xfc, 4), 0);
    assert_eq!(machine.config_read(0xc, 0xfd, 4), 0xffff_ffff);
    assert_eq!(machine.config_read(0xc, 0x100, 4), 0xffff_ffff);
    assert_eq!(machine.config_read(0xc, u32::MAX, 1), 0xff);
}

#[test]
fn each_size_reaches_its_register_and_the_last_byte_is_the_last() {
    let mut machine = Machine::set_up();
    for (size, value) in [(1, 0xab), (2, 0xabcd), (4, 0x1234_5678)] {
        machine.write(BAR + SCRATCH, 4, 0);
        machine.write(BAR + SCRATCH, size, value);
        assert_eq!(machine.read(BAR + SCRATCH, 4), value);
    }
    machine.write(BAR + SCRATCH64, 8, 0x0123_4567_89ab_cdef);
    assert_eq!(machine.read(BAR + SCRATCH64, 8), 0x0123_4567_89ab_cdef);
    assert_eq!(machine.read(BAR + SCRATCH64 + 4, 4), 0x0123_4567);
    for size in [2, 4, 8] {
        assert_eq!(machine.read(BAR + 0xfff, size), u64::MAX >> (64 - 8 * size));
    }
    assert_eq!(machine.read(u64::MAX, 8), u64::MAX);
}

#[test]
fn sizes_and_counts_out_of_range_are_answered_and_do_nothing() {
    let mut machine = Machine::set_up();
    machine.write(BAR + SCRATCH, 4, 7);
    for size in [0, 3, 5, 6, 7, 9, 64, u32::MAX] {
        let read = machine.ask(0, Asked::memory(BAR + SCRATCH, size, READS));
        assert_eq!(read, u64::MAX);
        machine.ask(0, Asked::memory(BAR + SCRATCH, size, 0).data(9));
    }
    for count in [0, 0x4001, u32::MAX] {
        let asked = Asked::memory(BAR + SCRATCH, 4, READS).times(count);
        assert_eq!(machine.ask(0, asked), u64::MAX);
        machine.ask(
            0,
            Asked::memory(BAR + SCRATCH, 4, POINTS)
                .data(0x1000)
                .times(count),
        );
    }
    assert_eq!(machine.read(BAR + SCRATCH, 4), 7);
    let asked = Asked {
        kind: 8,
        ..Asked::memory(u64::MAX, 8, 0)
    };
    machine.ask(0, asked);
    let forgotten = machine
        .ram
        .forgotten
        .load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(forgotten, 1);
}

#[test]
fn a_bar_that_moved_or_is_not_decoded_reads_all_ones_where_it_was() {
    let mut machine = Machine::set_up();
    machine.write(BAR + SCRATCH, 4, 7);
    // As a request that was under way while another vCPU moved the BAR.
    machine.config_write(0xc, BAR0, 0xe000_0000);
    assert_eq!(machine.read(BAR + SCRATCH, 4), 0xffff_ffff);
    machine.write(BAR + SCRATCH, 4, 9);
    assert_eq!(machine.read(0xe000_0000 + SCRATCH, 4), 7);
    machine.config_write(0xc, COMMAND, 0);
    assert_eq!(machine.read(0xe000_0000 + SCRATCH, 4), 0xffff_ffff);
    assert_eq!(*machine.xen.0.borrow(), []);
    machine.place(0xc, BAR);
    assert_eq!(machine.read(BAR + SCRATCH, 4), 7);
    // By which its size is found out.
    machine.config_write(0xc, BAR0, 0xffff_ffff);
    assert_eq!(machine.config_read(0xc, 0x10, 4), 0xffff_f000);
    assert_eq!(*machine.xen.0.borrow(), []);
}

#[test]
fn a_bar_over_another_functions_gets_its_accesses_when_that_has_gone() {
    let mut machine = Machine::with(&[0xc, 0xd]);
    machine.place(0xc, BAR);
    machine.place(0xd, BAR);
    machine.write(BAR + SCRATCH, 4, 1);
    machine.config_write(0xc, COMMAND, 0);
    assert_eq!(machine.read(BAR + SCRATCH, 4), 0);
    machine.write(BAR + SCRATCH, 4, 2);
    machine.place(0xc, 0xe000_0000);
    assert_eq!(machine.read(0xe000_0000 + SCRATCH, 4), 1);
    assert_eq!(machine.read(BAR + SCRATCH, 4), 2);
}

#[test]
fn a_repeated_write_takes_its_values_from_guest_memory() {
    let mut machine = Machine::set_up();
    let words: Vec<u8> = (1..=4u32).flat_map(u32::to_le_bytes).collect();
    machine.ram.bytes.borrow_mut()[..16].copy_from_slice(&words);
    let asked = Asked::memory(BAR + SCRATCH, 4, POINTS).data(0x1000);
    machine.ask(0, asked.times(3));
    assert_eq!(machine.read(BAR + SCRATCH, 4), 1);
    assert_eq!(machine.read(BAR + SCRATCH64, 8), 3 << 32 | 2);
    // Downwards, from the last on.
    let asked = Asked::memory(BAR + SCRATCH64 + 4, 4, POINTS | DOWN);
    machine.ask(0, asked.data(0x100c).times(3));
    assert_eq!(machine.read(BAR + SCRATCH, 4), 2);
    assert_eq!(machine.read(BAR + SCRATCH64, 8), 4 << 32 | 3);
}

#[test]
fn a_repeated_read_fills_guest_memory() {
    let mut machine = Machine::set_up();
    machine.write(BAR + SCRATCH, 4, 0x11);
    machine.write(BAR + SCRATCH64, 8, 0x33 << 32 | 0x22);
    let asked = Asked::memory(BAR + SCRATCH, 4, POINTS | READS);
    machine.ask(0, asked.data(0x1100).times(3));
    let expected: Vec<u8> = [0x11, 0x22, 0x33u32]
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    assert_eq!(machine.ram.bytes.borrow()[0x100..0x10c], expected);
    let asked = Asked::memory(BAR + SCRATCH64 + 4, 4, POINTS | READS | DOWN);
    machine.ask(0, asked.data(0x1208).times(3));
    assert_eq!(machine.ram.bytes.borrow()[0x200..0x20c], expected);
}

#[test]
fn a_repeated_access_of_a_register_walks_through_the_bar() {
    let mut machine = Machine::set_up();
    // rep stos: the same value to each.
    machine.ask(0, Asked::memory(BAR + SCRATCH, 4, 0).data(5).times(3));
    assert_eq!(machine.read(BAR + SCRATCH64, 8), 5 << 32 | 5);
    machine.write(BAR + SCRATCH64 + 4, 4, 8);
    let asked = Asked::memory(BAR + SCRATCH, 4, READS).times(3);
    assert_eq!(machine.ask(0, asked) & 0xffff_ffff, 8);
    machine.ask(0, Asked::memory(BAR + DOORBELL, 4, 0).data(6).times(1));
    assert_eq!(machine.read(BAR + DOORBELL_COUNT, 4), 1);
    assert_eq!(machine.read(BAR + DOORBELL_VALUE, 4), 6);
}

#[test]
fn a_repeated_access_that_leaves_the_bar_or_ram_does_no_harm() {
    let mut machine = Machine::set_up();
    machine.write(BAR + SCRATCH, 4, 7);
    // Beyond the BAR's end: all of it is dropped, all of it reads all-ones.
    let asked = Asked::memory(BAR + SCRATCH, 4, POINTS).data(0x1000);
    machine.ask(0, asked.times(0x1000));
    assert_eq!(machine.read(BAR + SCRATCH, 4), 7);
    let asked = Asked::memory(BAR + 0xffc, 4, POINTS | READS).data(0x1000);
    machine.ask(0, asked.times(2));
    assert_eq!(
        machine.ram.bytes.borrow()[..9],
        [255, 255, 255, 255, 255, 255, 255, 255, 0]
    );
    // No RAM on the other side.
    let asked = Asked::memory(BAR + SCRATCH, 4, POINTS | READS).data(u64::MAX - 3);
    machine.ask(0, asked.times(2));
    let asked = Asked::memory(BAR + SCRATCH, 4, POINTS).data(0x1ffe);
    machine.ask(0, asked.times(1));
    assert_eq!(machine.read(BAR + SCRATCH, 4), 0xffff_ffff);
}

#[test]
fn many_vcpus_ask_at_once_and_each_gets_its_own_answer() {
    let mut machine = Machine::set_up();
    let first = [machine.read(BAR, 4), machine.read(BAR + 4, 4)];
    let asked = |vcpu: u64| match vcpu % 3 {
        0 => Asked::config(0x60, 0, 4, READS),
        1 => Asked::memory(BAR + 4 * (vcpu % 2), 4, READS),
        _ => Asked::memory(0xe000_0000 + vcpu, 1, READS),
    };
    for vcpu in 0..128 {
        asked(vcpu).put(&machine.words, usize::try_from(vcpu).unwrap());
    }
    let slots = Slots::new(&machine.words, 128);
    for vcpu in 0..slots.len() {
        let request = slots.take(vcpu).unwrap();
        let outcome = machine.dispatch.carry_out(&request);
        slots.put(vcpu, outcome.value.unwrap());
        slots.finish(vcpu);
    }
    assert!(!slots.has_request());
    for vcpu in 0..128u64 {
        let answered = answer(&machine.words, usize::try_from(vcpu).unwrap());
        let expected = match vcpu % 3 {
            0 => ID,
            1 => first[usize::try_from(vcpu % 2).unwrap()],
            _ => u64::MAX,
        };
        assert_eq!(answered.map(low_half), Some(low_half(expected)), "{vcpu}");
    }
}

#[test]
fn whatever_a_guest_asks_for_is_answered() {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    println!("seed {seed:#x}");
    let mut next = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % below).unwrap()
    };
    let mut machine = Machine::with(&[1, 0xc, 0x1f]);
    for _ in 0..20_000 {
        let device = [1, 0xc, 0x1f, 2][next(4)];
        let flags = [READS, 0, POINTS, POINTS | READS, DOWN, READS | DOWN][next(6)];
        let size = [1, 2, 4, 8, 3, 0][next(6)];
        let asked = if next(3) == 0 {
            let register = [0, 4, 0x10, 0x14, 0x3c, 0x84, 0xfe][next(7)];
            let value = [0, 2, 6, BAR, BAR + 0x800, 0xffff_ffff, 0x1000][next(7)];
            Asked::config(device << 3, register, size, flags).data(value)
        } else {
            let address = [BAR, BAR + 0x800, 0x1000, u64::MAX - 16][next(4)];
            let count = [1, 1, 2, 3, 64][next(5)];
            Asked::memory(address + next(16) as u64, size, flags)
                .data(0x1000 + next(0x20) as u64)
                .times(count)
        };
        machine.ask(0, asked);
    }
}

fn low_half(value: u64) -> u64 {
    value & u64::from(u32::MAX)
}
