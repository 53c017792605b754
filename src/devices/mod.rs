//! The stub, and the small devices that teach. A device is found here by the
//! name that `--device` takes.

mod choice;
mod copier;
mod doorbell;
mod engine;
mod stub;

use std::io;

use thiserror::Error;

pub use choice::Choice;
pub use copier::{Copier, Reg as CopierRegister};
pub use doorbell::{Doorbell, Reg as DoorbellRegister};
pub use stub::{MAX_VECTORS, Reg as StubRegister, Stub, VECTORS};

use crate::device::{Device, Dma, Irq, Register, RegisterMap};
use crate::pci::Identity;

/// A kind of device.
#[derive(Debug)]
pub struct Kind {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// The registers of its BAR 0.
    pub registers: &'static RegisterMap,
    /// Whether it takes `vectors=N`.
    takes_vectors: bool,
    make: fn(Options, Irq, Dma) -> io::Result<Box<dyn Device>>,
}

/// What can be chosen about a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// How many MSI-X vectors, if the device lets one choose.
    pub vectors: Option<u16>,
}

/// All kinds, the stub first.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "stub",
        about: "the stub: registers, interrupts, DMA engine and command ring of a vGPU's control page",
        registers: StubRegister::MAP,
        takes_vectors: true,
        make: |options, irq, dma| {
            let vectors = options.vectors.unwrap_or(VECTORS);
            Ok(Box::new(Stub::new(vectors, irq, dma)))
        },
    },
    Kind {
        name: "doorbell",
        about: "a small device that teaches: doorbells, and registers without exits",
        registers: DoorbellRegister::MAP,
        takes_vectors: false,
        make: |_, irq, _| Ok(Box::new(Doorbell::new(irq)?)),
    },
    Kind {
        name: "copier",
        about: "a small device that teaches: copies guest memory",
        registers: CopierRegister::MAP,
        takes_vectors: false,
        make: |_, irq, dma| Ok(Box::new(Copier::new(irq, dma)?)),
    },
];

/// An option that a device does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OptionError {
    /// The device has no such option.
    #[error("{device} takes no vectors=; leave it out")]
    NoVectors {
        /// The device.
        device: &'static str,
    },
    /// So many vectors cannot be.
    #[error("vectors={vectors} is out of range; use 1 to {MAX_VECTORS}")]
    Vectors {
        /// What was asked for.
        vectors: u16,
    },
}

impl Kind {
    /// The kind of this name.
    pub fn find(name: &str) -> Option<&'static Kind> {
        KINDS.iter().find(|kind| kind.name == name)
    }

    /// Whether the device takes these options.
    ///
    /// # Errors
    ///
    /// See [`OptionError`].
    pub fn check(&self, options: Options) -> Result<(), OptionError> {
        match options.vectors {
            Some(_) if !self.takes_vectors => Err(OptionError::NoVectors { device: self.name }),
            Some(vectors) if !(1..=MAX_VECTORS).contains(&vectors) => {
                Err(OptionError::Vectors { vectors })
            }
            _ => Ok(()),
        }
    }

    /// What makes a device of this kind, for
    /// [`Endpoint::new`](crate::endpoint::Endpoint::new).
    ///
    /// # Errors
    ///
    /// See [`OptionError`].
    pub fn builder(
        &self,
        options: Options,
    ) -> Result<impl FnOnce(Irq, Dma) -> io::Result<Box<dyn Device>> + use<>, OptionError> {
        self.check(options)?;
        let make = self.make;
        Ok(move |irq, dma| make(options, irq, dma))
    }
}

/// The identity that our devices share but for the device id.
fn identity(device: u16) -> Identity {
    Identity {
        vendor: 0x1af4,
        device,
        subsystem_vendor: 0x1af4,
        subsystem: 0x1100,
        revision: 1,
        // Processing accelerator.
        class: 0x12_0000,
    }
}

/// The host's `CLOCK_MONOTONIC`, in ns.
fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds)
}
