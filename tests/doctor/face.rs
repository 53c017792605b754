//! How a VM comes to the device, and what the way past QEMU needs.

use crate::tree::Tree;

const DIRECTORY: &str = "/run/vgpu-stub/7";

/// A host that could do all faces.
fn xen() -> Tree {
    let tree = Tree::healthy();
    tree.write("/proc/xen/capabilities", "control_d\n");
    tree.write("/proc/sys/kernel/osrelease", "4.19.0+1\n");
    tree.write("/sys/hypervisor/version/major", "4\n");
    tree.write("/sys/hypervisor/version/minor", "17\n");
    tree.write("/dev/xen/privcmd", "");
    tree.write("/dev/xen/evtchn", "");
    tree
}

#[test]
fn a_vm_past_qemu_has_no_socket_to_look_for() {
    let tree = xen();
    tree.write(&format!("{DIRECTORY}/face"), "ioreq\n\n");
    tree.remove(&format!("{DIRECTORY}/socket"));
    let report = tree.examine(&[]);
    report.is_well();
    let seen = |id| report.row(id)["seen"].as_str().unwrap().to_owned();
    assert_eq!(seen("face.chosen"), "domain 7: ioreq");
    assert_eq!(seen("face.kernel"), "4.19");
    assert_eq!(seen("face.xen"), "4.17");
    assert_eq!(seen("server.restarts"), "domain 7: never");
    assert_eq!(report.row("server.socket")["state"], "skipped");
}

#[test]
fn a_face_that_is_not_the_best_is_worth_a_note() {
    let tree = xen();
    let why = "/dev/xen/privcmd: Permission denied (os error 13)";
    tree.write(&format!("{DIRECTORY}/face"), format!("shim\n{why}\n"));
    let report = tree.examine(&[]);
    report.is_only("face.chosen", "note", why, "the device works");
}

#[test]
fn a_server_that_was_replaced_is_told_of() {
    let tree = xen();
    tree.write(&format!("{DIRECTORY}/face"), "ioreq\n\n");
    let why = "/usr/bin/vgpu-stub: was killed by signal 11";
    tree.write(&format!("{DIRECTORY}/restarts"), format!("3\n{why}\n"));
    let report = tree.examine(&[]);
    report.is_only("server.restarts", "warning", why, "journalctl -u");
}

#[test]
fn what_the_way_past_qemu_needs_is_as_bad_as_it_is_wanted() {
    for (id, path, text, remedy) in [
        (
            "face.devices",
            "/dev/xen/privcmd",
            None,
            "modprobe xen-privcmd",
        ),
        (
            "face.devices",
            "/dev/xen/evtchn",
            None,
            "modprobe xen-evtchn",
        ),
        (
            "face.kernel",
            "/proc/sys/kernel/osrelease",
            Some("4.4.0\n"),
            "update",
        ),
        (
            "face.xen",
            "/sys/hypervisor/version/minor",
            Some("11\n"),
            "update",
        ),
    ] {
        for (face, severity) in [
            ("ioreq", Some("broken")),
            ("auto", Some("note")),
            ("shim", None),
        ] {
            let tree = xen();
            match text {
                Some(text) => tree.write(path, text),
                None => tree.remove(path),
            }
            tree.write("/etc/sysconfig/vgpu-stub", format!("FACE={face}\n"));
            let report = tree.examine(&[]);
            match severity {
                Some(severity) => report.is_only(id, severity, "", remedy),
                None => report.is_well(),
            }
        }
    }
    // A VM's own choice counts more.
    let tree = xen();
    tree.remove("/dev/xen/evtchn");
    tree.write("/etc/sysconfig/vgpu-stub", "FACE=shim\n");
    let setting = "stub,face=ioreq";
    tree.store(&[("/local/domain/7/platform/vgpu-stub", setting)]);
    tree.database((setting, ""), ("CD", "3"));
    tree.examine(&[])
        .is_only("face.devices", "broken", "evtchn is not there", "modprobe");
}
