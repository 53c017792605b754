//! What every test here stands on: a server, a recorder and a guest.

use std::time::Duration;

use serde_json::{Value, json};

use crate::rig::{Accelerator, Guest, Outcome, Qemu, Recorder, RigError, Running, Server};

/// How long one guest may run: some tens of times what it takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);

/// Status of a guest whose tests have all passed.
const PASSED: u8 = 0x10;

/// A server behind a recorder.
pub(crate) struct Stage {
    pub(crate) recorder: Recorder,
    pub(crate) server: Server,
}

impl Stage {
    /// Serves one device.
    pub(crate) fn new(device: &str) -> Result<Self, RigError> {
        Self::before(Server::start(&[device])?)
    }

    /// Stands before the first device of a server.
    pub(crate) fn before(server: Server) -> Result<Self, RigError> {
        let recorder = Recorder::start(&server.socket(0))
            .map_err(|error| RigError::failed("cannot start the recorder", error))?;
        Ok(Self { recorder, server })
    }

    /// A guest that runs these tests with this device, on `pc` with shared
    /// memory under TCG.
    pub(crate) fn guest(&self, tests: &str, properties: &Value) -> Result<Qemu, RigError> {
        self.guest_on(Accelerator::Tcg, tests, properties)
    }

    /// The same under another accelerator.
    pub(crate) fn guest_on(
        &self,
        accelerator: Accelerator,
        tests: &str,
        properties: &Value,
    ) -> Result<Qemu, RigError> {
        let guest = guest(accelerator, tests)?;
        Ok(guest.vfio_user(&self.recorder.socket(), properties))
    }

    /// Runs tests of the guest to their end.
    pub(crate) fn run(&self, tests: &str) -> Result<(), RigError> {
        finish(self.guest(tests, &json!({}))?.start()?, tests)
    }

    /// Ends it all; the server must have had nothing to complain about.
    pub(crate) fn end(self) -> Result<Vec<String>, RigError> {
        drop(self.recorder);
        self.server.stop()
    }
}

/// A guest without a device.
pub(crate) fn guest(accelerator: Accelerator, tests: &str) -> Result<Qemu, RigError> {
    let guest = Guest::build("tests/guest")?;
    Ok(Qemu::new(accelerator)?.kernel(guest.image()).append(tests))
}

/// Waits for the end of a guest, in which these tests must have passed and
/// QEMU must have had nothing to say.
pub(crate) fn finish(running: Running, tests: &str) -> Result<(), RigError> {
    let outcome = running.wait(LIMIT)?;
    check(&outcome, tests)?;
    // About the host's processor, under KVM.
    let expected = "host doesn't support requested feature";
    match outcome.errors.iter().find(|line| !line.contains(expected)) {
        None => Ok(()),
        Some(_) => Err(RigError::failed("QEMU says", outcome.errors.join("\n"))),
    }
}

/// The same for a QEMU that may say something.
pub(crate) fn check(outcome: &Outcome, tests: &str) -> Result<(), RigError> {
    let names = tests.split(' ').filter(|word| !word.contains('='));
    let missed: Vec<&str> = names
        .filter(|name| !outcome.console.contains(&format!("test {name}: ok")))
        .collect();
    if outcome.guest_code() == Some(PASSED) && missed.is_empty() {
        return Ok(());
    }
    let heard = [&outcome.console[..], &outcome.errors[..]].concat();
    Err(RigError::failed(
        format!("{} without {}", outcome.status, missed.join(" ")),
        heard.join("\n"),
    ))
}

/// Fails with what went wrong in one line, or skips what is not here.
#[macro_export]
macro_rules! require {
    ($result:expr) => {
        match $crate::rig::or_skip($result) {
            Some(value) => value,
            None => return,
        }
    };
}
