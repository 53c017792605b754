//! The server alone: without bench, launcher and doctor.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rig::RigError;

/// Builds it, in a place of its own beside this bench's.
pub(crate) fn build() -> Result<PathBuf, RigError> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("alone");
    let triple = "x86_64-unknown-linux-gnu";
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--quiet", "--release", "--locked"])
        .args(["--no-default-features", "--bin", "vgpu-stub"])
        .args(["--target", triple, "--target-dir"])
        .arg(&target)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    let failed = |error: &dyn std::fmt::Display| RigError::failed("cannot build", error);
    let status = cargo.status().map_err(|error| failed(&error))?;
    if !status.success() {
        return Err(failed(&status));
    }
    Ok(target.join(triple).join("release/vgpu-stub"))
}
