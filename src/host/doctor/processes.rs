//! What `/proc` says of processes and sockets.

use std::time::{Duration, SystemTime};

use super::view::View;

/// `USER_HZ`, which x86's kernels never change.
const TICKS_PER_SECOND: u64 = 100;
/// The kernel's `SO_ACCEPTCON` in `/proc/net/unix`.
const LISTENS: u32 = 1 << 16;
/// What is read of `/proc/net/unix`.
const MOST: u64 = 8 << 20;

/// `/proc` is there.
pub(super) fn known(view: &View) -> bool {
    view.exists("/proc/stat")
}

/// The process is there, and is not a zombie.
pub(super) fn alive(view: &View, id: u32) -> bool {
    let state = stat(view, id).and_then(|fields| fields.first().cloned());
    state.is_some_and(|state| state != "Z" && state != "X")
}

/// When the process with this name started, if there is one.
pub(super) fn started(view: &View, name: &str) -> Option<SystemTime> {
    let ids = view.list("/proc");
    let id = ids
        .iter()
        .filter_map(|id| id.parse().ok())
        .find(|id: &u32| {
            let comm = view.text(format!("/proc/{id}/comm"));
            comm.is_ok_and(|comm| comm.trim_end() == name)
        })?;
    // proc(5): the 22nd field, of which `stat` drops two.
    let ticks: u64 = stat(view, id)?.get(19)?.parse().ok()?;
    let kernel = view.text("/proc/stat").ok()?;
    let boot = kernel
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?;
    let boot = Duration::from_secs(boot.trim().parse().ok()?);
    let after = Duration::from_millis(ticks.checked_mul(1000 / TICKS_PER_SECOND)?);
    SystemTime::UNIX_EPOCH.checked_add(boot.checked_add(after)?)
}

/// The fields after the name, which may have anything in it.
fn stat(view: &View, id: u32) -> Option<Vec<String>> {
    let stat = view.text(format!("/proc/{id}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    Some(fields.split_ascii_whitespace().map(str::to_owned).collect())
}

/// A socket's path in the kernel's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    /// Somebody listens.
    pub listens: bool,
    /// How many connections were accepted and are still there.
    pub connections: usize,
}

/// Who has a socket of this path; `None` if the kernel's table is not here.
pub(super) fn bound(view: &View, path: &str) -> Option<Bound> {
    let table = view.read("/proc/net/unix", MOST).ok()?;
    let table = String::from_utf8_lossy(&table).into_owned();
    let mut bound = Bound {
        listens: false,
        connections: 0,
    };
    // "Num RefCount Protocol Flags Type St Inode Path"
    for line in table.lines().skip(1) {
        let mut fields = line.split_ascii_whitespace();
        let flags = fields
            .nth(3)
            .and_then(|flags| u32::from_str_radix(flags, 16).ok());
        let (Some(flags), Some(named)) = (flags, fields.nth(3)) else {
            continue;
        };
        // /var/run is /run.
        let named = named.strip_prefix("/var").unwrap_or(named);
        if named == path {
            bound.listens |= flags & LISTENS != 0;
            bound.connections += usize::from(flags & LISTENS == 0);
        }
    }
    Some(bound)
}
