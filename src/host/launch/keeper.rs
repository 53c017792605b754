//! The keeper: a small process that has one server as its child.
//!
//! It gives the server its socket, its user and its limits, passes on what it
//! says, tells the launcher when it is ready or why it is not, and removes the
//! directory when it has ended. systemd 219 could do none of this for a
//! transient unit, and where no systemd runs it is the same.

use std::ffi::{OsStr, OsString};
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, setrlimit, setsid};
use signal_hook::consts::SIGTERM;

use super::apart;
use super::bounded::last_line;
use super::directory::InUse;

/// The launcher's socket in a directory.
pub(super) const LAUNCHER: &str = "launcher";
/// QEMU's.
pub(super) const SOCKET: &str = "socket";

/// A server has no more descriptors than this.
const MAX_FILES: u64 = 4096;
/// Nor more threads; it has about five.
const MAX_TASKS: u64 = 64;
/// More than any line that a server says.
const MAX_LINE: usize = 4096;

/// What a keeper is to do.
#[derive(Clone, Debug)]
pub struct Job {
    /// The directory that the launcher has made.
    pub directory: PathBuf,
    /// The program that serves.
    pub server: PathBuf,
    /// What it serves, as its `--device` takes it.
    pub device: String,
    /// The user and group that it runs as; the keeper's own without.
    pub uid: Option<u32>,
    /// The memory that it may use, in bytes.
    pub memory: u64,
    /// How long it waits for QEMU, in seconds.
    pub connect_timeout: u32,
}

impl Job {
    /// The command line of a keeper that does it, after the program's name.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["keep".into()];
        let mut add = |flag: &str, value: &OsStr| arguments.extend([flag.into(), value.to_owned()]);
        add("--directory", self.directory.as_os_str());
        add("--server", self.server.as_os_str());
        add("--device", self.device.as_ref());
        add("--memory", self.memory.to_string().as_ref());
        add(
            "--connect-timeout",
            self.connect_timeout.to_string().as_ref(),
        );
        if let Some(uid) = self.uid {
            add("--uid", uid.to_string().as_ref());
        }
        arguments
    }
}

/// Keeps a server until it ends. Call it before anything else is done in the
/// process: it closes every descriptor that is open.
///
/// # Errors
///
/// One line: why there was no server, or how it failed.
pub fn keep(job: &Job) -> Result<(), String> {
    apart::close_inherited();
    // Fails for one who leads a group already, which does as well.
    let _ = setsid();
    // Only who started it connects to its socket.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let path = &job.directory;
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    // Nobody is there to be served for.
    let mut launcher = UnixStream::connect(path.join(LAUNCHER)).map_err(failed)?;
    let _ = launcher.set_write_timeout(Some(Duration::from_secs(1)));
    let directory = InUse::join(path).map_err(failed)?;
    let end = serve(job, &directory, &mut launcher);
    if let Err(why) = &end {
        // Nobody listens once it has been ready.
        let _ = writeln!(launcher, "failed {why}");
    }
    directory.remove().map_err(failed)?;
    end
}

fn serve(job: &Job, directory: &InUse, launcher: &mut UnixStream) -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot start a server: {error}");
    let (stop, stopped) = UnixStream::pair().map_err(failed)?;
    signal_hook::low_level::pipe::register(SIGTERM, stop).map_err(failed)?;
    let (ready, mut output, mut server) = start(job, directory)?;
    let mut said = Said::default();
    let (mut ready, mut is_ready) = (Some(ready), false);
    let end = |server: &Child, signal| {
        // It has not been waited for: the number is still its own.
        let _ = kill_process(Pid::from_child(server), signal);
    };
    loop {
        let mut fds = vec![
            PollFd::new(&output, PollFlags::IN),
            PollFd::new(&stopped, PollFlags::IN),
        ];
        if let Some(ready) = &ready {
            fds.push(PollFd::new(ready, PollFlags::IN));
            fds.push(PollFd::new(&*launcher, PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                end(&server, Signal::KILL);
                return Err(failed(error.into()));
            }
        }
        let events: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let event = |number: usize| events.get(number) == Some(&true);
        if event(1) {
            let _ = (&stopped).read(&mut [0; 16]);
            end(&server, Signal::TERM);
        }
        if event(2)
            && let Some(mut pipe) = ready.take()
        {
            is_ready = matches!(pipe.read(&mut [0; 1]), Ok(1));
            // One that has gone is seen next time; there is no next time.
            if is_ready && writeln!(launcher, "ready").is_err() {
                end(&server, Signal::KILL);
            }
        } else if event(3) {
            // The launcher has given up.
            ready = None;
            end(&server, Signal::KILL);
        }
        if event(0) && !said.read(&mut output) {
            break;
        }
    }
    let status = server.wait().map_err(failed)?;
    if status.success() && is_ready {
        return Ok(());
    }
    let server = job.server.display();
    Err(format!("{server}: {}", said.ending(status)))
}

/// Starts the server: its pipes and itself.
fn start(job: &Job, directory: &InUse) -> Result<(PipeReader, PipeReader, Child), String> {
    let server = job.server.display();
    let failed = |error: io::Error| format!("cannot start {server}: {error}");
    let socket = UnixListener::bind(directory.path().join(SOCKET)).map_err(failed)?;
    let (ready, ready_fd) = io::pipe().map_err(failed)?;
    let (output, theirs) = io::pipe().map_err(failed)?;
    limit(job);
    let mut command = Command::new(&job.server);
    command
        .args(["serve", "--once", "--fd"])
        .arg(socket.as_raw_fd().to_string())
        .arg("--ready-fd")
        .arg(ready_fd.as_raw_fd().to_string())
        .arg("--first-client-within")
        .arg(job.connect_timeout.to_string())
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
    // With the lock the directory stays in use until the server has ended.
    let inherited = [socket.as_fd(), ready_fd.as_fd(), directory.lock().as_fd()];
    for fd in inherited {
        fcntl_setfd(fd, FdFlags::empty()).map_err(|error| failed(error.into()))?;
    }
    let child = command.spawn().map_err(failed)?;
    let _ = fcntl_setfd(directory.lock(), FdFlags::CLOEXEC);
    Ok((ready, output, child))
}

/// What the server must not exceed. It takes over the keeper's limits, which
/// has nothing that they would hinder.
fn limit(job: &Job) {
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
struct Said {
    /// The end of it, since the last whole line before.
    kept: Vec<u8>,
}

impl Said {
    /// Passes on what is there; `false` when nothing will come any more.
    fn read(&mut self, output: &mut PipeReader) -> bool {
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
    fn ending(&self, status: ExitStatus) -> String {
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

/// The socket that QEMU connects to.
pub(super) fn socket(directory: &Path) -> PathBuf {
    directory.join(SOCKET)
}
