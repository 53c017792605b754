//! `vgpu-stub bench` from the outside: what it prints, writes and refuses.
#![cfg(feature = "bench")]

mod program;

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::os::fd::OwnedFd;
use std::process::Stdio;

use program::{output, program, text};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tempfile::tempdir;
use vgpu_stub::bench::{Pinned, Pinning, Report};

const RUNG_1: [&str; 4] = ["bench", "--quick", "--rungs", "1"];

/// The status and the one line on stderr of a bench that fails.
fn fails(arguments: &[&str]) -> (i32, String) {
    let output = output(arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.stdout.is_empty());
    (output.status.code().unwrap(), said)
}

#[test]
fn a_report_is_printed_and_written() {
    let dir = tempdir().unwrap();
    let place = dir.path().join("a/b");
    let output = output(RUNG_1.into_iter().chain(["--output", text(&place)]));
    assert!(output.status.success());
    assert_eq!(output.stderr, b"");
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("1. dispatch"), "{table}");
    assert!(!table.contains('\x1b'), "colours without a terminal");
    for name in ["report.html", "report.md", "report.csv", "latency.hlog"] {
        let text = fs::read_to_string(place.join(name)).unwrap();
        assert!(text.contains("dispatch"), "{name}");
    }
    let json = fs::read_to_string(place.join("report.json")).unwrap();
    let report = Report::parse(&json).unwrap();
    assert!(!report.interrupted);
    let read = report.row("dispatch.read.4").unwrap();
    assert_eq!(read.runs.len(), report.method.runs as usize);
    assert!(read.ratio.is_some());
}

#[test]
fn json_and_csv_take_the_tables_place() {
    let dir = tempdir().unwrap();
    let place = ["--output", text(dir.path())];
    let json = output(RUNG_1.into_iter().chain(place).chain(["--json"]));
    let report = Report::parse(std::str::from_utf8(&json.stdout).unwrap()).unwrap();
    assert_eq!(report.sections.len(), 1);
    let csv = output(RUNG_1.into_iter().chain(place).chain(["--csv"]));
    let csv = String::from_utf8(csv.stdout).unwrap();
    let rows = csv.lines().filter(|line| line.contains("dispatch."));
    assert_eq!(rows.count(), report.sections[0].rows.len());
}

#[test]
fn a_directory_that_cannot_be_written_is_told_first() {
    let place = "/dev/null/report";
    let (status, said) = fails(&[&RUNG_1[..], &["--output", place]].concat());
    assert_eq!(status, 1);
    assert_eq!(
        said,
        "vgpu-stub: cannot write into /dev/null/report: Not a directory (os error 20); \
         choose another directory with --output\n"
    );
}

#[test]
fn what_cannot_be_measured_at_all_is_told_first() {
    let dir = tempdir().unwrap();
    for (arguments, status, expected) in [
        (&["--rungs", "3"][..], 2, "say --socket-path"),
        (
            &["--rungs", "6"],
            2,
            "6 is guest-bench, which runs inside a guest",
        ),
        (&["--cpus", "0,0"], 2, "two different ones"),
        (&["--cpus", "x"], 2, "'x' is not the number of a CPU"),
        (&["--cpus", "1000000"], 1, "may not run on CPU 1000000"),
    ] {
        let place = ["bench", "--output", text(dir.path())];
        let (got, said) = fails(&[&place[..], arguments].concat());
        assert_eq!(got, status, "{said}");
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn what_is_named_and_cannot_be_measured_is_a_failure_with_a_report() {
    let dir = tempdir().unwrap();
    for (arguments, status, expected) in [
        (
            ["--rungs", "5", "--qemu", "/bin/true"],
            1,
            "vgpu-stub: /bin/true is not a QEMU",
        ),
        (
            ["--rungs", "1", "--socket-path", "/none"],
            4,
            "vgpu-stub: /none: ",
        ),
    ] {
        let place = ["bench", "--quick", "--output", text(dir.path())];
        let output = output(place.iter().chain(&arguments));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{said}");
        assert!(said.starts_with(expected), "{said}");
        let json = fs::read_to_string(dir.path().join("report.json")).unwrap();
        assert_eq!(
            Report::parse(&json)
                .unwrap()
                .sections
                .last()
                .unwrap()
                .gaps
                .len(),
            1
        );
    }
}

#[test]
fn one_cpu_leaves_gaps_where_two_are_needed() {
    let dir = tempdir().unwrap();
    let only = Pinning::choose().unwrap().client;
    // What this thread starts inherits it.
    let _pinned = Pinned::to(only).unwrap();
    let place = ["--output", text(dir.path())];
    let json = output(
        ["bench", "--quick", "--rungs", "2", "--json"]
            .iter()
            .chain(&place),
    );
    let report = Report::parse(std::str::from_utf8(&json.stdout).unwrap()).unwrap();
    assert_eq!(report.method.client_cpu, only);
    assert_eq!(report.method.other_cpu, None);
    for section in &report.sections {
        if section.title.contains("same CPU") {
            assert!(section.gaps.is_empty() && !section.rows.is_empty());
        } else {
            assert!(section.rows.is_empty());
            assert!(section.gaps[0].why.contains("one CPU"), "{section:?}");
        }
    }
}

#[test]
fn ctrl_c_keeps_what_was_measured_and_says_so() {
    let dir = tempdir().unwrap();
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let theirs = File::options()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    // Not --quick: it would take a while.
    let mut command = program(["bench", "--rungs", "1", "--output", text(dir.path())]);
    command.stdout(Stdio::null()).stderr(OwnedFd::from(theirs));
    let mut child = command.spawn().unwrap();
    drop(command);

    let mut said = Vec::new();
    let mut stream = BufReader::new(File::from(terminal));
    let mut byte = [0];
    while !String::from_utf8_lossy(&said).contains("run 1 of") {
        stream.read_exact(&mut byte).unwrap();
        said.push(byte[0]);
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    // The terminal is gone when the program is: reading it fails then.
    let _ = stream.read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said);
    assert_eq!(child.wait().unwrap().code(), Some(1), "{said}");
    assert!(said.contains("interrupted; what was measured until then is in"));

    let json = fs::read_to_string(dir.path().join("report.json")).unwrap();
    let report = Report::parse(&json).unwrap();
    assert!(report.interrupted);
    let first = report.row("dispatch.floor").unwrap();
    assert!(first.runs.len() < report.method.runs as usize);
}
