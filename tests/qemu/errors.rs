//! What QEMU makes of a server that is not there, or no longer.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::require;
use crate::rig::{Accelerator, RigError, Server};
use crate::stage::{LIMIT, check, guest};

/// QEMU's patience with one message, shortened from 5 s.
const PATIENCE: Duration = Duration::from_millis(500);

#[test]
fn a_guest_goes_on_when_the_server_dies() {
    let tests = "registers wait-loss";
    let run = || -> Result<Duration, RigError> {
        let mut server = Server::start(&["stub"])?;
        let patience = json!({"x-msg-timeout": PATIENCE.as_millis()});
        let qemu = guest(Accelerator::Tcg, tests)?.vfio_user(&server.socket(0), &patience);
        let mut running = qemu.start()?;
        running.wait_line("waiting=loss", LIMIT)?;
        server.kill();
        let killed = Instant::now();
        let outcome = running.wait(LIMIT)?;
        check(&outcome, tests)?;
        Ok(killed.elapsed())
    };
    let took = require!(run());
    // One message may be lost without a word, the rest fail at once.
    assert!(took < PATIENCE + Duration::from_secs(3), "{took:?}");
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
