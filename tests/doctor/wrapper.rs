//! The wrapper, and xenopsd's way to it.

use crate::tree::{DROP_IN, LINE, STOCK, Tree, WRAPPER};

const RESTART: &str = "xe-toolstack-restart";
const KEY: &str = "upstream-compat-qemu-dm-wrapper";

#[test]
fn without_the_drop_in_xenopsd_does_not_know_of_it() {
    let tree = Tree::healthy();
    tree.remove(DROP_IN);
    let id = "wrapper.drop-in";
    let report = tree.examine(&[]);
    report.is_only(id, "broken", "is not there", RESTART);
    report.has(id, "broken", "", "rpm -Uvh vgpu-stub-xenopsd-*.rpm");
    // Nobody wants the device.
    tree.store(&[]);
    tree.database(("", ""), ("CD", "3"));
    tree.examine(&[])
        .is_only(id, "warning", "is not there", RESTART);
    let tree = Tree::healthy();
    tree.write(DROP_IN, "# nothing\n");
    tree.examine(&[])
        .is_only(id, "broken", "does not say", LINE.trim_end());
}

#[test]
fn a_misspelt_key_is_passed_over_by_xenopsd() {
    let tree = Tree::healthy();
    let misspelt = KEY.replace('-', "_");
    tree.write(DROP_IN, format!("{misspelt} = {WRAPPER}\n"));
    let report = tree.examine(&[]);
    report.has("wrapper.key", "broken", &misspelt, KEY);
    assert_eq!(report.row("wrapper.key")["findings"][0]["at"]["line"], 1);
    report.has("wrapper.drop-in", "broken", "does not say", RESTART);
}

#[test]
fn the_drop_in_may_be_written_as_xenopsd_takes_it() {
    let tree = Tree::healthy();
    tree.write(DROP_IN, format!("# ours\n  {KEY} = '{WRAPPER}' # here\n"));
    tree.examine(&[]).is_well();
}

#[test]
fn a_later_file_overrides_it() {
    let tree = Tree::healthy();
    let later = "/etc/xenopsd.conf.d/zz.conf.rpmsave";
    tree.write(later, format!("# x\n{KEY}=/opt/other\n"));
    tree.script("/opt/other", "#!/bin/sh\n");
    let report = tree.examine(&[]);
    let id = "wrapper.overridden";
    report.is_only(id, "broken", later, "QEMU_WRAPPER=/opt/other");
    assert_eq!(report.row(id)["findings"][0]["at"]["line"], 2);
    // An earlier one does not.
    tree.remove(later);
    tree.write("/etc/xenopsd.conf.d/aa.conf", format!("{KEY}=/opt/other\n"));
    tree.examine(&[]).is_well();
}

#[test]
fn a_path_that_leads_nowhere_stops_every_vm() {
    let tree = Tree::healthy();
    let (id, later) = ("wrapper.path", "/etc/xenopsd.conf.d/zz.conf");
    tree.write(later, format!("{KEY}=/opt/gone\n"));
    tree.examine(&[])
        .has(id, "broken", "no HVM guest starts", RESTART);
    tree.write(later, format!("{KEY}=qemu-wrapper\n"));
    tree.examine(&[])
        .has(id, "broken", "not an absolute path", WRAPPER);
}

#[test]
fn a_file_that_xenopsd_cannot_read_stops_it() {
    let tree = Tree::healthy();
    tree.link("/etc/xenopsd.conf.d/gone.conf", "/opt/gone.conf");
    let report = tree.examine(&[]);
    report.is_only(
        "wrapper.drop-in",
        "broken",
        "gone.conf",
        "mv /etc/xenopsd.conf.d/gone.conf",
    );
}

#[test]
fn xenopsd_must_be_restarted_after_a_change() {
    let tree = Tree::healthy();
    let id = "wrapper.restarted";
    tree.age(DROP_IN, 3600);
    tree.examine(&[])
        .is_only(id, "broken", "changed 3590 s after", RESTART);
    tree.age(DROP_IN, 0);
    tree.write("/proc/900/comm", "other\n");
    tree.examine(&[])
        .is_only(id, "broken", "does not run", RESTART);
}

#[test]
fn the_link_must_lead_to_the_program() {
    let tree = Tree::healthy();
    let id = "wrapper.link";
    tree.remove(WRAPPER);
    let report = tree.examine(&[]);
    report.has(id, "broken", "is not there", "ln -sfn /usr/bin/vgpu-stub");
    report.has("wrapper.path", "broken", WRAPPER, "ln -sfn");
    tree.link(WRAPPER, STOCK);
    tree.examine(&[])
        .is_only(id, "broken", "leads to", "ln -sfn");
    tree.remove(WRAPPER);
    tree.script(WRAPPER, "#!/bin/sh\n");
    tree.examine(&[])
        .is_only(id, "warning", "not a link", "ln -sfn");
}

#[test]
fn the_stock_wrapper_must_be_there_and_not_be_ours() {
    let tree = Tree::healthy();
    let id = "wrapper.stock";
    tree.mode(STOCK, 0o600);
    tree.examine(&[])
        .is_only(id, "broken", "mode 0600", "chmod 0755");
    tree.link(STOCK, "/usr/bin/vgpu-stub");
    tree.examine(&[])
        .has(id, "broken", "for ever", "QEMU_WRAPPER");
    let tree = Tree::healthy();
    let gone = "/opt/gone/qemu-wrapper";
    tree.write("/etc/sysconfig/vgpu-stub", format!("QEMU_WRAPPER={gone}\n"));
    tree.examine(&[]).has(id, "broken", gone, "QEMU_WRAPPER=");
}

#[test]
fn a_wrong_line_of_the_configuration_is_named() {
    let tree = Tree::healthy();
    tree.write("/etc/sysconfig/vgpu-stub", "# x\nSTART_TIMEOUT=soon\n");
    let report = tree.examine(&[]);
    report.is_only(
        "wrapper.config",
        "broken",
        "START_TIMEOUT",
        "correct line 2",
    );
    assert_eq!(report.row("wrapper.config")["findings"][0]["at"]["line"], 2);
}

#[test]
fn without_xapi_nobody_reads_a_drop_in() {
    let tree = Tree::healthy();
    for file in ["/etc/xensource-inventory", "/etc/xenopsd.conf", DROP_IN] {
        tree.remove(file);
    }
    tree.write("/proc/xen/capabilities", "control_d\n");
    let report = tree.examine(&[]);
    report.is_well();
    let why = report.row("wrapper.drop-in")["why"].as_str().unwrap();
    assert!(why.contains("device_model_override"), "{why}");
}
