//! What every test here stands on: a server, a recorder and a guest.

use std::time::Duration;

use serde_json::{Value, json};

use crate::rig::{Accelerator, Guest, Qemu, Recorder, RigError, Running, Server};

/// How long one guest may run: some tens of times what it takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(150);

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
    outcome.passed(tests)?;
    // About the host's processor, under KVM.
    let expected = "host doesn't support requested feature";
    match outcome.errors.iter().find(|line| !line.contains(expected)) {
        None => Ok(()),
        Some(_) => Err(RigError::failed("QEMU says", outcome.errors.join("\n"))),
    }
}
