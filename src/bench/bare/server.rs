//! A server process for a device: `vgpu-stub serve`, as a user starts it.

use std::ffi::OsString;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::child::Child;
use crate::bench::{Bench, Pinned, Trouble};

/// From start to ready.
const LIMIT: Duration = Duration::from_secs(10);

/// How often we look whether it ended or we shall.
const TICK: Duration = Duration::from_millis(50);

/// What a server is told.
#[derive(Debug)]
pub(in crate::bench) struct Serve<'a> {
    /// What it serves.
    pub(in crate::bench) device: &'a str,
    /// Whether it spins: never, adaptive or always.
    pub(in crate::bench) poll: &'a str,
    /// To whom it serves it: the rest of its arguments.
    pub(in crate::bench) face: Vec<OsString>,
    /// The CPU that it runs on, if not on any that this process may use.
    pub(in crate::bench) cpu: Option<usize>,
}

/// A server; it is gone on drop at the latest.
#[derive(Debug)]
pub(in crate::bench) struct Server {
    /// From its start until it was ready.
    pub(in crate::bench) ready_after: Duration,
    child: Child,
}

impl Server {
    /// Starts one and returns once it is ready. `directory` is its own.
    pub(in crate::bench) fn start(
        bench: &Bench<'_>,
        program: &Path,
        serve: Serve<'_>,
        directory: &Path,
    ) -> Result<Self, Trouble> {
        let Serve { device, poll, .. } = serve;
        let failed = |error: &dyn std::fmt::Display| {
            Trouble::new(format!("cannot start a server of {device}"), error)
        };
        // Readiness as systemd is told: no descriptor has to be passed.
        let notify = directory.join("notify");
        let told = UnixDatagram::bind(&notify).map_err(|error| failed(&error))?;
        told.set_read_timeout(Some(TICK))
            .map_err(|error| failed(&error))?;
        let mut command = Command::new(program);
        command.args(["--log-level", "warn", "serve", "--device", device]);
        command.args(["--poll", poll]).args(serve.face);
        command.env("NOTIFY_SOCKET", &notify).stdin(Stdio::null());
        let started = Instant::now();
        let mut child = {
            let _pinned = serve.cpu.map_or_else(Pinned::unpinned, Pinned::to)?;
            Child::start(&mut command).map_err(|error| failed(&error))?
        };
        let deadline = started + LIMIT;
        let mut message = [0; 256];
        loop {
            match told.recv(&mut message) {
                Ok(length) if message[..length].starts_with(b"READY=1") => {
                    return Ok(Server {
                        ready_after: started.elapsed(),
                        child,
                    });
                }
                _ if bench.plan.interrupt.raised() => return Err(failed(&"interrupted")),
                _ => {}
            }
            if let Some(status) = child.ended() {
                return Err(failed(&child.last_words(&status.to_string())));
            }
            if Instant::now() >= deadline {
                return Err(failed(&child.last_words("it does not get ready")));
            }
        }
    }

    /// Its last words, if it ended.
    pub(in crate::bench) fn ended(&mut self) -> Option<String> {
        let status = self.child.ended()?;
        Some(self.child.last_words(&status.to_string()))
    }

    /// Its process.
    pub(in crate::bench) fn id(&self) -> u32 {
        self.child.id()
    }
}
