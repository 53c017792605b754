//! The client's side of shared-memory MMIO by hand: each word and its place,
//! as docs/shared-mmio.md has them, and nothing of the library's own.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use super::{Client, PATIENCE, Received, files};

/// A synchronous access's operations.
pub(crate) const READ: u8 = 1;
pub(crate) const WRITE: u8 = 2;

const SERVER_SLEEPS: usize = 0;
const TAIL: usize = 128;
const HEAD: usize = 256;
const SLOTS: usize = 512;
const SLOT: usize = 128;
const ENTRY: usize = 32;

/// The words of a slot.
const REQUEST: usize = 0;
const OFFSET: usize = 8;
const VALUE: usize = 16;
const CLIENT_SLEEPS: usize = 24;
const ANSWER: usize = 32;
const RESULT: usize = 40;

/// What QEMU proposes, and shared memory for so many requesters.
pub(crate) fn proposal(slots: u32) -> String {
    let key = format!(r#"{{"capabilities":{{"shared_mmio":{{"version":1,"slots":{slots}}},"#);
    super::QEMU.replacen(r#"{"capabilities":{"#, &key, 1)
}

/// The capabilities of a VERSION reply.
pub(crate) fn capabilities(version: &Received) -> serde_json::Value {
    let data = &version.body()[4..];
    let said: serde_json::Value = serde_json::from_slice(&data[..data.len() - 1]).unwrap();
    said["capabilities"].clone()
}

/// The memory of a session.
#[derive(Clone)]
pub(crate) struct Memory {
    region: Arc<MmapRegion<()>>,
    wake: Arc<OwnedFd>,
}

impl Memory {
    pub(crate) fn u32_at(&self, at: usize) -> &AtomicU32 {
        self.region.get_atomic_ref(at).unwrap()
    }

    pub(crate) fn u64_at(&self, at: usize) -> &AtomicU64 {
        self.region.get_atomic_ref(at).unwrap()
    }

    /// Whether the server said that it sleeps.
    pub(crate) fn server_sleeps(&self) -> bool {
        self.u32_at(SERVER_SLEEPS).load(Ordering::SeqCst) != 0
    }

    pub(crate) fn wait_until_the_server_sleeps(&self) {
        wait_until("the server does not sleep", || {
            self.server_sleeps().then_some(())
        });
    }

    /// After something was published: wakes the server if it sleeps, and
    /// returns whether it did.
    pub(crate) fn wake(&self) -> bool {
        fence(Ordering::SeqCst);
        let sleeps = self.u32_at(SERVER_SLEEPS);
        let wakes = sleeps.load(Ordering::SeqCst) != 0 && sleeps.swap(0, Ordering::SeqCst) != 0;
        if wakes {
            self.signal();
        }
        wakes
    }

    /// Signals the server, whether it sleeps or not; `false` if it has so
    /// many signals that it takes no more.
    pub(crate) fn signal(&self) -> bool {
        match send(&*self.wake, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(1) => true,
            Err(Errno::AGAIN) => false,
            other => panic!("the server cannot be signalled: {other:?}"),
        }
    }

    /// Signals the server, whatever becomes of it.
    pub(crate) fn poke(&self) {
        let _ = send(&*self.wake, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// Whether the server's end of the wake descriptor is closed.
    pub(crate) fn is_left(&self) -> bool {
        send(&*self.wake, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) == Err(Errno::PIPE)
    }
}

/// What a server that agreed gave us.
pub(crate) struct Shared {
    pub(crate) memory: Memory,
    /// The file behind the memory.
    pub(crate) file: File,
    pub(crate) slots: Vec<Slot>,
    pub(crate) ring: Ring,
}

impl Shared {
    /// Agrees on QEMU's terms with shared memory for so many requesters.
    pub(crate) fn agree(client: &mut Client, slots: u32) -> Self {
        Self::of(client.agree(&proposal(slots)))
    }

    /// Takes what came with VERSION's reply.
    pub(crate) fn of(version: Received) -> Self {
        let said = &capabilities(&version)["shared_mmio"];
        let number = |key: &str| usize::try_from(said[key].as_u64().unwrap()).unwrap();
        assert_eq!(number("version"), 1);
        let (slots, entries) = (number("slots"), number("ring"));
        let mut fds = version.fds.into_iter().skip(number("fd_index"));
        let mut next = || fds.next().expect("a descriptor is missing");
        let file = File::from(next());
        let size = SLOTS + slots * SLOT + entries * ENTRY;
        let mapped = FileOffset::new(file.try_clone().unwrap(), 0);
        let memory = Memory {
            region: Arc::new(MmapRegion::from_file(mapped, size).unwrap()),
            wake: Arc::new(next()),
        };
        let slot = |number| Slot {
            memory: memory.clone(),
            at: SLOTS + number * SLOT,
            event: next(),
            sequence: 0,
        };
        let slots: Vec<Slot> = (0..slots).map(slot).collect();
        let ring = Ring {
            memory: memory.clone(),
            at: SLOTS + slots.len() * SLOT,
            entries: u32::try_from(entries).unwrap(),
            tail: 0,
        };
        Shared {
            memory,
            file,
            slots,
            ring,
        }
    }
}

/// One requester's place.
pub(crate) struct Slot {
    memory: Memory,
    at: usize,
    event: OwnedFd,
    pub(crate) sequence: u32,
}

impl Slot {
    /// What bits 32 and on of a request say.
    pub(crate) fn what(operation: u8, count: u8, region: u16) -> u32 {
        u32::from(operation) | u32::from(count) << 8 | u32::from(region) << 16
    }

    /// Publishes a request, and returns whether the server had to be woken.
    pub(crate) fn begin(&mut self, what: u32, offset: u64, value: u64) -> bool {
        self.publish(what, offset, value);
        self.memory.wake()
    }

    /// Publishes a request and wakes nobody.
    pub(crate) fn publish(&mut self, what: u32, offset: u64, value: u64) {
        self.sequence = self.sequence.wrapping_add(1);
        self.word(OFFSET).store(offset, Ordering::Relaxed);
        self.word(VALUE).store(value, Ordering::Relaxed);
        let request = u64::from(self.sequence) | u64::from(what) << 32;
        self.word(REQUEST).store(request, Ordering::Release);
    }

    /// The answer to the last request, if it is here: `(errno, result)`.
    pub(crate) fn answer(&self) -> Option<(i32, u64)> {
        let answer = self.word(ANSWER).load(Ordering::Acquire);
        let errno = i32::try_from(answer >> 32).unwrap();
        let result = || self.word(RESULT).load(Ordering::Relaxed);
        (answer & 0xffff_ffff == u64::from(self.sequence)).then(|| (errno, result()))
    }

    /// Waits for the answer without sleeping.
    #[track_caller]
    pub(crate) fn finish(&self) -> (i32, u64) {
        wait_until("no answer came", || self.answer())
    }

    /// Waits for the answer, asleep unless it is here already.
    pub(crate) fn sleep(&self) -> (i32, u64) {
        let sleeps = self.memory.u32_at(self.at + CLIENT_SLEEPS);
        loop {
            sleeps.store(1, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            let answer = self.answer();
            if answer.is_none() {
                files::wait_for(&self.event);
                self.rung();
            }
            sleeps.store(0, Ordering::SeqCst);
            if let Some(answer) = answer {
                return answer;
            }
        }
    }

    /// Waits until another thread [sleeps](Self::sleep) or is about to: from
    /// here on the server has to signal.
    pub(crate) fn wait_until_it_says_that_it_sleeps(&self) {
        let sleeps = self.memory.u32_at(self.at + CLIENT_SLEEPS);
        wait_until("nobody sleeps", || {
            (sleeps.load(Ordering::SeqCst) != 0).then_some(())
        });
    }

    /// Whether the server signalled this slot since this was asked last.
    pub(crate) fn rung(&self) -> bool {
        matches!(
            recv(&self.event, &mut [0; 64], RecvFlags::DONTWAIT),
            Ok((1.., _))
        )
    }

    /// A whole access.
    #[track_caller]
    pub(crate) fn ask(&mut self, what: u32, offset: u64, value: u64) -> Result<u64, i32> {
        self.begin(what, offset, value);
        match self.finish() {
            (0, result) => Ok(result),
            (errno, _) => Err(errno),
        }
    }

    #[track_caller]
    pub(crate) fn read(&mut self, region: u16, offset: u64, count: u8) -> Result<u64, i32> {
        self.ask(Self::what(READ, count, region), offset, 0)
    }

    #[track_caller]
    pub(crate) fn write(
        &mut self,
        region: u16,
        offset: u64,
        count: u8,
        value: u64,
    ) -> Result<(), i32> {
        self.ask(Self::what(WRITE, count, region), offset, value)
            .map(|_| ())
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        self.memory.u64_at(self.at + at)
    }
}

/// The posted writes.
pub(crate) struct Ring {
    memory: Memory,
    at: usize,
    pub(crate) entries: u32,
    pub(crate) tail: u32,
}

impl Ring {
    /// Puts a write in and wakes the server if it sleeps. There must be room.
    pub(crate) fn post(&mut self, region: u16, offset: u64, count: u8, value: u64) {
        let what = u64::from(count) << 40 | u64::from(region) << 48;
        self.put([offset, value, what, 0]);
        self.memory.wake();
    }

    /// Puts an entry of any words in and wakes nobody.
    pub(crate) fn put(&mut self, words: [u64; 4]) {
        let at = self.at + ENTRY * (self.tail % self.entries) as usize;
        for (place, word) in words.into_iter().enumerate() {
            self.memory
                .u64_at(at + 8 * place)
                .store(word, Ordering::Relaxed);
        }
        self.set_tail(self.tail.wrapping_add(1));
    }

    pub(crate) fn set_tail(&mut self, tail: u32) {
        self.tail = tail;
        self.memory.u32_at(TAIL).store(tail, Ordering::Release);
    }

    /// How many entries the server took out so far.
    pub(crate) fn head(&self) -> u32 {
        self.memory.u32_at(HEAD).load(Ordering::Acquire)
    }

    #[track_caller]
    pub(crate) fn wait_until_empty(&self) {
        wait_until("the ring is not emptied", || {
            (self.head() == self.tail).then_some(())
        });
    }
}

/// Looks until there is something, for as long as a test waits.
#[track_caller]
fn wait_until<T>(otherwise: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{otherwise}");
        std::thread::yield_now();
    }
}
