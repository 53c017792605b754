//! One device of many in a process: what the others cost it that do nothing.

use std::path::Path;

use super::medium::Access;
use super::rows::{self, Server};
use crate::bench::waiting::Waiting;
use crate::bench::{Bench, Candidate, PeerKind, PeerOptions, Section, Trouble};

/// How many devices the process has.
const DEVICES: u32 = 256;

/// Measures a read of one of many devices beside that of one alone, on the
/// same CPU; nothing after an interrupt.
pub(super) fn many(bench: &Bench<'_>, program: &Path) -> Option<Section> {
    if bench.plan.interrupt.raised() {
        return None;
    }
    let title = format!("socket: one of {DEVICES} devices in a process, same CPU, blocking");
    let mut section = Section::new(2, title);
    section.notes.push(String::from(
        "The others have a client each, which does nothing. The floor is a process with the one \
         device.",
    ));
    bench.measure(&mut section, || rows(bench, program));
    Some(section)
}

fn rows(bench: &Bench<'_>, program: &Path) -> Result<Vec<Candidate<'static>>, Trouble> {
    let start = |name, what, idle| {
        let options = PeerOptions {
            cpu: Some(bench.plan.pinning.client),
            idle,
            ..PeerOptions::of(PeerKind::Stub)
        };
        let interrupt = &bench.plan.interrupt;
        let accesses = |_| vec![Access::Read];
        let server = super::server(program, &options, Waiting::Block, interrupt, accesses)?;
        Ok::<Server, Trouble>(Server {
            name,
            what,
            ..server
        })
    };
    let floor = start("alone", "one device", 0)?;
    let idle = DEVICES - 1;
    let others = start("threads", "one of 256, a thread each", idle)?;
    Ok(rows::rows("devices", &floor, &[others]))
}
