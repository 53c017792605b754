//! One guest, and all that an emulator of its devices may ask Xen for.

use std::fmt;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::str::FromStr;

use rustix::io::Errno;

use super::dm_op::{
    CountVcpus, CreateServer, DestroyServer, FUNCTIONS, InjectMsi, MEMORY, MapRange, Operation,
    ServerInfo, ServerRange, SetIntx, SetState, UnmapRange,
};
use super::error::{XenError, open};
use super::privcmd::{ForeignPages, Privcmd, ResourcePage};

/// The driver.
pub(super) const PRIVCMD: &str = "/dev/xen/privcmd";

/// `DOMID_FIRST_RESERVED` (`xen/include/public/xen.h`).
const FIRST_RESERVED: u16 = 0x7ff0;

/// A guest's number, from 1 to 0x7fef.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct DomainId(u16);

impl DomainId {
    /// A guest's number, unless it is dom0's or one that Xen uses itself.
    pub fn new(number: u16) -> Option<Self> {
        (1..FIRST_RESERVED)
            .contains(&number)
            .then_some(DomainId(number))
    }

    /// The number.
    pub fn number(self) -> u16 {
        self.0
    }
}

impl FromStr for DomainId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse().ok().and_then(DomainId::new);
        number.ok_or_else(|| format!("{text}: no guest's number; xl list shows those of 1 and up"))
    }
}

impl fmt::Display for DomainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An ioreq server of a domain, as Xen numbers it: 0 to 7.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ServerId(u16);

impl ServerId {
    /// One that was written down.
    pub fn new(number: u16) -> Self {
        ServerId(number)
    }

    /// The number.
    pub fn number(self) -> u16 {
        self.0
    }
}

/// A PCI function of the guest: bus, device and function, in segment 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bdf {
    /// The bus.
    pub bus: u8,
    /// The device, at most 31.
    pub device: u8,
    /// The function, at most 7.
    pub function: u8,
}

impl Bdf {
    /// As Xen writes it: `XEN_DMOP_PCI_SBDF`.
    pub fn number(self) -> u32 {
        u32::from(self.bus) << 8 | u32::from(self.device & 31) << 3 | u32::from(self.function & 7)
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bdf {
            bus,
            device,
            function,
        } = self;
        write!(f, "0000:{bus:02x}:{device:02x}.{function}")
    }
}

/// What a server wants to be asked for. Xen only sends it requests that lie
/// wholly in one range.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Range {
    /// Guest addresses, in bytes.
    Memory(RangeInclusive<u64>),
    /// The config space of a function.
    Function(Bdf),
}

impl Range {
    fn of(&self, server: ServerId) -> ServerRange {
        let (kind, first, last) = match self {
            Range::Memory(range) => (MEMORY, *range.start(), *range.end()),
            Range::Function(bdf) => (FUNCTIONS, bdf.number().into(), bdf.number().into()),
        };
        ServerRange {
            id: server.0,
            pad: 0,
            kind,
            first,
            last,
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Range::Memory(range) => {
                write!(f, "memory {:#x}..={:#x}", range.start(), range.end())
            }
            Range::Function(bdf) => write!(f, "function {bdf}"),
        }
    }
}

/// A guest. Shared by all threads that serve it.
#[derive(Debug)]
pub struct Domain {
    id: DomainId,
    privcmd: Privcmd,
}

impl Domain {
    /// Opens the driver. Whether there is such a domain is not asked yet.
    ///
    /// # Errors
    ///
    /// [`XenError`] if there is no driver, or no right to open it.
    pub fn open(id: DomainId) -> Result<Self, XenError> {
        Ok(Self::from_fd(id, open(Path::new(PRIVCMD))?))
    }

    /// Takes over a descriptor of the driver, restricted to this domain or not
    /// at all.
    pub fn from_fd(id: DomainId, fd: OwnedFd) -> Self {
        let privcmd = Privcmd::new(fd, id.0);
        Domain { id, privcmd }
    }

    /// Which one.
    pub fn id(&self) -> DomainId {
        self.id
    }

    /// Gives up all rights but those over this domain.
    ///
    /// # Errors
    ///
    /// [`XenError`]; [`NotOurs`](XenError::NotOurs) if it is restricted to
    /// another.
    pub fn restrict(&self) -> Result<(), XenError> {
        self.privcmd.restrict().map_err(|error| match error {
            Errno::INVAL => XenError::NotOurs(self.id),
            error => XenError::refused(self.id, "restrict the descriptor", error),
        })
    }

    /// How many vCPUs the domain was made with, if Xen says: from 4.16 on. The
    /// page of an enabled server says it too: there each has a port.
    ///
    /// # Errors
    ///
    /// [`XenError`], as of [`create_server`](Self::create_server).
    pub fn vcpus(&self) -> Result<Option<u32>, XenError> {
        match self.privcmd.dm_op(&CountVcpus { count: 0 }) {
            Ok(answer) => Ok(Some(answer.count)),
            Err(Errno::OPNOTSUPP) => Ok(None),
            Err(error) => Err(self.first_refusal("count the vCPUs", error)),
        }
    }

    /// Makes an ioreq server, disabled and without ranges.
    ///
    /// # Errors
    ///
    /// [`XenError`]: there is no such domain, or it is not an HVM guest, or not
    /// ours, or has as many servers as Xen allows.
    pub fn create_server(&self) -> Result<ServerId, XenError> {
        let made = self.privcmd.dm_op(&CreateServer::new());
        match made.map(|answer| answer.id) {
            Ok(CreateServer::NONE) => Err(XenError::NotHvm(self.id)),
            Ok(id) => Ok(ServerId(id)),
            Err(Errno::NOSPC) => Err(XenError::NoFreeServer(self.id)),
            Err(error) => Err(self.first_refusal("make an ioreq server", error)),
        }
    }

    /// Removes a server with its ranges. The guest reads all-ones there.
    ///
    /// # Errors
    ///
    /// [`XenError`] if it is not there.
    pub fn destroy_server(&self, server: ServerId) -> Result<(), XenError> {
        let destroy = DestroyServer {
            id: server.0,
            pad: 0,
        };
        self.ask("remove the ioreq server", &destroy).map(drop)
    }

    /// Has Xen send requests to a server, or no longer.
    ///
    /// # Errors
    ///
    /// [`XenError`] if it is not there.
    pub fn set_enabled(&self, server: ServerId, enabled: bool) -> Result<(), XenError> {
        let state = SetState {
            id: server.0,
            enabled: enabled.into(),
            pad: 0,
        };
        self.ask("enable the ioreq server", &state).map(drop)
    }

    /// Whether a server is still there: a domain that dies loses them first.
    pub fn is_alive(&self, server: ServerId) -> bool {
        self.privcmd.dm_op(&ServerInfo::new(server.0)).is_ok()
    }

    /// Has accesses to a range sent to a server.
    ///
    /// # Errors
    ///
    /// [`XenError::Exists`] if part of it is this server's already; otherwise
    /// as of [`set_enabled`](Self::set_enabled).
    pub fn map_range(&self, server: ServerId, range: &Range) -> Result<(), XenError> {
        match self.privcmd.dm_op(&MapRange(range.of(server))) {
            Ok(_) => Ok(()),
            Err(Errno::EXIST) => Err(XenError::Exists {
                domain: self.id,
                range: range.clone(),
            }),
            Err(error) => Err(XenError::refused(self.id, "register a range", error)),
        }
    }

    /// Takes a range back. Xen finds exactly this one, whole.
    ///
    /// # Errors
    ///
    /// [`XenError`] if it is not registered, or the server is not there.
    pub fn unmap_range(&self, server: ServerId, range: &Range) -> Result<(), XenError> {
        let unmap = UnmapRange(range.of(server));
        self.ask("take a range back", &unmap).map(drop)
    }

    /// Maps a server's page of requests.
    ///
    /// # Errors
    ///
    /// [`XenError`] if the server is not there, or the kernel cannot.
    pub fn ioreq_page(&self, server: ServerId) -> Result<ResourcePage, XenError> {
        self.privcmd
            .map_ioreq_page(server.0)
            .map_err(|error| match error {
                // An old kernel does not know the request.
                Errno::NOTTY => XenError::Unsupported {
                    domain: self.id,
                    what: "mapping an ioreq server's page",
                },
                error => XenError::refused(self.id, "map the ioreq server's page", error),
            })
    }

    /// Sends a message-signalled interrupt. Xen drops one whose address is none
    /// of an APIC's, as the machine would.
    ///
    /// # Errors
    ///
    /// [`XenError`], such as of a domain that is gone.
    pub fn inject_msi(&self, address: u64, data: u32) -> Result<(), XenError> {
        let message = InjectMsi {
            data,
            pad: 0,
            address,
        };
        self.ask("inject an interrupt", &message).map(drop)
    }

    /// Sets the level of INTA of a device, at most 31, on bus 0. Xen delivers
    /// it again at the end of interrupt while it is asserted.
    ///
    /// # Errors
    ///
    /// [`XenError`], such as of a domain that is gone.
    pub fn set_intx(&self, device: u8, asserted: bool) -> Result<(), XenError> {
        let level = SetIntx {
            segment: 0,
            bus: 0,
            device,
            pin: 0,
            level: asserted.into(),
        };
        self.ask("set an interrupt's level", &level).map(drop)
    }

    /// Maps pages of the guest's memory from a page number on, at least one
    /// page. Those that are not RAM are missing.
    ///
    /// # Errors
    ///
    /// [`XenError`] if nothing at all could be mapped.
    pub fn map_guest(&self, first_page: u64, pages: usize) -> Result<ForeignPages, XenError> {
        let frames: Vec<u64> = (first_page..).take(pages).collect();
        self.privcmd
            .map_frames(&frames)
            .map_err(|error| XenError::refused(self.id, "map guest memory", error))
    }

    fn ask<T: Operation>(&self, what: &'static str, argument: &T) -> Result<T, XenError> {
        self.privcmd
            .dm_op(argument)
            .map_err(|error| XenError::refused(self.id, what, error))
    }

    /// What an operation that is always well-formed failed by.
    fn first_refusal(&self, what: &'static str, error: Errno) -> XenError {
        match error {
            Errno::INVAL => XenError::NotHvm(self.id),
            error => XenError::refused(self.id, what, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_s_number_is_a_guest_s() {
        assert_eq!("1".parse(), Ok(DomainId(1)));
        assert_eq!("32751".parse(), Ok(DomainId(0x7fef)));
        for wrong in ["0", "32752", "65536", "-1", "", "dom1"] {
            let error = wrong.parse::<DomainId>().unwrap_err();
            assert!(error.starts_with(wrong) && error.contains("xl list"));
        }
    }

    #[test]
    fn a_function_is_numbered_as_xen_does() {
        let bdf = Bdf {
            bus: 1,
            device: 0x1f,
            function: 7,
        };
        assert_eq!(
            (bdf.number(), bdf.to_string().as_str()),
            (0x1ff, "0000:01:1f.7")
        );
    }

    #[test]
    fn what_is_not_there_or_no_driver_says_so() {
        let error = open(Path::new("/nonexistent/privcmd")).unwrap_err();
        assert!(error.to_string().contains("no Xen dom0"), "{error}");
        let null = std::fs::File::open("/dev/null").unwrap();
        let domain = Domain::from_fd(DomainId(1), null.into());
        for error in [
            domain.restrict().unwrap_err(),
            domain.create_server().unwrap_err(),
        ] {
            assert!(
                error.to_string().contains("is not /dev/xen/privcmd"),
                "{error}"
            );
        }
        assert!(!domain.is_alive(ServerId(0)));
    }
}
