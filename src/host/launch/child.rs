//! The server as its keeper's child: what it is given, its limits, and what it
//! says.

use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::apart;
use super::bounded::last_line;
use super::directory::InUse;
use super::keeper::{Job, SOCKET, Way};
use super::xen;

/// A server has no more descriptors than this.
const MAX_FILES: u64 = 4096;
/// Nor more threads; it has about five.
const MAX_TASKS: u64 = 64;
/// More than any line that a server says.
const MAX_LINE: usize = 4096;

/// The file in a directory that a server leaves its successor, on Xen.
pub(super) const STATE: &str = "state";

/// A server that runs.
pub(super) struct Server {
    pub(super) child: Child,
    /// Has a byte when it is ready.
    pub(super) ready: PipeReader,
    /// What it says.
    pub(super) output: PipeReader,
}

/// What a server is given: its arguments, and the descriptors that they name.
#[derive(Default)]
struct Given {
    arguments: Vec<String>,
    descriptors: Vec<OwnedFd>,
}

impl Given {
    fn argument(&mut self, flag: &str, value: &impl ToString) {
        self.arguments.extend([flag.to_owned(), value.to_string()]);
    }

    fn descriptor(&mut self, flag: &str, descriptor: impl Into<OwnedFd>) {
        let descriptor = descriptor.into();
        self.argument(flag, &descriptor.as_raw_fd());
        self.descriptors.push(descriptor);
    }
}

impl Server {
    /// Starts one.
    pub(super) fn start(job: &Job, directory: &InUse) -> Result<Server, String> {
        let server = job.server.display();
        let failed = |error: io::Error| format!("cannot start {server}: {error}");
        let mut given = given(job, directory)?;
        let (ready, ready_fd) = io::pipe().map_err(failed)?;
        given.descriptor("--ready-fd", ready_fd);
        let (output, theirs) = io::pipe().map_err(failed)?;
        let mut command = Command::new(&job.server);
        command
            .arg("serve")
            .args(&given.arguments)
            .args(["--device", &job.device])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(theirs.try_clone().map_err(failed)?)
            .stderr(theirs);
        if let Some(uid) = job.uid {
            // The groups of whoever started us go with the user.
            command.uid(uid).gid(uid);
        }
        for fd in &given.descriptors {
            fcntl_setfd(fd, FdFlags::empty()).map_err(|error| failed(error.into()))?;
        }
        // With the lock the directory stays in use until the server has ended.
        let _ = fcntl_setfd(directory.lock(), FdFlags::empty());
        let child = command.spawn().map_err(failed);
        let _ = fcntl_setfd(directory.lock(), FdFlags::CLOEXEC);
        Ok(Server {
            child: child?,
            ready,
            output,
        })
    }
}

fn given(job: &Job, directory: &InUse) -> Result<Given, String> {
    let mut given = Given::default();
    match &job.way {
        Way::Socket { connect_timeout } => {
            let server = job.server.display();
            let path = directory.path().join(SOCKET);
            let socket = UnixListener::bind(path)
                .map_err(|error| format!("cannot start {server}: {error}"))?;
            given.arguments.push("--once".to_owned());
            given.descriptor("--fd", socket);
            given.argument("--first-client-within", connect_timeout);
        }
        Way::Domain { id, devices } => {
            given.argument("--xen", id);
            // Anew for each: a port belongs to the open file that bound it.
            let (privcmd, evtchn) = xen::descriptors(devices, *id)?;
            given.descriptor("--privcmd-fd", privcmd);
            given.descriptor("--evtchn-fd", evtchn);
            given.descriptor("--state-fd", state(directory.path())?);
        }
    }
    Ok(given)
}

/// What a server leaves its successor.
fn state(directory: &Path) -> Result<File, String> {
    let path = directory.join(STATE);
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    options
        .open(&path)
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// Sets what a server must not exceed. It takes over the keeper's limits, which
/// has nothing that they would hinder.
pub(super) fn limit(job: &Job) {
    let mut limits = vec![
        (Resource::Core, 0),
        (Resource::Data, job.memory),
        (Resource::Nofile, MAX_FILES),
    ];
    // They count for all of a user's processes.
    if job.uid.is_some() {
        limits.push((Resource::Nproc, MAX_TASKS));
        apart::leave_network();
    }
    for (resource, most) in limits {
        let most = Some(most);
        // A lower limit that holds already is as good.
        let _ = setrlimit(
            resource,
            Rlimit {
                current: most,
                maximum: most,
            },
        );
    }
    // Not even root's programs give it more rights.
    let _ = rustix::thread::set_no_new_privs(true);
}

/// What the server says: passed on, and the last line kept.
#[derive(Default)]
pub(super) struct Said {
    /// The end of it, since the last whole line before.
    kept: Vec<u8>,
}

impl Said {
    /// Passes on what is there; `false` when nothing will come any more.
    pub(super) fn read(&mut self, output: &mut PipeReader) -> bool {
        let mut chunk = [0; MAX_LINE];
        match output.read(&mut chunk) {
            Ok(0) => false,
            Ok(count) => {
                let _ = io::stderr().write_all(&chunk[..count]);
                self.kept.extend(&chunk[..count]);
                let excess = self.kept.len().saturating_sub(MAX_LINE);
                self.kept.drain(..excess);
                true
            }
            Err(error) => error.kind() == io::ErrorKind::Interrupted,
        }
    }

    /// How it ended, for a message.
    pub(super) fn ending(&self, status: ExitStatus) -> String {
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with status {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => "ended".to_owned(),
        };
        match last_line(&String::from_utf8_lossy(&self.kept)) {
            Some(line) => format!("{how}: {line}"),
            None => how,
        }
    }
}
