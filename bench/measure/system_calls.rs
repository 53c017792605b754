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
    let short = count(program, terms, access, runs.short)?;
    let long = count(program, terms, access, runs.long)?;
    Ok(runs.per_access(short, long))
}

fn count(program: &Path, terms: Terms<'_>, access: Access, times: u32) -> Result<u64, RigError> {
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
    total(&text).ok_or_else(|| RigError::failed("strace's summary has no total", text))
}

/// The calls of the last line: share, seconds, time of each, calls, perhaps
/// errors, `total`.
fn total(summary: &str) -> Option<u64> {
    let line = summary
        .lines()
        .find(|line| line.trim_end().ends_with(" total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}
