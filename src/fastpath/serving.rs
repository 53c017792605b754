//! The server's half: the ring and all slots.

use super::access::{Access, Operation};
use super::memory::Memory;
use super::ring::{Fault, Taker};
use super::sleep;
use super::slot::Served;
use super::sync::Arc;
use super::wake::Wake;

/// The errno of a request that is nonsense.
const EINVAL: u32 = libc::EINVAL.unsigned_abs();

/// How often the server sleeps before it empties its wake descriptor. Each
/// sleep is ended by one signal at most, and the kernel keeps some hundreds.
const SLEEPS_UNTIL_DRAIN: u8 = 64;

/// Where accesses end: what the server does with those of the socket too.
pub trait Handler {
    /// Reads 1 to 8 bytes, little-endian, which are 0 when it is called.
    ///
    /// # Errors
    ///
    /// The errno for the client; not 0.
    fn read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), u32>;

    /// Writes 1 to 8 bytes, little-endian.
    ///
    /// # Errors
    ///
    /// The errno for the client; not 0. Of a posted write nobody is told.
    fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), u32>;
}

/// The server's half of the shared pages of one session.
#[derive(Debug)]
pub struct Serving {
    memory: Arc<Memory>,
    pub(super) ring: Taker,
    pub(super) slots: Box<[Served]>,
    pub(super) wake: Wake,
    /// How many sleeps the wake descriptor has not been emptied for.
    pub(super) sleeps: u8,
}

impl Serving {
    pub(super) fn over(memory: Arc<Memory>, wake: Wake, slots: Vec<Wake>) -> Serving {
        Serving {
            memory,
            ring: Taker::default(),
            slots: slots.into_iter().map(Served::new).collect(),
            wake,
            sleeps: 0,
        }
    }

    /// Whether anything is to be done: a load for each slot, and one.
    #[inline]
    pub fn has_work(&self) -> bool {
        let mut slots = self.slots.iter().zip(self.memory.slots());
        self.ring.has_work(&self.memory) || slots.any(|(served, slot)| served.has_work(slot))
    }

    /// Carries out what is there, in one bounded round: what was in the ring,
    /// then one access of each slot, before each what was in the ring by then.
    /// How many accesses it were.
    ///
    /// # Errors
    ///
    /// The [`Fault`] that ends the session.
    #[inline]
    pub fn serve(&mut self, handler: &mut impl Handler) -> Result<u32, Fault> {
        let mut count = self.drain(handler)?;
        for (served, slot) in self.slots.iter_mut().zip(self.memory.slots()) {
            let Some(request) = served.take(slot) else {
                continue;
            };
            let access = Served::access(request, slot);
            // What was posted before the request is seen once that is.
            count += 1 + self.ring.take(&self.memory, handler)?;
            let outcome = access.map_or(Err(EINVAL), |access| carry_out(&access, handler));
            served.answer(slot, outcome);
        }
        Ok(count)
    }

    /// Carries out what is in the ring now, at most all its entries; how many.
    /// The server does this before it carries out a message of the socket.
    ///
    /// # Errors
    ///
    /// The [`Fault`] that ends the session.
    #[inline]
    pub fn drain(&mut self, handler: &mut impl Handler) -> Result<u32, Fault> {
        self.ring.take(&self.memory, handler)
    }

    /// Sleeps by `wait`, which waits for an edge at [`wake_fd`](Self::wake_fd)
    /// and for all else that the server has to do. `None`, and `wait` is not
    /// called: there is work.
    pub fn sleep<T>(&mut self, wait: impl FnOnce() -> T) -> Option<T> {
        if !self.falls_asleep() {
            return None;
        }
        let woken_by = wait();
        self.wakes_up();
        Some(woken_by)
    }

    /// The first half of [`sleep`](Self::sleep), for who waits for several
    /// sessions at once: after `true` a client signals what it puts in.
    /// `false`: there is work, and the server is awake.
    pub fn falls_asleep(&mut self) -> bool {
        self.sleeps += 1;
        if self.sleeps == SLEEPS_UNTIL_DRAIN {
            self.sleeps = 0;
            self.wake.drain();
        }
        sleep::falls_asleep(&self.memory.control().server_sleeps, || self.has_work())
    }

    /// The second half of [`sleep`](Self::sleep).
    pub fn wakes_up(&mut self) {
        sleep::wakes_up(&self.memory.control().server_sleeps);
    }
}

/// One access, and what was read: 0 after a write.
#[inline]
pub(super) fn carry_out(access: &Access, handler: &mut impl Handler) -> Result<u64, u32> {
    let (region, offset) = (access.region(), access.offset());
    match access.operation() {
        Operation::Read => {
            let mut data = [0; 8];
            handler.read(region, offset, &mut data[..access.count()])?;
            Ok(u64::from_le_bytes(data))
        }
        Operation::Write(value) => {
            let data = value.to_le_bytes();
            handler.write(region, offset, &data[..access.count()])?;
            Ok(0)
        }
    }
}
