//! What `--fix` does: what is safe, and each thing said.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use tempfile::tempdir;

use crate::elf::Program;
use crate::tree::{DEVICE_MODEL, DROP_IN, LINE, Report, STOCK, Tree, WRAPPER};

/// Mends, says what was done, and finds nothing any more; nor does it do
/// anything a second time.
#[track_caller]
fn mends(tree: &Tree, done: &[&str]) -> Report {
    let report = tree.examine(&["--fix"]);
    let said = report.json["fixed"].as_array().unwrap();
    assert_eq!(said.len(), done.len(), "{said:#?}");
    for (said, done) in said.iter().zip(done) {
        assert!(said.as_str().unwrap().starts_with(done), "{said}: {done}");
    }
    assert_eq!(report.json["not_fixed"].as_array().unwrap().len(), 0);
    let mended = tree.contents();
    let again = tree.examine(&["--fix"]);
    assert_eq!(again.json["fixed"].as_array().unwrap().len(), 0);
    assert_eq!(tree.contents(), mended);
    report
}

#[test]
fn a_healthy_host_is_left_alone() {
    let tree = Tree::healthy();
    let before = tree.contents();
    mends(&tree, &[]).is_well();
    assert_eq!(tree.contents(), before);
}

#[test]
fn the_newest_good_backup_is_put_back_and_what_was_there_is_kept() {
    let tree = Tree::healthy();
    let old = Program {
        strings: vec!["vgpu-stub", "old"],
        ..Program::device_model()
    };
    let backup = format!("{DEVICE_MODEL}.bak");
    tree.program(&backup, &old);
    tree.mode(&backup, 0o600);
    tree.write(DEVICE_MODEL, "#!/bin/sh\n");
    mends(
        &tree,
        &[&format!("put {backup} in the place of {DEVICE_MODEL}")],
    )
    .is_well();
    assert_eq!(fs::read(tree.at(DEVICE_MODEL)).unwrap(), old.bytes());
    assert_eq!(
        fs::metadata(tree.at(DEVICE_MODEL)).unwrap().mode() & 0o777,
        0o755
    );
    assert_eq!(fs::read(tree.at(&backup)).unwrap(), old.bytes());
    let names = fs::read_dir(tree.at("/usr/lib64/xen/bin")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let kept: Vec<String> = names.filter(|name| name.contains(".replaced-")).collect();
    let kept = tree.at(&format!("/usr/lib64/xen/bin/{}", kept[0]));
    assert_eq!(fs::read(kept).unwrap(), b"#!/bin/sh\n");
}

#[test]
fn without_a_good_backup_the_device_model_is_left_alone() {
    let tree = Tree::healthy();
    tree.write(&format!("{DEVICE_MODEL}.bak"), "rubbish");
    tree.write(DEVICE_MODEL, "rubbish");
    let before = tree.contents();
    assert_eq!(mends(&tree, &[]).status, 6);
    assert_eq!(tree.contents(), before);
}

#[test]
fn what_nobody_may_execute_is_made_executable() {
    let tree = Tree::healthy();
    tree.mode(DEVICE_MODEL, 0o644);
    tree.mode(STOCK, 0o600);
    mends(&tree, &["chmod 0755 ", "chmod 0755 "]).is_well();
}

#[test]
fn link_and_drop_in_are_made() {
    let tree = Tree::healthy();
    fs::remove_dir_all(tree.at("/usr/libexec/vgpu-stub")).unwrap();
    fs::remove_dir_all(tree.at("/etc/xenopsd.conf.d")).unwrap();
    let report = mends(&tree, &["made the link ", "wrote "]);
    // Restarting the toolstack is left to a person.
    report.is_only(
        "wrapper.restarted",
        "broken",
        "has not read it",
        "xe-toolstack-restart",
    );
    assert_eq!(fs::read_to_string(tree.at(DROP_IN)).unwrap(), LINE);
    let link = fs::read_link(tree.at(WRAPPER)).unwrap();
    assert_eq!(link.to_str(), Some("/usr/bin/vgpu-stub"));
}

#[test]
fn only_what_dead_domains_left_is_removed() {
    let tree = Tree::healthy();
    tree.socket("/run/vgpu-stub/3/socket");
    // The server of this one is still there.
    tree.write("/run/vgpu-stub/4/pid", "5000");
    let outside = tempdir().unwrap();
    fs::write(outside.path().join("file"), "").unwrap();
    symlink(outside.path(), tree.at("/run/vgpu-stub/3/link")).unwrap();
    symlink(outside.path(), tree.at("/run/vgpu-stub/5")).unwrap();
    let report = tree.examine(&["--fix"]);
    assert!(!tree.path().join("run/vgpu-stub/3").exists());
    assert!(tree.path().join("run/vgpu-stub/4/pid").exists());
    assert!(tree.path().join("run/vgpu-stub/7/socket").exists());
    assert!(outside.path().join("file").exists());
    report.has(
        "server.stale",
        "warning",
        "/run/vgpu-stub/4",
        "systemctl stop",
    );
}
