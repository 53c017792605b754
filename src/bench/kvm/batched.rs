//! Accesses that do not trap: a sample is a batch of them, which ends in an
//! exit.

use vmm_sys_util::eventfd::EventFd;

use super::answer::VALUE;
use super::guest::{Access, DATA};
use super::trapped::{first_value, same};
use super::vm::{Exit, Vm};
use crate::bench::{Clock, Subject, Trouble};
use crate::device::SharedMemory;

/// A guest that accesses something in batches.
pub(super) struct Batched<'a> {
    pub(super) vm: Vm<'a>,
    /// How many accesses a batch has.
    pub(super) batch: u32,
    pub(super) target: Target,
    pub(super) access: Access,
}

/// What is accessed.
pub(super) enum Target {
    /// Its own RAM.
    Ram,
    /// A page that it shares with this process, at its beginning.
    Page(SharedMemory),
    /// A register that the kernel makes an event of.
    Doorbell(EventFd),
}

impl Subject for Batched<'_> {
    fn sample(&mut self, clock: &Clock, ticks: &mut [u64]) -> Result<(), Trouble> {
        let first = first_value(self.access);
        match &self.target {
            Target::Ram => self.vm.poke(DATA, first)?,
            Target::Page(page) => page
                .write(0, &first.to_le_bytes())
                .map_err(|error| Trouble::new("a page", error))?,
            Target::Doorbell(_) => {}
        }
        let mut before = self.batch(clock)?;
        for ticks in &mut *ticks {
            let now = self.batch(clock)?;
            *ticks = now.wrapping_sub(before);
            before = now;
        }
        self.check(ticks.len() as u64 + 1)
    }
}

impl Batched<'_> {
    /// Runs the guest to the end of its batch, and returns when that was.
    #[inline]
    fn batch(&mut self, clock: &Clock) -> Result<u64, Trouble> {
        self.vm.run(|exit| match exit {
            Exit::Port => Ok(clock.now()),
            _ => Err(Trouble("an access trapped that should not".to_owned())),
        })
    }

    /// Sees whether so many batches really did what they are for.
    fn check(&self, batches: u64) -> Result<(), Trouble> {
        let found = match &self.target {
            Target::Doorbell(event) => {
                let rung = event
                    .read()
                    .map_err(|error| Trouble::new("a doorbell", error))?;
                let expected = batches * u64::from(self.batch);
                if rung != expected {
                    return Err(Trouble(format!("{expected} writes rang {rung} times")));
                }
                return Ok(());
            }
            _ if self.access == Access::Read => self.vm.eax()?,
            Target::Ram => self.vm.peek(DATA)?,
            Target::Page(page) => {
                let mut value = [0; 4];
                let read = page.read(0, &mut value);
                read.map_err(|error| Trouble::new("a page", error))?;
                u32::from_le_bytes(value)
            }
        };
        same(VALUE, found)
    }
}
