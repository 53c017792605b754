//! What is handed to systemd and logrotate.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use tempfile::tempdir;

use crate::built::program;
use crate::rig::{or_skip, process};

const LIMIT: Duration = Duration::from_secs(30);

const SERVICE: &str = include_str!("../../packaging/vgpu-stub@.service");
const SOCKET: &str = include_str!("../../packaging/vgpu-stub@.socket");
const README: &str = include_str!("../../packaging/README.md");

/// What the units use and the systemd 219 of RHEL 7 and its kin knows (its
/// load-fragment-gperf.gperf.m4).
const OLD: [&str; 30] = [
    "After",
    "CapabilityBoundingSet",
    "Description",
    "DirectoryMode",
    "Documentation",
    "ExecStart",
    "Group",
    "LimitCORE",
    "LimitNOFILE",
    "ListenStream",
    "NoNewPrivileges",
    "NotifyAccess",
    "PrivateDevices",
    "PrivateNetwork",
    "PrivateTmp",
    "ProtectHome",
    "ProtectSystem",
    "RemoveOnStop",
    "Requires",
    "RestrictAddressFamilies",
    "SocketGroup",
    "SocketMode",
    "SocketUser",
    "SystemCallArchitectures",
    "SystemCallFilter",
    "TasksMax",
    "TimeoutStopSec",
    "Type",
    "UMask",
    "User",
];

/// The settings of a unit, in order.
fn settings(unit: &str) -> impl Iterator<Item = (&str, &str)> {
    unit.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
}

/// The system calls that the unit refuses.
pub(crate) fn refused_calls() -> BTreeSet<String> {
    let refused = settings(SERVICE).find(|(key, _)| *key == "SystemCallFilter");
    let names = refused.unwrap().1.strip_prefix('~').unwrap();
    names.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn an_old_systemd_knows_the_units_or_is_known_not_to() {
    let (_, told) = README.split_once("(its source read, not run):").unwrap();
    let told = told.split_once('.').unwrap().0;
    let told: BTreeSet<&str> = told.split([',', '\n']).map(str::trim).collect();
    let mut newer = BTreeSet::from([""]);
    for (key, value) in settings(SERVICE).chain(settings(SOCKET)) {
        if !OLD.contains(&key) && key != "WantedBy" {
            newer.insert(key);
        }
        if key == "ProtectSystem" {
            assert_eq!(value, "full", "219 drops what it does not know");
        }
    }
    assert_eq!(newer, told, "packaging/README.md lists what 219 ignores");
    // 219 has no groups of calls; in a list of refusals they would be dropped.
    assert!(refused_calls().iter().all(|name| !name.starts_with('@')));
    assert!(refused_calls().contains("ptrace"));
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let mut ask = Command::new("systemd-analyze");
    let remedy = "install systemd-analyze (apt-get install systemd)";
    if or_skip(process::run(ask.arg("--version"), LIMIT, remedy)).is_none() {
        return;
    }
    let Some(program) = or_skip(program()) else {
        return;
    };
    let dir = tempdir().unwrap();
    let service = dir.path().join("vgpu-stub@.service");
    let program = program.to_str().unwrap();
    fs::write(&service, SERVICE.replace("/usr/bin/vgpu-stub", program)).unwrap();
    fs::write(dir.path().join("vgpu-stub@.socket"), SOCKET).unwrap();
    // It ends well even if it has dropped a line; only what it says counts.
    let verify = "systemd-analyze verify --man=no \"$@\" 2>&1";
    let said = process::run(
        Command::new("sh")
            .args(["-c", verify, "sh"])
            .arg(&service)
            .arg(dir.path().join("vgpu-stub@.socket")),
        LIMIT,
        "",
    );
    assert_eq!(said.unwrap(), "");
}

#[test]
fn logrotate_takes_its_file() {
    let mut ask = Command::new("logrotate");
    let remedy = "install logrotate (apt-get install logrotate)";
    if or_skip(process::run(ask.arg("--version"), LIMIT, remedy)).is_none() {
        return;
    }
    let dir = tempdir().unwrap();
    let file = dir.path().join("vgpu-stub");
    fs::copy("packaging/vgpu-stub.logrotate", &file).unwrap();
    let state = dir.path().join("state");
    let check = "logrotate -d --state \"$1\" \"$0\" 2>&1";
    let mut command = Command::new("sh");
    command.args(["-c", check]).arg(&file).arg(&state);
    let said = process::run(&mut command, LIMIT, "").unwrap();
    assert!(said.contains("/var/log/vgpu-stub/*.log"), "{said}");
    assert!(!said.contains("error"), "{said}");
}
