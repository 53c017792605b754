//! Registers that need no exit: that their pages say what the device says, and
//! that nobody who writes there changes what it believes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use proptest::prelude::*;
use vgpu_stub::device::{Access, AccessError, Bar, Device, Function, Register, RegisterFile};
use vgpu_stub::endpoint::{Endpoint, EndpointError};
use vgpu_stub::pci::Identity;
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

vgpu_stub::registers! {
    /// A page to read, a page to read and write, and a trapped one.
    enum Reg[0x4000] {
        0x0000 STATUS: u32 w1c shown = 0xffff_0000, "write 1 to clear";
        0x0004 LIMIT: u16 rw shown = 0x1234, "storage";
        0x0006 LOW: u8 rw mapped = 0x56, "storage";
        0x0008 POKE: u64 wo = 0, "sets TOTAL, WIDE and STATUS";
        0x0010 WIDE: u64 ro shown = 0x0123_4567_89ab_cdef, "the value of POKE";
        0x1000 TOTAL: u32 ro mapped = 7, "the value of POKE, and COUNT";
        0x1004 EVERY: u32 rw mapped = 8, "storage";
        0x1008 BIG: u64 rw mapped = 9, "storage";
        0x1010 BYTE: u8 rw mapped = 10, "storage";
        0x2000 PLAIN: u32 rw = 11, "storage";
        0x2004 ALSO: u32 ro mapped = 12, "beside a trapped register";
    }
    reserved { 0x0007..0x0008, 0x0018..0x1000, 0x1011..0x2000, 0x2008..0x4000 }
}

/// The pages that a client may map.
const SHOWN: u64 = 0x0000;
const MAPPED: u64 = 0x1000;
const PAGE: usize = 0x1000;

struct Registers(RegisterFile<Reg>);

impl Device for Registers {
    fn function(&self) -> Function {
        Function::new(IDENTITY).bar(0, Bar::of(&self.0))
    }

    fn read(&mut self, at: Access) -> Result<u64, AccessError> {
        Ok(self.0.get(Reg::at(at)?))
    }

    fn write(&mut self, at: Access, value: u64) -> Result<(), AccessError> {
        match Reg::at(at)? {
            Reg::POKE => {
                self.0.set(Reg::WIDE, value);
                self.0.set(Reg::TOTAL, value);
                self.0.set_bits(Reg::STATUS, value);
            }
            register => self.0.write(register, value)?,
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.0.reset();
    }
}

const IDENTITY: Identity = Identity {
    vendor: 1,
    device: 2,
    subsystem_vendor: 3,
    subsystem: 4,
    revision: 5,
    class: 0xff_0000,
};

fn endpoint() -> Endpoint {
    Endpoint::new(|_, _| Ok(Box::new(Registers(RegisterFile::mapped()?)))).unwrap()
}

/// The whole memory behind a region, as a client may map it.
fn mmap(fd: BorrowedFd<'_>, size: usize) -> MmapRegion<()> {
    let file = fd.try_clone_to_owned().unwrap().into();
    MmapRegion::from_file(FileOffset::new(file, 0), size).unwrap()
}

fn memory_of(endpoint: &Endpoint) -> MmapRegion<()> {
    mmap(endpoint.region(0).unwrap().memory.unwrap(), 0x4000)
}

fn trapped(endpoint: &mut Endpoint, register: Reg) -> u64 {
    let row = register.row();
    let mut value = [0; 8];
    let width = row.width.bytes() as usize;
    endpoint
        .read(0, row.offset.into(), &mut value[..width])
        .unwrap();
    u64::from_le_bytes(value)
}

/// What the first bytes of a page show, and what trapped reads of them give.
fn both(
    endpoint: &mut Endpoint,
    memory: &MmapRegion<()>,
    page: u64,
    length: usize,
) -> [Vec<u8>; 2] {
    let (mut shown, mut read) = (vec![0; length], vec![0; length]);
    let start = usize::try_from(page).unwrap();
    memory
        .as_volatile_slice()
        .read_slice(&mut shown, start)
        .unwrap();
    endpoint.read(0, page, &mut read).unwrap();
    [shown, read]
}

#[derive(Clone, Debug)]
enum Step {
    /// A trapped write of the guest.
    Write(u64, Vec<u8>),
    /// A store of the guest into a mapped register.
    Store(Reg, u64),
    Reset,
    /// The client leaves, and the next comes.
    Leave,
}

fn step() -> impl Strategy<Value = Step> {
    let offset = prop_oneof![0..0x20u64, MAPPED..MAPPED + 0x18, 0x2000..0x2008u64];
    let data = prop::collection::vec(any::<u8>(), 1..=16);
    let register = prop::sample::select(vec![Reg::EVERY, Reg::BIG, Reg::BYTE]);
    prop_oneof![
        8 => (offset, data).prop_map(|(offset, data)| Step::Write(offset, data)),
        4 => (register, any::<u64>()).prop_map(|(register, value)| Step::Store(register, value)),
        1 => Just(Step::Reset),
        1 => Just(Step::Leave),
    ]
}

/// As the guest does: one store of the register's width.
fn store(memory: &MmapRegion<()>, register: Reg, value: u64) {
    let row = register.row();
    let width = row.width.bytes() as usize;
    memory
        .as_volatile_slice()
        .write_slice(&value.to_le_bytes()[..width], row.offset as usize)
        .unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    #[test]
    fn a_mapped_read_gives_what_a_trapped_one_gives(
        steps in prop::collection::vec(step(), 1..50)
    ) {
        let mut endpoint = endpoint();
        let mut memory = memory_of(&endpoint);
        for step in steps {
            match step {
                Step::Write(offset, data) => endpoint.write(0, offset, &data).unwrap(),
                Step::Store(register, value) => {
                    store(&memory, register, value);
                    let value = value & register.row().width.mask();
                    prop_assert_eq!(trapped(&mut endpoint, register), value);
                }
                Step::Reset => endpoint.reset(),
                Step::Leave => {
                    endpoint.disconnect();
                    memory = memory_of(&endpoint);
                }
            }
            for page in [SHOWN, MAPPED] {
                // All registers, and some reserved bytes.
                let [shown, read] = both(&mut endpoint, &memory, page, 0x20);
                prop_assert_eq!(shown, read, "page {:#x}", page);
            }
        }
        for page in [SHOWN, MAPPED] {
            let [shown, read] = both(&mut endpoint, &memory, page, PAGE);
            prop_assert_eq!(shown, read, "page {:#x}", page);
        }
    }
}

/// What the guest cannot change by a store, whatever it stores where.
const KEPT: [(Reg, u64); 4] = [
    (Reg::STATUS, 0xffff_00ff),
    (Reg::LIMIT, 0x1234),
    (Reg::WIDE, 0xff),
    (Reg::TOTAL, 0xff),
];

#[test]
fn a_client_that_scribbles_changes_nothing_that_the_device_believes() {
    let mut endpoint = endpoint();
    let memory = memory_of(&endpoint);
    let (stop, begun) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let slice = memory.as_volatile_slice();
            for word in (1u64..).map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
                for offset in (0..0x4000).step_by(8) {
                    slice.store(word, offset, Ordering::Relaxed).unwrap();
                }
                begun.store(true, Ordering::Release);
                if stop.load(Ordering::Acquire) {
                    break;
                }
            }
        });
        while !begun.load(Ordering::Acquire) {
            thread::yield_now();
        }
        for _ in 0..200 {
            endpoint.write(0, 8, &0xffu64.to_le_bytes()).unwrap();
            // Dropped, as ever.
            endpoint.write(0, MAPPED, &[0; 4]).unwrap();
            for (register, value) in KEPT {
                assert_eq!(trapped(&mut endpoint, register), value, "{register:?}");
            }
            // Anything, but never more than the register holds.
            assert!(trapped(&mut endpoint, Reg::BYTE) <= 0xff);
            endpoint.reset();
        }
        // The next client's memory is not in its reach.
        endpoint.disconnect();
        let fresh = memory_of(&endpoint);
        for _ in 0..100 {
            for page in [SHOWN, MAPPED] {
                let [shown, read] = both(&mut endpoint, &fresh, page, 0x20);
                assert_eq!(shown, read);
            }
        }
        stop.store(true, Ordering::Release);
    });
}

#[test]
fn what_was_scribbled_over_is_right_after_a_reset() {
    let mut endpoint = endpoint();
    let memory = memory_of(&endpoint);
    let slice = memory.as_volatile_slice();
    slice.write_slice(&[0x5a; 2 * PAGE], 0).unwrap();
    endpoint.reset();
    for page in [SHOWN, MAPPED] {
        let [shown, read] = both(&mut endpoint, &memory, page, PAGE);
        assert_eq!(shown, read);
    }
    assert_eq!(trapped(&mut endpoint, Reg::EVERY), 8);
}

#[test]
fn a_value_is_seen_whole() {
    let mut endpoint = endpoint();
    let memory = memory_of(&endpoint);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let seen = scope.spawn(|| {
            let slice = memory.as_volatile_slice();
            let mut seen = 0u64;
            while !done.load(Ordering::Acquire) {
                let value: u64 = slice.load(0x10, Ordering::Acquire).unwrap();
                let low = value & 0xffff;
                let whole = low * 0x0001_0001_0001_0001;
                assert!(
                    value == whole || value == Reg::WIDE.row().reset,
                    "{value:#x}"
                );
                seen += 1;
            }
            seen
        });
        for word in 0..20_000u64 {
            let value = (word & 0xffff) * 0x0001_0001_0001_0001;
            endpoint.write(0, 8, &value.to_le_bytes()).unwrap();
        }
        done.store(true, Ordering::Release);
        seen.join().unwrap();
    });
}

#[test]
fn without_its_memory_every_register_traps() {
    let plain =
        |_, _| -> std::io::Result<Box<dyn Device>> { Ok(Box::new(Registers(RegisterFile::new()))) };
    let mut endpoint = Endpoint::new(plain).unwrap();
    let region = endpoint.region(0).unwrap();
    assert!(region.memory.is_none() && region.mapped.is_empty() && region.read_only.is_empty());
    assert_eq!(trapped(&mut endpoint, Reg::EVERY), 8);
    endpoint.write(0, 0x1004, &[3, 0, 0, 0]).unwrap();
    assert_eq!(trapped(&mut endpoint, Reg::EVERY), 3);
}

#[test]
fn a_bar_has_one_memory() {
    struct Two(RegisterFile<Reg>);
    impl Device for Two {
        fn function(&self) -> Function {
            let memory = vgpu_stub::device::SharedMemory::new(0x4000).unwrap();
            let bar = Bar::of(&self.0).mapped(memory, Vec::new());
            Function::new(IDENTITY).bar(0, bar)
        }
        fn read(&mut self, _: Access) -> Result<u64, AccessError> {
            Ok(0)
        }
        fn write(&mut self, _: Access, _: u64) -> Result<(), AccessError> {
            Ok(())
        }
        fn reset(&mut self) {}
    }
    let refused = Endpoint::new(|_, _| Ok(Box::new(Two(RegisterFile::mapped()?)))).err();
    assert!(matches!(refused, Some(EndpointError::Areas { bar: 0 })));
}
