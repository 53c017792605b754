//! The server's half of shared MMIO by hand: each word and its place, as
//! `docs/shared-mmio.md` has them, and nothing of the library's own.

use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags};
use serde_json::{Value, json};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use crate::wire::messages::{message, posted, write};
use crate::wire::{Cmd, PATIENCE, Received, bytes};

const SERVER_SLEEPS: usize = 0;
const TAIL: usize = 128;
const HEAD: usize = 256;
const REQUEST: usize = 512;
const OFFSET: usize = 520;
const VALUE: usize = 528;
const CLIENT_SLEEPS: usize = 536;
const ANSWER: usize = 544;
const RESULT: usize = 552;
const RING: usize = 640;
const ENTRY: usize = 32;

/// The memory's name among the maps of a process.
pub(crate) const NAME: &str = "memfd:shared-mmio-of-a-test";

/// The id of an access as a message.
const ID: u16 = 0x5107;

/// What a server tells and sends a client in its reply to VERSION.
pub(crate) struct Offer {
    pub(crate) said: Value,
    pub(crate) fds: Vec<OwnedFd>,
}

/// How a server behaves; an honest one as it is by default.
pub(crate) struct Sharing {
    /// The entries of its ring.
    pub(crate) entries: u32,
    /// The size of its memory is this more or less.
    pub(crate) grown_by: i64,
    /// The seals of its memory.
    pub(crate) seals: SealFlags,
    /// It looks all the time, and does not sleep.
    pub(crate) spins: bool,
    /// It says at each look that it sleeps.
    pub(crate) flips: bool,
    /// It signals a client that sleeps.
    pub(crate) wakes: bool,
    /// Its answer to this request.
    pub(crate) answer: fn(u32) -> u32,
    /// The number of entries that it says to have taken.
    pub(crate) taken: fn(u32) -> u32,
    /// Changes what it offers.
    pub(crate) offer: Box<dyn FnMut(&mut Offer) + Send>,
}

impl Default for Sharing {
    fn default() -> Self {
        Sharing {
            entries: 256,
            grown_by: 0,
            seals: SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
            spins: false,
            flips: false,
            wakes: true,
            answer: |sequence| sequence,
            taken: |head| head,
            offer: Box::new(|_| {}),
        }
    }
}

/// The pages of one session.
pub(crate) struct Pages {
    region: MmapRegion<()>,
    wake: UnixStream,
    client: UnixStream,
    entries: u32,
    sequence: Cell<u32>,
    waits: Cell<bool>,
    head: Cell<u32>,
}

impl Pages {
    /// New ones, and what a client is offered.
    pub(crate) fn new(sharing: &mut Sharing) -> (Self, Offer) {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let name = NAME.trim_start_matches("memfd:");
        let file = File::from(rustix::fs::memfd_create(name, flags).unwrap());
        let size = RING + sharing.entries as usize * ENTRY;
        let size = size.next_multiple_of(4096);
        file.set_len((size as u64).saturating_add_signed(sharing.grown_by))
            .unwrap();
        rustix::fs::fcntl_add_seals(&file, sharing.seals).unwrap();
        let mapped = FileOffset::new(file.try_clone().unwrap(), 0);
        let region = MmapRegion::from_file(mapped, RING).unwrap();
        let region = if sharing.grown_by < 0 {
            region
        } else {
            let mapped = FileOffset::new(file.try_clone().unwrap(), 0);
            MmapRegion::from_file(mapped, size).unwrap()
        };
        let (wake, their_wake) = UnixStream::pair().unwrap();
        let (client, theirs) = UnixStream::pair().unwrap();
        for stream in [&wake, &client] {
            stream.set_nonblocking(true).unwrap();
        }
        let mut offer = Offer {
            said: json!({"version": 1, "slots": 1, "ring": sharing.entries, "fd_index": 0}),
            fds: vec![file.into(), their_wake.into(), theirs.into()],
        };
        (sharing.offer)(&mut offer);
        let pages = Pages {
            region,
            wake,
            client,
            entries: sharing.entries,
            sequence: Cell::new(0),
            waits: Cell::new(false),
            head: Cell::new(0),
        };
        (pages, offer)
    }

    fn u32_at(&self, at: usize) -> &AtomicU32 {
        self.region.get_atomic_ref(at).unwrap()
    }

    fn u64_at(&self, at: usize) -> &AtomicU64 {
        self.region.get_atomic_ref(at).unwrap()
    }

    /// Whether there is a request that was not taken.
    fn is_asked(&self) -> bool {
        low(self.u64_at(REQUEST).load(Ordering::Acquire)) != self.sequence.get()
    }

    /// Waits until there is a request.
    pub(crate) fn wait_asked(&self) {
        wait_until(|| self.is_asked());
    }

    /// Waits until the client sleeps.
    pub(crate) fn wait_asleep(&self) {
        wait_until(|| self.u32_at(CLIENT_SLEEPS).load(Ordering::SeqCst) != 0);
    }

    /// The next posted write, as a message.
    fn entry(&self, sharing: &Sharing) -> Option<Received> {
        let head = self.head.get();
        let tail = self.u32_at(TAIL).load(Ordering::Acquire);
        if tail == head {
            return None;
        }
        let used = tail.wrapping_sub(head);
        assert!(used <= self.entries, "the ring holds {used} entries");
        let at = RING + (head % self.entries) as usize * ENTRY;
        let [offset, value, what, zero] = [0, 8, 16, 24].map(|word| {
            let word = self.u64_at(at + word);
            word.load(Ordering::Relaxed)
        });
        assert_eq!((what & 0xff_ffff_ffff, zero), (0, 0), "{what:#x}");
        self.head.set(head.wrapping_add(1));
        let said = (sharing.taken)(self.head.get());
        self.u32_at(HEAD).store(said, Ordering::Release);
        let data = &value.to_le_bytes()[..count(what)];
        let body = write(region(what), offset, data);
        Some(Received {
            bytes: posted(ID, Cmd::RegionWrite, &body),
            fds: Vec::new(),
        })
    }

    /// The request, as a message.
    fn request(&self) -> Received {
        let request = self.u64_at(REQUEST).load(Ordering::Acquire);
        let offset = self.u64_at(OFFSET).load(Ordering::Relaxed);
        let value = self.u64_at(VALUE).load(Ordering::Relaxed);
        let next = self.sequence.get().wrapping_add(1);
        assert_eq!(low(request), next, "the sequence has no gap");
        self.sequence.set(next);
        self.waits.set(true);
        let (region, count) = (region(request), count(request));
        let length = u32::try_from(count).unwrap();
        let bytes = match request >> 32 & 0xff {
            1 => message(ID, Cmd::RegionRead, &bytes![offset, region, length]),
            2 => {
                let data = &value.to_le_bytes()[..count];
                message(ID, Cmd::RegionWrite, &write(region, offset, data))
            }
            operation => panic!("operation {operation}"),
        };
        Received {
            bytes,
            fds: Vec::new(),
        }
    }

    /// What is to be done next, in its order: writes that were posted come
    /// before the request that was seen first.
    pub(crate) fn next(&self, sharing: &Sharing) -> Option<Received> {
        let asked = self.is_asked();
        let entry = self.entry(sharing);
        entry.or_else(|| asked.then(|| self.request()))
    }

    /// Answers the request, if this is a reply to it.
    pub(crate) fn answers(&self, reply: &Received, sharing: &Sharing) -> bool {
        let is_access = [9, 10].contains(&reply.command());
        if !self.waits.get() || reply.id() != ID || !is_access {
            return false;
        }
        self.waits.set(false);
        let mut value = [0; 8];
        if let Some(data) = reply.bytes.get(32..).filter(|data| data.len() <= 8) {
            value[..data.len()].copy_from_slice(data);
        }
        let value = u64::from_le_bytes(value);
        let errno = reply.errno().cast_unsigned();
        let sequence = (sharing.answer)(self.sequence.get());
        self.u64_at(RESULT).store(value, Ordering::Relaxed);
        let answer = u64::from(errno) << 32 | u64::from(sequence);
        self.u64_at(ANSWER).store(answer, Ordering::Release);
        fence(Ordering::SeqCst);
        if sharing.wakes && self.u32_at(CLIENT_SLEEPS).load(Ordering::SeqCst) != 0 {
            let _ = (&self.client).write(&[1]);
        }
        true
    }

    /// Waits until something may have to be done; says whether it is in the
    /// socket.
    pub(crate) fn wait(&self, socket: &UnixStream, sharing: &Sharing) -> bool {
        let sleeps = self.u32_at(SERVER_SLEEPS);
        let mut limit = None;
        if sharing.spins {
            sleeps.store(sharing.flips.into(), Ordering::SeqCst);
            limit = Some(Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            });
        } else {
            sleeps.store(1, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            let tail = self.u32_at(TAIL).load(Ordering::Acquire);
            if self.is_asked() || tail != self.head.get() {
                sleeps.store(0, Ordering::SeqCst);
                return false;
            }
        }
        let mut fds = [
            PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN),
        ];
        let _ = poll(&mut fds, limit.as_ref());
        if !sharing.spins {
            sleeps.store(0, Ordering::SeqCst);
        }
        let [socket, wake] = fds.map(|fd| !fd.revents().is_empty());
        if wake {
            let _ = (&self.wake).read(&mut [0; 64]);
        }
        socket
    }
}

fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time");
        std::thread::yield_now();
    }
}

fn low(word: u64) -> u32 {
    u32::try_from(word & 0xffff_ffff).unwrap()
}

fn count(word: u64) -> usize {
    let count = usize::try_from(word >> 40 & 0xff).unwrap();
    assert!((1..=8).contains(&count), "{count} bytes");
    count
}

fn region(word: u64) -> u32 {
    u32::try_from(word >> 48).unwrap()
}
