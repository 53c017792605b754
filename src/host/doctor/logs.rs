//! The real error, out of the logs.

use std::cmp::Reverse;
use std::collections::VecDeque;

use super::Group;
use super::causes::{self, Cause, Remedy};
use super::findings::{Check, Findings, Severity};
use super::host::Host;
use super::log_lines::{self, Line, Log, Logs};
use super::text::quoted;

const READ: Check = Check::warning(
    "log.read",
    "the logs of xapi, xenopsd, qemu-dm and the wrapper",
);
const FAILURE: Check = Check::broken(
    "log.failure",
    "the toolstack's error, such as \"Timeout reached while starting daemon\"",
);

pub(super) const GROUP: Group = Group {
    name: "logs",
    checks: &CHECKS,
    look,
};

/// The two above, and a row for each cause.
const CHECKS: [&Check; 18] = {
    let mut all = [&READ; 18];
    all[1] = &FAILURE;
    let mut at = 0;
    while at < causes::CHECKS.len() {
        all[at + 2] = causes::CHECKS[at];
        at += 1;
    }
    all
};

/// How long before a failure its start may be, if no line tells of it: the
/// 300 seconds that xenopsd waits, and some.
const BEFORE: u64 = 320;
/// What is still told of a failed start after its end.
const AFTER: u64 = 60;

/// How many failures of a log are looked into, the last ones.
const MOST_FAILURES: usize = 64;

/// A start that failed: the toolstack's error, and when it was under way.
struct Failure<'a> {
    log: &'a Log,
    line: &'a Line,
    domain: Option<u32>,
    /// From when to when; unknown if its line has no time.
    span: Option<(u64, u64)>,
}

fn look(host: &Host, findings: &mut Findings) {
    let logs = host.logs();
    read(logs, findings);
    if logs.files.is_empty() {
        return;
    }
    let failure = last_failure(host, logs);
    let cause = first_cause(host, logs, failure.as_ref());
    let over = match (&failure, &cause) {
        (Some(failure), _) => is_over(logs, failure.line, failure.domain),
        (None, Some((_, line, _))) => is_over(logs, line, log_lines::domain(&line.text)),
        (None, None) => false,
    };
    if let Some(failure) = &failure {
        say_failure(host, logs, failure, (cause.is_some(), over), findings);
    }
    if let Some((log, line, cause)) = cause {
        say_cause(host, (log, line, cause), over, findings);
    }
    class_width(host, logs, findings);
    for check in GROUP.checks {
        findings.ok(check, "nothing in the logs");
    }
}

fn read(logs: &Logs, findings: &mut Findings) {
    for (file, why) in &logs.unreadable {
        findings
            .found_in(&READ, format!("{file}: {why}"))
            .advice("run the doctor as root");
    }
    if logs.files.is_empty() {
        findings
            .found_in(&READ, "there are no logs")
            .advice("with --root, DIR is what has var/log in it");
        return;
    }
    let mut seen = format!("{} files", logs.files.len());
    if let Some(first) = logs.rotated.first() {
        let (count, first) = (logs.rotated.len(), quoted(first));
        seen = format!(
            "{seen}; {count} rotated ones were not read (zgrep 'Timeout reached' {first} ...)"
        );
    }
    findings.ok(&READ, seen);
}

/// The last start that failed, of the VM that is meant.
fn last_failure<'a>(host: &Host, logs: &'a Logs) -> Option<Failure<'a>> {
    let (vm, domain) = (host.vm(), host.domain());
    let mut failures: Vec<Failure<'a>> = Vec::new();
    for log in &logs.files {
        let mut started = None;
        let mut of_log = VecDeque::new();
        for line in &log.lines {
            if let Some(domain) = log_lines::started(&line.text) {
                started = Some((domain, line.time));
            }
            if log_lines::failed(&line.text) {
                of_log.truncate(MOST_FAILURES - 1);
                of_log.push_front((line, started));
            }
        }
        let of_log = of_log.into_iter().rev();
        failures.extend(of_log.map(|(line, started)| Failure::new(log, line, started, logs)));
    }
    let meant = |failure: &Failure<'_>| {
        let named = log_lines::uuid(&failure.line.text);
        if named.is_some() && vm.is_some() {
            return named == vm.as_deref();
        }
        let of_vm = || {
            let failed = failure.domain.and_then(|domain| logs.vm_of(domain));
            failed.is_some() && failed == vm
        };
        let anything = vm.is_none() && domain.is_none();
        anything || (failure.domain.is_some() && failure.domain == domain) || of_vm()
    };
    // The first line of the last failure: xapi repeats what xenopsd said.
    let failures = failures.into_iter().filter(meant);
    let last = failures.max_by_key(|failure| {
        (
            failure.span.map(|(from, _)| from),
            Reverse(failure.line.time),
        )
    })?;
    Some(last)
}

impl<'a> Failure<'a> {
    fn new(log: &'a Log, line: &'a Line, started: Option<(u32, Option<u64>)>, logs: &Logs) -> Self {
        let own = log_lines::domain(&line.text);
        let started_for = |(domain, _): (u32, _)| {
            let whose = logs.vm_of(domain);
            let vm = log_lines::uuid(&line.text);
            vm.is_none() || whose.is_none() || whose.as_deref() == vm
        };
        let before = started.filter(|started| started_for(*started));
        let domain = own.or(before.map(|(domain, _)| domain));
        let span = line.time.map(|end| {
            let begun = started.filter(|(id, _)| Some(*id) == domain);
            let begun = begun.and_then(|(_, time)| time).filter(|time| *time <= end);
            let from = begun.unwrap_or(end.saturating_sub(BEFORE));
            (from, end.saturating_add(AFTER))
        });
        Failure {
            log,
            line,
            domain,
            span,
        }
    }

    /// A line may be of this start.
    fn covers(&self, line: &Line) -> bool {
        let other = log_lines::domain(&line.text)
            .zip(self.domain)
            .is_some_and(|(one, other)| one != other);
        let outside = line
            .time
            .zip(self.span)
            .is_some_and(|(time, (from, to))| time < from.saturating_sub(2) || time > to);
        !other && !outside
    }
}

type Found<'a> = (&'a Log, &'a Line, &'static Cause);

/// The first line that explains it; of a start that is still waited for, the
/// last.
fn first_cause<'a>(
    host: &Host,
    logs: &'a Logs,
    failure: Option<&Failure<'_>>,
) -> Option<Found<'a>> {
    let all = logs.lines().filter_map(|(log, line)| {
        let cause = causes::of(&line.text)?;
        (cause.check != &causes::CLASS_WIDTH).then_some((log, line, cause))
    });
    if let Some(failure) = failure {
        let covered = all.filter(|(_, line, _)| failure.covers(line));
        return covered.min_by_key(|(log, line, cause)| {
            // What has no time is of the newest file of its kind; but the
            // wrapper has one for all, of which the last lines count.
            let late = (log.file == log_lines::WRAPPER).then_some(Reverse(line.number));
            (!cause.strong, line.time.unwrap_or(u64::MAX), late)
        });
    }
    let (vm, domain) = (host.vm(), host.domain());
    let meant = |line: &Line| match (log_lines::domain(&line.text), domain) {
        (Some(one), Some(other)) => one == other,
        (None, Some(_)) => vm
            .as_ref()
            .is_none_or(|vm| !line.text.contains("VM") || line.text.contains(vm.as_str())),
        _ => true,
    };
    let ours = all.filter(|(_, line, cause)| cause.strong && meant(line));
    ours.max_by_key(|(_, line, _)| line.time)
}

/// The last start is a later one, of another domain, and did not fail.
fn is_over(logs: &Logs, line: &Line, domain: Option<u32>) -> bool {
    let Some(time) = line.time else { return false };
    let started = |line: &Line| Some((line.time?, log_lines::started(&line.text)?));
    let last = logs.lines().filter_map(|(_, line)| started(line)).max();
    let Some((from, started)) = last.filter(|(from, _)| *from > time) else {
        return false;
    };
    let bad = |line: &Line| {
        let strong = causes::of(&line.text).is_some_and(|cause| cause.strong);
        strong || log_lines::failed(&line.text)
    };
    let failed = logs.lines().any(|(_, line)| {
        let of = log_lines::domain(&line.text).is_none_or(|domain| domain == started);
        of && line.time.is_some_and(|time| time >= from) && bad(line)
    });
    Some(started) != domain && !failed
}

fn say_failure(
    host: &Host,
    logs: &Logs,
    failure: &Failure<'_>,
    (explained, over): (bool, bool),
    findings: &mut Findings,
) {
    let whose = match failure.domain {
        Some(domain) => format!("domain {domain}: "),
        None => String::new(),
    };
    let vm = host
        .vm()
        .or_else(|| failure.domain.and_then(|domain| logs.vm_of(domain)));
    let vm = quoted(vm.as_deref().unwrap_or("UUID"));
    let finding = findings.found_in(&FAILURE, format!("{whose}{}", message(&failure.line.text)));
    finding.at(failure.log.place(failure.line));
    if over {
        finding
            .severity(Severity::Note)
            .advice("a later start did not fail");
        return;
    }
    if explained {
        finding
            .advice("this is what xenopsd says whenever QEMU does not come up; the cause is below");
    } else {
        finding.advice("the logs do not say why; the newest /var/log/xen/qemu-dm-*.log and daemon.log are where it would be");
    }
    finding.remedy(format!("xe vm-param-remove uuid={vm} param-name=platform param-key=vgpu-stub && xe vm-start uuid={vm}   # once without the device: is it the cause?"));
}

fn say_cause(host: &Host, (log, line, cause): Found<'_>, over: bool, findings: &mut Findings) {
    let finding = findings.found_in(
        cause.check,
        format!("{}: {}", message(&line.text), cause.means),
    );
    finding.at(log.place(line));
    if over {
        finding.severity(Severity::Note);
    }
    let vm = quoted(host.vm().as_deref().unwrap_or("UUID"));
    for step in cause.remedy {
        match step {
            Remedy::Type(line) => finding.remedy(line.replace("UUID", &vm)),
            Remedy::Do(line) => finding.advice(line),
        };
    }
}

/// It does not stop a VM, and so is never the cause; but it is seen nowhere
/// else.
fn class_width(host: &Host, logs: &Logs, findings: &mut Findings) {
    let found = logs.lines().rev().find_map(|(log, line)| {
        let cause = causes::of(&line.text)?;
        (cause.check == &causes::CLASS_WIDTH).then_some((log, line, cause))
    });
    if let Some(found) = found {
        say_cause(host, found, false, findings);
    }
}

/// What is left of a line without its time, host and program.
fn message(text: &str) -> &str {
    // xapi's and xenopsd's: "[error||12 |task|brand] message".
    if let Some((_, rest)) = text.split_once("||")
        && let Some((_, message)) = rest.split_once("] ")
    {
        return message;
    }
    for mark in ["]: ", "qemu-system-i386: "] {
        if let Some((_, message)) = text.split_once(mark) {
            return message;
        }
    }
    text
}
