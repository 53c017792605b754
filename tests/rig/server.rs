//! The program under test, `vgpu-stub serve`, started as a user starts it.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::RigError;
use super::process::{Process, lines_of};

/// From start to listening, and from SIGTERM to the end.
const LIMIT: Duration = Duration::from_secs(10);

/// Moves standard output to where `--ready-fd` may be, and nothing else.
const READY_ON_STDOUT: &str = r#"exec "$0" "$@" 3>&1 >&2"#;

/// A running server, one socket for each of its devices.
#[derive(Debug)]
pub(crate) struct Server {
    process: Process,
    log: Receiver<String>,
    directory: TempDir,
    devices: usize,
}

impl Server {
    /// Serves these devices and returns once all sockets are there.
    pub(crate) fn start(devices: &[&str]) -> Result<Self, RigError> {
        let failed = |error| RigError::failed("cannot start the server", error);
        let directory = tempfile::tempdir().map_err(failed)?;
        let mut command = Command::new("sh");
        command.args(["-c", READY_ON_STDOUT, env!("CARGO_BIN_EXE_vgpu-stub")]);
        command.args(["-v", "serve", "--ready-fd", "3"]);
        for (number, device) in devices.iter().enumerate() {
            let socket = directory.path().join(number.to_string());
            let socket = socket.display();
            command.args(["--device", &format!("{device},socket-path={socket}")]);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let streams = child.stdout.take().zip(child.stderr.take());
        let process = Process::new(child);
        let (ready, log) = streams.ok_or_else(|| RigError::failed("the server", "no streams"))?;
        let log = lines_of(log);
        if let Err(error) = lines_of(ready).recv_timeout(LIMIT) {
            drop(process);
            let said: Vec<String> = log.iter().collect();
            let said = format!("{error}: {}", said.join(" | "));
            return Err(RigError::failed("the server is not ready", said));
        }
        Ok(Self {
            process,
            log,
            directory,
            devices: devices.len(),
        })
    }

    /// The socket of a device, by its place in the list.
    pub(crate) fn socket(&self, device: usize) -> PathBuf {
        self.directory.path().join(device.to_string())
    }

    /// Ends the server as a crash would.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Ends the server with SIGTERM. It must end cleanly, without its
    /// sockets, and without a complaint in its log, which is returned.
    pub(crate) fn stop(mut self) -> Result<Vec<String>, RigError> {
        let broken = |why: String| RigError::failed("the server", why);
        let pid = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| broken("has no process id".to_owned()))?;
        kill_process(pid, Signal::TERM).map_err(|error| broken(error.to_string()))?;
        let status = self
            .process
            .wait(Instant::now() + LIMIT)
            .map_err(|error| broken(error.to_string()))?;
        self.process.kill();
        let log: Vec<String> = self.log.iter().collect();
        let said = || log.join(" | ");
        match status {
            Some(status) if status.success() => {}
            Some(status) => return Err(broken(format!("ended with {status}: {}", said()))),
            None => return Err(broken(format!("ignored SIGTERM: {}", said()))),
        }
        if (0..self.devices).any(|device| self.socket(device).exists()) {
            return Err(broken("left a socket".to_owned()));
        }
        // The level as env_logger pads it, or a panic's message.
        let words = ["WARN ]", "ERROR]", "panicked"];
        let complains = |line: &&String| words.iter().any(|word| line.contains(word));
        match log.iter().find(complains) {
            Some(_) => Err(broken(format!("complained: {}", said()))),
            None => Ok(log),
        }
    }
}
