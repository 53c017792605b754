//! A child process in a group of its own, so that a terminal's Ctrl-C reaches
//! us alone. It outlives neither its handle nor the thread that started it.
#![allow(
    unsafe_code,
    reason = "what a child does before it becomes its program is unsafe to say"
)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, getpid, getppid, kill_process_group, set_parent_process_death_signal,
};

use crate::debian::process::{Process, lines_of};

/// How long the rest of its messages may take once it has ended.
const WORDS_LIMIT: Duration = Duration::from_millis(500);

/// A running process, whose standard error is kept.
#[derive(Debug)]
pub(in crate::bench) struct Child {
    process: Process,
    errors: Receiver<String>,
    reaped: bool,
}

impl Child {
    /// Starts it; standard output goes nowhere.
    pub(in crate::bench) fn start(command: &mut Command) -> io::Result<Self> {
        let parent = Some(getpid());
        let die_together = move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // It may have ended before that.
            if getppid() == parent {
                Ok(())
            } else {
                Err(io::ErrorKind::NotConnected.into())
            }
        };
        // SAFETY: two system calls, which neither allocate nor take a lock.
        unsafe { command.pre_exec(die_together) };
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let errors = child.stderr.take();
        let process = Process::new(child);
        let errors = errors.ok_or_else(|| io::Error::other("it has no standard error"))?;
        Ok(Child {
            process,
            errors: lines_of(errors),
            reaped: false,
        })
    }

    /// Its process id.
    pub(in crate::bench) fn id(&self) -> u32 {
        self.process.id()
    }

    /// How it ended, if it did.
    pub(in crate::bench) fn ended(&mut self) -> Option<ExitStatus> {
        self.wait(Duration::ZERO)
    }

    /// How it ended, if it does so within this time.
    pub(in crate::bench) fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        // That it cannot be waited for is noticed at the caller's deadline.
        let status = self.process.wait(Instant::now() + limit).ok().flatten();
        self.reaped |= status.is_some();
        status
    }

    /// Kills it and returns the last line that it wrote, after `what`.
    pub(in crate::bench) fn last_words(&mut self, what: &str) -> String {
        self.kill();
        let mut last = None;
        while let Ok(line) = self.errors.recv_timeout(WORDS_LIMIT) {
            if !line.trim().is_empty() {
                last = Some(line);
            }
        }
        match last {
            Some(line) => format!("{what}: {}", line.trim()),
            None => what.to_owned(),
        }
    }

    fn kill(&mut self) {
        // Once it is reaped, its number may be another's.
        let group = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw);
        if let (Some(group), false) = (group, self.reaped) {
            // It may just have ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
        self.process.kill();
        self.reaped = true;
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}
