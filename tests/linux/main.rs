//! The program under an unmodified QEMU with an unmodified Linux.
//!
//! `lspci`'s output is compared with `lspci-pc.txt` and `lspci-q35.txt`. What
//! another machine or kernel may choose is masked in both: the slot, the
//! BAR's address and the number of the interrupt line. After a change that
//! is meant, copy the text that the failed test prints.

mod guest_bench;
#[path = "../rig/mod.rs"]
mod rig;

use serde_json::json;
use vgpu_stub::protocol::Command;

use rig::{Linux, Machine, Recorder, RigError, Server, or_skip};

/// Drives the device through sysfs, as a driver in user space does.
const SCRIPT: &str = "
    device=/sys/bus/pci/devices/0000:00:SLOT
    lspci -nn -s SLOT
    cat $device/vendor $device/device $device/class $device/subsystem_device
    bar 0000:00:SLOT 0 r32 0x0 r8 0x1 r16 0x2 r64 0x0
    bar 0000:00:SLOT 0 w32 0xc 0x12345678 r32 0xc w64 0x10 0x123456789abcdef0 r64 0x10
    bar 0000:00:SLOT 0 w32 0x24 7 w32 0x24 8 r32 0x28 r32 0x2c
    bar 0000:00:SLOT 0 w64 0xa8 0x8877665544332211 r64 0xa8
    cat $device/reset_method
    echo 1 > $device/reset
    bar 0000:00:SLOT 0 r32 0x0 r32 0xc r64 0x10 r32 0x28
    bar 0000:00:SLOT 0 r64 0xa0 r64 0xa0
    lspci -nn -vv -s SLOT
";

/// What the script writes before the timestamps.
const REGISTERS: &str = "\
00:SLOT Class [1200]: Device [1af4:1111] (rev 01)
0x1af4
0x1111
0x120000
0x1100
r32 0x0 = 0x55504756
r8 0x1 = 0x47
r16 0x2 = 0x5550
r64 0x0 = 0x1000055504756
w32 0xc = 0x12345678
r32 0xc = 0x12345678
w64 0x10 = 0x123456789abcdef0
r64 0x10 = 0x123456789abcdef0
w32 0x24 = 0x7
w32 0x24 = 0x8
r32 0x28 = 0x2
r32 0x2c = 0x8
w64 0xa8 = 0x8877665544332211
r64 0xa8 = 0x8877665544332211
flr
r32 0x0 = 0x55504756
r32 0xc = 0x0
r64 0x10 = 0x0
r32 0x28 = 0x0";

fn run(machine: Machine, slot: &str) -> Result<(Vec<String>, Recorder, Server), RigError> {
    let linux = Linux::ready()?;
    let server = Server::start(&["stub"])?;
    let recorder = Recorder::start(&server.socket(0))
        .map_err(|error| RigError::failed("cannot start the recorder", error))?;
    let lines = linux.run(&SCRIPT.replace("SLOT", slot), |qemu| {
        qemu.machine(machine)
            .vfio_user(&recorder.socket(), &json!({}))
    })?;
    Ok((lines, recorder, server))
}

/// The text with what may vary masked.
fn masked(lines: &[String], slot: &str) -> String {
    let mask = |line: &String| {
        let line = line.replace(slot, "SLOT");
        let line = mask_after(&line, "Memory at ", "ADDRESS");
        let line = mask_after(&line, "routed to IRQ ", "NUMBER");
        mask_after(&line, "Physical Slot: ", "NUMBER") + "\n"
    };
    lines.iter().map(mask).collect()
}

/// Replaces the word that follows `text`.
fn mask_after(line: &str, text: &str, mask: &str) -> String {
    match line.split_once(text) {
        Some((before, after)) => {
            let rest = after.find(' ').map_or("", |end| &after[end..]);
            format!("{before}{text}{mask}{rest}")
        }
        None => line.to_owned(),
    }
}

fn linux_sees_and_drives_the_device(machine: Machine, slot: &str, golden: &str) {
    let Some((lines, recorder, server)) = or_skip(run(machine, slot)) else {
        return;
    };
    let count = REGISTERS.lines().count().min(lines.len());
    let (registers, rest) = lines.split_at(count);
    assert_eq!(masked(registers, slot).trim_end(), REGISTERS);

    let value = |line: &str| u64::from_str_radix(line.strip_prefix("r64 0xa0 = 0x")?, 16).ok();
    let (times, lspci) = rest.split_at(2);
    let times = [&times[0], &times[1]].map(|line| value(line));
    assert!(times[0].is_some() && times[0] < times[1], "{times:?}");

    let lspci = masked(lspci, slot);
    let lspci = lspci.trim_end();
    assert!(lspci == golden.trim_end(), "lspci says:\n{lspci}");

    // A load of 64 bits is one message.
    let eight_bytes = |seen: &rig::recorder::Seen| seen.body[12..16] == [8, 0, 0, 0];
    let reads = recorder.all(|seen| seen.is(Command::RegionRead) && seen.accesses(0, Some(0xa0)));
    assert_eq!(reads.len(), 2);
    assert!(reads.iter().all(eight_bytes));
    drop(recorder);
    assert!(or_skip(server.stop()).is_some());
}

#[test]
fn linux_sees_and_drives_the_device_on_pc() {
    let golden = include_str!("lspci-pc.txt");
    linux_sees_and_drives_the_device(Machine::Pc, "02.0", golden);
}

#[test]
fn linux_sees_and_drives_the_device_on_q35() {
    let golden = include_str!("lspci-q35.txt");
    linux_sees_and_drives_the_device(Machine::Q35, "01.0", golden);
}

/// Binds the module that gives a program the function's interrupts, and drives
/// the device: `tests/rig/linux/drive.c`.
const DRIVE: &str = "
    for module in uio uio_pci_generic; do insmod /modules/$module.ko.xz; done
    echo 1af4 1111 >/sys/bus/pci/drivers/uio_pci_generic/new_id
    drive 0000:00:02.0 || exit
    grep -o 'IO-APIC.*uio_pci_generic' /proc/interrupts
";

/// What it says.
const DRIVEN: [&str; 5] = ["widths", "strings", "dma", "interrupts", "processors"];

#[test]
fn a_program_in_linux_drives_the_device_on_two_processors() {
    let run = || -> Result<Vec<String>, RigError> {
        let linux = Linux::ready()?;
        let server = Server::start(&["stub"])?;
        let lines = linux.run(DRIVE, |qemu| {
            let qemu = qemu.arg("-smp").arg("2");
            qemu.vfio_user(&server.socket(0), &json!({}))
        })?;
        server.stop()?;
        Ok(lines)
    };
    let Some(lines) = or_skip(run()) else {
        return;
    };
    let said = DRIVEN.map(|part| format!("drive: {part}"));
    assert_eq!(lines[..lines.len() - 1], said);
    assert!(lines[DRIVEN.len()].contains("fasteoi"), "{lines:?}");
}
