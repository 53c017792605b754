//! A device with everything that a client can ask for.

use std::io;

use vgpu_stub::device::{
    Access, AccessError, Bar, Device, Dma, DmaError, Function, Irq, Register, RegisterFile,
    SharedMemory,
};
use vgpu_stub::pci::{Capability, Identity, Msi, Msix};
use vgpu_stub::registers;

/// What register ID says; the same as the stub's.
pub(crate) const ID: u32 = 0x5550_4756;

/// The vectors of MSI-X, and of MSI.
pub(crate) const VECTORS: u8 = 32;

/// The size of BAR 0, in bytes.
pub(crate) const BAR0: u64 = 0x4000;

/// The size of BAR 2, which is mapped whole: more than one transfer.
pub(crate) const BAR2: u64 = 2 << 20;

registers! {
    /// The test device, BAR 0. Pages 1 and 3 can be mapped.
    pub(crate) enum Reg[0x4000] {
        0x00 ID: u32 ro = 0x5550_4756, "the same as the stub's";
        0x04 SCRATCH: u32 rw = 0x1234_5678, "storage";
        0x08 SCRATCH64: u64 rw = 0, "storage";
        0x10 BELL: u32 wo = 0, "rings; may be an ioeventfd";
        0x14 BELL_SEVEN: u32 wo = 0, "rings; writes of 7 may be an ioeventfd";
        0x18 RINGS: u32 ro = 0, "rings since reset";
        0x1c LAST: u32 ro = 0, "the value that rang last";
        0x20 RAISE: u32 wo = 0, "raises a vector";
        0x24 LEVEL: u32 rw = 0, "the INTx level";
        0x28 LINE: u32 wo = 0, "1 signals an error, 2 asks for release";
        0x30 ADDRESS: u64 rw = 0, "guest address";
        0x38 VALUE: u64 rw = 0, "what was read there, or is to be written";
        0x40 GO: u32 wo = 0, "1 reads, 2 writes, within this very access";
        0x44 RESULT: u32 ro = 0, "0 for done, else 1 and on for the errors of DMA";
        0x48 ERRNO: u32 ro = 0, "the client's errno";
        0x50 WORD: u16 rw = 0, "storage";
        0x52 BYTE: u8 rw = 0, "storage";
        0x53 CLEAR: u8 w1c = 0xff, "write 1 to clear";
        0x54 LEFT: u32 ro = 0, "clients that left; not cleared by a reset";
        0x58 RESETS: u32 ro = 0, "resets; not cleared by one";
    }
    reserved { 0x2c..0x30, 0x4c..0x50, 0x5c..0x4000 }
}

/// The outcomes in RESULT.
pub(crate) mod result {
    pub(crate) const DONE: u64 = 0;
    pub(crate) const UNMAPPED: u64 = 1;
    pub(crate) const DENIED: u64 = 2;
    pub(crate) const GONE: u64 = 3;
    pub(crate) const REFUSED: u64 = 4;
    pub(crate) const TIMED_OUT: u64 = 5;
    pub(crate) const RESET: u64 = 6;
    pub(crate) const DISCONNECTED: u64 = 7;
}

/// The device.
pub(crate) struct TestDevice {
    registers: RegisterFile<Reg>,
    irq: Irq,
    dma: Dma,
    sparse: SharedMemory,
    whole: SharedMemory,
}

impl TestDevice {
    pub(crate) fn new(irq: Irq, dma: Dma) -> io::Result<Self> {
        Ok(TestDevice {
            registers: RegisterFile::new(),
            irq,
            dma,
            sparse: SharedMemory::new(usize::try_from(BAR0).unwrap())?,
            whole: SharedMemory::new(usize::try_from(BAR2).unwrap())?,
        })
    }

    fn ring(&mut self, value: u64, times: u64) {
        let rings = self.registers.get(Reg::RINGS) + times;
        self.registers.set(Reg::RINGS, rings);
        self.registers.set(Reg::LAST, value);
    }

    fn go(&mut self, write: bool) {
        let address = self.registers.get(Reg::ADDRESS);
        let mut value = self.registers.get(Reg::VALUE).to_le_bytes();
        let outcome = if write {
            self.dma.write(address, &value)
        } else {
            self.dma.read(address, &mut value)
        };
        self.registers.set(Reg::VALUE, u64::from_le_bytes(value));
        let (result, errno) = match outcome {
            Ok(()) => (result::DONE, 0),
            Err(DmaError::Unmapped { .. }) => (result::UNMAPPED, 0),
            Err(DmaError::Denied { .. }) => (result::DENIED, 0),
            Err(DmaError::Gone { .. }) => (result::GONE, 0),
            Err(DmaError::Refused { errno, .. }) => (result::REFUSED, errno),
            Err(DmaError::TimedOut { .. }) => (result::TIMED_OUT, 0),
            Err(DmaError::Reset) => (result::RESET, 0),
            Err(DmaError::Disconnected) => (result::DISCONNECTED, 0),
        };
        self.registers.set(Reg::RESULT, result);
        self.registers.set(Reg::ERRNO, errno.into());
    }
}

impl Device for TestDevice {
    fn function(&self) -> Function {
        let identity = Identity {
            vendor: 0x1af4,
            device: 0x1119,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
            revision: 1,
            class: 0x12_0000,
        };
        let registers = Bar::registers::<Reg>()
            .mapped(self.sparse.clone(), vec![0x1000..0x2000, 0x3000..0x4000])
            .doorbell(Reg::BELL, None)
            .doorbell(Reg::BELL_SEVEN, Some(7));
        Function::new(identity)
            .bar(0, registers)
            .bar(2, Bar::memory(self.whole.clone()).wide().prefetchable())
            .intx()
            .msi(Msi {
                vectors: VECTORS,
                per_vector_masking: true,
            })
            .msix(Msix {
                vectors: VECTORS.into(),
                table: (0, 0x800),
                pba: (0, 0xc00),
            })
            .capability(Capability::PowerManagement)
            .capability(Capability::PciExpress)
    }

    fn read(&mut self, at: Access) -> Result<u64, AccessError> {
        Ok(self.registers.get(Reg::at(at)?))
    }

    fn write(&mut self, at: Access, value: u64) -> Result<(), AccessError> {
        let register = Reg::at(at)?;
        match register {
            Reg::BELL | Reg::BELL_SEVEN => self.ring(value, 1),
            Reg::RAISE => self.irq.raise(u16::try_from(value).unwrap_or(u16::MAX)),
            Reg::LEVEL => {
                self.registers.set(register, value);
                self.irq.set_intx(value != 0);
            }
            Reg::LINE if value == 1 => self.irq.error(),
            Reg::LINE => self.irq.request_release(),
            Reg::GO => self.go(value == 2),
            _ => self.registers.write(register, value)?,
        }
        Ok(())
    }

    fn rung(&mut self, _: Access, value: u64, times: u64) {
        self.ring(value, times);
    }

    fn reset(&mut self) {
        let left = self.registers.get(Reg::LEFT);
        let resets = self.registers.get(Reg::RESETS);
        self.registers.reset();
        self.registers.set(Reg::LEFT, left);
        self.registers.set(Reg::RESETS, resets + 1);
    }

    fn disconnected(&mut self) {
        self.registers.count(Reg::LEFT);
    }
}
