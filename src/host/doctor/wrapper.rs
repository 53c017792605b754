//! The wrapper in front of the stock one, and how xenopsd comes to it.

use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::host::config::ConfigError;

use super::Group;
use super::drop_in::{Assignment, DIRECTORY, KEY};
use super::findings::{Check, Findings, Place, Severity};
use super::host::{Host, PROGRAM, WRAPPER};
use super::processes;
use super::repair::Fix;
use super::text::quoted;
use super::view::Kind;

const STOCK: Check = Check::broken("wrapper.stock", "the stock wrapper, which ours executes");
const LINK: Check = Check::broken(
    "wrapper.link",
    "the link that makes the program the wrapper",
);
const DROP_IN: Check = Check::broken(
    "wrapper.drop-in",
    "the drop-in that tells xenopsd of the wrapper",
);
const KEYS: Check = Check::broken(
    "wrapper.key",
    "the keys in xenopsd's configuration, which passes over what it does not know",
);
const PATH: Check = Check::broken("wrapper.path", "the path that counts for xenopsd");
const OVERRIDDEN: Check = Check::broken(
    "wrapper.overridden",
    "files that xenopsd reads after the drop-in",
);
const RESTARTED: Check = Check::broken(
    "wrapper.restarted",
    "whether xenopsd was restarted since its configuration changed",
);
const CONFIG: Check = Check::broken("wrapper.config", "the wrapper's own configuration");

pub(super) const GROUP: Group = Group {
    name: "wrapper",
    checks: &[
        &STOCK,
        &LINK,
        &DROP_IN,
        &KEYS,
        &PATH,
        &OVERRIDDEN,
        &RESTARTED,
        &CONFIG,
    ],
    look,
};

/// The drop-in, and what is in it.
const FILE: &str = "/etc/xenopsd.conf.d/vgpu-stub.conf";
pub(super) const LINE: &str =
    "upstream-compat-qemu-dm-wrapper=/usr/libexec/vgpu-stub/qemu-wrapper\n";
/// What xenopsd's process is called.
const XENOPSD: &str = "xenopsd-xc";
/// Restarting it is left to a person: running tasks of xapi end with it.
const RESTART: &str = "xe-toolstack-restart";

fn look(host: &Host, findings: &mut Findings) {
    if !host.is_whole() {
        for check in GROUP.checks {
            findings.skip(check, "only logs are here");
        }
        return;
    }
    link(host, findings);
    stock(host, findings);
    config(host, findings);
    if !host.has_xapi() {
        for check in [&DROP_IN, &KEYS, &PATH, &OVERRIDDEN, &RESTARTED] {
            findings.skip(
                check,
                format!(
                    "no xapi here: with xl, device_model_override=\"{WRAPPER}\" names the wrapper"
                ),
            );
        }
        return;
    }
    drop_in(host, findings);
    keys(host, findings);
    overridden(host, findings);
    path(host, findings);
    restarted(host, findings);
}

fn stock(host: &Host, findings: &mut Findings) {
    let stock = host.stock();
    let shown = stock.display();
    if let Ok(name) = host.view.name(&stock)
        && host
            .view
            .name(Path::new(PROGRAM))
            .is_ok_and(|program| program == name)
    {
        findings
            .found_in(
                &STOCK,
                format!("{shown} is vgpu-stub itself: it would execute itself for ever"),
            )
            .advice(format!(
                "take QEMU_WRAPPER out of {}, or name the stock wrapper there",
                host.configuration()
            ))
            .remedy("yum reinstall xenopsd-xc   # if the stock wrapper was replaced");
        return;
    }
    match host.view.facts(&stock) {
        Ok(facts) if facts.is_executable() => findings.ok(&STOCK, shown.to_string()),
        Ok(facts) if facts.kind == Kind::File => {
            findings
                .found_in(
                    &STOCK,
                    format!("{shown} has mode {:04o}: nobody may execute it", facts.mode),
                )
                .remedy(format!("chmod 0755 {}", quoted(&stock.to_string_lossy())))
                .fix(Fix::Chmod {
                    path: stock.clone(),
                });
        }
        Ok(_) => {
            findings
                .found_in(&STOCK, format!("{shown} is not a file"))
                .remedy("yum reinstall xenopsd-xc");
        }
        Err(error) => {
            findings
                .found_in(&STOCK, format!("{shown}: {error}"))
                .remedy("yum reinstall xenopsd-xc")
                .advice(format!(
                    "or name the stock wrapper as QEMU_WRAPPER= in {}",
                    host.configuration()
                ));
        }
    }
}

fn link(host: &Host, findings: &mut Findings) {
    let make = || Fix::Link {
        at: WRAPPER.into(),
        to: PROGRAM.into(),
    };
    let remedy = format!("ln -sfn {PROGRAM} {WRAPPER}");
    match host.view.link(WRAPPER) {
        Ok(target) => {
            let program = host.view.name(Path::new(PROGRAM));
            let name = host.view.name(Path::new(WRAPPER));
            match (name, program) {
                (Ok(name), Ok(program)) if name == program => {
                    findings.ok(&LINK, format!("{WRAPPER} is {PROGRAM}"));
                }
                // `host.program` says that.
                (_, Err(_)) => findings.skip(&LINK, format!("{PROGRAM} is not there")),
                _ => {
                    let target = target.display();
                    findings
                        .found_in(
                            &LINK,
                            format!("{WRAPPER} leads to {target}, not to {PROGRAM}"),
                        )
                        .remedy(remedy)
                        .fix(make());
                }
            }
        }
        Err(_) if host.view.exists(WRAPPER) => {
            findings
                .found_in(
                    &LINK,
                    format!(
                        "{WRAPPER} is not a link: an old copy does not change with the program"
                    ),
                )
                .severity(Severity::Warning)
                .remedy(remedy)
                .fix(make());
        }
        Err(_) => {
            findings
                .found_in(&LINK, format!("{WRAPPER} is not there"))
                .remedy(remedy)
                .fix(make());
        }
    }
}

fn drop_in(host: &Host, findings: &mut Findings) {
    let xenopsd = host.xenopsd();
    for (file, why) in &xenopsd.unreadable {
        findings
            .found_in(
                &DROP_IN,
                format!(
                    "{file}: {why}; xenopsd reads every file there, and does not start if it cannot"
                ),
            )
            .remedy(format!("mv {} /root/", quoted(file)));
    }
    if xenopsd.last(KEY).is_some_and(|said| said.value == WRAPPER) {
        findings.ok(&DROP_IN, format!("{KEY}={WRAPPER}"));
        return;
    }
    if xenopsd
        .of_file(FILE)
        .any(|said| said.key == KEY && said.value == WRAPPER)
    {
        // `wrapper.overridden` says by what.
        findings.ok(&DROP_IN, FILE);
        return;
    }
    let there = host.view.exists(FILE);
    let what = if there {
        format!("{FILE} does not say {}", LINE.trim_end())
    } else {
        format!("{FILE} is not there: xenopsd does not know of the wrapper")
    };
    let finding = findings.found_in(&DROP_IN, what);
    // It comes in a package of its own, which a host may do without.
    if !there {
        finding.remedy("rpm -Uvh vgpu-stub-xenopsd-*.rpm   # which has it; or by hand:");
    }
    if !host.is_wanted() {
        finding.severity(Severity::Warning);
    }
    finding
        .remedy(format!(
            "mkdir -p {DIRECTORY} && echo {} > {FILE}",
            LINE.trim_end()
        ))
        .remedy(RESTART)
        .fix(Fix::Write {
            path: FILE.into(),
            text: LINE,
        });
}

/// A key that looks like the right one, but is none.
fn keys(host: &Host, findings: &mut Findings) {
    let wrong = |said: &&Assignment| {
        let key = said.key.to_ascii_lowercase().replace('_', "-");
        said.key != KEY && (key.contains("qemu-dm-wrapper") || key.contains("compat-qemu"))
    };
    for said in host.xenopsd().assignments.iter().filter(wrong) {
        findings
            .found_in(
                &KEYS,
                format!("xenopsd passes over the key {:?}; it is {KEY:?}", said.key),
            )
            .at(place(said))
            .advice(format!("write {KEY}={} there", said.value))
            .remedy(RESTART);
    }
    findings.ok(&KEYS, "no misspelt one");
}

fn overridden(host: &Host, findings: &mut Findings) {
    let xenopsd = host.xenopsd();
    let ours = xenopsd
        .assignments
        .iter()
        .position(|said| said.key == KEY && said.value == WRAPPER);
    let last = xenopsd.assignments.iter().rposition(|said| said.key == KEY);
    let (Some(ours), Some(last)) = (ours, last) else {
        findings.skip(&OVERRIDDEN, "the drop-in is not there");
        return;
    };
    let said = &xenopsd.assignments[last];
    if last == ours || said.value == WRAPPER {
        findings.ok(&OVERRIDDEN, "nothing after it says otherwise");
        return;
    }
    findings
        .found_in(
            &OVERRIDDEN,
            format!(
                "{} is read after the drop-in and names {:?}",
                said.file, said.value
            ),
        )
        .at(place(said))
        .advice(format!(
            "if it is the wrapper that ours shall execute: QEMU_WRAPPER={} in {}",
            quoted(&said.value),
            host.configuration()
        ))
        .advice(format!(
            "take line {} out of {}",
            said.line,
            quoted(&said.file)
        ))
        .remedy(RESTART);
}

fn path(host: &Host, findings: &mut Findings) {
    let Some(said) = host.xenopsd().last(KEY) else {
        findings.skip(
            &PATH,
            "no file names one: xenopsd looks for qemu-wrapper in its search path",
        );
        return;
    };
    let shown = quoted(&said.value);
    if !said.value.starts_with('/') {
        findings
            .found_in(&PATH, format!("{shown} is not an absolute path"))
            .at(place(said))
            .advice(format!("write {KEY}={WRAPPER} there"))
            .remedy(RESTART);
        return;
    }
    match host.view.facts(&said.value) {
        Ok(facts) if facts.is_executable() => findings.ok(&PATH, &said.value),
        Ok(facts) => {
            let mode = facts.mode;
            let finding = findings.found_in(
                &PATH,
                format!("{shown} cannot be executed (mode {mode:04o})"),
            );
            finding
                .at(place(said))
                .remedy(format!("chmod 0755 {shown}"));
            if facts.kind == Kind::File {
                finding.fix(Fix::Chmod {
                    path: said.value.clone().into(),
                });
            }
        }
        Err(error) => {
            let finding = findings.found_in(
                &PATH,
                format!("{shown}: {error}: no HVM guest starts on this host"),
            );
            finding.at(place(said));
            if said.value == WRAPPER {
                finding.remedy(format!("ln -sfn {PROGRAM} {WRAPPER}"));
            } else {
                finding
                    .advice(format!("write {KEY}={WRAPPER} in {FILE}"))
                    .remedy(RESTART);
            }
        }
    }
}

fn restarted(host: &Host, findings: &mut Findings) {
    if !processes::known(&host.view) {
        findings.skip(&RESTARTED, "no /proc here");
        return;
    }
    let Some(started) = processes::started(&host.view, XENOPSD) else {
        findings
            .found_in(&RESTARTED, format!("{XENOPSD} does not run"))
            .remedy(RESTART)
            .remedy(format!(
                "systemctl status {XENOPSD}   # a file in {DIRECTORY} that cannot be read stops it"
            ));
        return;
    };
    let fragments = host.view.list(DIRECTORY);
    let changed = fragments.iter().filter_map(|name| {
        let file = format!("{DIRECTORY}/{name}");
        let modified = host.view.facts(&file).ok()?.modified;
        Some((modified, file))
    });
    match changed.max() {
        Some((modified, file)) if modified > started => {
            let later = seconds(modified, started);
            findings
                .found_in(
                    &RESTARTED,
                    format!(
                        "{file} changed {later} s after {XENOPSD} started, which has not read it"
                    ),
                )
                .remedy(RESTART);
        }
        _ => findings.ok(
            &RESTARTED,
            format!("{XENOPSD} started after the last change"),
        ),
    }
}

fn seconds(later: SystemTime, earlier: SystemTime) -> u64 {
    later
        .duration_since(earlier)
        .unwrap_or(Duration::ZERO)
        .as_secs()
}

fn place(said: &Assignment) -> Place {
    Place {
        file: said.file.clone(),
        line: Some(said.line),
    }
}

fn config(host: &Host, findings: &mut Findings) {
    let file = host.configuration();
    match host.config() {
        Err(error) => {
            let finding = findings.found_in(&CONFIG, error.to_string());
            if let ConfigError::Line { line, .. } = error {
                let line = *line as u64;
                finding.at(Place {
                    file: file.to_owned(),
                    line: Some(line),
                });
                finding.advice(format!("correct line {line} of {file}, or put # before it"));
            } else {
                finding.remedy(format!("mv {file} {file}.old && yum reinstall vgpu-stub"));
            }
        }
        Ok(_) if host.view.exists(file) => findings.ok(&CONFIG, file),
        Ok(_) => findings.ok(&CONFIG, format!("no {file}: all as by default")),
    }
}
