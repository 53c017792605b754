//! Properties that cannot be: QEMU ends with one line that says why.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use crate::rig::RigError;
use crate::rig::qtest::Board;
use crate::rig::require;
use crate::stage::{empty, refusal, served};

fn with(properties: &str) -> Result<(Board, String), RigError> {
    let device = format!("vgpu-stub,{properties}addr=0xc");
    Ok((empty()?.device(&device), device))
}

/// Whether QEMU refuses the device with a reason that has this word.
#[track_caller]
fn refused(properties: &str, word: &str) -> Result<(), RigError> {
    let (board, device) = with(properties)?;
    let reason = refusal(board, &device);
    assert!(reason.contains(word), "{properties}: {reason}");
    Ok(())
}

#[test]
fn it_needs_a_socket_or_a_descriptor_and_not_both() {
    require!(refused("", "socket"));
    require!(refused("socket=/tmp/x,fd=3,", "socket"));
    require!(refused("socket=,", "socket"));
}

#[test]
fn a_socket_that_is_none_is_named_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name| directory.path().join(name).display().to_string();
    require!(refused(
        &format!("socket={},", path("absent")),
        &path("absent")
    ));
    require!(refused(
        &format!("socket={},", path("absent")),
        "No such file"
    ));
    File::create(path("file")).unwrap();
    require!(refused(&format!("socket={},", path("file")), &path("file")));
    drop(UnixListener::bind(path("left")).unwrap());
    require!(refused(&format!("socket={},", path("left")), "refused"));
    let directory = directory.path().display();
    require!(refused(&format!("socket={directory},"), "refused"));
}

#[test]
fn a_path_that_no_socket_can_have_is_refused() {
    for length in [108, 200, 5000] {
        let path = format!("/{}", "a".repeat(length - 1));
        require!(refused(&format!("socket={path},"), "short"));
    }
}

/// A path of 107 bytes is as long as one can be.
#[test]
fn the_longest_path_is_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let fill = 107 - directory.path().as_os_str().len() - 1;
    let path = directory.path().join("s".repeat(fill));
    let served = served("stub");
    std::os::unix::fs::symlink(served.path("stub"), &path).unwrap();
    let (board, _) = require!(with(&format!("socket={},", path.display())));
    board.start().alive();
}

#[test]
fn a_descriptor_must_be_a_connected_socket() {
    require!(refused("fd=999,", "fd"));
    require!(refused("fd=-7,", "fd"));
    let listener = {
        let directory = tempfile::tempdir().unwrap();
        UnixListener::bind(directory.path().join("socket")).unwrap()
    };
    let (pipe, _writer) = std::io::pipe().unwrap();
    let unfit: [(&str, OwnedFd); 4] = [
        ("a file", File::open("/proc/self/exe").unwrap().into()),
        ("/dev/null", File::open("/dev/null").unwrap().into()),
        ("a pipe", pipe.into()),
        ("a listener", listener.into()),
    ];
    for (what, fd) in unfit {
        let mut board = require!(empty());
        let number = board.inherit(fd);
        let device = format!("vgpu-stub,fd={number},addr=0xc");
        let reason = refusal(board.device(&device), &device);
        assert!(reason.contains(&number.to_string()), "{what}: {reason}");
    }
}

/// One whose other end is gone.
#[test]
fn a_descriptor_that_nobody_holds_the_other_end_of_is_refused() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut board = require!(empty());
    let fd = board.inherit(theirs.into());
    drop(ours);
    let device = format!("vgpu-stub,fd={fd},addr=0xc");
    refusal(board.device(&device), &device);
}

#[test]
fn timeouts_of_nothing_are_refused() {
    for name in ["connect-timeout", "msg-timeout"] {
        require!(refused(&format!("socket=/tmp/x,{name}=0,"), "timeout"));
    }
}

#[test]
fn numbers_out_of_range_are_refused() {
    for name in ["connect-timeout", "msg-timeout", "reconnect"] {
        for value in ["-1", "4294967296", "99999999999999999999", "1s", ""] {
            require!(refused(&format!("socket=/tmp/x,{name}={value},"), name));
        }
    }
    require!(refused(
        "socket=/tmp/x,posted-writes=maybe,",
        "posted-writes"
    ));
}

#[test]
fn a_descriptor_cannot_be_connected_again() {
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let mut board = require!(empty());
    let fd = board.inherit(theirs.into());
    let device = format!("vgpu-stub,fd={fd},reconnect=1000,addr=0xc");
    let reason = refusal(board.device(&device), &device);
    assert!(reason.contains("reconnect"), "{reason}");
}
