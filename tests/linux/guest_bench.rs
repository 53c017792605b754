//! `guest-bench` inside a real Linux, on the stub through QEMU, beside QEMU's
//! own `edu`.

use serde_json::json;
use vgpu_stub::bench::{Report, Row};

use crate::rig::{Linux, RigError, Server, or_skip};

/// The device's own counters stand before and after the report.
const SCRIPT: &str = "
    stub=0000:00:04.0
    bar $stub 0 w32 0xc 0x12345678 r64 0x80 r64 0x88
    echo 0 > /sys/bus/pci/devices/$stub/enable
    vgpu-stub guest-bench --bdf 00:04.0 --quick --json --output /report >/json 2>/errors
    cat /errors
    tr -d ' ' </json # which a serial port is slow for
    cat /sys/bus/pci/devices/$stub/enable
    bar $stub 0 r64 0x80 r64 0x88 r32 0xc
    vgpu-stub guest-bench --bdf 00:1f.0 && echo went on
    vgpu-stub guest-bench --bdf 00:00.0 && echo went on
    vgpu-stub guest-bench --bdf 00:04.0 --bar 1 --offset 0 && echo went on
    vgpu-stub guest-bench --bdf 00:04.0 --offset 0x1000 && echo went on
    true
";

/// Each in one line.
const REFUSALS: [&str; 4] = [
    "0000:00:1f.0: no such PCI function",
    "0000:00:00.0 (8086:1237) BAR 0: to read a register",
    "0000:00:04.0 BAR 1: the function does not have it",
    "0000:00:04.0 BAR 0: offset 0x1000, 1 bytes: beyond",
];

fn run() -> Result<Vec<String>, RigError> {
    let linux = Linux::ready()?;
    let server = Server::start(&["stub"])?;
    let program = env!("CARGO_BIN_EXE_vgpu-stub").as_ref();
    let lines = linux.run_with(&[("vgpu-stub", program)], SCRIPT, |qemu| {
        let stub = json!({"addr": "04.0"});
        qemu.vfio_user(&server.socket(0), &stub).device("edu")
    })?;
    server.stop()?;
    Ok(lines)
}

/// What `bar` read.
fn value(line: &str) -> u64 {
    let value = line.split_once(" = 0x").map(|(_, value)| value);
    let value = value.and_then(|value| u64::from_str_radix(value, 16).ok());
    value.unwrap_or_else(|| panic!("no value: {line}"))
}

/// The accesses of the rows whose names begin with one of these.
fn accesses(report: &Report, prefixes: &[&str]) -> u64 {
    let rows = report.sections.iter().flat_map(|section| &section.rows);
    let counted = |row: &&Row| prefixes.iter().any(|prefix| row.name.starts_with(prefix));
    rows.filter(counted).map(|row| row.summary.n).sum()
}

#[test]
fn linux_measures_the_device_beside_one_inside_qemu() {
    let Some(lines) = or_skip(run()) else {
        return;
    };
    let begin = lines.iter().position(|line| line == "{");
    let end = lines.iter().rposition(|line| line == "}");
    let (Some(begin), Some(end)) = (begin, end) else {
        panic!("no report:\n{}", lines.join("\n"));
    };
    let report: Report = serde_json::from_str(&lines[begin..=end].join("\n")).unwrap();
    let [before, after] = [&lines[..begin], &lines[end + 1..]];

    let section = &report.sections[0];
    assert!(section.gaps.is_empty(), "{:?}", section.gaps);
    assert_eq!(section.rows.len(), 15);
    for row in &section.rows {
        assert_eq!(row.partial, None, "{}", row.name);
        assert_eq!(row.runs.len(), 5, "{}", row.name);
        assert_eq!(row.ratio.is_some(), row.floor.is_some(), "{}", row.name);
    }
    let read = report.row("guest.read.4").unwrap();
    assert_eq!(read.floor.as_deref(), Some("guest.floor.read"));

    // The device saw the accesses, and holds what it held.
    let [reads, writes] = [1, 2].map(|line| value(&before[line]));
    let [reads_after, writes_after] = [1, 2].map(|line| value(&after[line]));
    let expected = accesses(&report, &["guest.read.", "guest.write-read."]);
    assert!(expected > 0 && reads_after - reads >= expected);
    let expected = accesses(&report, &["guest.write.", "guest.write-read."]);
    assert!(expected > 0 && writes_after - writes >= expected);
    assert_eq!(after[3], "r32 0xc = 0x12345678");
    // As the script had left it.
    assert_eq!(after[0], "0");

    let said = &after[4..];
    assert_eq!(said.len(), REFUSALS.len(), "{said:?}");
    for (line, expected) in said.iter().zip(REFUSALS) {
        let expected = format!("vgpu-stub: {expected}");
        assert!(line.starts_with(&expected), "{line}");
    }
}
