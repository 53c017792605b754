//! Where the instructions of a read go: a profile of a build with symbols.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use crate::measure::client::Access;
use crate::measure::instructions;
use crate::rig::{RigError, process};

/// So many that what is done once drops out of the list.
const READS: u32 = 20_000;

/// How long a build may take.
const LIMIT: Duration = Duration::from_secs(900);

/// Prints the list.
pub(crate) fn run() -> ExitCode {
    match list() {
        Ok(list) => {
            println!("{READS} reads, and all that is done once:\n{list}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("budget: {error}");
            ExitCode::FAILURE
        }
    }
}

fn list() -> Result<String, RigError> {
    let program = build()?;
    let profile = tempfile::NamedTempFile::new()
        .map_err(|error| RigError::failed("callgrind's profile", error))?;
    instructions::record(&program, Access::Read, READS, profile.path())?;
    process::run(
        Command::new("callgrind_annotate")
            .args(["--show-percs=no", "--auto=no", "--threshold=99"])
            .arg(profile.path()),
        LIMIT,
        "install valgrind (apt-get install valgrind)",
    )
}

/// Builds the program as it is released, but with its symbols.
fn build() -> Result<PathBuf, RigError> {
    process::run(
        Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--profile", "profiling", "--bin"])
            .arg("vgpu-stub"),
        LIMIT,
        "run this through cargo",
    )?;
    // Beside the release profile's directory.
    let built = Path::new(crate::PROGRAM)
        .ancestors()
        .nth(2)
        .map(|target| target.join("profiling/vgpu-stub"));
    built.ok_or_else(|| RigError::failed(crate::PROGRAM, "has no target directory"))
}
