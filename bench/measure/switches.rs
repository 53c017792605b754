//! Context switches of a client and its server on one CPU, from the kernel's
//! own counters.
//!
//! A thread that waits switches voluntarily. That is what the code does, but
//! for waits that begin anew: the kernel wakes a thread that waits for a
//! message also when the one that it sent is taken (`unix_write_space`).
//! Whether that shows is a matter of who runs when. It only adds, so the round
//! with the fewest is the one to count. Involuntary switches are the machine's.

use std::fs;
use std::path::Path;
use std::thread;

use vgpu_stub::bench::{Pinned, Pinning};

use super::client::Access;
use super::served::{Served, Tool};
use super::{Runs, exact};
use crate::rig::RigError;

/// The accesses of a round: so few that many rounds are undisturbed.
const ROUND: u32 = 10;

/// The voluntary context switches of both sides together for each access.
pub(crate) fn per_access(program: &Path, access: Access, runs: Runs) -> Result<f64, RigError> {
    let failed = |error| RigError::failed("cannot choose a CPU", error);
    let cpu = Pinning::choose().map_err(failed)?.client;
    // The server inherits it.
    let _pinned = Pinned::to(cpu).map_err(failed)?;
    let served = Served::start(program, &Tool::default(), true)?;
    let mut client = served.client()?;
    let mut repeat = |times| {
        let done = client.repeat(access, times);
        done.map_err(|error| RigError::failed(access, error))
    };
    repeat(runs.short)?;
    let mut fewest = u64::MAX;
    for _ in 0..(runs.long - runs.short) / ROUND {
        let before = count(served.id())?;
        repeat(ROUND)?;
        fewest = fewest.min(count(served.id())? - before);
    }
    drop(client);
    served.ended()?;
    Ok(exact(fewest) / f64::from(ROUND))
}

/// The voluntary switches so far, of this thread and of all threads of a
/// process on the same CPU.
fn count(process: u32) -> Result<u64, RigError> {
    // Who has answered comes to its next wait.
    for _ in 0..4 {
        thread::yield_now();
    }
    let tasks = format!("/proc/{process}/task");
    let failed = |error| RigError::failed(&tasks, error);
    let mut total = of_thread("/proc/thread-self".as_ref())?;
    for task in fs::read_dir(&tasks).map_err(failed)? {
        total += of_thread(&task.map_err(failed)?.path())?;
    }
    Ok(total)
}

fn of_thread(task: &Path) -> Result<u64, RigError> {
    const NAME: &str = "voluntary_ctxt_switches:";
    let path = task.join("status");
    let status =
        fs::read_to_string(&path).map_err(|error| RigError::failed(path.display(), error))?;
    let mut lines = status.lines();
    let value = lines.find_map(|line| line.strip_prefix(NAME)?.trim().parse().ok());
    value.ok_or_else(|| RigError::failed(path.display(), format!("has no {NAME}")))
}
