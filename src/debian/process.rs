//! Child processes with deadlines, and their output as lines.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Error;

/// A child process that does not outlive its handle.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Takes over a child; it is killed and reaped on drop.
    pub fn new(child: Child) -> Self {
        Self(child)
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits for the end of the process, at most until `deadline`.
    ///
    /// # Errors
    ///
    /// If the kernel does not let us wait.
    pub fn wait(&mut self, deadline: Instant) -> io::Result<Option<ExitStatus>> {
        if let Some(status) = self.0.try_wait()? {
            return Ok(Some(status));
        }
        let pidfd = pidfd_open(Pid::from_child(&self.0), PidfdFlags::empty())?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
            let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => return Ok(None),
                Ok(_) => return self.0.wait().map(Some),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// As [`wait`](Self::wait), but only until told to stop.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn wait_unless(
        &mut self,
        stop: Stop<'_>,
        deadline: Instant,
    ) -> io::Result<Option<ExitStatus>> {
        loop {
            let status = self.wait(deadline.min(Instant::now() + TICK))?;
            if status.is_some() || stop() || Instant::now() >= deadline {
                return Ok(status);
            }
        }
    }

    /// Kills the process and reaps it.
    pub fn kill(&mut self) {
        // Both fail only for a child that is already reaped.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads `stream` to its end in a thread of its own and sends its lines.
pub fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        // An error is an end: a closed socket may report ECONNRESET.
        while matches!(stream.read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line);
            if sender
                .send(text.trim_end_matches(['\r', '\n']).to_owned())
                .is_err()
            {
                break;
            }
            line.clear();
        }
    });
    receiver
}

/// Whether to give up: asked ten times a second.
pub type Stop<'a> = &'a (dyn Fn() -> bool + Sync);

/// For those who do not give up.
pub const NEVER: Stop<'static> = &|| false;

/// How often [`Stop`] is asked.
const TICK: Duration = Duration::from_millis(100);

/// Runs a helper program to its end and returns its standard output.
///
/// A program that is absent is reported as missing, with `remedy`.
///
/// # Errors
///
/// See there; or if it fails or takes longer than `limit`.
pub fn run(command: &mut Command, limit: Duration, remedy: &str) -> Result<String, Error> {
    run_unless(NEVER, command, limit, remedy)
}

/// As [`run`], but kills the program when told to stop.
///
/// # Errors
///
/// As [`run`]'s, or if told to stop.
pub fn run_unless(
    stop: Stop<'_>,
    command: &mut Command,
    limit: Duration,
    remedy: &str,
) -> Result<String, Error> {
    let name = described(command);
    command
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| {
        let program = command.get_program().display();
        Error::missing(format!("cannot run {program}"), error, remedy)
    })?;
    let output = child.stdout.take().map(lines_of);
    let errors = child.stderr.take().map(lines_of);
    let status = Process::new(child)
        .wait_unless(stop, Instant::now() + limit)
        .map_err(|error| Error::failed(format!("cannot wait for {name}"), error))?;
    let joined = |lines: Option<Receiver<String>>| -> String {
        let lines: Vec<String> = lines.into_iter().flatten().collect();
        lines.join("\n")
    };
    match status {
        Some(status) if status.success() => Ok(joined(output)),
        Some(status) => Err(Error::failed(
            format!("{name} ended with {status}"),
            joined(errors),
        )),
        None if stop() => Err(Error::failed(name, "interrupted")),
        None => Err(Error::failed(name, format!("not done after {limit:?}"))),
    }
}

/// The program's file name and its first argument.
fn described(command: &Command) -> String {
    let name = std::path::Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program())
        .to_string_lossy();
    let first = command.get_args().next().map(OsStr::to_string_lossy);
    match first {
        Some(argument) => format!("{name} {argument}"),
        None => name.into_owned(),
    }
}
