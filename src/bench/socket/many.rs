//! One device of many in a process: what the others cost it that do nothing.

use std::num::NonZeroUsize;
use std::path::Path;

use super::medium::Access;
use super::rows::{self, Server};
use crate::bench::waiting::Waiting;
use crate::bench::{Bench, Candidate, PeerKind, PeerOptions, Section, Trouble};

/// How many devices the process has.
const DEVICES: u32 = 256;

/// How many threads serve them, where they have not one each.
const THREADS: NonZeroUsize = NonZeroUsize::new(4).expect("4 is not 0");

/// Measures a read of one of many devices beside that of one alone, on the
/// same CPU; nothing after an interrupt.
pub(super) fn many(bench: &Bench<'_>, program: &Path) -> Option<Section> {
    if bench.plan.interrupt.raised() {
        return None;
    }
    let title = format!("socket: one of {DEVICES} devices in a process, same CPU, blocking");
    let mut section = Section::new(2, title);
    section.notes.push(format!(
        "The others have a client each, which does nothing. The floor is a process with the one \
         device; in the last row {THREADS} threads serve all."
    ));
    bench.measure(&mut section, || rows(bench, program));
    Some(section)
}

fn rows(bench: &Bench<'_>, program: &Path) -> Result<Vec<Candidate<'static>>, Trouble> {
    let start = |name, what, idle, threads| {
        let options = PeerOptions {
            cpu: Some(bench.plan.pinning.client),
            idle,
            threads,
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
    let floor = start("alone", "one device", 0, None)?;
    let idle = DEVICES - 1;
    let others = [
        start("threads", "one of 256, a thread each", idle, None)?,
        start("pool", "one of 256, four threads", idle, Some(THREADS))?,
    ];
    Ok(rows::rows("devices", &floor, &others))
}
