//! Trees that somebody made to do harm, and what is in them by accident.

use std::fs;
use std::os::unix::fs::symlink;

use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::tempdir;

use crate::program::{output, text};
use crate::tree::{DAEMON, DEVICE_MODEL, DROP_IN, Tree, VM, XENSOURCE, timeout};

#[test]
fn nothing_changes_without_fix() {
    let tree = Tree::healthy();
    tree.remove(DROP_IN);
    tree.mode(DEVICE_MODEL, 0o644);
    tree.socket("/run/vgpu-stub/3/socket");
    tree.log(XENSOURCE, &timeout());
    let before = tree.contents();
    assert_eq!(tree.examine(&["--vm", VM]).status, 6);
    assert_eq!(tree.contents(), before);
}

#[test]
fn no_link_leads_out_of_the_tree() {
    let outside = tempdir().unwrap();
    let secret = "Nov 21 11:00:03 host qemu-dm-7[1]: Could not open 'secret'\n";
    fs::write(outside.path().join("log"), secret).unwrap();
    let target = outside.path().join("log");
    let dots = format!("{}{}", "../".repeat(20), &text(&target)[1..]);
    for link in [text(&target), &dots, "daemon.log", "/proc/self/environ"] {
        let tree = Tree::healthy();
        tree.log(XENSOURCE, &timeout());
        tree.link(DAEMON, link);
        let report = tree.examine(&[]);
        assert!(!report.json.to_string().contains("secret"), "{link}");
        assert_eq!(report.found(), [("log.failure", "broken")], "{link}");
    }
    // Nor does a directory's; but one that stays inside is followed.
    let tree = Tree::healthy();
    fs::rename(tree.at("/var/log"), tree.at("/logs")).unwrap();
    symlink("/logs", tree.at("/var/log")).unwrap();
    tree.log("/logs/daemon.log", secret);
    tree.log("/logs/xensource.log", &timeout());
    tree.examine(&[]).has("log.file", "broken", "secret", "");
    fs::remove_file(tree.at("/var/log")).unwrap();
    symlink(outside.path(), tree.at("/var/log")).unwrap();
    tree.examine(&[]).has("log.read", "warning", "no logs", "");
}

#[test]
fn devices_and_pipes_are_not_opened() {
    let tree = Tree::healthy();
    tree.remove(DAEMON);
    let fifo = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, tree.at(DAEMON), fifo, mode, 0).unwrap();
    let report = tree.examine(&[]);
    report.has("log.read", "warning", "not a regular file", "");
}

#[test]
fn what_a_log_says_cannot_talk_to_the_terminal() {
    let tree = Tree::healthy();
    tree.log(XENSOURCE, &timeout());
    let long = "x".repeat(1 << 20);
    let line = format!(
        "Nov 21 11:00:03 host qemu-dm-7[1]: Could not open '\x1b]0;owned\x07\x1b[2J\0\u{202e}{long}'\n"
    );
    tree.log(DAEMON, &line);
    let output = output(["doctor", "--root", text(tree.path())]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains(r"\x1b]0;owned\x07\x1b[2J\x00\u{202e}"),
        "{said}"
    );
    let harmless = |c: char| c == '\n' || (!c.is_control() && c != '\u{202e}');
    assert!(said.chars().all(harmless));
    let longest = said.lines().map(str::len).max();
    assert!(longest < Some(1000), "{longest:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn random_bytes_anywhere_are_survived(
        bytes in vec(any::<u8>(), 0..4096),
        lines in vec("(Nov 21 1[0-2]:[0-5][0-9]:00 h |)(qemu-dm-[0-9]{1,12}|VM = .{0,40}; domid = |Timeout reached while starting daemon|Device.Dm.start domid=|\\|\\||\\] |Could not open)[^a]{0,30}", 0..40),
    ) {
        let tree = Tree::healthy();
        for file in [
            XENSOURCE,
            DAEMON,
            "/var/log/audit/audit.log",
            "/xenstore-ls.out",
            "/var/lib/xcp/state.db",
            "/proc/net/unix",
            "/proc/stat",
            "/proc/900/stat",
            "/run/vgpu-stub/7/pid",
            "/etc/sysconfig/vgpu-stub",
            DROP_IN,
            DEVICE_MODEL,
            "/etc/ld.so.conf",
        ] {
            tree.write(file, &bytes);
        }
        tree.log(XENSOURCE, &lines.join("\n"));
        let report = tree.examine(&["--vm", VM]);
        prop_assert!([0, 5, 6].contains(&report.status));
    }

    #[test]
    fn a_header_that_lies_is_survived(
        at in 0usize..400,
        wrong in vec(any::<u8>(), 1..16),
    ) {
        let tree = Tree::healthy();
        let mut bytes = crate::elf::Program::device_model().bytes();
        let at = at.min(bytes.len() - wrong.len());
        bytes[at..at + wrong.len()].copy_from_slice(&wrong);
        tree.write(DEVICE_MODEL, bytes);
        let report = tree.examine(&[]);
        prop_assert!([0, 5, 6].contains(&report.status));
    }
}
