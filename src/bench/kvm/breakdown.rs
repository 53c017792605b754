//! Where the time of a read over a socket goes.
//!
//! Both processes take the time of the same clock. Between two exits of the
//! guest there are eight points in time; each part is from one to the next,
//! so the parts of one read add up to it.

use std::path::Path;
use std::time::Instant;

use super::answer::{Answer, Place, Socket, VALUE};
use super::trapped::same;
use super::vm::{Exit, Vm};
use crate::bench::{Bench, Breakdown, Part, Section, Stamps, Trouble, Whose, median};

/// The most reads: fewer than a server keeps stamps of.
const MOST: usize = 1 << 16;

/// How many parts a read has.
const PARTS: usize = 8;

/// What they are, in the order of time.
const WHAT: [(&str, Whose); PARTS] = [
    ("the trap becomes a request", Whose::Ours),
    ("the client sends it", Whose::Kernel),
    ("the server wakes and receives it", Whose::Kernel),
    ("the server: from message to reply", Whose::Ours),
    ("the server sends the reply", Whose::Kernel),
    ("the client wakes and receives it", Whose::Kernel),
    ("the reply becomes the guest's value", Whose::Ours),
    ("entry, guest instruction, exit", Whose::Hypervisor),
];

/// What the client notes of a read, in ticks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Noted {
    /// The guest has come out.
    exited: u64,
    /// The request is about to be sent, and was.
    sending: u64,
    sent: u64,
    /// The reply was received.
    received: u64,
    /// The guest is about to go on.
    entering: u64,
}

/// Takes reads apart, with the server at `place`.
///
/// # Errors
///
/// If one fails, or the stamps are not those of these reads.
pub(super) fn breakdown(
    bench: &Bench<'_>,
    program: &Path,
    place: Place,
    vm: &mut Vm<'_>,
    section: &mut Section,
) -> Result<(), Trouble> {
    let _in_place = bench.plan.in_place()?;
    let mut socket = Socket::start(bench, program, place, false, true)?;
    socket.write(VALUE.to_le_bytes())?;
    let noted = reads(bench, vm, &mut socket)?;
    let stamps = socket.into_peer().stamps()?;
    let parts = parts(bench, &noted, &stamps)?;
    section.notes.push(
        "Each part of a read has its own median and p99, which do not add up exactly.".to_owned(),
    );
    if place == Place::Same {
        section.notes.push(
            "On one CPU a send may return only after the other side has run: waking it is then \
             in the send's part."
                .to_owned(),
        );
    }
    section.break_down(Breakdown {
        title: format!("a read, exit to exit, over a socket, {}", place.what()),
        parts,
    });
    Ok(())
}

/// Reads for as long as a row is measured, and notes when what happened.
fn reads(bench: &Bench<'_>, vm: &mut Vm<'_>, socket: &mut Socket) -> Result<Vec<Noted>, Trouble> {
    let plan = &bench.plan;
    let time = plan.slice * plan.slices;
    let mut noted = Vec::with_capacity(MOST);
    let mut data = [0; 4];
    let begun = Instant::now();
    while noted.len() < MOST && (noted.len() < 2 || begun.elapsed() < time) {
        if plan.interrupt.raised() {
            return Err(Trouble("interrupted".to_owned()));
        }
        let read = vm.run(|exit| {
            let mut times = Noted {
                exited: bench.clock.now(),
                ..Noted::default()
            };
            let Exit::Read(_, room) = exit else {
                return Err(Trouble("the guest does not read".to_owned()));
            };
            times.sending = bench.clock.now();
            socket.send_read()?;
            times.sent = bench.clock.now();
            socket.receive_read(&mut data)?;
            times.received = bench.clock.now();
            room.copy_from_slice(&data);
            times.entering = bench.clock.now();
            Ok(times)
        });
        noted.push(read?);
    }
    same(VALUE, u32::from_le_bytes(data))?;
    Ok(noted)
}

/// The parts. The last read lacks the exit that ends it.
fn parts(bench: &Bench<'_>, noted: &[Noted], stamps: &[Stamps]) -> Result<Vec<Part>, Trouble> {
    if stamps.len() != noted.len() {
        let (reads, stamps) = (noted.len(), stamps.len());
        return Err(Trouble(format!(
            "{reads} reads, but {stamps} stamps of them"
        )));
    }
    let mut lengths: [Vec<f64>; PARTS] = Default::default();
    for (noted, stamps) in noted.windows(2).zip(stamps) {
        let [read, next] = noted else { continue };
        let points = points(read, stamps, next.exited)?;
        for (length, ends) in lengths.iter_mut().zip(points.windows(2)) {
            length.push(bench.clock.nanoseconds(ends[1] - ends[0]));
        }
    }
    let parts = WHAT.iter().zip(&mut lengths);
    let parts = parts.map(|(&(what, whose), lengths)| part(what, whose, lengths));
    Ok(parts.collect())
}

/// The points in time between which the parts are.
///
/// A send may return only after the other side has received what was sent:
/// then it ends, for this purpose, with that.
fn points(read: &Noted, stamps: &Stamps, end: u64) -> Result<[u64; PARTS + 1], Trouble> {
    let points = [
        read.exited,
        read.sending,
        read.sent.min(stamps.received),
        stamps.received,
        stamps.answering,
        stamps.answered.min(read.received),
        read.received,
        read.entering,
        end,
    ];
    if points.is_sorted() {
        return Ok(points);
    }
    Err(Trouble(
        "the clocks of client and server do not agree".to_owned(),
    ))
}

fn part(what: &str, whose: Whose, lengths: &mut [f64]) -> Part {
    let p50 = median(lengths);
    // They are sorted now. The nearest rank: of few, the largest.
    let rank = (lengths.len() * 99).div_ceil(100);
    Part {
        what: what.to_owned(),
        whose,
        p50,
        p99: lengths.get(rank.saturating_sub(1)).copied().unwrap_or(0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Noted = Noted {
        exited: 10,
        sending: 11,
        sent: 15,
        received: 30,
        entering: 31,
    };

    fn stamps(received: u64, answering: u64, answered: u64) -> Stamps {
        Stamps {
            received,
            answering,
            answered,
        }
    }

    #[test]
    fn parts_follow_one_another_even_if_sends_return_late() {
        let found = points(&READ, &stamps(17, 18, 20), 40).unwrap();
        assert_eq!(found, [10, 11, 15, 17, 18, 20, 30, 31, 40]);
        let found = points(&READ, &stamps(13, 18, 35), 40).unwrap();
        assert_eq!(found, [10, 11, 13, 13, 18, 30, 30, 31, 40]);
    }

    #[test]
    fn stamps_of_another_read_are_told() {
        assert!(points(&READ, &stamps(5, 6, 7), 40).is_err());
        assert!(points(&READ, &stamps(17, 32, 33), 40).is_err());
    }

    #[test]
    fn a_part_has_its_median_and_p99() {
        let mut lengths: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        let part = part("x", Whose::Ours, &mut lengths);
        assert_eq!((part.p50, part.p99), (50.0, 99.0));
    }

    #[test]
    fn a_p99_is_never_below_the_median() {
        let part = part("x", Whose::Ours, &mut [3.0, 1.0]);
        assert_eq!((part.p50, part.p99), (2.0, 3.0));
    }
}
