//! What carries accesses to a server, and how samples of them are taken.

use std::thread;
use std::time::Duration;

use super::link::Link;
use super::messages::{Exchange, Messages};
use crate::bench::cpu_time::cpu_time;
use crate::bench::{Clock, Trouble, timed};

/// How many posted writes go out before a read waits for them.
pub(in crate::bench) const POSTED: u32 = 64;

/// How many do when the server's CPU time is looked at: so many that the read
/// behind them does not count.
pub(in crate::bench) const BURST: u32 = 512;

/// A kind of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench) enum Access {
    Read,
    Write,
    Posted,
    Sustained,
    ServerCpu,
    ReadBack,
    Multi,
}

/// One way to a server. An access that fails ends it.
pub(in crate::bench) trait Medium {
    /// Reads 4 bytes.
    fn read(&mut self) -> Result<(), Trouble>;

    /// Writes 4 bytes, and waits until that is done.
    fn write(&mut self) -> Result<(), Trouble>;

    /// Writes 4 bytes without waiting.
    fn post(&mut self) -> Result<(), Trouble> {
        Err(Trouble("it has no posted writes".to_owned()))
    }

    /// Makes several writes at once, and waits until they are done.
    fn multi(&mut self) -> Result<(), Trouble> {
        Err(Trouble("it has no REGION_WRITE_MULTI".to_owned()))
    }
}

/// A [`Medium`] behind a pointer, that is called once for a slice.
pub(in crate::bench) trait Carries {
    /// Reads 4 bytes, which pushes all that went before.
    fn push(&mut self) -> Result<(), Trouble>;

    /// Takes samples of an access; `process` is the server's.
    fn take(
        &mut self,
        access: Access,
        process: Option<u32>,
        clock: &Clock,
        ticks: &mut [u64],
    ) -> Result<(), Trouble>;
}

impl<M: Medium> Carries for M {
    fn push(&mut self) -> Result<(), Trouble> {
        self.read()
    }

    fn take(
        &mut self,
        access: Access,
        process: Option<u32>,
        clock: &Clock,
        ticks: &mut [u64],
    ) -> Result<(), Trouble> {
        match access {
            Access::Read => timed(clock, ticks, 1, || self.read()),
            Access::Write => timed(clock, ticks, 1, || self.write()),
            Access::Multi => timed(clock, ticks, 1, || self.multi()),
            Access::ReadBack => timed(clock, ticks, 1, || {
                self.post()?;
                self.read()
            }),
            Access::Sustained => timed(clock, ticks, 1, || burst(self, POSTED)),
            Access::Posted => ticks.iter_mut().try_for_each(|ticks| {
                timed(clock, std::slice::from_mut(ticks), 1, || self.post())?;
                self.read()
            }),
            Access::ServerCpu => server_cpu(process, clock, ticks, || burst(self, BURST)),
        }
    }
}

/// Posts, and waits until all of it is done.
#[inline]
fn burst(medium: &mut impl Medium, writes: u32) -> Result<(), Trouble> {
    for _ in 0..writes {
        medium.post()?;
    }
    medium.read()
}

/// How long the server may take to fall asleep: the kernel counts what a thread
/// used when it sleeps, and while it runs only now and then.
const NAP: Duration = Duration::from_millis(1);

/// Samples the CPU time that `process` takes for `access`, in ticks all the
/// same: of all samples together, and each is the mean.
fn server_cpu(
    process: Option<u32>,
    clock: &Clock,
    ticks: &mut [u64],
    mut access: impl FnMut() -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    let time = || {
        thread::sleep(NAP);
        let process = process.ok_or_else(|| Trouble("its process is not known".to_owned()))?;
        cpu_time(process).map_err(|error| Trouble::new("the server's CPU time", error))
    };
    let before = time()?;
    for _ in &*ticks {
        access()?;
    }
    let took = clock.ticks(time()?.saturating_sub(before));
    ticks.fill(took / (ticks.len() as u64).max(1));
    Ok(())
}

/// Prepared messages on a socket.
pub(in crate::bench) struct Messenger {
    pub(in crate::bench) link: Link,
    pub(in crate::bench) messages: Messages,
}

impl Medium for Messenger {
    #[inline]
    fn read(&mut self) -> Result<(), Trouble> {
        exchange(&mut self.link, &self.messages.read)
    }

    #[inline]
    fn write(&mut self) -> Result<(), Trouble> {
        exchange(&mut self.link, &self.messages.write)
    }

    #[inline]
    fn post(&mut self) -> Result<(), Trouble> {
        exchange(&mut self.link, &self.messages.post)
    }

    #[inline]
    fn multi(&mut self) -> Result<(), Trouble> {
        exchange(&mut self.link, &self.messages.multi)
    }
}

/// Sends a message, and waits for its answer if it gets one.
#[inline]
fn exchange(link: &mut Link, exchange: &Exchange) -> Result<(), Trouble> {
    link.send(&exchange.request)?;
    match &exchange.reply {
        Some(reply) => link.receive(reply),
        None => Ok(()),
    }
}
