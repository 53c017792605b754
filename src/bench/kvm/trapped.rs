//! Accesses that trap: each is an exit, an answer, and an entry.

use super::answer::{Answer, VALUE, scratch};
use super::guest::Access;
use super::vm::{Exit, Vm};
use crate::bench::{Clock, Subject, Trouble};

/// A guest that accesses SCRATCH without end, and what answers it.
///
/// A sample is from one exit to the next: the answer, the entry, the guest's
/// instruction, the exit.
pub(super) struct Trapped<'a> {
    pub(super) vm: Vm<'a>,
    pub(super) answer: Box<dyn Answer + 'a>,
    pub(super) access: Access,
}

impl Subject for Trapped<'_> {
    fn sample(&mut self, clock: &Clock, ticks: &mut [u64]) -> Result<(), Trouble> {
        let taken = self.answer.begin().and_then(|()| self.take(clock, ticks));
        let ended = self.answer.end();
        taken.and(ended)
    }

    fn peer(&self) -> Option<u32> {
        self.answer.peer()
    }
}

impl Trapped<'_> {
    fn take(&mut self, clock: &Clock, ticks: &mut [u64]) -> Result<(), Trouble> {
        let first = first_value(self.access);
        self.answer.write(first.to_le_bytes())?;
        let mut answered = self.step(clock)?.answered;
        for ticks in ticks {
            let step = self.step(clock)?;
            *ticks = step.exited.wrapping_sub(answered);
            answered = step.answered;
        }
        let mut last = [0; 4];
        self.answer.read(&mut last)?;
        same(VALUE, u32::from_le_bytes(last))
    }

    /// Runs the guest to its next exit and answers it.
    #[inline]
    fn step(&mut self, clock: &Clock) -> Result<Step, Trouble> {
        let answer = &mut self.answer;
        self.vm.run(|exit| {
            let exited = clock.now();
            answer.settle()?;
            let answered = clock.now();
            give(exit, answer.as_mut())?;
            Ok(Step { exited, answered })
        })
    }
}

/// When the guest came out, and when its answer began.
struct Step {
    exited: u64,
    answered: u64,
}

#[inline]
fn give(exit: Exit<'_>, answer: &mut dyn Answer) -> Result<(), Trouble> {
    match exit {
        Exit::Read(offset, data) if offset == scratch() => {
            if let Ok(data) = data.try_into() {
                return answer.read(data);
            }
        }
        Exit::Write(offset, data) if offset == scratch() => {
            if let Ok(data) = data.try_into() {
                return answer.write(data);
            }
        }
        _ => {}
    }
    Err(Trouble(
        "the guest's exit is not the one of its program".to_owned(),
    ))
}

/// What the place of an access holds before it: afterwards it is [`VALUE`].
pub(super) fn first_value(access: Access) -> u32 {
    match access {
        Access::Read => VALUE,
        Access::Write => !VALUE,
    }
}

/// That nobody lost or changed a value on the way.
///
/// # Errors
///
/// If somebody did.
pub(super) fn same(expected: u32, found: u32) -> Result<(), Trouble> {
    if found == expected {
        return Ok(());
    }
    Err(Trouble(format!(
        "a wrong value: {found:#010x} where {expected:#010x} was written"
    )))
}
