//! The bench's rung of a VM of our own, on plans so small that their times
//! mean nothing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![cfg(all(feature = "bench", target_arch = "x86_64"))]

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use vgpu_stub::bench::{Bench, Breakdown, Pinning, Plan, Quiet, Section, kvm};

/// With a pair of floors, and the rows that no machine with KVM lacks.
const ROWS: [&str; 13] = [
    "kvm.read.exit",
    "kvm.write.exit",
    "kvm.read.device",
    "kvm.write.device",
    "kvm.read.socket",
    "kvm.write.acked",
    "kvm.write.posted",
    "kvm.read.shared",
    "kvm.doorbell",
    "kvm.ram.read",
    "kvm.ram.write",
    "kvm.mapped.read",
    "kvm.mapped.write",
];

const TWO_CPUS: [&str; 5] = [
    "kvm.read.socket.two",
    "kvm.read.socket.spin",
    "kvm.read.shared.spin",
    "kvm.write.shared-acked.spin",
    "kvm.write.shared-posted.spin",
];

fn plan() -> Plan {
    Plan {
        runs: 2,
        slices: 2,
        slice: Duration::from_micros(200),
        ..Plan::quick(Pinning::choose().unwrap())
    }
}

fn measure(plan: Plan, program: &Path) -> Vec<Section> {
    Bench::new(plan, &Quiet).in_runs(|bench| kvm(bench, program))
}

/// What was measured; `None` after saying why KVM does not work here.
fn or_skip(sections: Vec<Section>) -> Option<Vec<Section>> {
    let gaps = sections.iter().flat_map(|section| &section.gaps);
    if let Some(gap) = gaps.into_iter().find(|gap| gap.what == "kvm") {
        eprintln!("skipped: KVM does not work here: {}", gap.why);
        return None;
    }
    Some(sections)
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_vgpu-stub"))
}

#[test]
fn every_row_is_measured_beside_its_floor() {
    let plan = plan();
    let one_cpu = plan.pinning.other.is_none();
    let Some(sections) = or_skip(measure(plan, program())) else {
        return;
    };
    let two: &[&str] = if one_cpu { &[] } else { &TWO_CPUS };
    for name in ROWS.iter().chain(two) {
        let mut rows = sections.iter().flat_map(|section| &section.rows);
        let row = rows.find(|row| row.name == *name).expect(name);
        assert_eq!(row.partial, None, "{name}");
        assert_eq!(row.runs.len(), 2, "{name}");
        assert_eq!(row.ratio.is_some(), row.floor.is_some(), "{name}");
        assert_eq!(row.what.starts_with("floor: "), row.floor.is_none());
    }
    let gaps = sections.iter().flat_map(|section| &section.gaps);
    let expected = if one_cpu { 2 } else { 0 };
    assert_eq!(gaps.count(), expected, "{sections:?}");
}

#[test]
fn a_read_is_taken_apart() {
    let Some(sections) = or_skip(measure(plan(), program())) else {
        return;
    };
    let breakdowns = sections
        .iter()
        .filter_map(|section| section.breakdown.as_ref());
    for Breakdown { title, parts } in breakdowns {
        assert_eq!(parts.len(), 8, "{title}");
        for part in parts {
            assert!(part.p50 >= 0.0 && part.p99 >= part.p50, "{title}: {part:?}");
        }
    }
    assert!(sections[0].breakdown.is_some());
}

#[test]
fn a_server_that_does_not_start_is_a_gap() {
    let nothing = Path::new("/nowhere/at/all");
    let Some(sections) = or_skip(measure(plan(), nothing)) else {
        return;
    };
    let gap = &sections[0].gaps[0];
    assert!(
        gap.why.starts_with("cannot run /nowhere/at/all: "),
        "{gap:?}"
    );
    // What needs no server is there all the same.
    let mut rows = sections.iter().flat_map(|section| &section.rows);
    let there = rows.any(|row| row.name == "kvm.mapped.read");
    assert!(there, "{:?}", sections.last());
}

#[test]
fn nothing_is_measured_after_an_interrupt() {
    let plan = plan();
    plan.interrupt.flag().store(true, Ordering::Relaxed);
    let sections = measure(plan, program());
    assert!(sections.iter().all(|section| section.rows.is_empty()));
}
