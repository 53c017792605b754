//! The launcher in front of `xl`'s device model, by the face past QEMU.

use crate::host::Host;
use crate::rig::{RigError, or_skip, xen};

/// What the guest does: everything once, with interrupts of both kinds.
const TESTS: [&str; 5] = [
    "identity",
    "registers",
    "irq-ioapic",
    "irq-msix",
    "dma-fence",
];

/// Kills a domain's server again and again, each time when its keeper has
/// another, and then has the keeper replace one by itself.
const KILLS: &str = r#"
domain=$(xl domid @NAME@) || exit
keeper=$(cat /run/vgpu-stub/$domain/pid)
restarts=/run/vgpu-stub/$domain/restarts
replaced() {
    tries=0
    until [ -s $restarts ] && read -r count <$restarts && [ $count -ge $1 ] &&
        [ -n "$(cat /proc/$keeper/task/$keeper/children)" ]; do
        [ $((tries += 1)) -le 300 ] || { cat $restarts; return 1; }
        usleep 100000
    done
}
for kills in 1 2 3 4; do
    kill -9 $(cat /proc/$keeper/task/$keeper/children) && replaced $kills || exit
    sleep 1
done
kill -HUP $keeper && replaced 5
"#;

#[test]
fn a_guest_drives_the_device_past_qemu() -> Result<(), RigError> {
    let Some(xen) = or_skip(xen::Rig::ready()) else {
        return Ok(());
    };
    let mut host = Host::new(xen, &[])?;
    let guest = host.guest("ioreq", "stub,vectors=16", &TESTS)?;
    host.create(&guest)?;
    host.passes(&guest, &TESTS)?;
    // QEMU knows nothing of it.
    assert_eq!(host.added_arguments(), [""; 0]);
    let servers =
        host.run("grep -h '^Uid:' $(pidof vgpu-stub | sed 's!\\([0-9]*\\)!/proc/\\1/status!g')")?;
    assert!(servers.output.contains("\t1900000001\t"), "{servers:?}");
    let log = host.run("cat /var/log/vgpu-stub/wrapper.log")?.output;
    assert!(log.contains("face ioreq"), "{log}");
    host.destroy(&guest)?;

    // Killed again and again, it is replaced, and the guest sees nothing of it.
    let guest = host.guest("killed", "stub,vectors=16", &["count=100", "load"])?;
    host.create(&guest)?;
    host.run_for(&guest, KILLS)?;
    host.passes(&guest, &["load"])?;
    host.destroy(&guest)
}

#[test]
fn a_slot_of_qemus_is_not_given_away() -> Result<(), RigError> {
    let Some(xen) = or_skip(xen::Rig::ready()) else {
        return Ok(());
    };
    let mut host = Host::new(xen, &[])?;
    for (name, setting, taker) in [
        ("platform", "stub,addr=0x2", "xen-platform"),
        ("second", "stub,addr=0x4,face=ioreq", "edu"),
    ] {
        let guest = host.guest_with(name, setting, &[], &["-device", "edu,addr=4"])?;
        let answer = host.run(&guest.start())?;
        assert_ne!(answer.status, 0, "{answer:?}");
        let log = host.run("cat /var/log/vgpu-stub/wrapper.log")?.output;
        let said = format!("is taken by QEMU's {taker};");
        assert!(log.contains(&said), "{log}");
    }
    let left = host.run("ls /run/vgpu-stub/* || pidof vgpu-stub")?;
    assert_ne!(left.status, 0, "{left:?}");
    Ok(())
}
