//! What is wrong with a host whose VM does not start with the device, and
//! what to type: the runbook as checks.
//!
//! A check is a row: an id, what it looks at, how bad it is. A group of them
//! looks at a [`Host`], the machine itself or a tree that was copied, and says
//! of each row that all is well, what is wrong, or why it was not looked at.

pub mod ask;
mod backups;
mod basics;
mod causes;
mod device_model;
mod drop_in;
mod elf;
mod face;
mod findings;
mod host;
mod log_lines;
mod logs;
mod processes;
mod repair;
mod server;
mod store;
mod text;
mod view;
mod vm;
mod wrapper;
mod xapi;

pub use findings::{Check, Finding, Findings, Place, Row, Severity, State, Step};
pub use host::{Host, Target};
pub use repair::{Fix, mend};

/// A group of checks: its name, its rows, and who looks.
struct Group {
    name: &'static str,
    checks: &'static [&'static Check],
    look: fn(&Host, &mut Findings),
}

/// All groups, in the order of the runbook.
const GROUPS: [&Group; 8] = [
    &basics::GROUP,
    &device_model::GROUP,
    &backups::GROUP,
    &wrapper::GROUP,
    &vm::GROUP,
    &face::GROUP,
    &server::GROUP,
    &logs::GROUP,
];

/// Every check: the name of its group, and itself.
pub fn checks() -> impl Iterator<Item = (&'static str, &'static Check)> {
    GROUPS
        .iter()
        .flat_map(|group| group.checks.iter().map(|check| (group.name, *check)))
}

/// Looks at everything. Changes nothing.
pub fn examine(host: &Host) -> Findings {
    let mut findings = Findings::default();
    for group in GROUPS {
        findings.begin(group.name, group.checks);
        (group.look)(host, &mut findings);
    }
    findings
}
