//! Why Xen, or the kernel in front of it, refuses: one line each.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use thiserror::Error;

use super::domain::DomainId;

/// A refusal: what, on what, and what to do next.
#[derive(Debug, Error)]
pub enum XenError {
    /// There is no such device node.
    #[error(
        "{path}: not there; this is no Xen dom0, or a module is missing \
         (modprobe xen-privcmd xen-evtchn)"
    )]
    NoDevice {
        /// The node.
        path: PathBuf,
    },
    /// It may not be opened.
    #[error("{path}: no right to open it; start as root, --uid gives the rights up afterwards")]
    NoRights {
        /// The node.
        path: PathBuf,
    },
    /// It cannot be opened for another reason.
    #[error("{path}: cannot open it: {source}")]
    Open {
        /// The node.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The descriptor is not one of the Xen driver's.
    #[error("the descriptor is not {path}; pass one that was opened from it")]
    WrongDescriptor {
        /// The node that it should be from.
        path: &'static str,
    },
    /// An event channel descriptor that is restricted can bind no port of ours.
    #[error(
        "the descriptor of /dev/xen/evtchn is restricted already; pass one fresh from opening, \
         the server restricts it itself"
    )]
    Restricted,
    /// There is no such domain.
    #[error("domain {0}: there is none; xl list shows those that run")]
    NoDomain(DomainId),
    /// The domain has no emulated PCI bus.
    #[error("domain {0}: not an HVM guest; PV and PVH guests have no emulated PCI bus")]
    NotHvm(DomainId),
    /// Xen or the kernel does not let us have that domain.
    #[error(
        "domain {0}: not ours; start as root in dom0, with a descriptor that is not restricted \
         to another domain"
    )]
    NotOurs(DomainId),
    /// As many ioreq servers as Xen allows.
    #[error(
        "domain {0}: all its 8 ioreq servers are taken; let one server have several devices \
         (--device again) or stop one"
    )]
    NoFreeServer(DomainId),
    /// The kernel or Xen cannot.
    #[error("domain {domain}: {what} is not supported; it needs Xen 4.13 and Linux 4.18")]
    Unsupported {
        /// The domain.
        domain: DomainId,
        /// What was asked for.
        what: &'static str,
    },
    /// The range is the server's already.
    #[error("domain {domain}: {range} is registered already")]
    Exists {
        /// The domain.
        domain: DomainId,
        /// The range.
        range: super::domain::Range,
    },
    /// Anything else.
    #[error("domain {domain}: cannot {what}: {source}")]
    Refused {
        /// The domain.
        domain: DomainId,
        /// What was asked for.
        what: &'static str,
        /// What the kernel said, or Xen through it.
        source: io::Error,
    },
    /// An event channel of our own cannot be made.
    #[error("/dev/xen/evtchn: cannot make an event channel: {0}")]
    Ports(io::Error),
    /// A vCPU's port cannot be bound.
    #[error(
        "domain {domain}: cannot bind event channel {port}: {source}; is another server at work?"
    )]
    Bind {
        /// The domain.
        domain: DomainId,
        /// Its port.
        port: u32,
        /// What the kernel said.
        source: io::Error,
    },
}

impl XenError {
    /// Whether there is no such server, and not merely no way to it.
    pub(super) fn is_absent(&self) -> bool {
        match self {
            XenError::Refused { source, .. } => source.raw_os_error() == Some(libc::ENOENT),
            _ => false,
        }
    }

    /// What an operation on a domain failed by.
    pub(super) fn refused(domain: DomainId, what: &'static str, error: Errno) -> Self {
        match error {
            Errno::SRCH => XenError::NoDomain(domain),
            Errno::PERM | Errno::ACCESS => XenError::NotOurs(domain),
            Errno::NOSYS | Errno::OPNOTSUPP => XenError::Unsupported { domain, what },
            Errno::NOTTY => XenError::WrongDescriptor {
                path: super::domain::PRIVCMD,
            },
            _ => XenError::Refused {
                domain,
                what,
                source: error.into(),
            },
        }
    }

    pub(super) fn ports(error: Errno) -> Self {
        match error {
            Errno::ACCESS => XenError::Restricted,
            Errno::NOTTY | Errno::NOSYS => XenError::WrongDescriptor {
                path: super::evtchn::EVTCHN,
            },
            _ => XenError::Ports(error.into()),
        }
    }

    pub(super) fn bind(domain: DomainId, port: u32, error: Errno) -> Self {
        match error {
            Errno::ACCESS | Errno::PERM => XenError::NotOurs(domain),
            _ => XenError::Bind {
                domain,
                port,
                source: error.into(),
            },
        }
    }
}

/// Opens a driver's node for reading and writing.
pub(super) fn open(path: &Path) -> Result<OwnedFd, XenError> {
    let path = path.to_owned();
    rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|error| {
        match error {
            // The node may be there without its driver.
            Errno::NOENT | Errno::NOTDIR | Errno::NXIO | Errno::NODEV => {
                XenError::NoDevice { path }
            }
            Errno::ACCESS | Errno::PERM => XenError::NoRights { path },
            _ => XenError::Open {
                path,
                source: error.into(),
            },
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_absent_only_if_xen_says_so() {
        let domain = DomainId::new(1).unwrap();
        let refused = |error| XenError::refused(domain, "map the ioreq server's page", error);
        assert!(refused(Errno::NOENT).is_absent());
        for error in [
            Errno::INTR,
            Errno::NOMEM,
            Errno::PERM,
            Errno::SRCH,
            Errno::INVAL,
        ] {
            assert!(!refused(error).is_absent());
        }
    }
}
