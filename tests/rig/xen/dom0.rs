//! A dom0 that runs: scripts go in, statuses and output come out.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::cache::io_failed;
use super::super::linux::strip;
use super::super::process::lines_of;
use super::super::running::Running;
use super::super::{RigError, qmp::Qmp};
use super::machine::{Machine, PORT, SHARE};

/// From nothing to Xen's daemons: some 15 s on an idle machine.
const BOOT_LIMIT: Duration = Duration::from_secs(240);

/// How long saving or restoring a machine may take.
const MOVE_LIMIT: Duration = Duration::from_secs(60);

/// Beyond a script's own limit, for dom0 to say that it is over.
const GRACE: Duration = Duration::from_secs(60);

/// The machine as it was when dom0 was ready.
const STATE: &str = "state";

/// A running dom0; it is gone on drop, with all its guests.
#[derive(Debug)]
pub(crate) struct Dom0 {
    running: Running,
    port: UnixStream,
    answers: Receiver<String>,
    directory: TempDir,
    scripts: u32,
}

/// How a script has ended.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its exit status: 137 if it was killed, because its time was over.
    pub(crate) status: u32,
    /// All that it and what it started have written so far.
    pub(crate) output: String,
}

impl Dom0 {
    /// Boots Xen and dom0.
    pub(super) fn booted(machine: &Machine, kept: &Path) -> Result<Self, RigError> {
        let mut dom0 = Self::started(machine, kept, false)?;
        match dom0.next(BOOT_LIMIT)?.as_str() {
            "ready" => Ok(dom0),
            other => Err(dom0.failed("dom0 is not ready", other)),
        }
    }

    /// Goes on where a machine was saved.
    pub(super) fn restored(machine: &Machine, kept: &Path) -> Result<Self, RigError> {
        let mut dom0 = Self::started(machine, kept, true)?;
        match move_state(dom0.running.qmp()?, "migrate-incoming", kept) {
            Ok(()) => Ok(dom0),
            Err(error) => Err(dom0.failed("cannot restore Xen", error)),
        }
    }

    fn started(machine: &Machine, kept: &Path, incoming: bool) -> Result<Self, RigError> {
        let failed = |error| RigError::failed("cannot start Xen", error);
        let directory = tempfile::tempdir().map_err(failed)?;
        fs::create_dir(directory.path().join(SHARE)).map_err(failed)?;
        let mut running = machine.start(kept, directory.path(), incoming)?;
        // Its answer says that the port is there too.
        running.qmp()?;
        let port = UnixStream::connect(directory.path().join(PORT)).map_err(failed)?;
        let answers = lines_of(port.try_clone().map_err(failed)?);
        Ok(Self {
            running,
            port,
            answers,
            directory,
            scripts: 0,
        })
    }

    /// Saves the machine and ends it.
    pub(super) fn save(mut self, kept: &Path) -> Result<(), RigError> {
        let qmp = self.running.qmp()?;
        let unlimited = json!({"max-bandwidth": 1u64 << 40});
        let saved = qmp
            .execute("stop", &json!({}))
            .and_then(|_| qmp.execute("migrate-set-parameters", &unlimited))
            .and_then(|_| move_state(qmp, "migrate", kept));
        saved.map_err(|error| self.failed("cannot save Xen", error))
    }

    /// The directory that dom0 has as `/share`.
    pub(crate) fn share(&self) -> PathBuf {
        self.directory.path().join(SHARE)
    }

    /// Puts a program into the share, without debugging information. Only
    /// static ones, and those built for Debian 13, start in dom0.
    pub(crate) fn program(&self, name: &str, program: &Path) -> Result<(), RigError> {
        let to = self.share().join(name);
        fs::copy(strip(program)?, &to).map_err(io_failed("cannot write", &to))?;
        executable(&to)
    }

    /// Puts a shell script into the share.
    pub(crate) fn script(&self, name: &str, text: &str) -> Result<(), RigError> {
        self.file(name, &format!("#!/bin/sh\n{text}\n"))?;
        executable(&self.share().join(name))
    }

    /// Puts a text into the share.
    pub(crate) fn file(&self, name: &str, text: &str) -> Result<(), RigError> {
        let to = self.share().join(name);
        fs::write(&to, text).map_err(io_failed("cannot write", &to))
    }

    /// A file of the share, or nothing if there is none.
    pub(crate) fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.share().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Runs a shell script in dom0. One that is not done in time is killed;
    /// what it has started is not.
    pub(crate) fn run(&mut self, script: &str, limit: Duration) -> Result<Answer, RigError> {
        self.scripts += 1;
        let number = self.scripts;
        let path = self.share().join(format!("{number}.sh"));
        fs::write(&path, script).map_err(io_failed("cannot write", &path))?;
        let seconds = limit.as_secs().max(1);
        writeln!(self.port, "{number} {seconds}")
            .map_err(|error| RigError::failed("cannot talk to dom0", error))?;
        let answer = self.next(limit + GRACE)?;
        let status = answer
            .strip_prefix(&format!("{number} "))
            .and_then(|status| status.parse().ok());
        match status {
            Some(status) => Ok(Answer {
                status,
                output: self.read(&format!("{number}.out")),
            }),
            None => Err(self.failed("dom0 does not know what it runs", answer)),
        }
    }

    /// The same; the script must succeed.
    pub(crate) fn run_well(&mut self, script: &str, limit: Duration) -> Result<(), RigError> {
        let answer = self.run(script, limit)?;
        if answer.status == 0 {
            return Ok(());
        }
        let status = answer.status;
        Err(RigError::failed(
            format!("a script in dom0 ended with {status}"),
            answer.output,
        ))
    }

    /// All that Xen and dom0 have written to the console.
    pub(crate) fn console(&mut self) -> &[String] {
        self.running.console()
    }

    fn next(&mut self, limit: Duration) -> Result<String, RigError> {
        self.answers.recv_timeout(limit).map_err(|error| {
            let why = match error {
                RecvTimeoutError::Timeout => format!("no answer within {limit:?}"),
                RecvTimeoutError::Disconnected => "it is gone".to_owned(),
            };
            self.failed("dom0", why)
        })
    }

    /// A failure with the last of what there is to read.
    fn failed(&mut self, what: &str, why: impl std::fmt::Display) -> RigError {
        const LAST: usize = 8;
        let last = |lines: &[String]| lines[lines.len().saturating_sub(LAST)..].join("\n");
        let output = self.read(&format!("{}.out", self.scripts));
        let output: Vec<String> = output.lines().map(str::to_owned).collect();
        let console = last(self.running.console());
        let said = format!("{why}\nconsole: {console}\noutput: {}", last(&output));
        RigError::failed(what, said)
    }
}

fn executable(path: &Path) -> Result<(), RigError> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .map_err(io_failed("cannot make executable", path))
}

/// Saves a stopped machine to the directory, or restores it from there.
fn move_state(qmp: &mut Qmp, command: &str, kept: &Path) -> Result<(), RigError> {
    let state = kept.join(STATE);
    let capabilities =
        ["events", "mapped-ram"].map(|name| json!({"capability": name, "state": true}));
    qmp.execute(
        "migrate-set-capabilities",
        &json!({"capabilities": capabilities}),
    )?;
    let uri = format!("file:{}", state.display());
    qmp.execute(command, &json!({"uri": uri}))?;
    loop {
        let event = qmp.wait_event("MIGRATION", MOVE_LIMIT)?;
        match event["data"]["status"].as_str() {
            Some("completed") => break,
            Some("failed") => {
                let status = qmp.execute("query-migrate", &json!({}));
                let why = status.map_or(Value::Null, |status| status["error-desc"].clone());
                return Err(RigError::failed(command, why));
            }
            _ => {}
        }
    }
    if command == "migrate-incoming" {
        qmp.execute("cont", &json!({}))?;
    }
    Ok(())
}
