//! Accesses of any offset and length, compared with a model that knows only
//! bytes and their kinds.

use proptest::prelude::*;
use vgpu_stub::device::{Access, AccessError, Bar, Device, Function, Kind, Register, RegisterFile};
use vgpu_stub::endpoint::Endpoint;
use vgpu_stub::pci::Identity;

const SIZE: usize = 64;

vgpu_stub::registers! {
    /// Registers of every width and kind.
    pub enum Reg[64] {
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
struct Byte {
    kind: Option<Kind>,
    value: u8,
}

fn model() -> [Byte; SIZE] {
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

fn model_read(bytes: &[Byte]) -> Vec<u8> {
    let read = |byte: &Byte| match byte.kind {
        None | Some(Kind::Wo) => 0xff,
        Some(_) => byte.value,
    };
    bytes.iter().map(read).collect()
}

fn model_write(bytes: &mut [Byte], offset: usize, data: &[u8]) {
    for (byte, new) in bytes[offset..].iter_mut().zip(data) {
        match byte.kind {
            Some(Kind::Rw) => byte.value = *new,
            Some(Kind::W1c) => byte.value &= !new,
            None | Some(Kind::Ro | Kind::Wo) => {}
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Read(usize, usize),
    Write(usize, Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let range = (0..SIZE, 1..=16usize).prop_map(|(offset, length)| {
        let length = length.min(SIZE - offset);
        (offset, length)
    });
    prop_oneof![
        range
            .clone()
            .prop_map(|(offset, length)| Step::Read(offset, length)),
        range.prop_flat_map(|(offset, length)| {
            prop::collection::vec(any::<u8>(), length)
                .prop_map(move |data| Step::Write(offset, data))
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_accesses_do_what_they_do_byte_by_byte(
        steps in prop::collection::vec(step(), 1..100)
    ) {
        let mut endpoint =
            Endpoint::new(|_, _| Ok(Box::new(Registers(RegisterFile::new())))).unwrap();
        let mut bytes = model();
        for step in steps {
            match step {
                Step::Read(offset, length) => {
                    let mut data = vec![0; length];
                    endpoint.read(0, offset as u64, &mut data).unwrap();
                    prop_assert_eq!(data, model_read(&bytes[offset..offset + length]));
                }
                Step::Write(offset, data) => {
                    endpoint.write(0, offset as u64, &data).unwrap();
                    model_write(&mut bytes, offset, &data);
                }
            }
        }
        let mut all = [0; SIZE];
        endpoint.read(0, 0, &mut all).unwrap();
        prop_assert_eq!(all.to_vec(), model_read(&bytes));
        endpoint.reset();
        endpoint.read(0, 0, &mut all).unwrap();
        prop_assert_eq!(all.to_vec(), model_read(&model()));
    }
}

#[test]
fn only_a_whole_write_of_a_write_only_register_arrives() {
    let mut endpoint = Endpoint::new(|_, _| Ok(Box::new(Registers(RegisterFile::new())))).unwrap();
    let before = endpoint.guest_errors();
    endpoint.write(0, 0x10, &[1, 2]).unwrap();
    assert_eq!(endpoint.guest_errors(), before + 1);
    endpoint.write(0, 0x10, &[1, 2, 3, 4]).unwrap();
    assert_eq!(endpoint.guest_errors(), before + 1);
    // One write over two registers is one for each.
    endpoint.write(0, 0x10, &[0; 8]).unwrap();
    assert_eq!(endpoint.guest_errors(), before + 2);
}
