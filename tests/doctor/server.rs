//! A domain's server, its directory and its socket.

use std::fs;

use crate::tree::{Tree, VM};

const AGAIN: &str = "xe vm-start";
const SOCKET: &str = "/run/vgpu-stub/7/socket";

#[test]
fn a_vm_without_its_directory_was_started_without_the_wrapper() {
    let tree = Tree::healthy();
    fs::remove_dir_all(tree.at("/run/vgpu-stub/7")).unwrap();
    let report = tree.examine(&["--vm", VM]);
    report.is_only("server.socket", "broken", "did not run", AGAIN);
}

#[test]
fn a_socket_that_is_gone_or_is_none_is_said_to_be() {
    let tree = Tree::healthy();
    tree.remove(SOCKET);
    let report = tree.examine(&[]);
    report.is_only("server.socket", "broken", SOCKET, "journalctl");
    tree.write(SOCKET, "");
    let report = tree.examine(&[]);
    report.is_only("server.socket", "broken", "is not a socket", AGAIN);
}

#[test]
fn a_dead_server_is_said_to_be() {
    let tree = Tree::healthy();
    for pid in ["5001\n", "rubbish\x1b", ""] {
        tree.write("/run/vgpu-stub/7/pid", pid);
        let report = tree.examine(&[]);
        report.is_only("server.process", "broken", "is gone", "journalctl");
    }
}

#[test]
fn a_socket_that_nobody_listens_on_is_said_to_be() {
    let tree = Tree::healthy();
    let nobody = "Num RefCount Protocol Flags Type St Inode Path\n";
    tree.write("/proc/net/unix", nobody);
    let report = tree.examine(&[]);
    report.is_only("server.listens", "broken", "nobody listens", AGAIN);
}

#[test]
fn others_may_not_come_in() {
    let tree = Tree::healthy();
    tree.mode(SOCKET, 0o666);
    let report = tree.examine(&[]);
    report.is_only("server.access", "warning", "mode 0666", "chmod 0660");
    tree.mode(SOCKET, 0o600);
    tree.mode("/run/vgpu-stub", 0o777);
    let report = tree.examine(&[]);
    report.is_only("server.access", "warning", "mode 0777", "chmod 0755");
}

#[test]
fn what_dead_domains_left_is_said_to_be_there() {
    let tree = Tree::healthy();
    let (id, left) = ("server.stale", "/run/vgpu-stub/3");
    tree.socket("/run/vgpu-stub/3/socket");
    tree.examine(&[])
        .is_only(id, "warning", left, "rm -r /run/vgpu-stub/3");
    // Which domains there are is not known.
    tree.remove("/xenstore-ls.out");
    let report = tree.examine(&[]);
    assert_eq!(report.row(id)["state"], "skipped");
}
