//! Rung 5 of the bench: QEMU is measured, and one that is of no use is a gap
//! with its reason.

mod rig;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rig::qemu::write_launcher;
use rig::shim_qemu::{self, Version};
use rig::{Accelerator, Qemu, or_skip};
use tempfile::TempDir;
use vgpu_stub::bench::{Bench, Pinning, Plan, Progress, Quiet, Section, qemu};

/// What QEMU 11.1 says of the devices that matter here.
const DEVICES: &str = r#"name "edu", bus PCI
name "vfio-user-pci", bus PCI, desc "VFIO over socket PCI device assignment""#;

fn plan() -> Plan {
    Plan {
        runs: 2,
        slices: 2,
        slice: Duration::from_millis(1),
        ..Plan::quick(Pinning::choose().unwrap())
    }
}

fn measure(given: &Path) -> Vec<Section> {
    let program = Path::new(env!("CARGO_BIN_EXE_vgpu-stub"));
    Bench::new(plan(), &Quiet).in_runs(|bench| qemu(bench, program, Some(given)))
}

/// A program that says it is this QEMU, with these devices, and otherwise
/// does what the shell commands say.
fn fake(directory: &TempDir, version: &str, devices: &str, otherwise: &str) -> PathBuf {
    let path = directory.path().join("qemu");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in\n\
         --version) echo '{version}';;\n\
         *'-device help') echo '{devices}';;\n\
         *) {otherwise};;\nesac\n"
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The reasons of all gaps.
fn reasons(sections: &[Section]) -> Vec<&str> {
    let gaps = sections.iter().flat_map(|section| &section.gaps);
    gaps.map(|gap| gap.why.as_str()).collect()
}

/// Whether nothing is missing but the shim, which most QEMUs lack.
fn no_gaps(section: &Section) -> bool {
    let mut gaps = section.gaps.iter();
    gaps.all(|gap| gap.what.contains("shim"))
}

/// A launcher of the QEMU that the tests use.
fn real(directory: &TempDir) -> Option<PathBuf> {
    let path = directory.path().join("real");
    or_skip(Qemu::new(Accelerator::Tcg).and_then(|qemu| qemu.launcher(&path)))?;
    Some(path)
}

#[test]
fn each_kind_of_access_is_measured_beside_its_floor() {
    let directory = tempfile::tempdir().unwrap();
    let Some(real) = real(&directory) else { return };
    let sections = measure(&real);
    let mut of_tcg = 0;
    for section in &sections {
        assert_eq!(section.rung, 5);
        if section.title.contains("KVM") && !section.gaps.is_empty() {
            eprintln!("skipped: {}: {}", section.title, section.gaps[0].why);
            continue;
        }
        if section.title.contains("another CPU") && plan().pinning.other.is_none() {
            continue;
        }
        of_tcg += u32::from(section.title.contains("TCG"));
        assert!(no_gaps(section), "{:?}", section.gaps);
        let names: Vec<&str> = section
            .rows
            .iter()
            .map(|row| row.name.splitn(4, '.').last().unwrap())
            .collect();
        let expected = [
            "timer",
            "read.edu",
            "write.edu",
            "read.stub",
            "write.posted",
            "write.acked",
            "read.mapped",
            "write.mapped",
        ];
        assert_eq!(names, expected);
        for row in &section.rows {
            assert_eq!(row.partial, None, "{}", row.name);
            assert_eq!(row.runs.len(), 2, "{}", row.name);
            assert!(row.runs.iter().all(|run| run.slices.len() == 2));
            assert_eq!(row.ratio.is_some(), row.floor.is_some(), "{}", row.name);
            assert!(row.summary.min > 0.0, "{}: {:?}", row.name, row.summary);
        }
    }
    assert!(of_tcg > 0, "{:?}", reasons(&sections));
}

#[test]
fn the_shim_is_measured_by_the_socket_and_by_shared_memory() {
    let directory = tempfile::tempdir().unwrap();
    let launcher = directory.path().join("shim");
    let Some(qemu) = or_skip(shim_qemu::obtain(Version::under_test())) else {
        return;
    };
    let written = write_launcher(&launcher, &qemu.command(), qemu.data_arguments());
    or_skip(written).unwrap();
    let mut of_tcg = 0;
    for section in &measure(&launcher) {
        if !section.title.contains("TCG") || section.rows.is_empty() {
            continue;
        }
        of_tcg += 1;
        let names: Vec<&str> = section
            .rows
            .iter()
            .map(|row| row.name.splitn(4, '.').last().unwrap())
            .collect();
        let by_socket: &[&str] = if section.title.contains("spins") {
            &[]
        } else {
            &["read.shim", "write.shim"]
        };
        let expected = [
            &["timer", "read.edu", "write.edu"],
            by_socket,
            &["read.shim-shared", "write.shim-shared"],
        ];
        assert_eq!(names, expected.concat(), "{:?}", section.gaps);
        for row in &section.rows {
            assert_eq!(row.partial, None, "{}", row.name);
        }
    }
    let two = if plan().pinning.other.is_some() { 3 } else { 1 };
    assert_eq!(of_tcg, two);
}

#[test]
fn an_old_qemu_is_measured_as_far_as_it_goes() {
    let directory = tempfile::tempdir().unwrap();
    let Some(real) = real(&directory) else { return };
    let run_it = format!("exec '{}' \"$@\"", real.display());
    let version = "QEMU emulator version 4.2.1 (Debian 1:4.2-3)";
    let old = fake(&directory, version, r#"name "edu", bus PCI"#, &run_it);
    let sections = measure(&old);
    let rows: Vec<&str> = sections[0].rows.iter().map(|row| &*row.name).collect();
    let edu = ["qemu.tcg.same.read.edu", "qemu.tcg.same.write.edu"];
    assert_eq!(rows, [&["qemu.tcg.same.timer"][..], &edu].concat());
    assert_eq!(
        reasons(&sections[..1]),
        [
            "QEMU 4.2.1 has no vfio-user-pci; 10.1.1 or newer is needed",
            "QEMU 4.2.1 has no vgpu-stub; build one with qemu-patches/",
        ]
    );
}

#[test]
fn the_first_release_with_the_client_is_too_old_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let version = "QEMU emulator version 10.1.0";
    let sections = measure(&fake(&directory, version, DEVICES, "exit 1"));
    let said = "the vfio-user-pci of QEMU 10.1.0 does not work; 10.1.1 or newer is needed";
    assert_eq!(reasons(&sections)[0], said);
}

#[test]
fn what_is_no_qemu_is_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("absent");
    let is_no_qemu = |why: &str| why.contains("is not a QEMU: its --version says \"bash 5.2\"");
    let found = measure(&fake(&directory, "bash 5.2", "", "exit 1"));
    assert!(
        matches!(reasons(&found)[..], [why] if is_no_qemu(why)),
        "{found:?}"
    );

    let expected = format!("cannot run {}: No such file", absent.display());
    let is_absent = |why: &str| why.starts_with(&expected);
    let found = measure(&absent);
    assert!(
        matches!(reasons(&found)[..], [why] if is_absent(why)),
        "{found:?}"
    );
}

#[test]
fn a_qemu_that_exits_at_once_is_a_gap_with_its_last_words() {
    let directory = tempfile::tempdir().unwrap();
    let version = "QEMU emulator version 11.1.3";
    let exits = "echo 'first' >&2; echo 'no room' >&2; exit 7";
    let sections = measure(&fake(&directory, version, DEVICES, exits));
    assert_eq!(
        reasons(&sections[..1])[0],
        "QEMU 11.1.3 ended with exit status: 7, its guest early: no room"
    );
}

/// Raises the interrupt when the second run begins.
struct Impatient(Arc<AtomicBool>);

impl Progress for Impatient {
    fn step(&self, _: &str, done: u32, _: u32) {
        self.0.fetch_or(done == 1, Ordering::Relaxed);
    }
}

#[test]
fn what_was_measured_before_an_interrupt_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let Some(real) = real(&directory) else { return };
    let plan = plan();
    let impatient = Impatient(plan.interrupt.flag());
    let bench = Bench::new(plan, &impatient);
    let program = Path::new(env!("CARGO_BIN_EXE_vgpu-stub"));
    let sections = bench.in_runs(|bench| qemu(bench, program, Some(&real)));
    let section = &sections[0];
    assert!(no_gaps(section), "{:?}", section.gaps);
    assert_eq!(section.rows.len(), 8);
    assert!(section.rows.iter().all(|row| row.runs.len() == 1));
}
