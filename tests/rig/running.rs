//! A QEMU that runs, and what is left when it has ended.

use std::os::unix::net::UnixStream;
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tempfile::{TempDir, TempPath};

use super::RigError;
use super::process::{Process, lines_of};
use super::qmp::Qmp;

/// The status of a guest whose tests have all passed.
const ALL_PASSED: u8 = 0x10;

/// A running QEMU; it is killed and reaped on drop.
#[derive(Debug)]
pub(crate) struct Running {
    process: Process,
    console: Receiver<String>,
    errors: Receiver<String>,
    seen: Vec<String>,
    monitor: Monitor,
    _kept: Kept,
}

/// What a QEMU needs for as long as it runs.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) files: Vec<TempPath>,
    pub(super) firmware: Option<TempDir>,
    pub(super) permit: Permit,
}

impl Kept {
    /// Nothing but leave to run.
    pub(super) fn only(permit: Permit) -> Self {
        Self {
            files: Vec::new(),
            firmware: None,
            permit,
        }
    }
}

/// Leave to run one of a few QEMUs at a time, whatever the number of test
/// threads. A test that runs two at once might wait for itself.
#[derive(Debug)]
pub(super) struct Permit;

/// How many more may start.
static PERMITS: Mutex<usize> = Mutex::new(2);
static PERMIT_RETURNED: Condvar = Condvar::new();

impl Permit {
    pub(super) fn take() -> Self {
        let permits = PERMITS.lock().unwrap_or_else(PoisonError::into_inner);
        let mut permits = PERMIT_RETURNED
            .wait_while(permits, |permits| *permits == 0)
            .unwrap_or_else(PoisonError::into_inner);
        *permits -= 1;
        Self
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *PERMITS.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        PERMIT_RETURNED.notify_one();
    }
}

#[derive(Debug)]
enum Monitor {
    Silent(Option<UnixStream>),
    Ready(Qmp),
}

/// What a QEMU left behind.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// QEMU's exit status.
    pub(crate) status: ExitStatus,
    /// All that the guest wrote to the serial port and the debug console.
    pub(crate) console: Vec<String>,
    /// QEMU's own messages.
    pub(crate) errors: Vec<String>,
}

impl Outcome {
    /// Fails unless the guest of `tests/guest` ran these tests, named as on its
    /// command line, and all passed.
    pub(crate) fn passed(&self, tests: &str) -> Result<(), RigError> {
        let names = tests.split_whitespace().filter(|word| !word.contains('='));
        let missed: Vec<&str> = names
            .filter(|name| !self.console.contains(&format!("test {name}: ok")))
            .collect();
        if self.guest_code() == Some(ALL_PASSED) && missed.is_empty() {
            return Ok(());
        }
        let heard = [&self.console[..], &self.errors[..]].concat();
        Err(RigError::failed(
            format!("{} without {}", self.status, missed.join(" ")),
            heard.join("\n"),
        ))
    }

    /// What the guest wrote to the port of isa-debug-exit, if it did.
    pub(crate) fn guest_code(&self) -> Option<u8> {
        // The device ends QEMU with (value << 1) | 1; the status has 8 bits.
        // QEMU's own failures are 1 as well: value 0 says nothing.
        match self.status.code() {
            Some(code) if code & 1 == 1 && code > 1 => u8::try_from(code >> 1).ok(),
            _ => None,
        }
    }
}

impl Running {
    pub(super) fn new(
        mut child: Child,
        console: UnixStream,
        monitor: UnixStream,
        kept: Kept,
    ) -> Result<Self, RigError> {
        let errors = child.stderr.take();
        let process = Process::new(child);
        let errors = errors.ok_or_else(|| RigError::failed("QEMU", "has no stderr"))?;
        Ok(Self {
            process,
            console: lines_of(console),
            errors: lines_of(errors),
            seen: Vec::new(),
            monitor: Monitor::Silent(Some(monitor)),
            _kept: kept,
        })
    }

    /// QEMU's process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The monitor, negotiated at the first use.
    pub(crate) fn qmp(&mut self) -> Result<&mut Qmp, RigError> {
        if let Monitor::Silent(stream) = &mut self.monitor {
            let stream = stream
                .take()
                .ok_or_else(|| RigError::failed("QMP", "negotiation failed before"))?;
            let qmp = Qmp::negotiate(stream).map_err(|error| self.explained(&error))?;
            self.monitor = Monitor::Ready(qmp);
        }
        match &mut self.monitor {
            Monitor::Ready(qmp) => Ok(qmp),
            Monitor::Silent(_) => Err(RigError::failed("QMP", "is not ready")),
        }
    }

    /// Waits for the next console line that contains `text`.
    ///
    /// Each line is looked at once, so the same text can be awaited again.
    pub(crate) fn wait_line(&mut self, text: &str, limit: Duration) -> Result<String, RigError> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.console.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return Ok(line);
                    }
                }
                Err(error) => {
                    let why = match error {
                        RecvTimeoutError::Timeout => format!("not seen within {limit:?}"),
                        RecvTimeoutError::Disconnected => "QEMU ended before".to_owned(),
                    };
                    let missed = RigError::failed(format!("console line {text:?}"), why);
                    return Err(self.explained(&missed));
                }
            }
        }
    }

    /// What the guest has written so far.
    pub(crate) fn console(&mut self) -> &[String] {
        self.seen.extend(self.console.try_iter());
        &self.seen
    }

    /// Waits until QEMU ends by itself.
    pub(crate) fn wait(mut self, limit: Duration) -> Result<Outcome, RigError> {
        let status = self
            .process
            .wait(Instant::now() + limit)
            .map_err(|error| RigError::failed("cannot wait for QEMU", error))?;
        if let Some(status) = status {
            return Ok(self.outcome(status));
        }
        let late = RigError::failed("QEMU", format!("still runs after {limit:?}"));
        Err(self.explained(&late))
    }

    /// Ends QEMU now and returns what it has left.
    pub(crate) fn stop(mut self) -> Result<Outcome, RigError> {
        self.process.kill();
        match self.process.wait(Instant::now()) {
            Ok(Some(status)) => Ok(self.outcome(status)),
            Ok(None) => Err(RigError::failed("QEMU", "survived being killed")),
            Err(error) => Err(RigError::failed("cannot reap QEMU", error)),
        }
    }

    fn outcome(mut self, status: ExitStatus) -> Outcome {
        // Both threads send until the ends of their streams.
        let mut console = std::mem::take(&mut self.seen);
        console.extend(self.console.iter());
        Outcome {
            status,
            console,
            errors: self.errors.iter().collect(),
        }
    }

    /// The error with the last that was heard from the guest and QEMU.
    fn explained(&mut self, error: &RigError) -> RigError {
        const LAST: usize = 6;
        self.process.kill();
        self.seen.extend(self.console.iter());
        let errors: Vec<String> = self.errors.iter().collect();
        let last = |lines: &[String]| lines[lines.len().saturating_sub(LAST)..].join("\n");
        RigError::failed(
            error,
            format!("console: {}\nQEMU: {}", last(&self.seen), last(&errors)),
        )
    }
}
