//! All interleavings of a server and its requesters, and all that the memory
//! model of Rust allows between them, tried by loom.
//!
//! The code is what runs in production: the files of `src/fastpath` are
//! compiled here once more, with loom's atomics and without the kernel's part.

#![allow(dead_code, unreachable_pub, reason = "not all is called from here")]

#[path = "../src/fastpath/access.rs"]
mod access;
#[path = "../src/fastpath/layout.rs"]
mod layout;
#[path = "../src/fastpath/ring.rs"]
mod ring;
#[path = "../src/fastpath/serving.rs"]
mod serving;
#[path = "../src/fastpath/sleep.rs"]
mod sleep;
#[path = "../src/fastpath/slot.rs"]
mod slot;

/// What `src/fastpath/sync.rs` is in production.
mod sync {
    use std::cell::Cell;

    pub(super) use std::sync::Arc;
    pub(super) use std::sync::atomic::Ordering;

    thread_local! {
        /// Loom runs a model's threads on one.
        static BROKEN: Cell<Option<Broken>> = const { Cell::new(None) };
    }

    /// What is taken out of the code, to see that it is missed.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Broken {
        /// The full fences between a flag and a look at the work.
        Fences,
        /// What orders the fields of a request, an entry or an answer.
        Orderings,
    }

    pub(super) fn breaks(broken: Option<Broken>) {
        BROKEN.set(broken);
    }

    pub(super) fn fence(order: Ordering) {
        if BROKEN.get() != Some(Broken::Fences) {
            loom::sync::atomic::fence(order);
        }
    }

    fn may_break(order: Ordering) -> Ordering {
        match BROKEN.get() {
            Some(Broken::Orderings) => Ordering::Relaxed,
            _ => order,
        }
    }

    macro_rules! atomic {
        ($name:ident, $value:ty) => {
            #[derive(Debug, Default)]
            pub(super) struct $name(loom::sync::atomic::$name);

            impl $name {
                pub(super) fn load(&self, order: Ordering) -> $value {
                    self.0.load(may_break(order))
                }

                pub(super) fn store(&self, value: $value, order: Ordering) {
                    self.0.store(value, may_break(order));
                }

                pub(super) fn swap(&self, value: $value, order: Ordering) -> $value {
                    self.0.swap(value, may_break(order))
                }
            }
        };
    }

    atomic!(AtomicU32, u32);
    atomic!(AtomicU64, u64);
}

/// What `src/fastpath/memory.rs` is in production: no memfd.
mod memory {
    use super::layout::{Control, Entry, Layout, Slot};

    #[derive(Debug)]
    pub(super) struct Memory {
        control: Control,
        slots: Vec<Slot>,
        ring: Vec<Entry>,
    }

    impl Memory {
        pub(super) fn new(layout: Layout) -> Memory {
            Memory {
                control: Control::default(),
                slots: (0..layout.slots()).map(|_| Slot::default()).collect(),
                ring: (0..layout.ring()).map(|_| Entry::default()).collect(),
            }
        }

        pub(super) fn control(&self) -> &Control {
            &self.control
        }

        pub(super) fn slots(&self) -> &[Slot] {
            &self.slots
        }

        pub(super) fn ring(&self) -> &[Entry] {
            &self.ring
        }
    }
}

/// What `src/fastpath/wake.rs` is in production: a signal that is kept until
/// somebody waits for it.
mod wake {
    use std::sync::Arc;

    use loom::sync::{Condvar, Mutex};

    #[derive(Clone, Debug)]
    pub(super) struct Wake(Arc<(Mutex<bool>, Condvar)>);

    impl Wake {
        pub(super) fn new() -> Wake {
            Wake(Arc::new((Mutex::new(false), Condvar::new())))
        }

        pub(super) fn signal(&self) {
            *self.0.0.lock().unwrap() = true;
            self.0.1.notify_one();
        }

        pub(super) fn wait(&self) {
            let mut signalled = self.0.0.lock().unwrap();
            while !*signalled {
                signalled = self.0.1.wait(signalled).unwrap();
            }
            *signalled = false;
        }

        pub(super) fn drain(&self) {
            *self.0.0.lock().unwrap() = false;
        }
    }
}

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use loom::sync::Mutex;
use loom::thread;

use access::Access;
use layout::Layout;
use memory::Memory;
use ring::Poster;
use serving::{Handler, Serving};
use slot::Requester;
use sync::Broken;
use wake::Wake;

/// A device that keeps what was done to it. A read returns how much that is.
#[derive(Debug, Default)]
struct Device(Vec<u64>);

impl Handler for Device {
    fn read(&mut self, _: u32, _: u64, data: &mut [u8]) -> Result<(), u32> {
        data[0] = u8::try_from(self.0.len()).unwrap();
        self.0.push(READ);
        Ok(())
    }

    fn write(&mut self, _: u32, offset: u64, data: &[u8]) -> Result<(), u32> {
        // A request of which only a part is new.
        assert_eq!(u64::from(data[0]), offset);
        self.0.push(offset);
        Ok(())
    }
}

/// In a device's log.
const READ: u64 = u64::MAX;

/// A write of `number`, which says so twice.
fn write(number: u8) -> Access {
    Access::write(0, number.into(), &[number]).unwrap()
}

fn read() -> Access {
    Access::read(0, 0, 1).unwrap()
}

/// One requester and its wake descriptor.
struct Client(Requester, Wake);

impl Client {
    fn access(&mut self, access: &Access) -> u64 {
        self.0.begin(access);
        loop {
            if let Some(answer) = self.0.answer() {
                return answer.unwrap();
            }
            self.0.sleep(|| self.1.wait());
        }
    }
}

/// A session with `slots` requesters and a ring of `ring` entries.
fn session(slots: u16, ring: u32) -> (Server, Vec<Client>, Poster) {
    let layout = Layout::new(slots, ring).unwrap();
    let memory = Arc::new(Memory::new(layout));
    let wake = Wake::new();
    let wakes: Vec<_> = (0..slots).map(|_| Wake::new()).collect();
    let to_server = Arc::new(wake.clone());
    let clients = (0..slots).zip(&wakes).map(|(index, wake)| {
        let (memory, server) = (Arc::clone(&memory), Arc::clone(&to_server));
        let requester = Requester::new(memory, server, wake.clone(), index);
        Client(requester, wake.clone())
    });
    let clients = clients.collect();
    let poster = Poster::new(Arc::clone(&memory), to_server);
    let serving = Serving::over(memory, wake.clone(), wakes);
    (Server(serving, wake), clients, poster)
}

/// The server and its wake descriptor.
struct Server(Serving, Wake);

impl Server {
    /// Serves until `accesses` were carried out: what the device saw.
    fn serve(mut self, accesses: usize) -> Vec<u64> {
        let mut device = Device::default();
        while device.0.len() < accesses {
            if self.0.serve(&mut device).unwrap() == 0 {
                self.0.sleep(|| self.1.wait());
            }
        }
        // Nothing comes twice.
        assert_eq!(self.0.serve(&mut device), Ok(0));
        device.0
    }
}

fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// Two requesters read once each.
fn two_reads() {
    let (server, mut clients, _poster) = session(2, 1);
    let mut second = clients.pop().unwrap();
    let mut first = clients.pop().unwrap();
    let first = thread::spawn(move || first.access(&read()));
    let second = thread::spawn(move || second.access(&read()));
    assert_eq!(server.serve(2), [READ, READ]);
    let mut seen = [first.join().unwrap(), second.join().unwrap()];
    seen.sort_unstable();
    assert_eq!(seen, [0, 1]);
}

/// One posts and then reads; the other writes.
fn a_post_and_a_read_beside_a_write() {
    let (server, mut clients, mut poster) = session(2, 2);
    let mut second = clients.pop().unwrap();
    let mut first = clients.pop().unwrap();
    let first = thread::spawn(move || {
        assert!(poster.post(&write(1)));
        first.access(&read())
    });
    let second = thread::spawn(move || second.access(&write(2)));
    let log = server.serve(3);
    assert!(place(&log, 1) < place(&log, READ), "{log:?}");
    let seen = first.join().unwrap();
    assert_eq!(seen, place(&log, READ) as u64);
    assert_eq!(second.join().unwrap(), 0);
}

/// Two requesters share the ring; each reads what it posted.
fn two_posters_that_read() {
    let (server, mut clients, poster) = session(2, 2);
    let poster = Arc::new(Mutex::new(poster));
    let mut second = clients.pop().unwrap();
    let first = thread::spawn({
        let poster = Arc::clone(&poster);
        move || assert!(poster.lock().unwrap().post(&write(1)))
    });
    let second = thread::spawn(move || {
        assert!(poster.lock().unwrap().post(&write(2)));
        second.access(&read())
    });
    let log = server.serve(3);
    assert!(place(&log, 2) < place(&log, READ), "{log:?}");
    assert_eq!(log.len(), 3);
    first.join().unwrap();
    second.join().unwrap();
}

/// One posts more than the ring holds, and what does not fit goes through
/// the slot.
fn a_ring_that_is_full() {
    let (server, mut clients, mut poster) = session(1, 1);
    let mut client = clients.pop().unwrap();
    let client = thread::spawn(move || {
        for number in 1..=3 {
            if !poster.post(&write(number)) {
                client.access(&write(number));
            }
        }
    });
    assert_eq!(server.serve(3), [1, 2, 3]);
    client.join().unwrap();
}

/// One requester asks twice: the second may come when the first was just
/// answered.
fn one_after_the_other() {
    let (server, mut clients, _poster) = session(1, 1);
    let mut client = clients.pop().unwrap();
    let client = thread::spawn(move || {
        assert_eq!(client.access(&read()), 0);
        client.access(&write(2));
        assert_eq!(client.access(&read()), 2);
    });
    assert_eq!(server.serve(3), [READ, 2, READ]);
    client.join().unwrap();
}

fn place(log: &[u64], number: u64) -> usize {
    log.iter().position(|&done| done == number).unwrap()
}

#[test]
fn two_requesters_are_both_answered() {
    explore(3, two_reads);
}

#[test]
fn a_read_pushes_what_was_posted_before_it() {
    explore(2, a_post_and_a_read_beside_a_write);
}

#[test]
fn requesters_that_share_the_ring_see_their_own_writes() {
    explore(2, two_posters_that_read);
}

#[test]
fn a_full_ring_keeps_the_order() {
    explore(3, a_ring_that_is_full);
}

#[test]
fn each_access_has_its_own_answer() {
    explore(3, one_after_the_other);
}

/// Whether loom finds fault with `model` when something is taken out.
fn is_missed(broken: Broken, preemptions: usize, model: fn()) -> bool {
    sync::breaks(Some(broken));
    let found = catch_unwind(AssertUnwindSafe(|| explore(preemptions, model)));
    sync::breaks(None);
    found.is_err()
}

#[test]
fn without_its_fences_a_wake_up_is_lost() {
    assert!(is_missed(Broken::Fences, 3, two_reads));
    assert!(is_missed(Broken::Fences, 3, one_after_the_other));
}

#[test]
fn without_its_orderings_a_half_written_request_is_seen() {
    assert!(is_missed(Broken::Orderings, 3, one_after_the_other));
    assert!(is_missed(Broken::Orderings, 3, a_ring_that_is_full));
}
