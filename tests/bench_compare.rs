//! `vgpu-stub bench compare`, from outside.
#![cfg(feature = "bench")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;
use vgpu_stub::bench::{FORMAT, Machine, Pinning, Plan, Report, Section, Tally};

/// Reports in a directory of their own.
struct Reports(TempDir);

impl Reports {
    fn new() -> Self {
        Reports(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A report of a floor of 1 us, and a row above with these medians.
    fn add(&self, name: &str, medians: &[f64]) -> PathBuf {
        let mut section = Section::new(1, "a section");
        for (name, floor, medians) in [
            ("a.floor", None, &vec![1000.0; medians.len()][..]),
            ("a.row", Some("a.floor"), medians),
        ] {
            let mut tally = Tally::named(name, name, floor, 1);
            for (run, median) in (0..).zip(medians) {
                tally.begin(run, Duration::ZERO);
                tally.slice_of(Duration::from_millis(1), vec![*median; 10]);
            }
            section.rows.extend(tally.finish());
        }
        section.relate();
        let pinning = Pinning {
            client: 0,
            other: None,
        };
        let report = Report {
            format: FORMAT,
            started: 1_795_253_999,
            interrupted: false,
            machine: Machine::default(),
            method: Plan::quick(pinning).method(true, &vgpu_stub::bench::Clock::new()),
            sections: vec![section],
        };
        let path = self.path(name);
        std::fs::write(&path, serde_json::to_string(&report).unwrap()).unwrap();
        path
    }
}

fn compare(old: &Path, new: &Path, options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vgpu-stub"))
        .args(["bench", "compare"])
        .args([old, new])
        .args(options)
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

const BEFORE: [f64; 4] = [2000.0, 2020.0, 1990.0, 2010.0];

#[test]
fn the_same_report_twice_is_fine() {
    let reports = Reports::new();
    let path = reports.add("a.json", &BEFORE);
    let output = compare(&path, &path, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("cannot tell"), "{text}");
    // No terminal, no colours.
    assert!(!text.contains('\x1b'), "{text}");
}

#[test]
fn a_slower_row_fails_and_is_named() {
    let reports = Reports::new();
    let old = reports.add("old.json", &BEFORE);
    let new = reports.add("new.json", &BEFORE.map(|median| 1.2 * median));
    let output = compare(&old, &new, &[]);
    assert_eq!(output.status.code(), Some(1));
    let line = stderr(&output);
    assert!(
        line.starts_with("vgpu-stub: slower by more than 10 %: a.row (+"),
        "{line}"
    );
    assert_eq!(line.lines().count(), 1, "{line}");
    // The other way round it is faster, and beyond the threshold it is not.
    assert_eq!(compare(&new, &old, &[]).status.code(), Some(0));
    let output = compare(&old, &new, &["--threshold", "25"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn json_says_the_same() {
    let reports = Reports::new();
    let old = reports.add("old.json", &BEFORE);
    let new = reports.add("new.json", &BEFORE.map(|median| 1.2 * median));
    let output = compare(&old, &new, &["--json"]);
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["too_slow"], serde_json::json!(["a.row"]));
    assert_eq!(json["rows"][0]["verdict"], "cannot-tell");
    assert_eq!(json["rows"][0]["of"], "time");
    assert_eq!(json["rows"][1]["verdict"], "slower");
}

#[test]
fn files_that_are_no_reports_fail_in_one_line() {
    let reports = Reports::new();
    let good = reports.add("good.json", &BEFORE);
    let empty = reports.add("empty.json", &[]);
    let (missing, broken) = (reports.path("missing.json"), reports.path("broken.json"));
    std::fs::write(&broken, "{\"format\":").unwrap();
    for (bad, expected) in [
        (&missing, "missing.json: No such file"),
        (&broken, "broken.json: not a report of vgpu-stub bench: EOF"),
        (&empty, "no row was measured in both reports"),
    ] {
        let output = compare(&good, bad, &[]);
        assert_eq!(output.status.code(), Some(1));
        let line = stderr(&output);
        assert!(line.contains(expected), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
    let output = compare(&good, &good, &["--threshold", "nan"]);
    assert_eq!(output.status.code(), Some(2));
}
