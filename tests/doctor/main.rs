//! The doctor, against hosts made as directory trees: a healthy one, and that
//! one broken in one place for each check.
#![expect(
    clippy::unwrap_used,
    reason = "what cannot be unwrapped here fails the test"
)]

mod device_model;
mod documentation;
mod elf;
mod face;
mod hostile;
mod live;
mod logs;
#[path = "../program/mod.rs"]
mod program;
mod repairs;
mod server;
mod tree;
mod vm;
mod wrapper;

use program::output;
use tree::{Tree, VM};

#[test]
fn a_healthy_host_is_well() {
    let tree = Tree::healthy();
    let report = tree.examine(&[]);
    report.is_well();
    assert_eq!(report.json["format"], 1);
    assert!(report.json["worst"].is_null());
    for id in [
        "host.dom0",
        "device-model.device",
        "wrapper.restarted",
        "vm.cd-userdevice",
        "server.listens",
        "log.failure",
    ] {
        assert_eq!(report.row(id)["state"], "ok", "{:#}", report.row(id));
    }
}

#[test]
fn a_vm_is_named_by_its_uuid_or_its_domain() {
    let tree = Tree::healthy();
    let report = tree.examine(&["--vm", VM]);
    report.is_well();
    let seen = format!("VM {VM} is domain 7");
    assert_eq!(report.row("vm.domain")["seen"], seen);
    tree.examine(&["--domid", "7"]).is_well();
    // By the logs alone.
    let logs = Tree::empty();
    logs.log(tree::XENSOURCE, &tree::start(3));
    logs.log(tree::XENSOURCE, &tree::start_at("12:00", 4));
    let report = logs.examine(&["--vm", VM]);
    report.is_well();
    let seen = format!("VM {VM} is domain 4");
    assert_eq!(report.row("vm.domain")["seen"], seen);
}

#[test]
fn a_guest_or_any_other_machine_is_no_dom0() {
    let tree = Tree::healthy();
    tree.remove("/etc/xensource-inventory");
    tree.examine(&[])
        .is_only("host.dom0", "warning", "not a dom0", "ssh");
    tree.write("/proc/xen/capabilities", "");
    assert_eq!(tree.examine(&[]).row("host.dom0")["state"], "ok");
    tree.write("/proc/xen/capabilities", "guest\n");
    tree.examine(&[])
        .is_only("host.dom0", "warning", "a guest", "--root");
}

#[test]
fn the_program_is_looked_for_where_units_expect_it() {
    let tree = Tree::healthy();
    tree.remove("/usr/bin/vgpu-stub");
    let report = tree.examine(&[]);
    report.has(
        "host.program",
        "broken",
        "/usr/bin/vgpu-stub",
        "rpm -Uvh vgpu-stub-*.rpm",
    );
    assert_eq!(report.status, 6);
}

#[test]
fn a_tree_without_anything_has_no_logs() {
    let nothing = Tree::empty();
    nothing
        .examine(&[])
        .is_only("log.read", "warning", "no logs", "--root");
}

#[test]
fn what_is_not_a_vm_or_a_directory_is_refused() {
    let refused = output(["doctor", "--vm", "my VM"]);
    assert_eq!(refused.status.code(), Some(2));
    let refused = output(["doctor", "--root", "/nonexistent"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("/nonexistent: is not a directory"), "{said}");
}

#[test]
fn people_are_told_what_to_type() {
    let tree = Tree::healthy();
    tree.mode(tree::DEVICE_MODEL, 0o644);
    let output = output(["doctor", "--root", program::text(tree.path())]);
    assert_eq!(output.status.code(), Some(6));
    let said = String::from_utf8(output.stdout).unwrap();
    for line in [
        "type: chmod 0755 /usr/lib64/xen/bin/qemu-system-i386",
        "1 broken, 0 warnings; vgpu-stub doctor --fix does 1 of them",
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert!(!said.contains('\x1b'), "not a terminal: {said:?}");
}
