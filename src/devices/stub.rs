//! The stub: a control page on which a driver author can exercise everything
//! that a vGPU's has. Its registers are the table below; `docs/registers.md`
//! is made from it.

use std::sync::Arc;

use super::engine::{Command, Engine, Order, Shared};
use super::{identity, monotonic_ns};
use crate::device::{
    Access, AccessError, Bar, Device, Dma, Function, Irq, KeptMemory, Register, RegisterFile, Row,
    StateError, StateReader, StateWriter,
};
use crate::pci::{Capability, Msix};
use crate::registers;

registers! {
    /// The stub's control page, BAR 0.
    pub enum Reg[0x1000] {
        0x000 ID: u32 ro = 0x5550_4756, "`VGPU` in ASCII";
        0x004 VERSION: u32 ro = 0x0001_0000, "major version in bits 31:16, minor in 15:0";
        0x008 FEATURES: u32 ro = 0x0010_0007, "bit 0 DMA engine, 1 command ring, 2 timestamp; bits 23:16 MSI-X vectors";
        0x00c SCRATCH: u32 rw = 0, "storage";
        0x010 SCRATCH64: u64 rw = 0, "storage";
        0x018 STATUS: u32 w1c = 0, "bit 0 `DMA_DONE`, 1 `DMA_ERROR`, 2 `RING_DONE`, 3 `RING_ERROR`, 4 `DOORBELL`, 5 `TEST`";
        0x01c IRQ_ENABLE: u32 rw = 0, "a bit set here and in STATUS raises the vector of its number, and INTx";
        0x020 IRQ_RAISE: u32 wo = 0, "raises the vector written and sets STATUS.TEST";
        0x024 DOORBELL: u32 wo = 0, "counts, keeps the value and sets STATUS.DOORBELL";
        0x028 DOORBELL_COUNT: u32 ro = 0, "writes of DOORBELL";
        0x02c DOORBELL_VALUE: u32 ro = 0, "the value last written to DOORBELL";
        0x030 DMA_SOURCE: u64 rw = 0, "guest address to copy from";
        0x038 DMA_DESTINATION: u64 rw = 0, "guest address to copy or fill to";
        0x040 DMA_LENGTH: u32 rw = 0, "bytes";
        0x044 DMA_PATTERN: u32 rw = 0, "what to fill with";
        0x048 DMA_FENCE_ADDRESS: u64 rw = 0, "guest address that gets `DMA_FENCE` (4 bytes) on completion; 0 for none";
        0x050 DMA_FENCE: u32 rw = 0, "the fence value";
        0x054 DMA_COMMAND: u32 wo = 0, "1 copies, 2 fills, as the DMA registers say at this moment; up to 64 wait in order";
        0x058 DMA_COMPLETED: u32 ro = 0, "the fence value of the command completed last";
        0x05c DMA_PENDING: u32 ro = 0, "commands accepted and not completed";
        0x060 RING_BASE: u64 rw = 0, "guest address of the command ring";
        0x068 RING_SIZE: u32 rw = 0, "entries of 32 bytes; a power of two, at most 256";
        0x06c RING_HEAD: u32 ro = 0, "entries consumed, counted on without end";
        0x070 RING_TAIL: u32 rw = 0, "entries produced, counted on without end; a write starts the work";
        0x074 RING_FENCE: u32 ro = 0, "the fence value of the entry completed last";
        0x078 ERRORS: u32 ro = 0, "commands and entries that failed";
        0x080 READS: u64 ro = 0, "register reads since reset, this one included";
        0x088 WRITES: u64 ro = 0, "register writes since reset";
        0x090 DMA_BYTES: u64 ro = 0, "bytes that the engine moved";
        0x098 INTERRUPTS: u64 ro = 0, "interrupts raised";
        0x0a0 TIMESTAMP: u64 ro = 0, "the host's `CLOCK_MONOTONIC` in ns";
        0x0a8 ECHO: u64 rw = 0, "storage; a write also sets `ECHO_TIME`";
        0x0b0 ECHO_TIME: u64 ro = 0, "TIMESTAMP of the last write of ECHO";
    }
    reserved { 0x07c..0x080, 0x0b8..0x1000 }
}

/// Bits of STATUS; the number of each is its vector.
pub(super) mod status {
    pub(crate) const DMA_DONE: u32 = 1 << 0;
    pub(crate) const DMA_ERROR: u32 = 1 << 1;
    pub(crate) const RING_DONE: u32 = 1 << 2;
    pub(crate) const RING_ERROR: u32 = 1 << 3;
    pub(crate) const DOORBELL: u32 = 1 << 4;
    pub(crate) const TEST: u32 = 1 << 5;
}

/// The number of vectors unless told otherwise, and the most.
pub const VECTORS: u16 = 16;
/// As many as the table's place in the BAR has room for.
pub const MAX_VECTORS: u16 = 64;

const MSIX_TABLE: u32 = 0x800;
const MSIX_PBA: u32 = 0xc00;

/// The stub device, 1af4:1111.
#[derive(Debug)]
pub struct Stub {
    registers: RegisterFile<Reg>,
    vectors: u16,
    shared: Arc<Shared>,
    engine: Engine,
    reads: u64,
    writes: u64,
}

impl Stub {
    /// A stub with so many vectors, 1 to [`MAX_VECTORS`].
    pub fn new(vectors: u16, irq: Irq, dma: Dma) -> Self {
        let vectors = vectors.clamp(1, MAX_VECTORS);
        let shared = Arc::new(Shared::new(irq));
        let mut stub = Stub {
            registers: RegisterFile::new(),
            vectors,
            engine: Engine::new(shared.clone(), dma),
            shared,
            reads: 0,
            writes: 0,
        };
        stub.init();
        stub
    }

    fn init(&mut self) {
        self.registers.reset();
        let features = self.registers.get(Reg::FEATURES) & 0xffff | u64::from(self.vectors) << 16;
        self.registers.set(Reg::FEATURES, features);
        self.reads = 0;
        self.writes = 0;
    }

    fn get32(&self, register: Reg) -> u32 {
        low(self.registers.get(register))
    }

    /// Raises a vector for the asking.
    fn raise(&mut self, value: u64) -> Result<(), AccessError> {
        let vector = u16::try_from(value).ok().filter(|v| *v < self.vectors);
        let vector = vector.ok_or_else(|| unknown(Reg::IRQ_RAISE.row(), value))?;
        self.shared.set_status(status::TEST);
        self.shared.raise(vector);
        Ok(())
    }

    /// Hands a command to the engine.
    fn start(&mut self, value: u64) -> Result<(), AccessError> {
        let command = match value {
            1 => Command::Copy {
                source: self.registers.get(Reg::DMA_SOURCE),
            },
            2 => Command::Fill {
                pattern: self.get32(Reg::DMA_PATTERN),
            },
            _ => return Err(unknown(Reg::DMA_COMMAND.row(), value)),
        };
        self.engine.start_dma(Order {
            command,
            destination: self.registers.get(Reg::DMA_DESTINATION),
            length: self.get32(Reg::DMA_LENGTH),
            fence_address: self.registers.get(Reg::DMA_FENCE_ADDRESS),
            fence: self.get32(Reg::DMA_FENCE),
        });
        Ok(())
    }
}

impl Device for Stub {
    fn function(&self) -> Function {
        Function::new(identity(0x1111))
            .bar(0, Bar::registers::<Reg>())
            .intx()
            .msix(Msix {
                vectors: self.vectors,
                table: (0, MSIX_TABLE),
                pba: (0, MSIX_PBA),
            })
            .capability(Capability::PowerManagement)
            .capability(Capability::PciExpress)
    }

    fn read(&mut self, at: Access) -> Result<u64, AccessError> {
        let register = Reg::at(at)?;
        self.reads += 1;
        let shared = &self.shared;
        Ok(match register {
            Reg::STATUS => shared.status().into(),
            Reg::DMA_COMPLETED => shared.completed().into(),
            Reg::DMA_PENDING => shared.pending().into(),
            Reg::RING_HEAD => shared.ring_head().into(),
            Reg::RING_FENCE => shared.ring_fence().into(),
            Reg::ERRORS => shared.errors().into(),
            Reg::DMA_BYTES => shared.bytes(),
            Reg::INTERRUPTS => shared.interrupts(),
            Reg::READS => self.reads,
            Reg::WRITES => self.writes,
            Reg::TIMESTAMP => monotonic_ns(),
            _ => self.registers.get(register),
        })
    }

    fn write(&mut self, at: Access, value: u64) -> Result<(), AccessError> {
        let register = Reg::at(at)?;
        self.writes += 1;
        match register {
            Reg::STATUS => self.shared.clear_status(low(value)),
            Reg::IRQ_ENABLE => {
                self.registers.set(register, value);
                self.shared.enable(low(value));
            }
            Reg::IRQ_RAISE => self.raise(value)?,
            Reg::DOORBELL => {
                self.registers.count(Reg::DOORBELL_COUNT);
                self.registers.set(Reg::DOORBELL_VALUE, value);
                self.shared.set_status(status::DOORBELL);
            }
            Reg::DMA_COMMAND => self.start(value)?,
            Reg::RING_TAIL => {
                self.registers.set(register, value);
                let base = self.registers.get(Reg::RING_BASE);
                let size = self.get32(Reg::RING_SIZE);
                self.engine.kick_ring(base, size, low(value));
            }
            Reg::ECHO => {
                self.registers.set(register, value);
                self.registers.set(Reg::ECHO_TIME, monotonic_ns());
            }
            _ => self.registers.write(register, value)?,
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.engine.drain();
        self.shared.reset();
        self.init();
    }

    fn disconnected(&mut self) {
        // Without guest memory what waits can only fail.
        self.engine.drain();
    }

    fn save(&self, state: &mut StateWriter<'_>) {
        self.registers.save(state);
        state.put(self.reads);
        state.put(self.writes);
        self.engine.save(state);
    }

    fn restore(&mut self, state: &mut StateReader<'_>) -> Result<(), StateError> {
        self.registers.restore(state)?;
        self.reads = state.get()?;
        self.writes = state.get()?;
        self.engine.restore(state)
    }

    fn kept_words(&self) -> usize {
        Engine::KEPT
    }

    fn keep(&mut self, memory: KeptMemory) {
        self.engine.keep(&memory);
    }

    fn resume(&mut self) {
        self.engine.resume();
    }
}

/// The value of a 32-bit register.
fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

fn unknown(row: &'static Row, value: u64) -> AccessError {
    AccessError::Value {
        name: row.name,
        value,
    }
}
