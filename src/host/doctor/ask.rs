//! Questions to other programs, each with an end: in time and in size.

use std::fmt;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// What is kept of a program's output.
const MOST: u64 = 8 << 20;
/// How often a program that closed its output is asked whether it has ended.
const TICK: Duration = Duration::from_millis(5);

/// What a program said, and how it ended.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Standard output and then standard error, each cut after 8 MiB.
    pub said: String,
    /// It ended with status 0.
    pub succeeded: bool,
    /// How it ended, in words.
    pub ended: String,
}

/// Somebody who can be asked to run a program. None of a copied tree.
pub trait Ask: fmt::Debug {
    /// Runs `program` (a path) and waits at most `limit` for it. `None` if
    /// it cannot be run.
    fn ask(&self, program: &Path, arguments: &[&str], limit: Duration) -> Option<Answer>;

    /// Its servers may be asked, too.
    fn is_live(&self) -> bool {
        true
    }
}

/// This machine.
#[derive(Clone, Copy, Debug)]
pub struct Live;

impl Ask for Live {
    fn ask(&self, program: &Path, arguments: &[&str], limit: Duration) -> Option<Answer> {
        let mut child = Command::new(program)
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Whatever it starts goes with it.
            .process_group(0)
            .spawn()
            .ok()?;
        let until = Instant::now() + limit;
        let parts = [
            child.stdout.take().map(collect),
            child.stderr.take().map(collect),
        ];
        let mut said = String::new();
        for part in parts.into_iter().flatten() {
            let left = until.saturating_duration_since(Instant::now());
            if let Ok(bytes) = part.recv_timeout(left) {
                said.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
        let status = wait(&mut child, until);
        let ended = match status {
            Some(status) => status.to_string(),
            None => format!("no end after {} s", limit.as_secs()),
        };
        Some(Answer {
            said,
            succeeded: status.is_some_and(|status| status.success()),
            ended,
        })
    }
}

/// Reads a stream in a thread of its own. What is beyond the limit is read
/// too, so that the program does not wait for us, and dropped.
fn collect(mut stream: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // An error is an end.
        let _ = stream.by_ref().take(MOST).read_to_end(&mut bytes);
        let _ = sender.send(bytes);
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    receiver
}

/// Waits until then, and kills what is left. A dom0's kernel has no pidfd.
fn wait(child: &mut Child, until: Instant) -> Option<ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < until => thread::sleep(TICK),
            _ => break,
        }
    }
    if let Ok(id) = i32::try_from(child.id())
        && let Some(group) = Pid::from_raw(id)
    {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
    None
}

/// Nobody: a copied tree does not run.
#[derive(Clone, Copy, Debug)]
pub struct Nobody;

impl Ask for Nobody {
    fn ask(&self, _: &Path, _: &[&str], _: Duration) -> Option<Answer> {
        None
    }

    fn is_live(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: &str = "/bin/sh";

    fn ask(script: &str, limit: Duration) -> Answer {
        let answer = Live.ask(Path::new(SHELL), &["-c", script], limit);
        answer.expect("there is a shell")
    }

    #[test]
    fn both_streams_and_the_end_are_told() {
        let answer = ask("echo out; echo err >&2; exit 3", Duration::from_secs(60));
        assert_eq!(answer.said, "out\nerr\n");
        assert!(!answer.succeeded);
        assert!(answer.ended.contains('3'), "{}", answer.ended);
    }

    #[test]
    fn a_program_that_does_not_end_is_ended_with_its_children() {
        let answer = ask(
            "echo here; sleep 1000 & sleep 1000",
            Duration::from_millis(200),
        );
        assert!(!answer.succeeded);
        assert!(answer.ended.contains("no end"), "{}", answer.ended);
    }

    #[test]
    fn a_program_that_is_not_there_gives_no_answer() {
        let nothing = Live.ask(Path::new("/nonexistent"), &[], Duration::from_secs(1));
        assert!(nothing.is_none());
    }
}
