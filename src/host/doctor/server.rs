//! A domain's server: its unit, its process, its directory and its socket.

use std::path::Path;
use std::time::Duration;

use crate::client::{Client, Options};
use crate::host::launch;

use super::findings::{Check, Findings, Severity};
use super::host::{Host, RUN};
use super::processes;
use super::repair::Fix;
use super::text::quoted;
use super::view::Kind;
use super::{Group, face};

const UNIT: Check = Check::broken(
    "server.unit",
    "the server's unit, vgpu-stub-dom-DOMID.service",
);
const PROCESS: Check = Check::broken("server.process", "the server's process");
const SOCKET: Check = Check::broken("server.socket", "the server's socket");
const LISTENS: Check = Check::broken("server.listens", "whether somebody listens on the socket");
const ACCESS: Check = Check::warning(
    "server.access",
    "who may come to the directory and the socket",
);
const RESTARTS: Check = Check::warning(
    "server.restarts",
    "whether a server past QEMU had to be started again",
);
const ANSWERS: Check = Check::broken(
    "server.answers",
    "whether servers of one's own (vgpu-stub@NAME) answer as vfio-user says",
);
const STALE: Check = Check::warning("server.stale", "directories of domains that are gone");

pub(super) const GROUP: Group = Group {
    name: "server",
    checks: &[
        &UNIT, &PROCESS, &SOCKET, &LISTENS, &ACCESS, &RESTARTS, &ANSWERS, &STALE,
    ],
    look,
};

/// Where systemd runs the host, this exists.
const SYSTEMD: &str = "/run/systemd/system";
const SYSTEMCTL: &str = "/usr/bin/systemctl";
/// How long systemd, and a server, may take to answer.
const LIMIT: Duration = Duration::from_secs(5);
/// How many servers of one's own are asked.
const MOST: usize = 16;

fn look(host: &Host, findings: &mut Findings) {
    stale(host, findings);
    answers(host, findings);
    access(host, RUN, findings);
    let domains = match host.domain() {
        Some(domain) => vec![domain],
        None => host.wanting(),
    };
    for domain in domains {
        if host.setting(domain).is_some_and(super::host::is_on) {
            server(host, domain, findings);
        }
    }
}

/// How to see what a server said.
fn journal(domain: u32) -> String {
    format!("journalctl -u vgpu-stub-dom-{domain}.service")
}

/// How to get a server again: only the wrapper starts one.
fn again(host: &Host, domain: u32) -> String {
    let vm = host.store().and_then(|store| store.vm_of(domain));
    let vm = quoted(vm.as_deref().unwrap_or("UUID"));
    format!("xe vm-shutdown uuid={vm} --force && xe vm-start uuid={vm}")
}

fn server(host: &Host, domain: u32, findings: &mut Findings) {
    unit(host, domain, findings);
    let directory = format!("{RUN}/{domain}");
    let socket = format!("{directory}/socket");
    if !host.view.exists(&directory) {
        findings
            .found_in(&SOCKET, format!("domain {domain} is to have the device, but {directory} is not there: the wrapper did not run when the VM started"))
            .advice("put right what the group \"wrapper\" says, then:")
            .remedy(again(host, domain));
        return;
    }
    access(host, &directory, findings);
    process(host, domain, &directory, findings);
    if face::is_past_qemu(host, domain) {
        for check in [&SOCKET, &LISTENS] {
            findings.skip(check, format!("domain {domain} has the face ioreq"));
        }
        restarts(host, domain, &directory, findings);
        return;
    }
    match host.view.facts(&socket) {
        Ok(facts) if facts.kind == Kind::Socket => {
            findings.ok(&SOCKET, &socket);
            access(host, &socket, findings);
            listens(host, domain, &socket, findings);
        }
        Ok(_) => {
            findings
                .found_in(&SOCKET, format!("{socket} is not a socket"))
                .remedy(again(host, domain));
        }
        Err(error) => {
            findings
                .found_in(&SOCKET, format!("{socket}: {error}"))
                .remedy(journal(domain))
                .remedy(again(host, domain));
        }
    }
}

/// A server that died was replaced, and its guest went on; yet it died.
fn restarts(host: &Host, domain: u32, directory: &str, findings: &mut Findings) {
    let Ok(text) = host.view.text(format!("{directory}/{}", launch::RESTARTS)) else {
        findings.ok(&RESTARTS, format!("domain {domain}: never"));
        return;
    };
    let mut lines = text.lines();
    let count = lines.next().unwrap_or_default();
    let why = lines.next().unwrap_or_default();
    findings
        .found_in(
            &RESTARTS,
            format!("domain {domain}: {count} times, the last time because {why}"),
        )
        .remedy(journal(domain))
        .advice("the guest has gone on; report why the server ended");
}

fn unit(host: &Host, domain: u32, findings: &mut Findings) {
    if !host.view.exists(SYSTEMD) {
        findings.skip(&UNIT, "no systemd runs here");
        return;
    }
    let name = format!("vgpu-stub-dom-{domain}.service");
    let properties = [
        "LoadState",
        "ActiveState",
        "SubState",
        "Result",
        "ExecMainStatus",
    ];
    let mut arguments = vec!["show", &name];
    for property in properties {
        arguments.extend(["-p", property]);
    }
    let Some(answer) = host.ask.ask(Path::new(SYSTEMCTL), &arguments, LIMIT) else {
        findings.skip(&UNIT, "systemd cannot be asked here");
        return;
    };
    let value = |name: &str| {
        let line = |line: &str| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned());
        answer.said.lines().find_map(line).unwrap_or_default()
    };
    let active = value("ActiveState");
    if active == "active" {
        findings.ok(&UNIT, format!("{name} is {active} ({})", value("SubState")));
        return;
    }
    let what = if !answer.succeeded || active.is_empty() {
        format!("systemd does not tell of {name}: {}", answer.ended)
    } else if value("LoadState") == "not-found" {
        format!("{name} is not there: the server was not started, or has ended")
    } else {
        format!(
            "{name} is {active}: {}, status {}",
            value("Result"),
            value("ExecMainStatus")
        )
    };
    findings
        .found_in(&UNIT, what)
        .remedy(journal(domain))
        .remedy(again(host, domain));
}

fn process(host: &Host, domain: u32, directory: &str, findings: &mut Findings) {
    let file = format!("{directory}/pid");
    let Ok(text) = host.view.text(&file) else {
        findings.skip(&PROCESS, format!("no {file}"));
        return;
    };
    if !processes::known(&host.view) {
        findings.skip(&PROCESS, "no /proc here");
        return;
    }
    match text.trim().parse() {
        Ok(id) if processes::alive(&host.view, id) => {
            findings.ok(&PROCESS, format!("{id}"));
        }
        _ => {
            findings
                .found_in(
                    &PROCESS,
                    format!(
                        "domain {domain}: the server's process, {:?} by {file}, is gone",
                        text.trim()
                    ),
                )
                .remedy(journal(domain))
                .remedy(again(host, domain));
        }
    }
}

fn listens(host: &Host, domain: u32, socket: &str, findings: &mut Findings) {
    match processes::bound(&host.view, socket) {
        None => findings.skip(&LISTENS, "no /proc/net/unix here"),
        Some(bound) if bound.listens || bound.connections > 0 => {
            let clients = bound.connections;
            findings.ok(&LISTENS, format!("{socket}: {clients} connected"));
        }
        Some(_) => {
            findings
                .found_in(
                    &LISTENS,
                    format!("nobody listens on {socket}: its server has ended"),
                )
                .remedy(journal(domain))
                .remedy(again(host, domain));
        }
    }
}

/// Nobody else may come in: who connects has the guest's memory.
fn access(host: &Host, path: &str, findings: &mut Findings) {
    let Ok(facts) = host.view.facts(path) else {
        return;
    };
    // A directory is entered, a socket written to.
    let (wrong, mode) = match facts.kind {
        Kind::Directory => (facts.mode & 0o022, 0o755),
        _ => (facts.mode & 0o002, 0o660),
    };
    if wrong == 0 {
        findings.ok(
            &ACCESS,
            format!("{path}: mode {:04o}, uid {}", facts.mode, facts.uid),
        );
        return;
    }
    findings
        .found_in(
            &ACCESS,
            format!("{path} has mode {:04o}: others may write there", facts.mode),
        )
        .remedy(format!("chmod {mode:04o} {}", quoted(path)));
}

/// Asks servers that are free. A domain's server is not asked: it serves one
/// client, which is the VM's QEMU, and ends when that leaves.
fn answers(host: &Host, findings: &mut Findings) {
    if !host.ask.is_live() {
        findings.skip(&ANSWERS, "a copied tree's servers are not asked");
        return;
    }
    let names = host.view.list(RUN);
    let sockets = names.iter().filter(|name| name.ends_with(".socket"));
    let mut free = 0;
    for name in sockets.take(MOST) {
        let path = format!("{RUN}/{name}");
        let bound = processes::bound(&host.view, &path);
        if !bound.is_some_and(|bound| bound.listens && bound.connections == 0) {
            continue;
        }
        let options = Options::default().timeout(LIMIT);
        let answer = host
            .view
            .real(Path::new(&path))
            .map(|real| Client::connect(&real, &options));
        match answer {
            Ok(Ok(_)) => free += 1,
            Ok(Err(error)) => {
                findings
                    .found_in(&ANSWERS, format!("{path}: {error}"))
                    .remedy(format!("vgpu-stub probe --socket-path {}", quoted(&path)));
            }
            Err(_) => {}
        }
    }
    if free > 0 {
        findings.ok(&ANSWERS, format!("{free} free, and answering"));
    } else {
        findings.skip(&ANSWERS, format!("no free socket {RUN}/NAME.socket; a domain's server is not asked, as it serves one client and then ends"));
    }
}

fn stale(host: &Host, findings: &mut Findings) {
    // In this order: a domain is in xenstore before its directory is made.
    let names = host.view.list(RUN);
    let directories: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
    if directories.is_empty() {
        findings.skip(&STALE, format!("no domain's directory in {RUN}"));
        return;
    }
    let Some(store) = host.store() else {
        findings.skip(
            &STALE,
            "which domains there are is not known: no xenstore here",
        );
        return;
    };
    let domains = store.domains();
    for domain in directories
        .into_iter()
        .filter(|domain| !domains.contains(domain))
    {
        let directory = format!("{RUN}/{domain}");
        let finding = findings.found_in(&STALE, format!("{directory} is of a domain that is gone"));
        if running(host, &directory) {
            finding.severity(Severity::Warning).remedy(format!(
                "systemctl stop vgpu-stub-dom-{domain}.service && rm -r {directory}"
            ));
        } else {
            finding
                .remedy(format!("rm -r {directory}"))
                .fix(Fix::RemoveStale { domain });
        }
    }
    findings.ok(&STALE, "none");
}

/// Its server is still there.
pub(super) fn running(host: &Host, directory: &str) -> bool {
    let id = host.view.text(format!("{directory}/pid"));
    let id = id.ok().and_then(|text| text.trim().parse().ok());
    let bound = processes::bound(&host.view, &format!("{directory}/socket"));
    id.is_some_and(|id| processes::alive(&host.view, id))
        || bound.is_some_and(|bound| bound.listens || bound.connections > 0)
}
