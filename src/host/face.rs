//! The ways by which a guest's accesses come to the device's server.

use std::fmt;
use std::str::FromStr;

/// A way from the guest to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// An ioreq server of Xen: past QEMU, which is given nothing.
    Ioreq,
    /// The device `vgpu-stub` of a QEMU with our patch.
    Shim,
    /// The device `vfio-user-pci` of QEMU >= 10.1.
    VfioUser,
}

impl Face {
    /// As settings name it.
    pub fn name(self) -> &'static str {
        match self {
            Face::Ioreq => "ioreq",
            Face::Shim => "shim",
            Face::VfioUser => "vfio-user",
        }
    }
}

impl fmt::Display for Face {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The face that a host or a VM asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The best that the host can do: the first of [`Face`] that works.
    Best,
    /// This one or none.
    Only(Face),
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Wanted::Best),
            "ioreq" => Ok(Wanted::Only(Face::Ioreq)),
            "shim" => Ok(Wanted::Only(Face::Shim)),
            "vfio-user" => Ok(Wanted::Only(Face::VfioUser)),
            _ => Err("is not auto, ioreq, shim or vfio-user".to_owned()),
        }
    }
}
