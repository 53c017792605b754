//! What the program generates, against what is committed and what others
//! parse.

mod program;

use std::fs;

use program::{output, text};
use serde_json::Value;
use tempfile::tempdir;

fn stdout(arguments: &[&str]) -> String {
    let output = output(arguments);
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_register_tables_in_docs_are_those_of_the_maps() {
    let committed = include_str!("../docs/registers.md");
    let made = stdout(&["generate", "registers"]);
    assert_eq!(
        committed, made,
        "run: cargo run -- generate registers > docs/registers.md"
    );
}

#[test]
fn every_command_has_a_man_page() {
    let dir = tempdir().unwrap();
    stdout(&["generate", "man", text(dir.path())]);
    for page in [
        "vgpu-stub",
        "vgpu-stub-serve",
        "vgpu-stub-demo",
        "vgpu-stub-probe",
    ] {
        let page = dir.path().join(format!("{page}.1"));
        let roff = fs::read_to_string(&page).unwrap();
        assert!(roff.contains(".TH"), "{}", page.display());
    }
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "fish", "zsh"] {
        let script = stdout(&["generate", "completions", shell]);
        assert!(script.contains("qemu-args"), "{shell}");
    }
}

#[test]
fn capabilities_and_discovery_are_json() {
    let capabilities: Value = serde_json::from_str(&stdout(&["--print-capabilities"])).unwrap();
    assert_eq!(capabilities["type"], "pci");
    assert_eq!(capabilities["devices"][0], "stub");
    let discovery = stdout(&["generate", "discovery", "--binary", "/opt/vgpu-stub"]);
    let discovery: Value = serde_json::from_str(&discovery).unwrap();
    assert_eq!(discovery["binary"], "/opt/vgpu-stub");
}

#[test]
fn the_command_line_for_qemu_names_the_socket_absolutely() {
    let line = stdout(&["qemu-args", "--socket-path", "some/socket"]);
    let here = std::env::current_dir().unwrap().join("some/socket");
    assert!(line.contains("share=on"), "{line}");
    assert!(
        line.contains(&format!("\"path\":\"{}\"", text(&here))),
        "{line}"
    );
}

/// The names between backticks of a cell: `file: test`, and further tests of
/// that file.
fn named_tests(cell: &str) -> Vec<(String, String)> {
    let mut file = String::new();
    let mut tests = Vec::new();
    for name in cell.split('`').skip(1).step_by(2) {
        let test = match name.split_once(": ") {
            Some((of, test)) => {
                of.clone_into(&mut file);
                test
            }
            None => name,
        };
        tests.push((file.clone(), test.to_owned()));
    }
    tests
}

#[test]
fn every_answer_in_docs_names_a_test_that_is_there() {
    let answers = include_str!("../docs/answers.md");
    let rows = answers.lines().filter(|line| line.starts_with("| "));
    let cells = rows.filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next());
    let mut found = 0;
    for (file, test) in cells.flat_map(named_tests) {
        let source = fs::read_to_string(format!("tests/{file}.rs"))
            .unwrap_or_else(|error| panic!("{file}: {test}: {error}"));
        assert!(source.contains(&format!("fn {test}(")), "{file}: {test}");
        found += 1;
    }
    assert!(found > 100, "{found}");
}
