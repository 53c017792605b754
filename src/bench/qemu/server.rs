//! A server process for a device: `vgpu-stub serve`, as a user starts it.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::child::Child;
use super::rows::Ours;
use crate::bench::{Bench, Pinned, Trouble};

/// From start to listening.
const LIMIT: Duration = Duration::from_secs(10);

/// How often we look whether it ended or we shall.
const TICK: Duration = Duration::from_millis(50);

/// A server; it ends with its first client, or on drop.
#[derive(Debug)]
pub(super) struct Server {
    /// Where it listens.
    pub(super) socket: PathBuf,
    _child: Child,
}

impl Server {
    /// Serves a device on a CPU, from a socket in `directory`, and returns
    /// once it listens.
    pub(super) fn start(
        bench: &Bench<'_>,
        program: &Path,
        ours: &Ours,
        cpu: usize,
        directory: &Path,
    ) -> Result<Self, Trouble> {
        let device = ours.device;
        let failed = |error: &dyn std::fmt::Display| {
            Trouble::new(format!("cannot start a server of {device}"), error)
        };
        let socket = directory.join("socket");
        // Readiness as systemd is told: no descriptor has to be passed.
        let notify = directory.join("notify");
        let told = UnixDatagram::bind(&notify).map_err(|error| failed(&error))?;
        told.set_read_timeout(Some(TICK))
            .map_err(|error| failed(&error))?;
        let mut command = Command::new(program);
        command.args(["--log-level", "warn", "serve", "--once", "--device", device]);
        command.args(["--poll", if ours.polled { "always" } else { "never" }]);
        command.arg("--socket-path").arg(&socket);
        command.env("NOTIFY_SOCKET", &notify).stdin(Stdio::null());
        let mut child = {
            let _pinned = Pinned::to(cpu)?;
            Child::start(&mut command).map_err(|error| failed(&error))?
        };
        let deadline = Instant::now() + LIMIT;
        let mut message = [0; 256];
        loop {
            match told.recv(&mut message) {
                Ok(length) if message[..length].starts_with(b"READY=1") => {
                    return Ok(Server {
                        socket,
                        _child: child,
                    });
                }
                _ if bench.plan.interrupt.raised() => return Err(failed(&"interrupted")),
                _ => {}
            }
            if let Some(status) = child.ended() {
                return Err(failed(&child.last_words(&status.to_string())));
            }
            if Instant::now() >= deadline {
                return Err(failed(&child.last_words("it does not listen")));
            }
        }
    }
}
