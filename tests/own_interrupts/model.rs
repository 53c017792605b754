//! Whatever a guest does in whatever order, it hears what the rules say: here
//! they are said once more, vector by vector.

use std::sync::Arc;

use vgpu_stub::pci::spec::{command, msi, msix};

use crate::driver::{ADDRESS, Apic, Driver, PBA};
use crate::wire::device::{Reg, VECTORS};

const RUNS: u32 = 40;
const STEPS: u32 = 400;
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const MSI_ADDRESS: u64 = 0x1_fee0_8000;
const VECTORS_TOO_MANY: u64 = 40;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

/// A vector of MSI-X, or of MSI.
#[derive(Clone, Copy, Default)]
struct Vector {
    masked: bool,
    pending: bool,
}

/// What a guest has done so far.
#[derive(Default)]
struct Model {
    command: u16,
    msix_control: u16,
    msi_control: u16,
    msix: [Vector; VECTORS as usize],
    msi: [Vector; 32],
    level: bool,
}

impl Model {
    fn msix_enabled(&self) -> bool {
        self.msix_control & msix::ENABLE != 0
    }

    fn msi_enabled(&self) -> bool {
        self.msi_control & msi::ENABLE != 0
    }

    fn msi_vectors(&self) -> usize {
        let enabled = 1 << (self.msi_control >> msi::ENABLED_SHIFT & msi::COUNT_MASK);
        usize::min(enabled, VECTORS.into())
    }

    fn raise(&mut self, vector: usize) {
        if self.msix_enabled() {
            if let Some(vector) = self.msix.get_mut(vector) {
                vector.pending = true;
            }
        } else if self.msi_enabled() {
            self.msi[vector % self.msi_vectors()].pending = true;
        }
    }

    /// What is sent now.
    fn send(&mut self) -> Vec<(u64, u32)> {
        let mut sent = Vec::new();
        let may_send = self.command & command::BUS_MASTER != 0;
        let enabled = self.msix_enabled();
        let all_masked = self.msix_control & msix::FUNCTION_MASK != 0;
        for (vector, number) in self.msix.iter_mut().zip(0..) {
            vector.pending &= enabled;
            if vector.pending && may_send && !all_masked && !vector.masked {
                vector.pending = false;
                sent.push((ADDRESS, number));
            }
        }
        let vectors = if self.msi_enabled() {
            self.msi_vectors()
        } else {
            0
        };
        for (vector, number) in self.msi.iter_mut().zip(0u32..) {
            vector.pending &= (number as usize) < vectors;
            if vector.pending && may_send && !vector.masked {
                vector.pending = false;
                sent.push((MSI_ADDRESS, 0x4000 | number));
            }
        }
        sent
    }

    fn sees_level(&self) -> bool {
        let disabled = self.command & command::INTERRUPT_DISABLE != 0;
        self.level && !disabled && !self.msi_enabled() && !self.msix_enabled()
    }
}

fn pending(vectors: &[Vector]) -> u64 {
    let bits = vectors.iter().zip(0..);
    bits.fold(0, |bits, (vector, n)| bits | u64::from(vector.pending) << n)
}

/// Messages for each vector, in a function that is as after power-on.
fn set_up(driver: &mut Driver) -> Model {
    for vector in 0..VECTORS {
        driver.program(vector.into(), false);
    }
    driver.use_msi(0, MSI_ADDRESS, 0x4000);
    driver.set_msi(0);
    driver.set_command(0);
    Model::default()
}

/// One thing that a guest, or its device, may do.
fn step(random: &mut Random, driver: &mut Driver, model: &mut Model) {
    let vector = random.below(VECTORS_TOO_MANY);
    match random.below(20) {
        0..8 => {
            driver.raise(vector);
            model.raise(usize::try_from(vector).unwrap());
        }
        8..12 => {
            let vector = vector % u64::from(VECTORS);
            let masked = random.chance(2);
            driver.program(vector, masked);
            model.msix[usize::try_from(vector).unwrap()].masked = masked;
        }
        12..14 => {
            let enable = if random.chance(4) { 0 } else { msix::ENABLE };
            let mask = if random.chance(2) {
                msix::FUNCTION_MASK
            } else {
                0
            };
            driver.set_msix(enable | mask);
            model.msix_control = enable | mask;
        }
        14..16 => {
            let enable = if random.chance(3) { msi::ENABLE } else { 0 };
            let vectors = u16::try_from(random.below(8)).unwrap();
            let control = enable | vectors << msi::ENABLED_SHIFT;
            driver.set_msi(control);
            model.msi_control = control;
        }
        16 => {
            let mask = random.next() & random.next() & 0xffff_ffff;
            driver.mask_msi(mask);
            for (vector, number) in model.msi.iter_mut().zip(0..) {
                vector.masked = mask >> number & 1 != 0;
            }
        }
        17 | 18 => {
            let master = if random.chance(3) {
                0
            } else {
                command::BUS_MASTER
            };
            let disable = if random.chance(3) {
                command::INTERRUPT_DISABLE
            } else {
                0
            };
            driver.set_command(master | disable);
            model.command = master | disable;
        }
        _ if random.chance(8) => {
            driver.reset_function();
            *model = set_up(driver);
        }
        _ => {
            model.level = random.chance(2);
            driver.set(Reg::LEVEL, model.level.into());
        }
    }
}

fn run(random: &mut Random) {
    let apic = Arc::new(Apic::default());
    let mut driver = Driver::on(&apic);
    let mut model = set_up(&mut driver);
    let mut level = false;
    for number in 0..STEPS {
        step(random, &mut driver, &mut model);
        let mut heard = apic.messages();
        let mut expected = model.send();
        heard.sort_unstable();
        expected.sort_unstable();
        assert_eq!(heard, expected, "step {number}");
        level = apic.levels().last().copied().unwrap_or(level);
        assert_eq!(level, model.sees_level(), "step {number}");
        assert_eq!(driver.is_asserted(), model.level, "step {number}");
        assert_eq!(
            driver.read(0, PBA, 8),
            pending(&model.msix),
            "step {number}"
        );
        assert_eq!(driver.msi_pending(), pending(&model.msi), "step {number}");
    }
}

#[test]
fn a_guest_hears_what_the_rules_say() {
    println!("seed {SEED:#x}");
    let mut random = Random(SEED);
    (0..RUNS).for_each(|_| run(&mut random));
}
