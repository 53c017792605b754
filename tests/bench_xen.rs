//! Rung 7 of the bench: a guest of a real Xen is measured in its dom0, and
//! elsewhere one line says why there is nothing.

mod rig;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rig::{RigError, or_skip, xen};
use vgpu_stub::bench::{Report, Row};

/// Some tens of times what it takes on an idle machine.
const LIMIT: Duration = Duration::from_secs(300);

/// Begins to measure, and interrupts it when its second guest is there: what
/// the first gave is kept. The kernel counts the system calls of all threads
/// meanwhile, by name and number (Documentation/trace/histogram.rst).
const MEASURE: &str = r"
mount -t tracefs tracefs /sys/kernel/tracing
cd /sys/kernel/tracing/events/raw_syscalls/sys_enter
echo 'hist:keys=common_pid.execname,id:size=4096' >trigger
cp /share/vgpu-stub /usr/bin/
vgpu-stub bench --quick --rungs 7 --json --output /tmp/report >/share/report.json 2>/share/errors &
bench=$!
trap 'cat /share/errors' EXIT
until [ $(xl domid vgpu-stub-bench-$bench 2>/dev/null || echo 0) -ge 2 ]; do
    kill -0 $bench || exit 2
    usleep 200000
done
kill -INT $bench
wait $bench
[ $? -eq 1 ] || exit 3
cat hist >/share/hist
[ $(xl list | wc -l) -eq 2 ] || exit 4
! pidof vgpu-stub || exit 5
! grep -q 'vgpu-stub-benc[h]' /proc/*/cmdline || exit 6
";

const DEVICES: [&str; 4] = ["edu", "vfio-user", "ioreq", "ioreq-adaptive"];

fn row<'a>(report: &'a Report, name: &str) -> &'a Row {
    let row = report.row(name);
    row.unwrap_or_else(|| panic!("no {name}: {:?}", report.sections))
}

/// How many calls of each number a thread of this name has made.
fn calls(hist: &str, thread: &str) -> Vec<(u32, f64)> {
    // { common_pid: ioreq           [       212], id:          0 } hitcount:       1234
    let lines = hist.lines().filter_map(|line| {
        let (keys, count) = line.split_once("} hitcount:")?;
        let (pid, id) = keys.split_once(", id:")?;
        let name = pid.split_once("common_pid:")?.1.split('[').next()?;
        (name.trim() == thread).then_some((id.trim().parse().ok()?, count.trim().parse().ok()?))
    });
    lines.collect()
}

#[test]
fn a_guest_of_xens_is_measured_and_an_interrupt_leaves_nothing() -> Result<(), RigError> {
    let Some(xen) = or_skip(xen::Rig::ready()) else {
        return Ok(());
    };
    let mut dom0 = xen.dom0()?;
    dom0.program("vgpu-stub", Path::new(env!("CARGO_BIN_EXE_vgpu-stub")))?;
    let answer = dom0.run(MEASURE, LIMIT)?;
    assert_eq!(answer.status, 0, "{}", answer.output);

    let report: Report = serde_json::from_str(&dom0.read("report.json")).unwrap();
    assert!(report.interrupted);
    let [section] = &report.sections[..] else {
        panic!("{:?}", report.sections);
    };
    assert!(section.gaps.is_empty(), "{:?}", section.gaps);
    assert_eq!(section.rung, 7);
    let operations = ["read", "write", "config"];
    let measured = operations.map(|operation| DEVICES.map(|it| format!("xen.{operation}.{it}")));
    let set_ups = DEVICES[1..].iter().map(|it| format!("xen.setup.{it}"));
    let floors = ["xen.timer", "xen.exit"].map(str::to_owned);
    let expected: Vec<String> = floors
        .into_iter()
        .chain(measured.into_iter().flatten())
        .chain(set_ups)
        .collect();
    let names: Vec<&str> = section.rows.iter().map(|row| &*row.name).collect();
    assert_eq!(names, expected);
    for row in &section.rows {
        assert_eq!(row.partial, None, "{}", row.name);
        assert_eq!(row.runs.len(), 1, "{}", row.name);
        let has_floor = DEVICES[1..]
            .iter()
            .any(|it| row.name.ends_with(&format!(".{it}")));
        let is_access = !row.name.starts_with("xen.setup.");
        assert_eq!(row.floor.is_some(), has_floor && is_access, "{}", row.name);
        assert!(row.summary.min > 0.0, "{}: {:?}", row.name, row.summary);
    }
    let says = "System calls of the server of ioreq";
    let said = |note: &String| note.starts_with(says);
    assert!(section.notes.iter().any(said), "{:?}", section.notes);
    let switches = row(&report, "xen.read.ioreq").context_switches;
    assert!(
        switches.is_some_and(|switches| switches > 0.0),
        "{switches:?}"
    );
    costs_three_calls(&dom0.read("hist"));
    Ok(())
}

/// Nothing but a read, a write and a notification for each access.
fn costs_three_calls(hist: &str) {
    // linux/arch/x86/entry/syscalls/syscall_64.tbl
    let (read, write, ioctl) = (0, 1, 16);
    let calls = calls(hist, "ioreq");
    let of = |wanted: u32| -> f64 {
        let found = calls.iter().filter(|(id, _)| *id == wanted);
        found.map(|(_, count)| count).sum()
    };
    let all: f64 = calls.iter().map(|(_, count)| count).sum();
    assert!(of(ioctl) > 20.0, "{hist}");
    // Each is notified of; some are found before the server has slept.
    assert!(of(read) <= of(ioctl), "{calls:?}");
    assert!(of(write) <= of(ioctl), "{calls:?}");
    // The beginning and the end of two threads, however many accesses.
    let others = all - of(read) - of(write) - of(ioctl);
    assert!(others < 60.0, "{calls:?}");
}

#[test]
fn elsewhere_one_line_says_why_there_is_nothing() {
    if Path::new("/dev/xen/privcmd").exists() {
        eprintln!("skipped: this is a Xen dom0 itself");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_vgpu-stub"))
        .args(["bench", "--quick", "--rungs", "7", "--output"])
        .arg(directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("/dev/xen/privcmd: not there"), "{said}");
}

#[test]
fn the_sixth_rung_is_another_command() {
    let output = Command::new(env!("CARGO_BIN_EXE_vgpu-stub"))
        .args(["bench", "--rungs", "6"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("guest-bench"), "{said}");
}
