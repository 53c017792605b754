//! A Linux with two processors and the native device, beside a doorbell.

use std::fs;
use std::time::Duration;

use crate::bare::Bare;
use crate::rig::linux::{COMMAND_LINE, transcript};
use crate::rig::xen::{Domain, Rig};
use crate::rig::{Linux, RigError, or_skip};

/// From the first instruction to the last line: a minute or two on an idle
/// machine, most of it to unpack the kernel.
const LIMIT: Duration = Duration::from_secs(600);

/// Registers by `bar`, all of the device by `drive`, and what Linux makes of the
/// function.
const SCRIPT: &str = "
    bar 0000:00:0c.0 0 r32 0x0 r8 0x1 r16 0x2 r64 0x0
    bar 0000:00:0d.0 0 r32 0x0 w32 0x4 1 w32 0x8 0x77 r32 0xc r32 0x1000
    for module in uio uio_pci_generic; do insmod /modules/$module.ko.xz; done
    echo 1af4 1111 >/sys/bus/pci/drivers/uio_pci_generic/new_id
    drive 0000:00:0c.0 || exit
    grep -o 'IO-APIC.*uio_pci_generic' /proc/interrupts || cat /proc/interrupts
    lspci -nn -vv -s 0c.0
";

const REGISTERS: &str = "\
r32 0x0 = 0x55504756
r8 0x1 = 0x47
r16 0x2 = 0x5550
r64 0x0 = 0x1000055504756
r32 0x0 = 0x4c4c4542
w32 0x4 = 0x1
w32 0x8 = 0x77
r32 0xc = 0x77
r32 0x1000 = 0x2
drive: widths
drive: strings
drive: dma
drive: interrupts
drive: processors";

fn run(xen: &Rig) -> Result<Vec<String>, RigError> {
    let linux = Linux::ready()?;
    let mut bare = Bare::new(xen, "linux")?;
    let share = bare.dom0().share();
    let initramfs = linux.initramfs(&[], SCRIPT)?;
    fs::copy(linux.kernel(), share.join("vmlinuz"))
        .and_then(|_| fs::write(share.join("initramfs"), initramfs))
        .map_err(|error| RigError::failed("cannot put Linux into the share", error))?;
    let domain = Domain::linux("linux", "vmlinuz", "initramfs", COMMAND_LINE).processors(2);
    bare.prepare(&domain)?;
    let devices = "--device stub,bdf=0c.0 --device doorbell,bdf=0d.0";
    bare.well("serve", &format!("serve linux {devices}"))?;
    let script = format!("xl unpause linux && ( {} )", domain.listen());
    let listened = bare.dom0().run(&script, LIMIT)?;
    let log = bare.read("linux.log");
    let console: Vec<String> = log.lines().map(str::to_owned).collect();
    let lines = transcript(&console).ok_or_else(|| {
        let said = bare.read("linux.said");
        RigError::failed("Linux", format!("{listened:?}\n{log}\n{said}"))
    })?;
    bare.well("end", "xl destroy linux && [ $(ends linux) = 0 ] && gone")?;
    Ok(lines)
}

#[test]
fn linux_drives_the_native_device_on_two_processors() -> Result<(), RigError> {
    let Some(xen) = or_skip(Rig::ready()) else {
        return Ok(());
    };
    let lines = run(xen)?;
    let (driven, seen) = lines.split_at(REGISTERS.lines().count().min(lines.len()));
    assert_eq!(driven.join("\n"), REGISTERS);
    let seen = seen.join("\n");
    assert!(seen.contains("uio_pci_generic"), "{seen}");
    assert!(
        seen.contains("[84] MSI-X: Enable- Count=16 Masked-"),
        "{seen}"
    );
    Ok(())
}
