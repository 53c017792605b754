//! What the wrapper says: a line to stderr, to syslog and to its log.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use rustix::time::{ClockId, clock_gettime};

/// How important a line is, as syslog's facility `daemon` has it.
#[derive(Clone, Copy)]
enum Level {
    Error = 24 + 3,
    Warning = 24 + 4,
    Info = 24 + 6,
}

/// Where lines go.
#[derive(Debug)]
pub(super) struct Report {
    log: PathBuf,
    /// What all lines are about.
    about: String,
}

impl Report {
    pub(super) fn new(log: &Path, about: String) -> Report {
        Report {
            log: log.to_owned(),
            about,
        }
    }

    /// The VM does not start.
    pub(super) fn error(&self, text: &str) {
        self.line(Level::Error, text);
    }

    /// It does, but not as was asked for.
    pub(super) fn warning(&self, text: &str) {
        self.line(Level::Warning, &format!("warning: {text}"));
    }

    /// For the log only.
    pub(super) fn info(&self, text: &str) {
        self.line(Level::Info, text);
    }

    /// Whoever cannot be told is not.
    fn line(&self, level: Level, text: &str) {
        let text = format!("{}: {text}", self.about);
        if !matches!(level, Level::Info) {
            let _ = writeln!(io::stderr(), "vgpu-stub: {text}");
        }
        let pid = std::process::id();
        if let Ok(syslog) = UnixDatagram::unbound() {
            // A syslog that hangs hangs nobody else.
            let _ = syslog.set_nonblocking(true);
            let line = format!("<{}>vgpu-stub[{pid}]: {text}", level as u8);
            let _ = syslog.send_to(line.as_bytes(), "/dev/log");
        }
        if let Ok(mut file) = open(&self.log) {
            let now = clock_gettime(ClockId::Realtime).tv_sec;
            let line = format!("{} vgpu-stub[{pid}]: {text}\n", timestamp(now));
            let _ = file.write_all(line.as_bytes());
        }
    }
}

/// Opens a log to add to it.
pub(super) fn open(log: &Path) -> io::Result<File> {
    if let Some(directory) = log.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o640).open(log)
}

/// A time in seconds since 1970 as RFC 3339 has it, in UTC.
fn timestamp(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years that begin in March have their odd day at the end, in eras of 400.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = era * 400 + year + next;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_date_prints_it() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_265_040, "2026-11-21T12:44:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(timestamp(seconds), text);
        }
    }
}
