//! What QEMU makes of a server that is not there, or no longer.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::rig::require;
use crate::rig::{Accelerator, Outcome, RigError, Server};
use crate::stage::{LIMIT, guest};

/// QEMU's patience with one message, shortened from 5 s.
const PATIENCE: Duration = Duration::from_millis(500);

const TESTS: &str = "registers wait-loss";

/// Lets a server end while a guest reads registers as fast as it can.
/// Returns how long the guest went on.
fn end_during_reads(
    end: impl FnOnce(Server) -> Result<(), RigError>,
) -> Result<(Outcome, Duration), RigError> {
    let server = Server::start(&["stub"])?;
    let patience = json!({"x-msg-timeout": PATIENCE.as_millis()});
    let qemu = guest(Accelerator::Tcg, TESTS)?.vfio_user(&server.socket(0), &patience);
    let mut running = qemu.start()?;
    running.wait_line("waiting=loss", LIMIT)?;
    let ended = Instant::now();
    end(server)?;
    let outcome = running.wait(LIMIT)?;
    Ok((outcome, ended.elapsed()))
}

#[test]
fn a_guest_goes_on_when_the_server_is_stopped() {
    let stopped = end_during_reads(|server| server.stop().map(drop));
    let (outcome, took) = require!(stopped);
    outcome.passed(TESTS).unwrap();
    // One read may be lost without a word, the rest fail at once.
    assert!(took < PATIENCE + Duration::from_secs(3), "{took:?}");
}

/// Whatever the server has not read when it ends, QEMU sees an end.
#[test]
fn a_guest_goes_on_when_the_server_is_stopped_during_writes() {
    let run = || -> Result<Outcome, RigError> {
        let server = Server::start(&["stub"])?;
        let tests = "registers count=30000 posted-writes";
        let patience = json!({"x-msg-timeout": PATIENCE.as_millis()});
        let qemu = guest(Accelerator::Tcg, tests)?.vfio_user(&server.socket(0), &patience);
        let mut running = qemu.start()?;
        running.wait_line("test registers: ok", LIMIT)?;
        server.stop()?;
        running.wait(LIMIT)
    };
    let outcome = require!(run());
    // The guest came to its end, whether it missed the device or not.
    assert!(outcome.guest_code().is_some(), "{outcome:?}");
}

/// QEMU 11.1 aborts if it has sent something that a server which dies has not
/// read, so the machine stands still meanwhile.
#[test]
fn a_guest_goes_on_when_the_server_is_killed() {
    let run = || -> Result<Outcome, RigError> {
        let mut server = Server::start(&["stub"])?;
        let qemu = guest(Accelerator::Tcg, TESTS)?.vfio_user(&server.socket(0), &json!({}));
        let mut running = qemu.start()?;
        running.wait_line("waiting=loss", LIMIT)?;
        running.qmp()?.execute("stop", &json!({}))?;
        server.kill();
        running.qmp()?.execute("cont", &json!({}))?;
        running.wait(LIMIT)
    };
    require!(run()).passed(TESTS).unwrap();
}

/// A killed server leaves its socket, on which nobody answers.
#[test]
fn qemu_says_that_it_cannot_connect_without_a_server() {
    let mut server = require!(Server::start(&["stub"]));
    server.kill();
    let socket = server.socket(0);
    assert!(socket.exists());
    let qemu = require!(guest(Accelerator::Tcg, "identity"));
    let qemu = qemu.vfio_user(&socket, &json!({}));
    let outcome = qemu.start().unwrap().wait(LIMIT).unwrap();
    assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
    assert!(outcome.console.is_empty());
    let said = outcome.errors.join(" ");
    assert!(said.contains("Failed to connect"), "{said}");
}
