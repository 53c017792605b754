//! Starts a keeper with its server, and waits until QEMU can connect.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::bounded::{self, last_line};
use super::directory::InUse;
use super::keeper::{Job, LAUNCHER};
use super::report;
use crate::host::xenstore::wait;

/// More than a keeper's answer.
const MAX_ANSWER: u64 = 8192;
/// How long a keeper that has failed may take to end.
const PATIENCE: Duration = Duration::from_secs(1);
/// More than systemd-run says.
const MAX_SAID: usize = 8192;

/// What runs a keeper.
#[derive(Clone, Debug)]
pub(super) enum Runner {
    /// systemd: a transient unit of this name.
    Unit {
        systemd_run: PathBuf,
        name: String,
        about: String,
    },
    /// Nobody: it is a process of its own session. What it says goes to a
    /// file, or to our stderr.
    Process { log: Option<PathBuf> },
}

/// Starts a server in `directory` and waits until it is ready, at most until
/// `until`. If it fails, nothing of it is left.
///
/// # Errors
///
/// One line that names the cause.
pub(super) fn start(
    directory: InUse,
    job: &Job,
    runner: &Runner,
    until: Instant,
) -> Result<(), String> {
    let result = start_in(&directory, job, runner, until);
    if result.is_err() {
        // The keeper ends when it finds us gone; whoever removes it last does.
        let _ = directory.remove();
    }
    result
}

fn start_in(directory: &InUse, job: &Job, runner: &Runner, until: Instant) -> Result<(), String> {
    let path = directory.path().join(LAUNCHER);
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let listener = UnixListener::bind(&path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let program = std::env::current_exe().map_err(failed)?;
    let mut child = match runner {
        Runner::Unit {
            systemd_run,
            name,
            about,
        } => {
            run_unit(systemd_run, name, about, &program, job, until)?;
            None
        }
        Runner::Process { log } => Some(run_process(&program, job, log.as_deref())?),
    };
    let keeper = accept(&listener, child.as_mut(), until).inspect_err(|_| {
        // It shall not find the next launcher's socket.
        if let Some(child) = &mut child {
            let _ = child.kill();
        }
    })?;
    answer(&keeper, until).inspect_err(|_| leave(&keeper))
}

/// The unit, by systemd-run; only properties that systemd 219 knows.
fn run_unit(
    systemd_run: &Path,
    name: &str,
    about: &str,
    program: &Path,
    job: &Job,
    until: Instant,
) -> Result<(), String> {
    // systemd's name for it depends on the kind of control groups.
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let limit = if unified { "MemoryMax" } else { "MemoryLimit" };
    // The keeper needs little.
    let memory = job.memory.saturating_add(16 << 20);
    let run = || {
        let mut command = Command::new(systemd_run);
        command
            .arg("--quiet")
            .arg(format!("--unit={name}"))
            .arg(format!("--description={about}"))
            .arg(format!("--property={limit}={memory}"))
            .arg("--")
            .arg(program)
            .args(job.arguments());
        bounded::run(&mut command, until, MAX_SAID)
    };
    let failed = |error: io::Error| format!("{}: {error}", systemd_run.display());
    let mut ended = run().map_err(failed)?;
    if !ended.status.success() {
        // A unit that has failed keeps its name until someone asks.
        let systemctl = systemd_run.with_file_name("systemctl");
        for verb in ["stop", "reset-failed"] {
            let mut command = Command::new(&systemctl);
            // Without such a unit it says so.
            let _ = bounded::run(command.args([verb, name]), until, MAX_SAID);
        }
        ended = run().map_err(failed)?;
    }
    if ended.status.success() {
        return Ok(());
    }
    let said = last_line(&ended.said).unwrap_or_else(|| ended.status.to_string());
    Err(format!("{}: {said}", systemd_run.display()))
}

fn run_process(program: &Path, job: &Job, log: Option<&Path>) -> Result<Child, String> {
    let mut command = Command::new(program);
    command
        .args(job.arguments())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if let Some(log) = log {
        // Who cannot log serves all the same.
        command.stderr(report::open(log).map_or_else(|_| Stdio::null(), Stdio::from));
    }
    let child = command.spawn();
    child.map_err(|error| format!("{}: {error}", program.display()))
}

/// The keeper's connection. `child` is the keeper, if it is our child.
fn accept(
    listener: &UnixListener,
    mut child: Option<&mut Child>,
    until: Instant,
) -> Result<UnixStream, String> {
    loop {
        // Looked at before, so that one who connects and ends is heard.
        let ended = child.as_mut().and_then(|child| child.try_wait().ok()?);
        let next = until.min(Instant::now() + Duration::from_millis(20));
        wait(listener, PollFlags::IN, next);
        if let Ok((keeper, _)) = listener.accept() {
            return Ok(keeper);
        }
        if let Some(status) = ended {
            return Err(format!("the server's keeper ended at once: {status}"));
        }
        if Instant::now() >= until {
            return Err("the server's keeper has not started in time".to_owned());
        }
    }
}

/// Tells a keeper to end, and waits until it has: the last thing that it does
/// is to remove the directory, which another may have by then.
fn leave(mut keeper: &UnixStream) {
    let until = Instant::now() + PATIENCE;
    let _ = keeper.shutdown(Shutdown::Write);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let _ = keeper.set_read_timeout(Some(left.max(Duration::from_millis(1))));
        match keeper.read(&mut [0; 64]) {
            Ok(1..) if !left.is_zero() => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

/// Waits for the keeper's answer.
fn answer(keeper: &UnixStream, until: Instant) -> Result<(), String> {
    let left = until.saturating_duration_since(Instant::now());
    // Zero would be for ever.
    let left = left.max(Duration::from_millis(1));
    let _ = keeper.set_nonblocking(false);
    let _ = keeper.set_read_timeout(Some(left));
    let mut said = String::new();
    let mut keeper = keeper.take(MAX_ANSWER);
    let mut byte = [0; 1];
    while !said.ends_with('\n') {
        match keeper.read(&mut byte) {
            Ok(0) => return Err("the server's keeper was killed".to_owned()),
            Ok(_) => said.push(char::from(byte[0])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err("the server was not ready in time".to_owned()),
        }
    }
    match said.trim_end().strip_prefix("failed ") {
        None => Ok(()),
        Some(why) => Err(last_line(why).unwrap_or_default()),
    }
}
