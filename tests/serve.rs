//! `vgpu-stub serve` from the outside: sockets, signals, supervisors.

mod program;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;

use program::{Serving, inherit, output, program, text};
use rustix::process::Signal;
use tempfile::tempdir;
use vfio_user::Client;

fn reads_id(socket: &Path) -> [u8; 4] {
    let mut client = Client::new(socket).unwrap();
    let mut id = [0; 4];
    client.region_read(0, 0, &mut id).unwrap();
    id
}

/// The one line on stderr of a program that fails, and its status.
fn fails<I: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = I>) -> (i32, String) {
    let output = output(arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    // The log of what was made before comes first.
    let last = said.lines().last().unwrap_or_default().to_owned();
    (output.status.code().unwrap(), last)
}

#[test]
fn sigterm_and_sigint_end_it_cleanly_and_remove_the_socket() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = tempdir().unwrap();
        let socket = dir.path().join("socket");
        let serving = Serving::start(["--socket-path", text(&socket)]);
        assert_eq!(&reads_id(&socket), b"VGPU");
        let (status, _) = serving.end(signal);
        assert_eq!(status.code(), Some(0));
        assert!(!socket.exists());
    }
}

#[test]
fn it_ends_while_a_client_is_served_and_others_wait() {
    let dir = tempdir().unwrap();
    let socket = dir.path().join("socket");
    let serving = Serving::start(["--socket-path", text(&socket)]);
    let _served = Client::new(&socket).unwrap();
    let _waiting = UnixStream::connect(&socket).unwrap();
    let (status, _) = serving.end(Signal::TERM);
    assert_eq!(status.code(), Some(0));
}

#[test]
fn the_conventions_for_servers_need_no_command() {
    let dir = tempdir().unwrap();
    let socket = dir.path().join("socket");
    let mut server = program([
        format!("--socket-path={}", text(&socket)),
        "--once".to_owned(),
    ])
    .stderr(std::process::Stdio::piped())
    .spawn()
    .unwrap();
    // Its log says when it listens.
    let mut log = BufReader::new(server.stderr.take().unwrap()).lines();
    assert!(log.next().unwrap().unwrap().contains("listening"));
    assert_eq!(&reads_id(&socket), b"VGPU");
    assert!(server.wait().unwrap().success());
}

#[test]
fn several_devices_have_a_socket_each() {
    let dir = tempdir().unwrap();
    let (stub, bell) = (dir.path().join("stub"), dir.path().join("bell"));
    let _serving = Serving::start([
        format!("--device=stub,vectors=4,socket-path={}", text(&stub)),
        format!("--device=doorbell,socket-path={}", text(&bell)),
    ]);
    let first = Client::new(&stub).unwrap();
    assert_eq!(&reads_id(&bell), b"BELL");
    drop(first);
    let mut stub = Client::new(&stub).unwrap();
    assert_eq!(stub.get_irq_info(2).unwrap().count, 4);
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let dir = tempdir().unwrap();
    let socket = dir.path().join("socket");
    drop(UnixListener::bind(&socket).unwrap());
    let serving = Serving::start(["--socket-path", text(&socket)]);
    assert_eq!(&reads_id(&socket), b"VGPU");

    let (status, line) = fails(["serve", "--socket-path", text(&socket)]);
    assert_eq!(status, 3);
    assert!(line.contains("another server listens there"), "{line}");
    assert_eq!(&reads_id(&socket), b"VGPU");
    drop(serving);
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "precious").unwrap();
    let (status, line) = fails(["serve", "--socket-path", text(&file)]);
    assert_eq!(status, 3);
    assert!(line.contains("is not a socket"), "{line}");
    assert_eq!(fs::read(&file).unwrap(), b"precious");
}

#[test]
fn a_socket_that_cannot_be_made_says_what_to_do() {
    let (status, line) = fails(["serve", "--socket-path", "/nowhere/at/all"]);
    assert_eq!(status, 3);
    assert!(line.contains("make its directory first"), "{line}");
    let long = format!("/tmp/{}", "x".repeat(200));
    let (status, line) = fails(["serve", "--socket-path", &long]);
    assert_eq!(status, 3);
    assert!(line.contains("use a shorter path"), "{line}");
}

#[test]
fn the_socket_has_the_mode_that_was_asked_for() {
    let dir = tempdir().unwrap();
    let socket = dir.path().join("socket");
    let _serving = Serving::start(["--socket-path", text(&socket), "--socket-mode", "0640"]);
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn the_pidfile_holds_its_process_and_goes_with_it() {
    let dir = tempdir().unwrap();
    let (socket, pidfile) = (dir.path().join("socket"), dir.path().join("pid"));
    let arguments = ["--socket-path", text(&socket), "--pidfile", text(&pidfile)];
    let serving = Serving::start(arguments);
    let id = fs::read_to_string(&pidfile).unwrap();
    assert_eq!(id, format!("{}\n", serving.id()));
    serving.end(Signal::TERM);
    assert!(!pidfile.exists());
}

#[test]
fn once_ends_it_when_its_client_has_left() {
    let dir = tempdir().unwrap();
    let socket = dir.path().join("socket");
    let mut serving = Serving::start(["--socket-path", text(&socket), "--once"]);
    assert_eq!(&reads_id(&socket), b"VGPU");
    let (status, said) = serving.wait();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(!socket.exists());
}

#[test]
fn a_listening_descriptor_is_served_and_its_path_is_not_removed() {
    let dir = tempdir().unwrap();
    let socket = dir.path().join("socket");
    let listener = OwnedFd::from(UnixListener::bind(&socket).unwrap());
    let serving = Serving::start_with([""; 0], |command| {
        let number = inherit(command, listener);
        command.args(["--fd", &number.to_string()]);
    });
    assert_eq!(&reads_id(&socket), b"VGPU");
    assert_eq!(&reads_id(&socket), b"VGPU");
    let (status, _) = serving.end(Signal::TERM);
    assert_eq!(status.code(), Some(0));
    assert!(socket.exists());
}

#[test]
fn a_connected_descriptor_is_one_session() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut serving = Serving::start_with([""; 0], |command| {
        let number = inherit(command, theirs.into());
        command.args(["--fd", &number.to_string()]);
    });
    drop(ours);
    let (status, said) = serving.wait();
    assert_eq!(status.code(), Some(0), "{said}");
}

#[test]
fn descriptors_of_no_use_are_refused() {
    for (number, why) in [("1", "standard stream"), ("977", "is not open")] {
        let (status, line) = fails(["serve", "--fd", number]);
        assert_eq!(status, 2);
        assert!(line.contains(why), "{line}");
    }
    let file = fs::File::open("/dev/null").unwrap();
    let mut command = program(["serve", "--fd"]);
    let number = inherit(&mut command, file.into());
    let output = command.arg(number.to_string()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("is not a UNIX stream socket"), "{said}");
}

#[test]
fn systemd_is_told_when_the_sockets_are_there() {
    let dir = tempdir().unwrap();
    let (socket, notify) = (dir.path().join("socket"), dir.path().join("notify"));
    let systemd = UnixDatagram::bind(&notify).unwrap();
    let arguments = ["--socket-path", text(&socket)];
    let _serving = Serving::start_with(arguments, |command| {
        command.env("NOTIFY_SOCKET", &notify);
    });
    let mut message = [0; 64];
    let size = systemd.recv(&mut message).unwrap();
    assert_eq!(message[..size].trim_ascii_end(), b"READY=1");
}

#[test]
fn sockets_of_systemd_go_to_devices_without_one() {
    let dir = tempdir().unwrap();
    let socket = dir.path().join("socket");
    let listener = OwnedFd::from(UnixListener::bind(&socket).unwrap());
    // As systemd does: the descriptor is number 3 and LISTEN_PID is the
    // process itself, which a shell can arrange.
    let mut command = std::process::Command::new("sh");
    let number = inherit(&mut command, listener);
    let script = format!("exec 3<&{number}; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\" serve");
    let mut child = command
        .args(["-c", &script, env!("CARGO_BIN_EXE_vgpu-stub")])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // A client that connects before the server runs waits for it.
    assert_eq!(&reads_id(&socket), b"VGPU");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_wrong_command_line_is_usage() {
    let wrong: [(&[&str], &str); 9] = [
        (&["serve"], "has no socket"),
        (
            &["serve", "--device", "gpu", "--socket-path", "s"],
            "no device 'gpu'",
        ),
        (&["serve", "--device", "stub,colour=red"], "is not known"),
        (&["serve", "--device", "stub,vectors"], "is not KEY=VALUE"),
        (
            &["serve", "--device", "stub,vectors=many"],
            "not a number of vectors",
        ),
        (&["serve", "--device", "stub,fd=4,fd=5"], "second socket"),
        (
            &["serve", "--device", "stub,vectors=65,socket-path=s"],
            "out of range",
        ),
        (
            &["serve", "--device", "doorbell,vectors=1,socket-path=s"],
            "takes no vectors",
        ),
        (
            &["serve", "--socket-path", "s", "--socket-mode", "0999"],
            "octal",
        ),
    ];
    for (arguments, why) in wrong {
        let output = output(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(why), "{arguments:?}: {said}");
    }
}
