//! Xen's devices, opened for one domain.

use std::fmt::Display;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::xen::kept::{Found, Unopened};
use crate::xen::{Domain, DomainId, ServerId};

/// As many as Xen allows a domain.
pub(in crate::host) const MAX_SERVERS: u16 = 8;

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

/// How many ioreq servers a domain has, QEMU's among them.
///
/// # Errors
///
/// One line: why it cannot be known.
pub(in crate::host) fn servers(devices: &Path, domain: u16) -> Result<usize, String> {
    let domain = Domain::from_fd(id(domain)?, open(devices, "privcmd")?);
    domain.vcpus().map_err(said)?;
    let all = (0..MAX_SERVERS).map(ServerId::new);
    Ok(all.filter(|server| domain.is_alive(*server)).count())
}

/// Whether a domain is gone in which a server of ours has died. One that is
/// about to go loses its servers first.
pub(super) fn is_gone(devices: &Path, domain: u16) -> bool {
    !matches!(servers(devices, domain), Ok(1..))
}

/// Removes the ioreq server that a server has left for a successor that will
/// not come: the guest reads all-ones from now on. A vCPU that waits for an
/// answer already goes on waiting.
///
/// # Errors
///
/// One line: what it could not be found by, or why it stays.
pub(super) fn remove_left(devices: &Path, domain: u16, state: &Path) -> Result<(), String> {
    let kept = Unopened::at(state).and_then(|kept| kept.look(domain));
    let Found::Predecessor(left) = kept.map_err(said)? else {
        return Ok(());
    };
    let server = ServerId::new(left.server().id);
    let domain = Domain::from_fd(id(domain)?, open(devices, "privcmd")?);
    let page = domain.ioreq_page(server).map_err(said)?;
    if left.is_behind(page.words()) {
        domain.destroy_server(server).map_err(said)?;
    }
    Ok(())
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
