//! `vgpu-stub launch`: a plain QEMU with the device.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::host::{Host, Reaped};
use super::rig::{or_skip, process};

fn launch(host: &Host) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vgpu-stub"));
    command.env("XDG_RUNTIME_DIR", host.directory.path());
    command.arg("launch");
    command
}

/// The directories of running servers.
fn directories(host: &Host) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(host.path("vgpu-stub")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.join("lock").exists()).collect()
}

#[test]
fn a_plain_qemu_gets_the_device() {
    let Some(qemu) = or_skip(vgpu_stub::debian::qemu::Qemu::obtain(process::NEVER)) else {
        return;
    };
    let host = Host::new();
    // Its loader and libraries are in its command.
    let installed = qemu.command();
    let words = |command: &Command| {
        let arguments = command.get_args().map(|word| word.to_str().unwrap());
        let arguments: Vec<String> = arguments.map(|word| format!(" '{word}'")).collect();
        format!(
            "'{}'{}",
            command.get_program().to_str().unwrap(),
            arguments.concat()
        )
    };
    let script = format!("#!/bin/sh\nexec {} \"$@\"\n", words(&installed));
    let program = host.script("qemu", &script);
    let mut command = launch(&host);
    command
        .args([
            "--addr",
            "0xc",
            "--device",
            "stub,vectors=3",
            "--start-timeout",
            "60",
            "--",
        ])
        .arg(&program)
        .args(qemu.data_arguments())
        .args([
            "-machine",
            "pc",
            "-accel",
            "tcg",
            "-nodefaults",
            "-display",
            "none",
        ])
        .args(["-S", "-qmp", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    for (name, value) in installed.get_envs() {
        command.env(name, value.unwrap());
    }
    let mut child = command.spawn().unwrap();
    let mut monitor = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut child = Reaped(child);
    let mut answer =
        || -> Value { serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap() };
    assert!(answer()["QMP"].is_object());
    let mut execute = |command: &str| {
        writeln!(monitor, "{}", json!({ "execute": command })).unwrap();
        loop {
            let answer = answer();
            if answer["event"].is_null() {
                break answer["return"].clone();
            }
        }
    };
    execute("qmp_capabilities");
    let pci = execute("query-pci");
    let devices = pci[0]["devices"].as_array().unwrap();
    let ours: Vec<&Value> = devices
        .iter()
        .filter(|device| device["slot"] == 0xc)
        .collect();
    assert_eq!(ours.len(), 1, "{pci}");
    assert_eq!(
        ours[0]["id"],
        json!({ "vendor": 0x1af4, "device": 0x1111, "subsystem-vendor": 0x1af4, "subsystem": 0x1100 })
    );
    assert_eq!(ours[0]["class_info"]["class"], 0x1200);
    let running = directories(&host);
    assert_eq!(running.len(), 1);
    let lock = fs::File::open(running[0].join("lock")).unwrap();
    execute("quit");
    assert!(child.0.wait().unwrap().success());
    // The server ends with it.
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert!(directories(&host).is_empty());
}

#[test]
fn questions_are_passed_through() {
    let host = Host::new();
    for arguments in [
        vec![
            "-S",
            "-no-user-config",
            "-nodefaults",
            "-nographic",
            "-machine",
            "none,accel=kvm:tcg",
        ],
        vec!["-version"],
        vec!["-device", "help"],
        vec!["-machine", "q35", "-device", "virtio-net,help"],
        vec!["-help", "with space", "", "\"'\n"],
    ] {
        let mut command = launch(&host);
        let status = command
            .arg("--")
            .arg(host.path("stock"))
            .args(&arguments)
            .status();
        assert!(status.unwrap().success());
        assert_eq!(host.recorded().argv, arguments);
        assert!(!host.path("vgpu-stub").exists());
    }
}

#[test]
fn what_cannot_be_started_is_said_in_one_line() {
    let host = Host::new();
    let fails = |arguments: &[&str]| {
        let output = launch(&host).args(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_ne!(output.status.code(), Some(0));
        said
    };
    let said = fails(&["--", "/no/qemu", "-machine", "q35"]);
    assert!(
        said.starts_with("vgpu-stub: /no/qemu -device help: No such file"),
        "{said}"
    );
    let said = fails(&["--", "/no/qemu", "-version"]);
    assert!(
        said.starts_with("vgpu-stub: /no/qemu: cannot execute: No such file"),
        "{said}"
    );
    let said = fails(&["--device", "stub,vectors=99", "--", "/no/qemu"]);
    assert!(said.contains("vectors=99 is out of range"), "{said}");
    let said = fails(&["--device", "stub,fd=3", "--", "/no/qemu"]);
    assert!(said.contains("'fd=3' is not known"), "{said}");
    let said = fails(&["--addr", "12", "--", "/no/qemu"]);
    assert!(said.contains("is not a PCI slot"), "{said}");
    assert!(directories(&host).is_empty());
}

#[test]
fn a_directory_that_others_can_write_to_is_not_used() {
    let host = Host::new();
    let directory = host.path("vgpu-stub");
    fs::create_dir(&directory).unwrap();
    let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(&directory, everyone).unwrap();
    let model = host.path("model");
    let output = launch(&host)
        .arg("--")
        .arg(&model)
        .args(["-machine", "q35"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("is not yours alone"), "{said}");
    assert!(Path::new(&model).exists());
}
