//! Rung 1: from the endpoint to a register and back, in this process.

use std::hint::black_box;

use super::{Bench, Candidate, Clock, Section, Subject, Trouble, timed};
use crate::device::Register;
use crate::devices::{self, KINDS, StubRegister};
use crate::endpoint::Endpoint;

/// So many that reading the clock does not count.
const BATCH: u32 = 64;

const FLOOR: &str = "dispatch.floor";

/// Measures the endpoint, for each access width.
pub fn dispatch(bench: &Bench<'_>) -> Section {
    let mut section = Section::new(1, "dispatch: endpoint to register and back, in process");
    section.notes.push(format!(
        "A sample is {BATCH} accesses; their times are a {BATCH}th of it."
    ));
    bench.measure(&mut section, candidates);
    section
}

fn candidates() -> Result<Vec<Candidate<'static>>, Trouble> {
    let mut candidates = vec![Candidate {
        name: FLOOR.to_owned(),
        what: "floor: a virtual call".to_owned(),
        floor: None,
        batch: BATCH,
        subject: Box::new(VirtualCall(Box::new(Word(0)))),
    }];
    for (write, name) in [(false, "read"), (true, "write")] {
        for bytes in [1, 2, 4, 8] {
            candidates.push(Candidate {
                name: format!("dispatch.{name}.{bytes}"),
                what: format!("{name}, {} bits", 8 * bytes),
                floor: Some(FLOOR.to_owned()),
                batch: BATCH,
                subject: Box::new(Dispatch {
                    endpoint: stub()?,
                    bytes,
                    write,
                }),
            });
        }
    }
    Ok(candidates)
}

/// The stub behind an endpoint of its own.
pub(super) fn stub() -> Result<Endpoint, Trouble> {
    let failed = |error: &dyn std::fmt::Display| Trouble::new("cannot make a stub", error);
    let builder = KINDS[0]
        .builder(devices::Options::default())
        .map_err(|error| failed(&error))?;
    Endpoint::new(builder).map_err(|error| failed(&error))
}

/// The least that a device behind a `dyn` costs.
trait Copies {
    fn copy(&mut self, data: &mut [u8; 4]);
}

struct Word(u32);

impl Copies for Word {
    fn copy(&mut self, data: &mut [u8; 4]) {
        *data = self.0.to_le_bytes();
    }
}

struct VirtualCall(Box<dyn Copies>);

impl Subject for VirtualCall {
    fn sample(&mut self, clock: &Clock, ticks: &mut [u64]) -> Result<(), Trouble> {
        let mut data = [0; 4];
        timed(clock, ticks, BATCH, || {
            black_box(&mut self.0).copy(black_box(&mut data));
            Ok(())
        })
    }
}

struct Dispatch {
    endpoint: Endpoint,
    bytes: usize,
    write: bool,
}

impl Subject for Dispatch {
    fn sample(&mut self, clock: &Clock, ticks: &mut [u64]) -> Result<(), Trouble> {
        let mut data = [0; 8];
        let Dispatch {
            endpoint,
            bytes,
            write,
        } = self;
        let register = match bytes {
            8 => StubRegister::SCRATCH64,
            _ => StubRegister::SCRATCH,
        };
        let offset = u64::from(register.row().offset);
        timed(clock, ticks, BATCH, || {
            let data = black_box(&mut data[..*bytes]);
            let done = if *write {
                endpoint.write(0, black_box(offset), data)
            } else {
                endpoint.read(0, black_box(offset), data)
            };
            done.map_err(|error| Trouble::new("SCRATCH", error))
        })
    }
}
