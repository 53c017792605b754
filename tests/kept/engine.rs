//! The stub's engine is killed at each of its accesses to guest memory, before
//! it, in the middle of it and after it, while accesses go on beside it. Its
//! successor does the rest: in the end memory and registers are as if nobody
//! had been killed.

use std::sync::{Arc, Mutex};
use std::thread;

use vgpu_stub::device::{
    Device, Dma, DmaBus, DmaError, Interrupts, Irq, KeptMemory, KeptWords, Line, Register,
    StateReader, StateWriter,
};
use vgpu_stub::devices::{Stub, StubRegister as Reg};

use super::memory::{Plain, plain, values};

const GUEST: usize = 0x2_0000;
const RING: u64 = 0x1_0000;

/// All that outlives a process.
#[derive(Clone)]
struct Left {
    /// So many accesses were committed, with this state after the last.
    committed: usize,
    state: Vec<u64>,
    memory: Vec<u64>,
    guest: Vec<u8>,
}

/// Guest memory and what was committed, with a look at every access.
struct Bus {
    guest: Mutex<Vec<u8>>,
    committed: Mutex<(usize, Vec<u64>)>,
    memory: Arc<Plain>,
    looks: Option<Mutex<Vec<Left>>>,
}

impl Bus {
    fn look(&self, guest: &[u8]) {
        let Some(looks) = &self.looks else { return };
        let (committed, state) = self.committed.lock().unwrap().clone();
        looks.lock().unwrap().push(Left {
            committed,
            state,
            memory: values(self.memory.words()),
            guest: guest.to_vec(),
        });
    }
}

fn range(address: u64, length: usize) -> Result<std::ops::Range<usize>, DmaError> {
    let start = usize::try_from(address).unwrap_or(usize::MAX);
    let end = start.checked_add(length).filter(|end| *end <= GUEST);
    let end = end.ok_or(DmaError::Unmapped { address })?;
    Ok(start..end)
}

impl DmaBus for Bus {
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), DmaError> {
        let guest = self.guest.lock().unwrap();
        self.look(&guest);
        data.copy_from_slice(&guest[range(address, data.len())?]);
        Ok(())
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), DmaError> {
        let mut guest = self.guest.lock().unwrap();
        let range = range(address, data.len())?;
        let middle = range.start + data.len() / 2;
        self.look(&guest);
        guest[range.start..middle].copy_from_slice(&data[..data.len() / 2]);
        self.look(&guest);
        guest[middle..range.end].copy_from_slice(&data[data.len() / 2..]);
        self.look(&guest);
        Ok(())
    }
}

struct Nobody;

impl Interrupts for Nobody {
    fn signal(&self, _: Line) {}
    fn set_intx(&self, _: bool) {}
}

/// A stub and its thread, as one process.
struct Process {
    stub: Stub,
    bus: Arc<Bus>,
}

impl Process {
    fn new(left: &Left, looks: bool) -> Self {
        let memory = plain(&left.memory);
        let bus = Arc::new(Bus {
            guest: Mutex::new(left.guest.clone()),
            committed: Mutex::new((left.committed, left.state.clone())),
            memory: memory.clone(),
            looks: looks.then(Mutex::default),
        });
        let mut stub = Stub::new(16, Irq::new(Arc::new(Nobody)), Dma::new(bus.clone()));
        let words = stub.kept_words();
        stub.keep(KeptMemory::new(memory, 0..words));
        Process { stub, bus }
    }

    fn write(&mut self, register: Reg, value: u64) {
        self.stub.write(register.access(0), value).unwrap();
    }

    fn read(&mut self, register: Reg) -> u64 {
        self.stub.read(register.access(0)).unwrap()
    }

    /// Carries out what is left of the accesses.
    fn run(&mut self, program: &[(Reg, u64)]) {
        let done = self.bus.committed.lock().unwrap().0;
        for (number, (register, value)) in program.iter().enumerate().skip(done) {
            self.write(*register, *value);
            // The engine may be ahead of the commit, or behind.
            (0..number % 5 * 20).for_each(|_| thread::yield_now());
            *self.bus.committed.lock().unwrap() = (number + 1, save(&self.stub));
        }
    }

    /// What the guest finds when all is done.
    fn end(&mut self) -> (Vec<u64>, Vec<u8>) {
        while self.read(Reg::DMA_PENDING) != 0
            || self.read(Reg::RING_HEAD) != self.read(Reg::RING_TAIL)
        {
            thread::yield_now();
        }
        let registers = [
            Reg::STATUS,
            Reg::DMA_COMPLETED,
            Reg::RING_FENCE,
            Reg::RING_HEAD,
            Reg::ERRORS,
            Reg::DMA_BYTES,
            Reg::WRITES,
        ];
        let registers = registers.map(|register| self.read(register)).to_vec();
        (registers, self.bus.guest.lock().unwrap().clone())
    }
}

fn save(stub: &Stub) -> Vec<u64> {
    let words = plain(&vec![0; StateWriter::measure(|state| stub.save(state))]);
    let mut state = StateWriter::new(words.words());
    stub.save(&mut state);
    assert!(state.finish());
    values(words.words())
}

/// The start of all.
fn nothing() -> Left {
    let bus = Dma::new(Arc::new(Bus {
        guest: Mutex::default(),
        committed: Mutex::default(),
        memory: plain(&[]),
        looks: None,
    }));
    let stub = Stub::new(16, Irq::new(Arc::new(Nobody)), bus);
    let mut guest: Vec<u8> = (0..GUEST).map(|at| (at * 7 + at / 251) as u8).collect();
    let entries: [[u64; 4]; 6] = [
        // opcode and fence, source or pattern, destination, length and flags
        [entry(2, 11), 0xabcd_ef01, 0x8000, entry(9000, 1)],
        [entry(1, 12), 0x8000, 0x8004, entry(5000, 1)],
        [entry(1, 13), 0x8123, 0x8000, entry(8190, 0)],
        [entry(0, 14), 0, 0, entry(0, 1)],
        [entry(1, 15), 0xc000, 0xa800, entry(77, 0)],
        [entry(99, 16), 0, 0, entry(0, 1)],
    ];
    for (number, entry) in entries.iter().enumerate() {
        for (word, value) in entry.iter().enumerate() {
            let at = RING as usize + number * 32 + word * 8;
            guest[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
    }
    Left {
        committed: 0,
        state: save(&stub),
        memory: vec![0; stub.kept_words()],
        guest,
    }
}

fn entry(low: u64, high: u64) -> u64 {
    high << 32 | low
}

/// Copies over themselves, up and down, fills, fences, rings, errors. What the
/// ring does is elsewhere in memory: a kick that is seen late comes later.
fn program() -> Vec<(Reg, u64)> {
    let mut program = vec![
        (Reg::IRQ_ENABLE, 0xf),
        (Reg::RING_BASE, RING),
        (Reg::RING_SIZE, 8),
    ];
    let mut dma = |command, source, destination, length, fence, fence_address| {
        program.extend([
            (Reg::DMA_SOURCE, source),
            (Reg::DMA_PATTERN, source),
            (Reg::DMA_DESTINATION, destination),
            (Reg::DMA_LENGTH, length),
            (Reg::DMA_FENCE, fence),
            (Reg::DMA_FENCE_ADDRESS, fence_address),
            (Reg::DMA_COMMAND, command),
        ]);
        program.len()
    };
    dma(1, 0x100, 0x140, 9001, 1, 0x1_8000);
    dma(1, 0x140, 0x103, 9001, 2, 0x1_8004);
    dma(2, 0x1234_5678, 0x4000, 4099, 3, 0);
    dma(1, 0x4000, GUEST as u64 - 16, 64, 4, 0x1_8008);
    let mut program = std::mem::take(&mut program);
    program.push((Reg::RING_TAIL, 2));
    program.extend([(Reg::DMA_LENGTH, 0), (Reg::DMA_COMMAND, 2)]);
    program.push((Reg::RING_TAIL, 4));
    program.extend([
        (Reg::DMA_SOURCE, 0x4000),
        (Reg::DMA_DESTINATION, 0x4801),
        (Reg::DMA_LENGTH, 6000),
        (Reg::DMA_FENCE, 5),
        (Reg::DMA_COMMAND, 1),
        (Reg::STATUS, 0),
        (Reg::RING_TAIL, 7),
        (Reg::SCRATCH, 7),
    ]);
    program
}

#[test]
fn an_engine_that_is_killed_at_any_access_to_memory_ends_as_one_that_is_not() {
    let program = program();
    let start = nothing();
    let mut whole = Process::new(&start, false);
    whole.run(&program);
    let expected = whole.end();

    let mut first = Process::new(&start, true);
    first.run(&program);
    compare(&first.end(), &expected, "the first");
    let looks = first.bus.looks.as_ref().unwrap();
    let looks = std::mem::take(&mut *looks.lock().unwrap());
    assert!(looks.len() > 50, "{}", looks.len());
    for (number, left) in looks.iter().enumerate() {
        let name = format!("look {number}, {} accesses", left.committed);
        compare(&successor_of(left, &program), &expected, &name);
    }
}

#[test]
fn what_was_accepted_and_not_begun_is_done_by_a_successor() {
    let program = program();
    let start = nothing();
    let mut whole = Process::new(&start, false);
    whole.run(&program);

    let mut first = Process::new(&start, false);
    let bus = first.bus.clone();
    // The engine does not get at guest memory.
    let guest = bus.guest.lock().unwrap();
    first.run(&program);
    let (committed, state) = bus.committed.lock().unwrap().clone();
    let left = Left {
        committed,
        state,
        memory: values(bus.memory.words()),
        guest: guest.clone(),
    };
    drop(guest);
    compare(
        &successor_of(&left, &program),
        &whole.end(),
        "nothing begun",
    );
}

/// What the guest finds when a successor has done the rest.
fn successor_of(left: &Left, program: &[(Reg, u64)]) -> (Vec<u64>, Vec<u8>) {
    let mut second = Process::new(left, false);
    let mut state = StateReader::new(&left.state).unwrap();
    second.stub.restore(&mut state).unwrap();
    state.finish().unwrap();
    second.stub.resume();
    second.run(program);
    second.end()
}

fn compare(end: &(Vec<u64>, Vec<u8>), expected: &(Vec<u64>, Vec<u8>), name: &str) {
    assert_eq!(end.0, expected.0, "{name}");
    let differs = (0..GUEST).find(|byte| end.1[*byte] != expected.1[*byte]);
    assert_eq!(differs, None, "{name}");
}
