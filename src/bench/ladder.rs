//! The rungs, from the bottom.

use std::path::PathBuf;

use super::{Bench, OtherServer, Section, XenHost, dispatch, kvm, qemu, shared, socket};

/// The rungs that are measured unless others are asked for. The third needs
/// somebody else's server, the sixth runs inside a guest, and the seventh makes
/// one on a host that has others.
pub const USUAL_RUNGS: [u8; 4] = [1, 2, 4, 5];

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Ladder {
    /// The numbers of the rungs, 1 to 7; the sixth is not one of ours.
    pub rungs: Vec<u8>,
    /// This program, which is run again as a server of its own.
    pub program: PathBuf,
    /// The socket of another server: rung 3.
    pub socket_path: Option<PathBuf>,
    /// The QEMU of rungs 5 and 7; otherwise one is found or, for rung 5, fetched.
    pub qemu: Option<PathBuf>,
}

impl Ladder {
    /// Measures the rungs. What cannot be measured is a gap of its section.
    pub fn measure(&self, bench: &Bench<'_>) -> Vec<Section> {
        let path = self.socket_path.as_deref();
        let other = path.map(|path| OtherServer::look(path, &bench.plan.interrupt));
        let qemu = self.qemu.as_deref();
        let wanted = self.rungs.contains(&7);
        let host = wanted.then(|| XenHost::look(bench, qemu));
        bench.in_runs(|bench| self.climb(bench, other.as_ref(), host.as_ref()))
    }

    /// Measures each rung once.
    fn climb(
        &self,
        bench: &Bench<'_>,
        other: Option<&OtherServer>,
        host: Option<&XenHost>,
    ) -> Vec<Section> {
        let mut sections = Vec::new();
        for rung in 1..=7 {
            if bench.plan.interrupt.raised() {
                break;
            }
            match rung {
                rung if !self.rungs.contains(&rung) => {}
                1 => sections.push(dispatch(bench)),
                2 => {
                    sections.extend(socket(bench, &self.program));
                    sections.extend(shared(bench, &self.program));
                }
                3 => sections.extend(other.map(|other| other.measure(bench, &self.program))),
                4 => sections.extend(kvm(bench, &self.program)),
                5 => sections.extend(qemu(bench, &self.program, self.qemu.as_deref())),
                7 => sections.extend(host.map(|host| host.measure(bench, &self.program))),
                _ => {}
            }
        }
        sections
    }
}
