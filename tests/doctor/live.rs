//! What a running host's programs are asked, with answers made here.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use vgpu_stub::host::doctor::ask::{Answer, Ask};
use vgpu_stub::host::doctor::{Finding, Host, Severity, State, Target, examine};

use crate::elf::Program;
use crate::tree::{DEVICE_MODEL, Tree};

/// Answers by a program's file name and its arguments.
#[derive(Clone, Debug, Default)]
struct Answers(BTreeMap<String, Answer>);

impl Answers {
    /// A device model that is as it should be, and a server that runs.
    fn good() -> Self {
        Answers::default()
            .with(
                "qemu-system-i386 -version",
                "QEMU emulator version 4.2.1",
                true,
            )
            .with(
                "qemu-system-i386 -accel help",
                "Accelerators:\nxen\nkvm",
                true,
            )
            .with(
                "qemu-system-i386 -device help",
                "name \"vgpu-stub\", bus PCI",
                true,
            )
            .with(
                "systemctl",
                "LoadState=loaded\nActiveState=active\nSubState=running",
                true,
            )
    }

    fn with(mut self, question: &str, said: &str, succeeded: bool) -> Self {
        let answer = Answer {
            said: said.to_owned(),
            succeeded,
            ended: "signal: 6 (SIGABRT)".to_owned(),
        };
        self.0.insert(question.to_owned(), answer);
        self
    }
}

impl Ask for Answers {
    fn ask(&self, program: &Path, arguments: &[&str], _: Duration) -> Option<Answer> {
        let name = program.file_name().unwrap().to_str().unwrap();
        let whole = format!("{name} {}", arguments.join(" "));
        self.0.get(&whole).or_else(|| self.0.get(name)).cloned()
    }
}

/// All that is found, with the checks' ids.
fn found(tree: &Tree, answers: Answers) -> Vec<(&'static str, Finding)> {
    let host = Host::new(tree.path(), Rc::new(answers), Target::default());
    let findings = examine(&host);
    let found = findings.found();
    found
        .map(|(row, finding)| (row.id, finding.clone()))
        .collect()
}

#[track_caller]
fn finds(answers: Answers, id: &str, what: &str) {
    let found = found(&Tree::healthy(), answers);
    let [(only, finding)] = &found[..] else {
        panic!("{found:#?}");
    };
    assert_eq!(*only, id);
    assert_eq!(finding.severity, Severity::Broken);
    assert!(finding.what.contains(what), "{finding:?}");
    assert!(!finding.remedy.is_empty());
}

#[test]
fn good_answers_find_nothing() {
    let tree = Tree::healthy();
    // Its devices are asked for, and its strings are not needed then.
    let silent = Program {
        strings: Vec::new(),
        ..Program::device_model()
    };
    tree.program(DEVICE_MODEL, &silent);
    let found = found(&tree, Answers::good());
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_device_model_that_ends_by_itself_is_said_to() {
    let answers = Answers::good().with("qemu-system-i386 -version", "Illegal instruction", false);
    finds(answers, "device-model.runs", "Illegal instruction");
}

#[test]
fn a_device_without_a_bus_aborts_the_list_of_devices() {
    let said = "qemu-system-i386: hw/pci/pci.c:2641: Assertion `conventional || pcie' failed.";
    let answers = Answers::good().with("qemu-system-i386 -device help", said, false);
    finds(
        answers,
        "device-model.class-interface",
        "INTERFACE_CONVENTIONAL_PCI_DEVICE",
    );
}

#[test]
fn an_accelerator_list_without_xen_is_said_to_be_one() {
    let answers = Answers::good().with("qemu-system-i386 -accel help", "kvm\ntcg", true);
    finds(answers, "device-model.xen", "does not name xen");
}

#[test]
fn a_list_without_the_device_is_said_to_be_one() {
    let answers = Answers::good().with("qemu-system-i386 -device help", "name \"edu\"", true);
    finds(answers, "device-model.device", "knows neither");
}

#[test]
fn a_unit_that_failed_or_is_gone_is_said_to_be() {
    let failed =
        "LoadState=loaded\nActiveState=failed\nSubState=failed\nResult=signal\nExecMainStatus=9";
    let answers = Answers::good().with("systemctl", failed, true);
    finds(answers, "server.unit", "failed: signal, status 9");
    let gone = "LoadState=not-found\nActiveState=inactive";
    let answers = Answers::good().with("systemctl", gone, true);
    finds(answers, "server.unit", "is not there");
}

#[test]
fn the_journal_is_a_log_too() {
    let line = "Nov 21 11:00:03 host qemu-dm-7[1]: Could not open '/x'";
    let answers = Answers::good().with("journalctl", line, true);
    finds(answers, "log.file", "'/x'");
}

#[test]
fn xenstore_is_asked_before_a_copied_list() {
    let keys = "/local/domain/7/platform/vgpu-stub = \"rubbish!\"";
    let answers = Answers::good().with("xenstore-ls", keys, true);
    let found = found(&Tree::healthy(), answers);
    assert!(
        found.iter().any(|(id, _)| *id == "vm.setting"),
        "{found:#?}"
    );
}

#[test]
fn a_copied_tree_is_never_executed() {
    let tree = Tree::healthy();
    let mark = tree.path().join("ran");
    let script = format!("#!/bin/sh\ntouch {}\n", mark.display());
    for program in [
        "/usr/bin/systemctl",
        "/usr/bin/journalctl",
        "/usr/bin/xenstore-ls",
        DEVICE_MODEL,
    ] {
        tree.script(program, &script);
    }
    tree.examine(&["--fix"]);
    assert!(!mark.exists());
}

#[test]
fn a_free_server_is_asked_and_a_silent_one_is_said_to_be_silent() {
    let tree = Tree::healthy();
    let path = "/run/vgpu-stub/own.socket";
    let listener = std::os::unix::net::UnixListener::bind(tree.at(path)).unwrap();
    tree.mode(path, 0o600);
    let line = "0: 00000002 00000000 00010000 0001 01 33333 /run/vgpu-stub/own.socket";
    let table = std::fs::read_to_string(tree.at("/proc/net/unix")).unwrap();
    tree.write("/proc/net/unix", format!("{table}{line}\n"));
    // It hangs up at once.
    let server = std::thread::spawn(move || drop(listener.accept()));
    let found = found(&tree, Answers::good());
    server.join().unwrap();
    let [(id, finding)] = &found[..] else {
        panic!("{found:#?}");
    };
    assert_eq!(*id, "server.answers");
    assert!(finding.what.contains("own.socket"), "{finding:?}");
    // In a copy it is not.
    let host = Host::copied(tree.path(), Target::default());
    let findings = examine(&host);
    let row = findings
        .rows()
        .iter()
        .find(|row| row.id == "server.answers");
    assert!(matches!(row.unwrap().state, State::Skipped { .. }));
}
