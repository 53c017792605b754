//! What is to be measured, looked at before anything is touched.

use std::fmt;
use std::path::PathBuf;

use super::address::Address;
use super::function::{Bar, Enabled, Function};
use super::register::Register;
use crate::bench::{Gap, Trouble};
use crate::device::{Register as _, Width};
use crate::devices::StubRegister;
use crate::pci::Identity;

/// The stub: vendor and device, then base class and sub-class.
const STUB: (u16, u16, u32) = (0x1af4, 0x1111, 0x1200);

/// QEMU's `edu`, which answers inside QEMU. At offset 0 it has a register that
/// can be read without effect and drops writes (QEMU, docs/specs/edu.rst).
const EDU: (u16, u16) = (0x1234, 0x11e8);
const EDU_IDENTIFICATION: u64 = 0;

/// A register by where it is.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The function.
    pub address: Address,
    /// The BAR, 0 to 5.
    pub bar: u8,
    /// The offset in it, in bytes; without one, a register that is known to be
    /// harmless, of the stub and of QEMU's `edu`.
    pub offset: Option<u64>,
}

/// What a person asks for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where sysfs is mounted: `/sys`.
    pub sysfs: PathBuf,
    /// What to measure.
    pub place: Place,
    /// What to compare it with: a register of a function that the hypervisor
    /// emulates in its own process. Without one, QEMU's `edu` if it is there.
    pub floor: Option<Place>,
    /// Also write to a register that is not known to be harmless. What is
    /// written is what was read from it before.
    pub write: bool,
    /// Also measure a function that a driver is bound to.
    pub force: bool,
}

/// What is to be measured. While it is there, its functions answer accesses to
/// memory; then they are put back to how they were.
#[derive(Debug)]
pub struct Target {
    pub(super) subject: Site,
    pub(super) floor: Option<Site>,
    /// What cannot be measured, as far as it is known.
    pub(super) gaps: Vec<Gap>,
}

impl Target {
    /// Looks whether it can be measured and has its functions answer. Reads
    /// and writes no register.
    ///
    /// # Errors
    ///
    /// What is missing, in one line: no PCI, no such function or BAR, a driver
    /// that is bound, no permission, or a register that must be named.
    pub fn open(wanted: &Wanted) -> Result<Self, Trouble> {
        let subject = Site::open(wanted, wanted.place)?;
        let mut gaps = Vec::new();
        let floor = match wanted.floor {
            Some(place) => Some(Site::open(wanted, place)?),
            None => match Site::of_edu(wanted) {
                Ok(floor) => Some(floor),
                Err(trouble) => {
                    gaps.push(Gap {
                        what: "guest.floor".to_owned(),
                        why: trouble.to_string(),
                    });
                    None
                }
            },
        };
        Ok(Target {
            subject,
            floor,
            gaps,
        })
    }
}

/// A register that can be accessed.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) function: Function,
    pub(super) bar: Bar,
    number: u8,
    offset: Offset,
    /// Whether it may be written.
    pub(super) writable: bool,
    _enabled: Enabled,
}

/// Which register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offset {
    /// The stub's SCRATCH, or SCRATCH64 for 8 bytes.
    Scratch,
    /// Of edu.
    Identification,
    /// As it was asked for.
    Asked(u64),
}

impl Site {
    fn open(wanted: &Wanted, place: Place) -> Result<Self, Trouble> {
        let function = Function::find(&wanted.sysfs, place.address)?;
        let offset = Offset::choose(&function.identity, place)?;
        if let (Some(driver), false) = (function.driver(), wanted.force) {
            return Err(Trouble(format!(
                "{0}: the driver {driver} may be using it; unbind it (echo {0} > \
                 {1}/bus/pci/drivers/{driver}/unbind), or measure all the same with --force",
                place.address,
                wanted.sysfs.display(),
            )));
        }
        let bar = function.bar(place.bar)?;
        // Mapped once before anything is changed.
        bar.register(offset.at(Width::U8), Width::U8)
            .map_err(|trouble| {
                Trouble::new(format!("{} BAR {}", place.address, place.bar), trouble)
            })?;
        let enabled = function.enable()?;
        Ok(Site {
            function,
            bar,
            number: place.bar,
            offset,
            writable: wanted.write || !matches!(offset, Offset::Asked(_)),
            _enabled: enabled,
        })
    }

    fn of_edu(wanted: &Wanted) -> Result<Self, Trouble> {
        let (vendor, device) = EDU;
        let address = Function::search(&wanted.sysfs, vendor, device);
        let address = address.filter(|found| *found != wanted.place.address);
        let address = address.ok_or_else(|| {
            Trouble(
                "no function that the hypervisor emulates itself: give QEMU -device edu, or name \
                 one with --floor-bdf"
                    .to_owned(),
            )
        })?;
        let place = Place {
            address,
            bar: 0,
            offset: None,
        };
        Site::open(wanted, place)
    }

    /// The register for accesses of this width.
    pub(super) fn register(&self, width: Width) -> Result<Register, Trouble> {
        self.bar.register(self.offset.at(width), width)
    }

    /// Whether it keeps what is written, so that nothing else may be read.
    pub(super) fn keeps(&self) -> bool {
        self.offset == Offset::Scratch
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identity { vendor, device, .. } = self.function.identity;
        let address = self.function.address;
        write!(
            f,
            "{address} ({vendor:04x}:{device:04x}) BAR {}",
            self.number
        )?;
        match self.offset {
            Offset::Scratch => write!(f, " SCRATCH"),
            offset => write!(f, " offset {:#x}", offset.at(Width::U32)),
        }
    }
}

impl Offset {
    fn choose(identity: &Identity, place: Place) -> Result<Self, Trouble> {
        if let Some(offset) = place.offset {
            return Ok(Offset::Asked(offset));
        }
        let Identity {
            vendor,
            device,
            class,
            ..
        } = *identity;
        if place.bar == 0 && (vendor, device, class >> 8) == STUB {
            return Ok(Offset::Scratch);
        }
        if place.bar == 0 && (vendor, device) == EDU {
            return Ok(Offset::Identification);
        }
        Err(Trouble(format!(
            "{} ({vendor:04x}:{device:04x}) BAR {}: to read a register may do something to a \
             device; name one that is harmless with --offset (--floor-offset for the floor)",
            place.address, place.bar
        )))
    }

    fn at(self, width: Width) -> u64 {
        match (self, width) {
            (Offset::Scratch, Width::U64) => StubRegister::SCRATCH64.row().offset.into(),
            (Offset::Scratch, _) => StubRegister::SCRATCH.row().offset.into(),
            (Offset::Identification, _) => EDU_IDENTIFICATION,
            (Offset::Asked(offset), _) => offset,
        }
    }
}
