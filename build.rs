//! Tells the program which revision it is, for the bench's reports.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-changed=Cargo.toml");
    // Not in a repository, or without git: a report says so.
    if let Some(directory) = git(&["rev-parse", "--git-dir"]) {
        // Gets a line with every commit and checkout.
        let log = Path::new(&directory).join("logs/HEAD");
        println!("cargo::rerun-if-changed={}", log.display());
    }
    if let Some(revision) = git(&["describe", "--always", "--dirty", "--abbrev=12"]) {
        println!("cargo::rustc-env=VGPU_STUB_REVISION={revision}");
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
