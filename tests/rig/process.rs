//! Child processes with deadlines, and their output as lines.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::RigError;

/// A child process that does not outlive its handle.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    /// Takes over a child; it is killed and reaped on drop.
    pub(crate) fn new(child: Child) -> Self {
        Self(child)
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits for the end of the process, at most until `deadline`.
    pub(crate) fn wait(&mut self, deadline: Instant) -> io::Result<Option<ExitStatus>> {
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

    /// Kills the process and reaps it.
    pub(crate) fn kill(&mut self) {
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
pub(crate) fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
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

/// Runs a helper program to its end and returns its standard output.
///
/// A program that is absent is reported as missing, with `remedy`.
pub(crate) fn run(
    command: &mut Command,
    limit: Duration,
    remedy: &str,
) -> Result<String, RigError> {
    let name = described(command);
    command
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|error| RigError::missing(format!("cannot run {name}"), error, remedy))?;
    let output = child.stdout.take().map(lines_of);
    let errors = child.stderr.take().map(lines_of);
    let status = Process::new(child)
        .wait(Instant::now() + limit)
        .map_err(|error| RigError::failed(format!("cannot wait for {name}"), error))?;
    let joined = |lines: Option<Receiver<String>>| -> String {
        let lines: Vec<String> = lines.into_iter().flatten().collect();
        lines.join("\n")
    };
    match status {
        Some(status) if status.success() => Ok(joined(output)),
        Some(status) => Err(RigError::failed(
            format!("{name} ended with {status}"),
            joined(errors),
        )),
        None => Err(RigError::failed(name, format!("not done after {limit:?}"))),
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
