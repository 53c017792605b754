//! Runs the built program as its users do.
#![allow(dead_code, reason = "each test file uses part of it")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, pipe};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use rustix::io::FdFlags;
use rustix::process::{Pid, Signal, kill_process};

/// The program with its arguments.
pub(crate) fn program<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vgpu-stub"));
    command.args(arguments);
    // What a supervisor of the test itself may have left.
    for variable in [
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
    ] {
        command.env_remove(variable);
    }
    command
}

/// Runs the program to its end.
pub(crate) fn output<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>) -> Output {
    program(arguments).output().unwrap()
}

/// A program that is ready to serve; killed when dropped.
pub(crate) struct Serving {
    child: Option<Child>,
}

impl Serving {
    /// Starts `serve` with these arguments and waits until it is ready.
    pub(crate) fn start<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>) -> Self {
        Self::start_with(arguments, |_| {})
    }

    /// The same, with more said about its process.
    pub(crate) fn start_with<I: AsRef<OsStr>>(
        arguments: impl IntoIterator<Item = I>,
        prepare: impl FnOnce(&mut Command),
    ) -> Self {
        let (ready, theirs) = pipe().unwrap();
        let mut command = program(["serve", "--ready-fd"]);
        let number = inherit(&mut command, theirs.into());
        command.arg(number.to_string());
        command.args(arguments).stderr(Stdio::piped());
        prepare(&mut command);
        let child = command.spawn().unwrap();
        // The parent's copy of the pipe goes with the command.
        drop(command);
        let mut line = String::new();
        BufReader::new(ready).read_line(&mut line).unwrap();
        let serving = Serving { child: Some(child) };
        assert_eq!(line, "\n", "the program ended before it was ready");
        serving
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Sends a signal and returns how the program ended and what it said.
    pub(crate) fn end(mut self, signal: Signal) -> (ExitStatus, String) {
        let child = self.child.as_ref().unwrap();
        kill_process(Pid::from_child(child), signal).unwrap();
        self.wait()
    }

    /// Waits for the end.
    pub(crate) fn wait(&mut self) -> (ExitStatus, String) {
        let mut child = self.child.take().unwrap();
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        (child.wait().unwrap(), said)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Has a command inherit a descriptor; returns its number there.
pub(crate) fn inherit(command: &mut Command, fd: OwnedFd) -> i32 {
    let number = fd.as_raw_fd();
    let keep = move || Ok(rustix::io::fcntl_setfd(&fd, FdFlags::empty())?);
    // SAFETY: between fork and exec it makes one system call and does not
    // allocate.
    #[allow(unsafe_code, reason = "the only way to pass a descriptor on")]
    unsafe {
        command.pre_exec(keep);
    }
    number
}

/// The path as text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
