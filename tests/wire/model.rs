//! A device of registers of every width and kind, and a model of it that knows
//! only bytes and their kinds.

use vgpu_stub::device::{Access, AccessError, Bar, Device, Function, Kind, Register, RegisterFile};
use vgpu_stub::endpoint::Endpoint;
use vgpu_stub::pci::Identity;

/// The size of BAR 0, in bytes.
pub(crate) const SIZE: usize = 64;

vgpu_stub::registers! {
    /// Registers of every width and kind.
    pub(crate) enum Reg[64] {
        0x00 A: u8 rw = 0x12, "";
        0x01 B: u8 ro = 0x34, "";
        0x02 C: u16 rw = 0x5678, "";
        0x04 D: u32 w1c = 0xffff_ffff, "";
        0x08 E: u64 rw = 0x0123_4567_89ab_cdef, "";
        0x10 F: u32 wo = 0, "";
        0x14 G: u32 ro = 0xcafe_f00d, "";
        0x18 H: u16 w1c = 0xffff, "";
        0x1a I: u8 wo = 0, "";
        0x20 J: u64 ro = 0x1122_3344_5566_7788, "";
        0x28 K: u64 wo = 0, "";
        0x30 L: u64 w1c = 0xffff_ffff_ffff_ffff, "";
    }
    reserved { 0x1b..0x20, 0x38..0x40 }
}

struct Registers(RegisterFile<Reg>);

/// The device.
pub(crate) fn endpoint() -> Endpoint {
    Endpoint::new(|_, _| Ok(Box::new(Registers(RegisterFile::new())))).unwrap()
}

impl Device for Registers {
    fn function(&self) -> Function {
        Function::new(Identity {
            vendor: 1,
            device: 2,
            subsystem_vendor: 3,
            subsystem: 4,
            revision: 5,
            class: 0xff_0000,
        })
        .bar(0, Bar::registers::<Reg>())
    }

    fn read(&mut self, at: Access) -> Result<u64, AccessError> {
        Ok(self.0.get(Reg::at(at)?))
    }

    fn write(&mut self, at: Access, value: u64) -> Result<(), AccessError> {
        let register = Reg::at(at)?;
        match register.row().kind {
            // Keeps it, so that the test can see that it came.
            Kind::Wo => self.0.set(register, value),
            _ => self.0.write(register, value)?,
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.0.reset();
    }
}

/// A byte of the model: the register's kind, or none where it is reserved.
#[derive(Clone, Copy)]
pub(crate) struct Byte {
    kind: Option<Kind>,
    value: u8,
}

/// The bytes after a reset.
pub(crate) fn bytes() -> [Byte; SIZE] {
    let mut bytes = [Byte {
        kind: None,
        value: 0xff,
    }; SIZE];
    for register in Reg::ALL {
        let row = register.row();
        for (at, value) in row.range().zip(row.reset.to_le_bytes()) {
            bytes[at as usize] = Byte {
                kind: Some(row.kind),
                value,
            };
        }
    }
    bytes
}

/// What a read of these bytes returns.
pub(crate) fn read(bytes: &[Byte]) -> Vec<u8> {
    let read = |byte: &Byte| match byte.kind {
        None | Some(Kind::Wo) => 0xff,
        Some(_) => byte.value,
    };
    bytes.iter().map(read).collect()
}

/// Writes data from this byte on.
pub(crate) fn write(bytes: &mut [Byte], offset: usize, data: &[u8]) {
    for (byte, new) in bytes[offset..].iter_mut().zip(data) {
        match byte.kind {
            Some(Kind::Rw) => byte.value = *new,
            Some(Kind::W1c) => byte.value &= !new,
            None | Some(Kind::Ro | Kind::Wo) => {}
        }
    }
}
