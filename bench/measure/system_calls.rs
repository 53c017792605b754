//! System calls of the server's process, counted by strace.

use std::fs;
use std::path::Path;

use super::Runs;
use super::client::Access;
use super::served::{ONE, Terms, Tool, run};
use crate::rig::RigError;

/// The system calls of all the server's threads for each access.
pub(crate) fn per_access(program: &Path, access: Access, runs: Runs) -> Result<f64, RigError> {
    per_access_on(program, ONE, access, runs)
}

/// The same for an access to one of several devices that all have a client.
pub(crate) fn per_access_on(
    program: &Path,
    terms: Terms<'_>,
    access: Access,
    runs: Runs,
) -> Result<f64, RigError> {
    let count = |times| count(program, terms, access, times, "total");
    Ok(runs.per_access(count(runs.short)?, count(runs.long)?))
}

/// The system calls of a name for each send of so many accesses.
pub(crate) fn per_burst(
    program: &Path,
    access: Access,
    burst: usize,
    runs: Runs,
    name: &str,
) -> Result<f64, RigError> {
    let terms = Terms { burst, ..ONE };
    let count = |times| count(program, terms, access, times, name);
    Ok(runs.per_access(count(runs.short)?, count(runs.long)?))
}

fn count(
    program: &Path,
    terms: Terms<'_>,
    access: Access,
    times: u32,
    name: &str,
) -> Result<u64, RigError> {
    let failed = |error| RigError::failed("strace's summary", error);
    let summary = tempfile::NamedTempFile::new().map_err(failed)?;
    let tool = Tool::new(
        [
            "strace".as_ref(),
            "-f".as_ref(),
            "-c".as_ref(),
            "-o".as_ref(),
            summary.path().as_os_str(),
        ],
        "install strace (apt-get install strace)",
    );
    run(program, &tool, terms, access, times)?;
    let text = fs::read_to_string(summary.path()).map_err(failed)?;
    calls(&text, name).ok_or_else(|| RigError::failed("strace's summary lacks a line", text))
}

/// The calls of a line: share, seconds, time of each, calls, perhaps errors,
/// the call's name or `total`.
fn calls(summary: &str, name: &str) -> Option<u64> {
    let line = summary
        .lines()
        .find(|line| line.split_whitespace().last() == Some(name))?;
    line.split_whitespace().nth(3)?.parse().ok()
}
