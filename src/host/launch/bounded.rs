//! Runs a program that may take only so long and say only so much.

use std::io::{self, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::{OFlags, fcntl_setfl};

use crate::host::xenstore::wait;

/// How often to look whether it has ended without closing its output.
const LOOK: Duration = Duration::from_millis(10);

/// How it ended and what it said, on both its outputs.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) said: String,
}

/// Runs it to its end, but not beyond `until`, and keeps at most `most` bytes
/// of what it says.
///
/// # Errors
///
/// If it cannot be started, or `TimedOut`; it is killed then.
pub(super) fn run(command: &mut Command, until: Instant, most: usize) -> io::Result<Ended> {
    let (mut output, theirs) = io::pipe()?;
    fcntl_setfl(&output, OFlags::NONBLOCK)?;
    let errors = theirs.try_clone()?;
    command.stdin(Stdio::null()).stdout(theirs).stderr(errors);
    let mut child = command.spawn()?;
    // Ours of the pipe go with it, so that its end is seen.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut said = Vec::new();
    let mut chunk = [0; 4096];
    let mut open = true;
    let status = loop {
        // What it said is read after it has ended once more.
        let ended = child.try_wait()?;
        while open {
            match output.read(&mut chunk) {
                Ok(0) => open = false,
                Ok(count) => {
                    let room = most.saturating_sub(said.len());
                    said.extend(&chunk[..count.min(room)]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if let Some(status) = ended {
            break status;
        }
        if Instant::now() >= until {
            // It may have ended meanwhile.
            let _ = child.kill();
            child.wait()?;
            return Err(io::ErrorKind::TimedOut.into());
        }
        let next = until.min(Instant::now() + LOOK);
        if open {
            wait(&output, PollFlags::IN, next);
        } else {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    };
    let said = String::from_utf8_lossy(&said).into_owned();
    Ok(Ended { status, said })
}

/// The last line with something on it, made fit for a message.
pub(super) fn last_line(said: &str) -> Option<String> {
    let mut lines = said.lines().rev().map(str::trim);
    let line = lines.find(|line| !line.is_empty())?;
    let mut shown = line.chars().filter(|c| !c.is_control());
    let mut line: String = shown.by_ref().take(300).collect();
    if shown.next().is_some() {
        line.push_str("...");
    }
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, time: Duration, most: usize) -> io::Result<Ended> {
        let mut command = Command::new("sh");
        run(command.args(["-c", script]), Instant::now() + time, most)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_it_says_is_kept_up_to_the_limit() {
        let ended = shell("echo out; echo err >&2; exit 3", LONG, 1000).unwrap();
        assert_eq!(
            (ended.status.code(), ended.said.as_str()),
            (Some(3), "out\nerr\n")
        );
        let ended = shell("yes | head -c 1000000", LONG, 10).unwrap();
        assert_eq!(ended.said, "y\ny\ny\ny\ny\n");
    }

    #[test]
    fn it_is_killed_when_its_time_is_over() {
        let error = shell("exec sleep 600", Duration::from_millis(50), 10).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn one_that_leaves_its_output_to_another_has_still_ended() {
        let ended = shell("echo here; sleep 600 & echo $!", LONG, 1000).unwrap();
        let mut lines = ended.said.lines();
        assert_eq!(lines.next(), Some("here"));
        let other = lines.next().unwrap().parse().unwrap();
        let other = rustix::process::Pid::from_raw(other).unwrap();
        rustix::process::kill_process(other, rustix::process::Signal::KILL).unwrap();
    }

    #[test]
    fn the_last_line_is_short_and_printable() {
        assert_eq!(last_line("a\nb\x1b[0m\n \n").unwrap(), "b[0m");
        assert_eq!(last_line(" \n"), None);
        assert!(last_line(&"\u{e9}".repeat(1000)).unwrap().len() < 610);
    }
}
