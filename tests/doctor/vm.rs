//! A VM, its setting and its drives.

use crate::tree::{Tree, VM};

const KEY: &str = "/local/domain/7/platform/vgpu-stub";

#[test]
fn a_vm_or_a_domain_that_is_not_there_is_said_to_be() {
    let tree = Tree::healthy();
    let other = "00000000-0000-4000-8000-000000000000";
    let report = tree.examine(&["--vm", other]);
    report.is_only("vm.domain", "warning", "no domain now", "xe vm-start");
    let report = tree.examine(&["--domid", "6"]);
    report.is_only("vm.domain", "warning", "changes at each boot", "--vm UUID");
}

#[test]
fn a_setting_that_the_wrapper_refuses_is_said_to_be() {
    for wrong in ["gpu", "stub,colour=red", "stub; reboot", "stub,addr=99"] {
        let tree = Tree::healthy();
        tree.store(&[(KEY, wrong)]);
        tree.database((wrong, ""), ("CD", "3"));
        let remedy = format!("xe vm-param-set uuid={VM} platform:vgpu-stub=true");
        tree.examine(&[])
            .is_only("vm.setting", "broken", "vgpu-stub=", &remedy);
    }
}

#[test]
fn what_the_configuration_has_for_all_is_a_vms_setting() {
    let tree = Tree::healthy();
    // No `platform` of its own; the database is silent too.
    tree.store(&[]);
    tree.remove("/var/lib/xcp/state.db");
    tree.remove("/etc/xenopsd.conf.d/vgpu-stub.conf");
    let without = tree.examine(&[]);
    without.has("wrapper.drop-in", "warning", "is not there", "");
    tree.write("/etc/sysconfig/vgpu-stub", "SETTING=true\n");
    let with = tree.examine(&[]);
    with.has("wrapper.drop-in", "broken", "is not there", "");
}

#[test]
fn a_setting_counts_from_the_next_start() {
    let tree = Tree::healthy();
    tree.database(("stub,vectors=2", ""), ("CD", "3"));
    let report = tree.examine(&["--vm", VM]);
    let what = "was made with \"true\"";
    report.is_only("vm.pending", "warning", what, "xe vm-shutdown");
}

#[test]
fn keys_that_nothing_reads_are_said_to_be() {
    let id = "vm.dead-keys";
    let tree = Tree::healthy();
    let other = "('device-model-args'%.'-device%.vgpu-stub')";
    tree.database(("true", other), ("CD", "3"));
    let report = tree.examine(&[]);
    let what = "other-config:device-model-args";
    report.is_only(id, "broken", what, "param-name=other-config");
    // Without xapi's database, xenstore has the platform's.
    let tree = Tree::healthy();
    tree.remove("/var/lib/xcp/state.db");
    let dead = "/local/domain/7/platform/device-model-args";
    tree.store(&[(KEY, "true"), (dead, "-device x")]);
    let report = tree.examine(&[]);
    let what = "platform:device-model-args";
    report.is_only(id, "broken", what, "platform:vgpu-stub=true");
}

#[test]
fn a_path_of_an_earlier_domain_is_said_to_be() {
    let tree = Tree::healthy();
    let other = |domain: u32| format!("('my-socket'%.'/run/vgpu-stub/{domain}/socket')");
    tree.database(("true", &other(3)), ("CD", "3"));
    let report = tree.examine(&[]);
    let what = "of domain 3; the VM is domain 7";
    report.is_only("vm.stale-path", "warning", what, "param-key=my-socket");
    tree.database(("true", &other(7)), ("CD", "3"));
    tree.examine(&[]).is_well();
}

#[test]
fn a_cd_drives_userdevice_is_a_number() {
    let tree = Tree::healthy();
    tree.database(("true", ""), ("CD", "xvdd"));
    let report = tree.examine(&[]);
    report.is_only("vm.cd-userdevice", "broken", "\"xvdd\"", "device=3");
    tree.database(("true", ""), ("Disk", "xvdd"));
    tree.examine(&[]).is_well();
}
