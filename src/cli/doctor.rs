//! `vgpu-stub doctor`: what is wrong with a host, and what to type.

use std::path::PathBuf;

use serde::Serialize;
use vgpu_stub::host::doctor::{self, Findings, Host, Row, Severity, State, Step, Target};

use super::failure::Failure;
use super::screen::{BAD, DIM, GOOD, Screen};

/// Say why a VM does not start with the device, and what to type.
///
/// Looks at the device model, the wrapper, xenopsd's configuration, the VM's
/// setting, its server and the logs, and changes nothing. Without --vm or
/// --domid it looks at the host and all its VMs.
///
/// Exit status: 0 nothing is wrong, 5 there are warnings, 6 something is
/// broken, 1 the doctor itself failed, 2 usage.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The VM.
    #[arg(long, value_name = "UUID", value_parser = parse_uuid)]
    vm: Option<String>,

    /// The domain.
    #[arg(long, value_name = "N", conflicts_with = "vm")]
    domid: Option<u32>,

    /// Look at a copy of a host's files, as of etc, usr and var/log. Nothing
    /// in it is executed, and no link leads out of it.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,

    /// Do what is safe: put a good backup of the device model back, make it
    /// executable, make the wrapper's link and drop-in, remove what dead
    /// domains left.
    #[arg(long)]
    fix: bool,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Everything, as JSON. The format's number changes when a reader of it
/// would have to.
#[derive(Debug, Serialize)]
struct Report<'a> {
    format: u32,
    /// What `--fix` did.
    #[serde(skip_serializing_if = "Option::is_none")]
    fixed: Option<Vec<String>>,
    /// What `--fix` could not do.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_fixed: Option<Vec<String>>,
    worst: Option<Severity>,
    checks: &'a Findings,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let findings = doctor::examine(&host(args)?);
    let done = args
        .fix
        .then(|| host(args).map(|host| doctor::mend(&host, &findings)));
    let done = done.transpose()?;
    // What was mended is looked at again.
    let findings = match &done {
        Some(done) if !done.is_empty() => doctor::examine(&host(args)?),
        _ => findings,
    };
    if args.json {
        json(&findings, done)?;
    } else {
        show(&findings, done);
    }
    match findings.worst() {
        None | Some(Severity::Note) => Ok(()),
        Some(Severity::Warning) => Err(Failure::warned()),
        Some(Severity::Broken) => Err(Failure::broken()),
    }
}

fn host(args: &Args) -> Result<Host, Failure> {
    let target = Target {
        vm: args.vm.clone(),
        domain: args.domid,
    };
    let Some(root) = &args.root else {
        return Ok(Host::live(target));
    };
    if !root.is_dir() {
        let root = root.display();
        return Err(Failure::failed(format!(
            "{root}: is not a directory; give the one that has etc, usr or var/log in it"
        )));
    }
    Ok(Host::copied(root, target))
}

fn json(findings: &Findings, done: Option<Vec<Result<String, String>>>) -> Result<(), Failure> {
    let (fixed, not_fixed) = match done {
        Some(done) => {
            let (fixed, not): (Vec<_>, Vec<_>) = done.into_iter().partition(Result::is_ok);
            let not = not.into_iter().filter_map(Result::err).collect();
            (Some(fixed.into_iter().flatten().collect()), Some(not))
        }
        None => (None, None),
    };
    let report = Report {
        format: 1,
        fixed,
        not_fixed,
        worst: findings.worst(),
        checks: findings,
    };
    let text = serde_json::to_string_pretty(&report).map_err(Failure::failed)?;
    Screen::new().line(text);
    Ok(())
}

fn show(findings: &Findings, done: Option<Vec<Result<String, String>>>) {
    let screen = &mut Screen::new();
    if let Some(done) = done {
        screen.title("Repairs");
        if done.is_empty() {
            screen.line("  nothing that could be done safely");
        }
        for one in done {
            match one {
                Ok(done) => screen.line(format_args!("  {GOOD}done{GOOD:#}    {done}")),
                Err(why) => screen.line(format_args!("  {BAD}failed{BAD:#}  {why}")),
            }
        }
    }
    // Rows of a group that say the same are one line.
    let alike = |one: &Row, other: &Row| {
        one.group == other.group && says(one).is_some() && says(one) == says(other)
    };
    let mut group = "";
    for rows in findings.rows().chunk_by(alike) {
        if rows[0].group != group {
            group = rows[0].group;
            screen.heading(group);
        }
        show_rows(screen, rows);
    }
    let count = |severity| {
        findings
            .found()
            .filter(|(_, found)| found.severity == severity)
            .count()
    };
    let (broken, warnings) = (count(Severity::Broken), count(Severity::Warning));
    screen.line("");
    if broken + warnings == 0 {
        screen.line(format_args!("{GOOD}nothing is wrong{GOOD:#}"));
        return;
    }
    let fixable = findings.found().filter(|(_, found)| found.fixable).count();
    let fix = match fixable {
        0 => String::new(),
        some => format!("; vgpu-stub doctor --fix does {some} of them"),
    };
    screen.line(format_args!(
        "{BAD}{broken} broken, {warnings} warnings{BAD:#}{fix}"
    ));
}

/// What a row says if nothing was found.
fn says(row: &Row) -> Option<&str> {
    match &row.state {
        State::Ok { seen: text } | State::Skipped { why: text } => Some(text),
        State::Found { .. } => None,
    }
}

fn show_rows(screen: &mut Screen, rows: &[Row]) {
    let id = match rows {
        [row] => row.id.to_owned(),
        [row, ..] => format!("{} and {} more", row.id, rows.len() - 1),
        [] => return,
    };
    match &rows[0].state {
        State::Ok { seen } => screen.line(format_args!(
            "  {GOOD}ok{GOOD:#}       {id:<28} {DIM}{seen}{DIM:#}"
        )),
        State::Skipped { why } => {
            screen.line(format_args!("  {DIM}-        {id:<28} {why}{DIM:#}"));
        }
        State::Found { findings } => {
            for finding in findings {
                let (style, word) = match finding.severity {
                    Severity::Broken => (BAD, "BROKEN"),
                    Severity::Warning => (BAD, "warning"),
                    Severity::Note => (DIM, "note"),
                };
                screen.line(format_args!(
                    "  {style}{word:<8}{style:#} {id}: {}",
                    finding.what
                ));
                if let Some(at) = &finding.at {
                    let line = at.line.map(|line| format!(":{line}")).unwrap_or_default();
                    screen.line(format_args!("           at:   {}{line}", at.file));
                }
                for step in &finding.remedy {
                    match step {
                        Step::Type(line) => screen.line(format_args!("           type: {line}")),
                        Step::Do(line) => screen.line(format_args!("           {line}")),
                    }
                }
            }
        }
    }
}

/// As xapi writes them.
fn parse_uuid(text: &str) -> Result<String, String> {
    let dashes = [8, 13, 18, 23];
    let fits = |(at, byte): (usize, u8)| {
        if dashes.contains(&at) {
            byte == b'-'
        } else {
            byte.is_ascii_hexdigit()
        }
    };
    if text.len() == 36 && text.bytes().enumerate().all(fits) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("is not a VM's UUID; xe vm-list prints them".to_owned())
    }
}
