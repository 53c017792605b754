//! Instructions that the server's process executes in user mode, counted by
//! valgrind.

use std::fs;
use std::path::Path;

use super::Runs;
use super::client::Access;
use super::served::{ONE, Tool, run};
use crate::rig::RigError;

/// How to get valgrind.
const REMEDY: &str = "install valgrind (apt-get install valgrind)";

/// The instructions of all the server's threads for each access.
pub(crate) fn per_access(program: &Path, access: Access, runs: Runs) -> Result<f64, RigError> {
    let failed = |error| RigError::failed("callgrind's profile", error);
    let profile = tempfile::NamedTempFile::new().map_err(failed)?;
    let count = |times| {
        record(program, access, times, profile.path())?;
        let text = fs::read_to_string(profile.path()).map_err(failed)?;
        total(&text).ok_or_else(|| RigError::failed("callgrind's profile", "has no total"))
    };
    Ok(runs.per_access(count(runs.short)?, count(runs.long)?))
}

/// Writes callgrind's profile of one run to `profile`.
pub(crate) fn record(
    program: &Path,
    access: Access,
    times: u32,
    profile: &Path,
) -> Result<(), RigError> {
    let mut out = std::ffi::OsString::from("--callgrind-out-file=");
    out.push(profile);
    let tool = Tool::new(
        [
            "valgrind".into(),
            "--quiet".into(),
            "--tool=callgrind".into(),
            out,
        ],
        REMEDY,
    );
    run(program, &tool, ONE, access, times)
}

fn total(profile: &str) -> Option<u64> {
    let total = profile
        .lines()
        .find_map(|line| line.strip_prefix("totals:"))?;
    total.trim().parse().ok()
}
