//! The logs, read with an end to everything: of each file its last part, of
//! each line its first part, and only the lines that may say something.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use super::ask::Ask;
use super::causes;
use super::findings::Place;
use super::view::View;

/// Of a file, its last 32 MiB; of a line, its first 4 KiB; of a file's lines
/// that say something, the last 10 000.
const MOST_BYTES: u64 = 32 << 20;
const MOST_LINE: usize = 4 << 10;
const MOST_LINES: usize = 10_000;

/// The wrapper's own log.
pub(super) const WRAPPER: &str = "/var/log/vgpu-stub/wrapper.log";
/// In the order in which equal things in them count.
const FILES: [&str; 9] = [
    WRAPPER,
    "/var/log/daemon.log",
    "/var/log/xensource.log",
    "/var/log/messages",
    "/var/log/syslog",
    "/var/log/kern.log",
    "/var/log/audit/audit.log",
    "/var/log/user.log",
    "/var/log/xen/xl.log",
];
/// Where the newest file of a name is read.
const NEWEST: [(&str, &str); 4] = [
    ("/var/log/xen", "qemu-dm-"),
    ("/var/log/xen", "qemu-wrapper"),
    ("/var/log", "qemu-wrapper"),
    ("/var/log/libvirt/qemu", ""),
];
const JOURNALCTL: &str = "/usr/bin/journalctl";
const LIMIT: Duration = Duration::from_secs(15);

/// A line that may say something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub text: String,
    /// From 1; unknown in a file of which only the end was read.
    pub number: Option<u64>,
    /// Its time, in seconds that are good for comparing only.
    pub time: Option<u64>,
}

/// What was read of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Log {
    pub file: String,
    pub lines: VecDeque<Line>,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Logs {
    pub files: Vec<Log>,
    /// Files that are there and were not read: rotated ones.
    pub rotated: Vec<String>,
    /// Files that may not be read, and why.
    pub unreadable: Vec<(String, String)>,
}

impl Logs {
    pub(super) fn read(view: &View, ask: &dyn Ask) -> Logs {
        let mut logs = Logs::default();
        for file in FILES {
            logs.add(view, file);
        }
        for (directory, prefix) in NEWEST {
            if let Some(file) = newest(view, directory, prefix) {
                logs.add(view, &file);
            }
        }
        let arguments = ["-q", "-b", "--no-pager", "-o", "short", "-n", "20000"];
        if let Some(answer) = ask.ask(Path::new(JOURNALCTL), &arguments, LIMIT) {
            let mut journal = Log {
                file: "the journal (journalctl -b)".to_owned(),
                lines: VecDeque::new(),
            };
            for line in answer.said.lines() {
                let bytes = &line.as_bytes()[..line.len().min(MOST_LINE)];
                journal.keep(&String::from_utf8_lossy(bytes), None);
            }
            logs.files.push(journal);
        }
        logs.rotated = rotated(view);
        logs
    }

    fn add(&mut self, view: &View, file: &str) {
        if !view.exists(file) {
            return;
        }
        match Log::read(view, file) {
            Ok(log) => self.files.push(log),
            Err(error) => self.unreadable.push((file.to_owned(), error.to_string())),
        }
    }

    /// Each line with its log.
    pub(super) fn lines(&self) -> impl DoubleEndedIterator<Item = (&Log, &Line)> {
        self.files
            .iter()
            .flat_map(|log| log.lines.iter().map(move |line| (log, line)))
    }

    /// The last domain that a VM was given, by xenopsd's lines.
    pub(super) fn domain_of(&self, vm: &str) -> Option<u32> {
        let given = |line: &Line| Some(created(&line.text).filter(|(uuid, _)| *uuid == vm)?.1);
        self.lines().rev().find_map(|(_, line)| given(line))
    }

    /// The VM that was given a domain last.
    pub(super) fn vm_of(&self, domain: u32) -> Option<String> {
        let given = |line: &Line| {
            let (uuid, _) = created(&line.text).filter(|(_, id)| *id == domain)?;
            Some(uuid.to_owned())
        };
        self.lines().rev().find_map(|(_, line)| given(line))
    }
}

impl Log {
    fn read(view: &View, file: &str) -> std::io::Result<Log> {
        let mut stream = view.open(file)?;
        let size = stream.metadata()?.len();
        let from = size.saturating_sub(MOST_BYTES);
        stream.seek(SeekFrom::Start(from))?;
        let mut log = Log {
            file: file.to_owned(),
            lines: VecDeque::new(),
        };
        let mut stream = BufReader::new(stream.take(MOST_BYTES));
        let mut number = 0;
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let most = MOST_LINE as u64 + 1;
            if stream.by_ref().take(most).read_until(b'\n', &mut bytes)? == 0 {
                return Ok(log);
            }
            if bytes.last() != Some(&b'\n') {
                stream.skip_until(b'\n')?;
            }
            number += 1;
            let text = String::from_utf8_lossy(&bytes);
            // The first line of an end is half a line.
            if from == 0 || number > 1 {
                log.keep(&text, (from == 0).then_some(number));
            }
        }
    }

    fn keep(&mut self, text: &str, number: Option<u64>) {
        let text = text.trim_end();
        if !milestone(text) && causes::of(text).is_none() {
            return;
        }
        if self.lines.len() == MOST_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(Line {
            text: text.to_owned(),
            number,
            time: time(text),
        });
    }

    /// Where a line of it is.
    pub(super) fn place(&self, line: &Line) -> Place {
        Place {
            file: self.file.clone(),
            line: line.number,
        }
    }
}

/// The youngest file whose name starts so.
fn newest(view: &View, directory: &str, prefix: &str) -> Option<String> {
    let names = view.list(directory);
    let files = names
        .iter()
        .filter(|name| name.starts_with(prefix) && is_log(name))
        .filter_map(|name| {
            let file = format!("{directory}/{name}");
            Some((view.facts(&file).ok()?.modified, file))
        });
    files.max().map(|(_, file)| file)
}

fn is_log(name: &str) -> bool {
    name.strip_suffix(".log").is_some()
}

/// What logrotate put away of the files above.
fn rotated(view: &View) -> Vec<String> {
    let mut found = Vec::new();
    for directory in ["/var/log", "/var/log/vgpu-stub", "/var/log/xen"] {
        for name in view.list(directory) {
            let file = format!("{directory}/{name}");
            let of = |known: &&str| {
                file.strip_prefix(*known)
                    .is_some_and(|rest| rest.starts_with(['.', '-']))
            };
            let of_these = FILES.iter().any(of);
            let of_qemu = name.starts_with("qemu-dm-") && !is_log(&name);
            if of_these || of_qemu {
                found.push(file);
            }
        }
    }
    found
}

/// A line that tells where in a start we are.
fn milestone(text: &str) -> bool {
    failed(text) || started(text).is_some() || created(text).is_some()
}

/// xenopsd, or xapi after it, gave up.
pub(super) fn failed(text: &str) -> bool {
    const WORDS: [&str; 6] = [
        "Timeout reached while starting daemon",
        "Daemon exited unexpectedly",
        "Service exited unexpectedly",
        "Failed_to_start_emulator",
        "FAILED_TO_START_EMULATOR",
        "Ioemu_failed(",
    ];
    WORDS.iter().any(|word| text.contains(word))
}

/// xenopsd starts a domain's device model.
pub(super) fn started(text: &str) -> Option<u32> {
    number_after(text, "Device.Dm.start domid=")
        .or_else(|| number_after(text, "Daemon started: qemu-dm-"))
}

/// xenopsd made a domain for a VM.
pub(super) fn created(text: &str) -> Option<(&str, u32)> {
    let (_, rest) = text.split_once("VM = ")?;
    let (vm, rest) = rest.split_once("; domid = ")?;
    Some((vm, leading(rest)?))
}

/// Whose domain's line it is, if it says so.
pub(super) fn domain(text: &str) -> Option<u32> {
    const BEFORE: [&str; 9] = [
        "qemu-dm-",
        "domid=",
        "domid = ",
        "domid ",
        "domain=",
        "domain ",
        "vgpu-stub-dom-",
        "/vgpu-stub/",
        "/qemu/root-",
    ];
    BEFORE.iter().find_map(|before| number_after(text, before))
}

/// The first UUID in a line, in lower case as xapi writes them.
pub(super) fn uuid(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let is = |window: &[u8]| {
        let mut all = window.iter().enumerate();
        all.all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
    };
    let at = bytes.windows(36).position(is)?;
    text.get(at..at + 36)
}

fn number_after(text: &str, before: &str) -> Option<u32> {
    let (_, rest) = text.split_once(before)?;
    leading(rest)
}

fn leading(text: &str) -> Option<u32> {
    let digits = text.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// `Nov 21 12:00:01 ...`, `2026-11-21T12:00:01 ...` or `20261121T12:00:01`.
/// Years are left out, as most logs do. One in UTC (`Z`) is not comparable
/// with the others, which are in the host's time.
fn time(text: &str) -> Option<u64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let text = text.trim_start_matches(['[', '<']);
    let (month, day, clock) = if text.starts_with(|c: char| c.is_ascii_digit()) {
        let (date, clock) = text.split_once(['T', ' '])?;
        let digits: String = date.chars().filter(char::is_ascii_digit).collect();
        let month: u64 = digits.get(4..6)?.parse().ok()?;
        (month, digits.get(6..8)?.parse().ok()?, clock)
    } else {
        let mut words = text.split_ascii_whitespace();
        let name = words.next().filter(|name| name.len() == 3)?;
        let month = MONTHS.find(name).filter(|at| at % 3 == 0)? as u64 / 3 + 1;
        (month, words.next()?.parse::<u64>().ok()?, words.next()?)
    };
    if clock.split_ascii_whitespace().next()?.ends_with('Z') {
        return None;
    }
    let mut parts = clock.get(..8)?.splitn(3, ':').map(str::parse::<u64>);
    let mut part = || parts.next()?.ok().filter(|part| *part < 61);
    let (hours, minutes, seconds) = (part()?, part()?, part()?);
    let known = (1..=12).contains(&month) && day <= 31;
    let days = month * 31 + day;
    known.then_some(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_all_formats_are_comparable() {
        let syslog = time("Nov 21 12:00:01 host xenopsd-xc: x").unwrap();
        assert_eq!(time("2026-11-21T12:00:01+0000 host x"), Some(syslog));
        assert_eq!(time("[20261121T12:00:02.123|debug] x"), Some(syslog + 1));
        assert!(time("Dec  1 00:00:00 host x").unwrap() > syslog);
        for none in [
            "",
            "Nov",
            "Nov 21 x",
            "Novem 1 1:1:1",
            "2026-99-21T12:00:01",
            "2026-11-21T12:00:01Z vgpu-stub[1]: x",
            "\u{e9}\u{e9}\u{e9} 1 00:00:00",
        ] {
            assert_eq!(time(none), None, "{none}");
        }
    }

    #[test]
    fn a_line_says_whose_it_is() {
        assert_eq!(domain("host qemu-dm-12[99]: x"), Some(12));
        assert_eq!(domain("Device.Dm.start domid=3 action=Start"), Some(3));
        assert_eq!(domain("/run/vgpu-stub/4/socket"), Some(4));
        assert_eq!(domain("nothing"), None);
        let vm = "11111111-2222-3333-4444-555555555555";
        assert_eq!(uuid(&format!("S({vm});")), Some(vm));
        assert_eq!(uuid("1111-"), None);
        let line = "VM = 11111111-2222-3333-4444-555555555555; domid = 8";
        assert_eq!(
            created(line),
            Some(("11111111-2222-3333-4444-555555555555", 8))
        );
    }
}
