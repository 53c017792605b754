//! Xen's devices, opened for one domain.

use std::fmt::Display;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::xen::{Domain, DomainId};

/// Whether a domain can have an ioreq server of ours, as far as it can be known
/// without making one.
///
/// # Errors
///
/// One line: why not.
pub(super) fn look(devices: &Path, domain: u16) -> Result<(), String> {
    let privcmd = open(devices, "privcmd")?;
    open(devices, "evtchn")?;
    let domain = Domain::from_fd(id(domain)?, privcmd);
    domain.vcpus().map(drop).map_err(said)
}

/// `privcmd`, of use for this domain only from now on, and `evtchn`, with which
/// its server does the same when it has made the port that wakes itself.
///
/// # Errors
///
/// One line: what cannot be opened or restricted.
pub(super) fn descriptors(devices: &Path, domain: u16) -> Result<(OwnedFd, OwnedFd), String> {
    let privcmd = open(devices, "privcmd")?;
    let copy = privcmd.try_clone().map_err(said)?;
    Domain::from_fd(id(domain)?, copy)
        .restrict()
        .map_err(said)?;
    Ok((privcmd, open(devices, "evtchn")?))
}

fn id(domain: u16) -> Result<DomainId, String> {
    DomainId::new(domain).ok_or_else(|| format!("{domain}: is no guest's number"))
}

fn open(devices: &Path, name: &str) -> Result<OwnedFd, String> {
    let path = devices.join(name);
    let mut options = File::options();
    let file = options.read(true).write(true).open(&path);
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    file.map(OwnedFd::from).map_err(failed)
}

fn said(error: impl Display) -> String {
    error.to_string()
}
