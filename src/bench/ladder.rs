//! The rungs, from the bottom.

use std::path::PathBuf;

use super::{Bench, Section, dispatch, kvm, other_server, qemu, socket};

/// The rungs that are measured unless others are asked for. The third needs
/// somebody else's server, the sixth runs inside a guest.
pub const USUAL_RUNGS: [u8; 4] = [1, 2, 4, 5];

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Ladder {
    /// The numbers of the rungs, 1 to 5.
    pub rungs: Vec<u8>,
    /// This program, which is run again as a server of its own.
    pub program: PathBuf,
    /// The socket of another server: rung 3.
    pub socket_path: Option<PathBuf>,
    /// The QEMU of rung 5; otherwise one is found or fetched.
    pub qemu: Option<PathBuf>,
}

impl Ladder {
    /// Measures the rungs. What cannot be measured is a gap of its section.
    pub fn measure(&self, bench: &Bench<'_>) -> Vec<Section> {
        let mut sections = Vec::new();
        for rung in 1..=5 {
            if bench.plan.interrupt.raised() {
                break;
            }
            if self.rungs.contains(&rung) {
                sections.extend(self.rung(rung, bench));
            }
        }
        sections
    }

    fn rung(&self, rung: u8, bench: &Bench<'_>) -> Vec<Section> {
        match rung {
            1 => vec![dispatch(bench)],
            2 => socket(bench, &self.program),
            3 => {
                let path = self.socket_path.as_deref();
                path.map(|path| other_server(bench, &self.program, path))
                    .into_iter()
                    .collect()
            }
            4 => kvm(bench, &self.program),
            5 => qemu(bench, &self.program, self.qemu.as_deref()),
            _ => Vec::new(),
        }
    }
}
