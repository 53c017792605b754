//! `vgpu-stub serve` in a process of its own, alone or under a tool.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process};

use super::client::{Access, Client};
use crate::rig::RigError;
use crate::rig::process::Process;

/// How long anything here may take before it is given up.
const LIMIT: Duration = Duration::from_secs(60);

/// A tool that runs the program, or none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tool {
    command: Vec<OsString>,
    remedy: &'static str,
}

impl Tool {
    /// A tool's program and arguments, and how to get it.
    pub(crate) fn new<I>(command: I, remedy: &'static str) -> Self
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        Tool {
            command: command.into_iter().map(Into::into).collect(),
            remedy,
        }
    }
}

/// Resident memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resident {
    /// With the pages of the program's file and of libc's, which processes
    /// share.
    pub(crate) all: u64,
    /// Without them.
    pub(crate) own: u64,
}

/// What a server is asked to serve, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    /// How many stubs.
    pub(crate) devices: usize,
    /// Whether each ends after a client.
    pub(crate) once: bool,
    /// How many accesses a client sends at once.
    pub(crate) burst: usize,
    /// What else `serve` is told.
    pub(crate) arguments: &'a [&'a str],
}

/// One stub.
pub(crate) const ONE: Terms<'_> = Terms {
    devices: 1,
    once: false,
    burst: 1,
    arguments: &[],
};

/// A server of stubs that listens.
pub(crate) struct Served {
    process: Process,
    directory: tempfile::TempDir,
    /// From before the program was started to when it said that it listens.
    pub(crate) ready_after: Duration,
}

impl Served {
    /// Starts `program` under `tool` with one stub. With `once` it ends after
    /// a client.
    pub(crate) fn start(program: &Path, tool: &Tool, once: bool) -> Result<Self, RigError> {
        Self::start_on(program, tool, Terms { once, ..ONE })
    }

    /// Starts `program` under `tool`.
    pub(crate) fn start_on(
        program: &Path,
        tool: &Tool,
        terms: Terms<'_>,
    ) -> Result<Self, RigError> {
        let failed = |error: io::Error| RigError::failed("cannot serve", error);
        let directory = tempfile::tempdir().map_err(failed)?;
        let (mut ready, inherited) = io::pipe().map_err(failed)?;
        fcntl_setfd(&inherited, FdFlags::empty()).map_err(|errno| failed(errno.into()))?;

        let mut words = tool.command.clone();
        words.push(program.into());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            // Who looks before it sleeps does so more or less often.
            .args(["--log-level", "warn", "serve", "--poll", "never"])
            .arg("--ready-fd")
            .arg(inherited.as_raw_fd().to_string())
            .args(terms.once.then_some("--once"))
            .args(terms.arguments)
            .stdin(Stdio::null());
        for number in 0..terms.devices {
            let socket = socket(directory.path(), number);
            command.arg(format!("--device=stub,socket-path={}", socket.display()));
        }

        let before = Instant::now();
        let child = command.spawn().map_err(|error| {
            let program = Path::new(&words[0]).display();
            RigError::missing(format!("cannot run {program}"), error, tool.remedy)
        })?;
        let process = Process::new(child);
        drop(inherited);
        let mut line = [0];
        ready.read_exact(&mut line).map_err(failed)?;
        Ok(Served {
            process,
            directory,
            ready_after: before.elapsed(),
        })
    }

    /// A new client of the first device.
    pub(crate) fn client(&self) -> Result<Client, RigError> {
        self.client_of(0)
    }

    /// A new client of the device of this number.
    pub(crate) fn client_of(&self, number: usize) -> Result<Client, RigError> {
        UnixStream::connect(self.socket(number))
            .and_then(Client::new)
            .map_err(|error| RigError::failed("cannot be a client", error))
    }

    /// The socket of the device of this number.
    pub(crate) fn socket(&self, number: usize) -> PathBuf {
        socket(self.directory.path(), number)
    }

    /// The resident memory, without what is shared with clients.
    pub(crate) fn resident(&self) -> Result<Resident, RigError> {
        let path = format!("/proc/{}/status", self.process.id());
        let status = fs::read_to_string(&path).map_err(|error| RigError::failed(&path, error))?;
        let bytes = |name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok());
            let kib: Option<u64> = kib;
            kib.map(|kib| kib * 1024)
                .ok_or_else(|| RigError::failed(&path, format!("has no {name}")))
        };
        Ok(Resident {
            all: bytes("VmRSS:")?,
            own: bytes("RssAnon:")?,
        })
    }

    /// Asks it to end and waits for that.
    pub(crate) fn stop(self) -> Result<(), RigError> {
        let pid = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM)
                .map_err(|errno| RigError::failed("cannot stop the server", errno))?;
        }
        self.ended()
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits for its end, which must be a clean one.
    pub(crate) fn ended(mut self) -> Result<(), RigError> {
        match self.process.wait(Instant::now() + LIMIT) {
            Ok(Some(status)) if status.success() => Ok(()),
            Ok(Some(status)) => Err(RigError::failed("the server", status)),
            Ok(None) => Err(RigError::failed("the server", "did not end")),
            Err(error) => Err(RigError::failed("cannot wait for the server", error)),
        }
    }
}

fn socket(directory: &Path, number: usize) -> PathBuf {
    directory.join(number.to_string())
}

/// One whole run: a server under `tool`, a client of each device of which the
/// last does `times` bursts of an access, and the server's end when they leave.
pub(crate) fn run(
    program: &Path,
    tool: &Tool,
    terms: Terms<'_>,
    access: Access,
    times: u32,
) -> Result<(), RigError> {
    let served = Served::start_on(
        program,
        tool,
        Terms {
            once: true,
            ..terms
        },
    )?;
    let mut clients = (0..terms.devices)
        .map(|number| served.client_of(number))
        .collect::<Result<Vec<_>, _>>()?;
    if let Some(client) = clients.last_mut() {
        client
            .repeat_bursts(access, times, terms.burst)
            .map_err(|error| RigError::failed(access, error))?;
    }
    drop(clients);
    served.ended()
}
