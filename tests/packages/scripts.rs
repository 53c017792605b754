//! The scripts that build the packages, and those in them.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::rig::{or_skip, process};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn shellcheck_finds_nothing_wrong() {
    let mut ask = Command::new("shellcheck");
    let remedy = "install shellcheck (apt-get install shellcheck)";
    if or_skip(process::run(ask.arg("--version"), LIMIT, remedy)).is_none() {
        return;
    }
    let mut check = Command::new("shellcheck");
    check.args([
        "build",
        "install",
        "deb/postinst",
        "deb/postrm",
        "deb/prerm",
    ]);
    check.current_dir("packaging");
    assert_eq!(process::run(&mut check, LIMIT, "").unwrap(), "");
}

#[test]
fn spec_and_changelog_have_the_programs_version() {
    let version = env!("CARGO_PKG_VERSION");
    let spec = fs::read_to_string("packaging/rpm/vgpu-stub.spec").unwrap();
    let line = spec
        .lines()
        .find(|line| line.starts_with("Version:"))
        .unwrap();
    assert!(line.ends_with(&format!(" {version}")), "{line}");
    assert!(spec.contains(&format!("> - {version}-1\n")));
    let changelog = fs::read_to_string("packaging/deb/changelog").unwrap();
    assert!(changelog.starts_with(&format!("vgpu-stub ({version}-1) ")));
}
