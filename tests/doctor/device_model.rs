//! The device model and its backups.

use crate::elf::Program;
use crate::tree::{DEVICE_MODEL, STOCK, Tree};

fn with(change: impl FnOnce(&mut Program)) -> Tree {
    let tree = Tree::healthy();
    let mut program = Program::device_model();
    change(&mut program);
    tree.program(DEVICE_MODEL, &program);
    tree
}

#[test]
fn one_that_is_not_there_is_reinstalled() {
    let tree = Tree::healthy();
    tree.remove(DEVICE_MODEL);
    let report = tree.examine(&[]);
    let id = "device-model.present";
    report.is_only(id, "broken", DEVICE_MODEL, "yum reinstall qemu");
}

#[test]
fn one_that_is_not_executable_is_made_so() {
    let tree = Tree::healthy();
    tree.mode(DEVICE_MODEL, 0o644);
    let report = tree.examine(&[]);
    report.is_only(
        "device-model.executable",
        "broken",
        "mode 0644",
        "chmod 0755",
    );
}

#[test]
fn a_script_in_its_place_is_no_binary() {
    let tree = Tree::healthy();
    tree.script(DEVICE_MODEL, "#!/bin/sh\nexec qemu \"$@\"\n");
    let report = tree.examine(&[]);
    let id = "device-model.binary";
    report.has(id, "broken", "is a script", "yum reinstall qemu");
    assert_eq!(report.status, 6);
}

#[test]
fn what_was_cut_or_is_for_another_machine_is_no_binary() {
    let tree = Tree::healthy();
    let whole = Program::device_model().bytes();
    for part in [0, 1, 20, 64, 100, whole.len() / 2, whole.len() - 1] {
        tree.write(DEVICE_MODEL, &whole[..part]);
        let report = tree.examine(&[]);
        report.has(
            "device-model.binary",
            "broken",
            DEVICE_MODEL,
            "yum reinstall",
        );
    }
    let tree = with(|program| program.machine = 183);
    let report = tree.examine(&[]);
    report.has(
        "device-model.binary",
        "broken",
        "another machine",
        "yum reinstall",
    );
}

#[test]
fn a_missing_library_is_named_with_who_needs_it() {
    let id = "device-model.libraries";
    let tree = with(|program| program.needed.push("libpixman-1.so.0"));
    let report = tree.examine(&[]);
    report.is_only(id, "broken", "needs libpixman-1.so.0", "libpixman-1.so.0");
    // A library's library.
    let tree = Tree::healthy();
    let library = Program {
        needed: vec!["libdeep.so.1"],
        ..Program::library()
    };
    tree.program("/usr/lib64/libxenctrl.so.4.17", &library);
    let report = tree.examine(&[]);
    report.is_only(id, "broken", "libxenctrl.so.4.17 needs libdeep.so.1", "yum");
}

#[test]
fn libraries_are_looked_for_where_the_loader_does() {
    let tree = with(|program| {
        program.needed.extend(["libone.so", "libtwo.so"]);
        program.search = Some("$ORIGIN/../lib");
    });
    tree.program("/usr/lib64/xen/lib/libone.so", &Program::library());
    tree.write("/etc/ld.so.conf.d/two.conf", "# of two\n/opt/two\n");
    tree.program("/opt/two/libtwo.so", &Program::library());
    tree.examine(&[]).is_well();
    // One that leads out of the tree is not there.
    tree.link("/opt/two/libtwo.so", "/../../../../../proc/self/exe");
    let report = tree.examine(&[]);
    report.is_only("device-model.libraries", "broken", "libtwo.so", "yum");
}

#[test]
fn a_missing_loader_is_named() {
    let tree = with(|program| program.interpreter = Some("/lib/ld-musl-x86_64.so.1"));
    let report = tree.examine(&[]);
    report.is_only("device-model.libraries", "broken", "ld-musl", "yum");
}

#[test]
fn a_generic_qemu_does_not_belong_there() {
    let tree = with(|program| {
        program.needed = vec!["libc.so.6"];
        program.strings = vec!["vgpu-stub"];
    });
    let report = tree.examine(&[]);
    report.is_only(
        "device-model.xen",
        "broken",
        "without Xen",
        "yum reinstall qemu",
    );
}

#[test]
fn one_that_does_not_know_the_device_is_said_to() {
    let (id, remedy) = ("device-model.device", "rpm -Uvh --replacepkgs");
    let tree = with(|program| program.strings = vec!["vgpu-stub-not"]);
    tree.examine(&[])
        .is_only(id, "broken", "knows neither", remedy);
    // Nobody wants it.
    tree.store(&[]);
    tree.database(("", ""), ("CD", "3"));
    tree.examine(&[])
        .is_only(id, "warning", "knows neither", remedy);
    let tree = with(|program| program.strings = vec!["vfio-user-pci"]);
    tree.examine(&[]).is_well();
}

#[test]
fn the_stock_wrapper_says_which_one_it_is() {
    let tree = Tree::healthy();
    tree.script(STOCK, "#! /usr/bin/python3\n    qemu_dm = \"/opt/qemu\"\n");
    let report = tree.examine(&[]);
    report.is_only("device-model.present", "broken", "/opt/qemu", "yum");
}

#[test]
fn the_newest_good_backup_is_the_one_to_put_back() {
    let tree = Tree::healthy();
    tree.remove(DEVICE_MODEL);
    let name = |suffix: &str| format!("{DEVICE_MODEL}{suffix}");
    for (suffix, age) in [(".bak", 1), (".orig", 2)] {
        tree.program(&name(suffix), &Program::device_model());
        tree.age(&name(suffix), age);
    }
    // Newer, but no good.
    tree.write(&name(".rpmsave"), "rubbish");
    tree.age(&name(".rpmsave"), 3);
    let report = tree.examine(&[]);
    let remedy = format!("cp -p {DEVICE_MODEL}.orig {DEVICE_MODEL}");
    report.is_only("device-model.present", "broken", DEVICE_MODEL, &remedy);
    let seen = report.row("backup.found")["seen"].as_str().unwrap();
    assert!(seen.starts_with("3; the newest good one"), "{seen}");
    assert!(seen.contains(".orig"), "{seen}");
}

#[test]
fn backups_that_are_no_good_are_said_to_be() {
    let tree = Tree::healthy();
    tree.write(&format!("{DEVICE_MODEL}-20260101"), "rubbish");
    let report = tree.examine(&[]);
    report.is_only(
        "backup.found",
        "note",
        "none could be put back",
        "yum reinstall",
    );
}
