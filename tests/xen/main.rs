//! The device in a guest under a real Xen: put there by the launcher in front of
//! `xl`'s device model (here, `launched`), or by `serve --xen` alone.

mod adopt;
mod bare;
mod death;
mod host;
mod launched;
mod linux;
mod native;
mod refusals;
#[path = "../rig/mod.rs"]
mod rig;

use host::Host;
use rig::shim_qemu::{self, Version};
use rig::{RigError, or_skip, xen};

/// What the guest does: everything once, copies both ways among it, with an
/// interrupt for each that is done.
const TESTS: [&str; 4] = ["identity", "registers", "irq-msix", "dma-fence"];

/// The threads of a device model without a device of ours: with its own name
/// the main loop, RCU's and two that read from xenstored.
const THREADS: [&str; 7] = [
    "CPU 0/DUMMY",
    "IO mon_iothread",
    "qemu",
    "qemu",
    "qemu",
    "qemu",
    "vnc_worker",
];

#[test]
fn a_guest_drives_the_device_through_debians_device_model() -> Result<(), RigError> {
    let Some(xen) = or_skip(xen::Rig::ready()) else {
        return Ok(());
    };
    let mut host = Host::new(xen, &[])?;
    let guest = host.guest("vfio", "stub,vectors=16,face=vfio-user", &TESTS)?;
    host.create(&guest)?;
    host.passes(&guest, &TESTS)?;
    let added = host.added_arguments();
    assert_eq!(added.len(), 2, "{added:?}");
    assert!(
        added[1].contains(r#""driver":"vfio-user-pci""#),
        "{added:?}"
    );
    assert!(added[1].contains(r#""addr":"0xc""#), "{added:?}");
    let servers =
        host.run("grep -h '^Uid:' $(pidof vgpu-stub | sed 's!\\([0-9]*\\)!/proc/\\1/status!g')")?;
    assert!(servers.output.contains("\t1900000001\t"), "{servers:?}");
    host.destroy(&guest)
}

#[test]
fn a_guest_drives_the_device_through_the_shim() -> Result<(), RigError> {
    let Some(xen) = or_skip(xen::Rig::ready()) else {
        return Ok(());
    };
    let Some(qemu) = or_skip(shim_qemu::obtain(Version::Debian10_0Xen)) else {
        return Ok(());
    };
    let dom0 = xen.dom0()?;
    dom0.program("qemu", qemu.program())?;
    // With names, threads can be told apart.
    let start = "/usr/bin/qemu -L /usr/share/qemu -L /usr/share/seabios -name debug-threads=on";
    let mut host = Host::with(dom0, start, &["FACE=shim"])?;
    let guest = host.guest("shim", "true", &TESTS)?;
    host.create(&guest)?;
    host.passes(&guest, &TESTS)?;
    let added = host.added_arguments();
    let device = "vgpu-stub,socket=/run/vgpu-stub/1/socket,addr=0xc";
    assert_eq!(added, ["-device", device]);
    assert_eq!(host.threads(&guest)?, THREADS);
    host.destroy(&guest)
}

#[test]
fn a_guest_without_the_setting_starts_as_it_would_have() -> Result<(), RigError> {
    let Some(xen) = or_skip(xen::Rig::ready()) else {
        return Ok(());
    };
    let mut host = Host::new(xen, &[])?;
    let guest = host.guest("plain", "", &[])?;
    host.create(&guest)?;
    host.passes(&guest, &[])?;
    let log = host.read("plain.log");
    assert!(log.contains("device=none"), "{log}");
    assert_eq!(host.added_arguments(), [""; 0]);
    let served = host.run("pidof vgpu-stub || ls /run/vgpu-stub/1")?;
    assert_ne!(served.status, 0, "{served:?}");
    Ok(())
}

#[test]
fn a_server_that_fails_fails_the_start_at_once_and_says_why() -> Result<(), RigError> {
    const CAUSE: &str = "no such device today";
    let Some(xen) = or_skip(xen::Rig::ready()) else {
        return Ok(());
    };
    let mut host = Host::new(xen, &["SERVER=/share/broken"])?;
    host.script("broken", &format!("echo {CAUSE} >&2; exit 1"))?;
    let guest = host.guest("broken", "true", &TESTS)?;
    let answer = host.run(&guest.start())?;
    assert_ne!(answer.status, 0, "{answer:?}");
    // Killed at its limit, it would not have come to an end of its own.
    assert_ne!(answer.status, 137, "{answer:?}");
    for log in [
        "/var/log/vgpu-stub/wrapper.log",
        "/var/log/xen/qemu-dm-broken.log",
    ] {
        let said = host.run(&format!("cat {log}"))?.output;
        assert!(
            said.contains(CAUSE) && said.contains("domain 1"),
            "{log}: {said}"
        );
    }
    let left = host.run("xl domid broken || ls /run/vgpu-stub/1 || pidof vgpu-stub")?;
    assert_eq!(left.status, 1, "{left:?}");
    Ok(())
}
