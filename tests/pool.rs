//! Many devices on few threads: each client has its own device, and none is
//! kept waiting by another for longer than the limits say.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod wire;

use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vgpu_stub::server::{Limits, Server, Source};
use wire::device::{ID, Reg, result};
use wire::messages::{access, query, version, write};
use wire::shared::Shared;
use wire::{Client, Cmd, PATIENCE, PATIENT, QEMU, SHORT, Served, bytes, make, message};

/// A server on so many threads.
fn pool(threads: usize, limits: Limits) -> Server {
    let threads = NonZeroUsize::new(threads).unwrap();
    Server::new().limits(limits).threads(threads)
}

/// Test devices by their names on so many threads.
fn pooled(threads: usize, limits: Limits, names: &[&str]) -> Served {
    let endpoints = names.iter().map(|name| (*name, make("test")));
    Served::by(pool(threads, limits), endpoints)
}

#[test]
fn each_client_has_its_own_device_on_one_thread_and_on_more() {
    const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    for threads in [1, 3, 20] {
        let served = pooled(threads, PATIENT, &NAMES);
        thread::scope(|scope| {
            for (number, name) in (0u64..).zip(NAMES) {
                let served = &served;
                scope.spawn(move || {
                    for visit in 0..3 {
                        let mut client = served.client_of(name);
                        // The device keeps its state from client to client.
                        let kept = client.get(Reg::SCRATCH);
                        assert!(visit == 0 || kept == (number << 16) | 0x63, "{kept:#x}");
                        for value in 0..100 {
                            let value = (number << 16) | value;
                            client.set(Reg::SCRATCH, value);
                            assert_eq!(client.get(Reg::SCRATCH), value);
                        }
                    }
                });
            }
        });
    }
}

#[test]
fn a_client_that_is_silent_or_stalls_holds_up_nobody_and_is_given_up() {
    const NAMES: [&str; 4] = ["silent", "stalled early", "stalled", "other"];
    let served = pooled(1, SHORT, &NAMES);
    let connect = |name: &str| Client::connect(&served.path(name));
    let silent = connect("silent");
    let early = connect("stalled early");
    early.send(&message(1, Cmd::Version, &version(1, QEMU))[..20]);
    let stalled = served.client_of("stalled");
    stalled.send(&[0; 7]);
    let mut other = served.client_of("other");
    let begun = Instant::now();
    let mut answers = 0;
    let mut waiting = vec![silent, early, stalled];
    while !waiting.is_empty() {
        assert!(begun.elapsed() < PATIENCE, "{} still wait", waiting.len());
        assert_eq!(other.get(Reg::ID), u64::from(ID));
        answers += 1;
        waiting.retain(|client| !ready(client.stream()));
    }
    assert!(answers > 1, "the other was held up");
    // The next clients are served.
    for name in NAMES {
        if name != "other" {
            served.client_of(name).in_step();
        }
    }
}

/// Whether there is something to receive, be it the end.
fn ready(fd: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
}

/// Asks without end for much and takes none of it, until nothing can be sent.
fn clog(client: &Client) {
    let stream = client.stream();
    stream.set_nonblocking(true).unwrap();
    let ask = message(7, Cmd::RegionRead, &access(2, 0, 1 << 20));
    let begun = Instant::now();
    while rustix::io::write(stream, &ask).is_ok() {
        assert!(begun.elapsed() < PATIENCE, "the server takes it all");
    }
}

#[test]
fn a_client_that_takes_no_replies_holds_up_one_thread_of_several() {
    let served = pooled(2, PATIENT, &["clogged", "other"]);
    let clogged = served.client_of("clogged");
    clog(&clogged);
    let mut other = served.client_of("other");
    for value in 0..100 {
        other.set(Reg::SCRATCH, value);
        assert_eq!(other.get(Reg::SCRATCH), value);
    }
    drop(clogged);
    served.client_of("clogged").in_step();
}

#[test]
fn a_client_that_takes_no_replies_holds_up_the_only_thread_for_its_patience() {
    let served = pooled(1, SHORT, &["clogged", "other"]);
    let mut other = served.client_of("other");
    let clogged = served.client_of("clogged");
    clog(&clogged);
    let begun = Instant::now();
    assert_eq!(other.get(Reg::ID), u64::from(ID));
    assert!(begun.elapsed() < PATIENCE);
}

/// A client whose device asks it for guest memory in the middle of a write;
/// it has received the question.
fn asked(served: &Served, name: &str) -> Client {
    let mut client = served.client_of(name);
    client.map_without(0x1000, 0x1000);
    client.set(Reg::ADDRESS, 0x1000);
    client.command(Cmd::RegionWrite, &write(0, 0x40, &bytes![1u32]), &[]);
    client.prove_sound();
    client
}

#[test]
fn a_device_that_waits_for_guest_memory_holds_up_one_thread() {
    let served = pooled(2, PATIENT, &["asking", "other"]);
    let mut asking = asked(&served, "asking");
    let mut other = served.client_of("other");
    for value in 0..100 {
        other.set(Reg::SCRATCH, value);
        assert_eq!(other.get(Reg::SCRATCH), value);
    }
    asking.provide(&[1; 8]);
    assert_eq!(asking.receive().flags(), 1);
    assert_eq!(asking.get(Reg::RESULT), result::DONE);
    assert_eq!(asking.get(Reg::VALUE), 0x0101_0101_0101_0101);
}

#[test]
fn a_device_that_waits_for_guest_memory_holds_up_the_only_thread_for_its_patience() {
    let served = pooled(1, SHORT, &["asking", "other"]);
    let mut other = served.client_of("other");
    let mut asking = asked(&served, "asking");
    assert_eq!(other.get(Reg::ID), u64::from(ID));
    // The question, and the answer to the access without it.
    asking.question(Cmd::DmaRead);
    assert_eq!(asking.receive().flags(), 1);
    assert_eq!(asking.get(Reg::RESULT), result::TIMED_OUT);
}

/// A session with a device that goes by shared memory.
fn sharing(served: &Served, name: &str) -> (Client, Shared) {
    let mut client = Client::connect(&served.path(name));
    let shared = Shared::agree(&mut client, 1);
    (client, shared)
}

#[test]
fn sessions_by_shared_memory_are_woken_each_by_its_own() {
    const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    let scratch = 4;
    for threads in [1, 3] {
        let served = pooled(threads, PATIENT, &NAMES);
        let mut sessions: Vec<_> = NAMES.iter().map(|name| sharing(&served, name)).collect();
        for round in 0..20 {
            for (number, (client, shared)) in (0u64..).zip(&mut sessions) {
                if (round + number) % 3 == 0 {
                    // Asleep, it has to be woken; otherwise it may be.
                    shared.memory.wait_until_the_server_sleeps();
                }
                let value = (number << 16) | round;
                shared.ring.post(0, scratch, 4, 0);
                shared.ring.post(0, scratch, 4, value);
                assert_eq!(shared.slots[0].read(0, scratch, 4), Ok(value));
                shared.ring.post(0, scratch, 4, value + 1);
                assert_eq!(client.get(Reg::SCRATCH), value + 1);
            }
        }
        for (number, (client, shared)) in (0..).zip(&mut sessions) {
            let value = (number << 16) | 0x14;
            assert_eq!(shared.slots[0].read(0, scratch, 4), Ok(value));
            assert_eq!(client.get(Reg::SCRATCH), value);
        }
    }
}

#[test]
fn a_client_that_always_has_more_in_shared_memory_does_not_keep_others_waiting() {
    let served = pooled(1, PATIENT, &["busy", "sharing", "other"]);
    let (mut busy_client, mut busy) = sharing(&served, "busy");
    let (_sharing, mut shared) = sharing(&served, "sharing");
    let mut other = served.client_of("other");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // The ring is never empty for long.
                while busy.ring.tail.wrapping_sub(busy.ring.head()) < busy.ring.entries {
                    busy.ring.post(0, 4, 4, 1);
                }
            }
        });
        for value in 0..100 {
            other.set(Reg::SCRATCH, value);
            assert_eq!(other.get(Reg::SCRATCH), value);
            shared.slots[0].write(0, 4, 4, value).unwrap();
            assert_eq!(shared.slots[0].read(0, 4, 4), Ok(value));
            // Its own commands get their turn as well.
            busy_client.in_step();
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn doorbells_are_heard_with_and_without_commands() {
    let served = pooled(1, PATIENT, &["test"]);
    let mut client = served.client();
    let offered = client.ask_with(Cmd::GetRegionIoFds, &query(128, 0), &[]);
    let bell = &offered.fds[0];
    for rings in 1..4 {
        rustix::io::write(bell, &1u64.to_ne_bytes()).unwrap();
        assert_eq!(client.get(Reg::RINGS), rings);
    }
    // Without a command: whoever hears it takes the count.
    rustix::io::write(bell, &1u64.to_ne_bytes()).unwrap();
    let begun = Instant::now();
    while ready(bell) {
        assert!(begun.elapsed() < PATIENCE, "nobody hears it");
        thread::yield_now();
    }
    assert_eq!(client.get(Reg::RINGS), 4);
}

#[test]
fn it_ends_when_it_is_stopped_whatever_its_devices_do() {
    for threads in [1, 2] {
        let served = pooled(threads, PATIENT, &["free", "served", "new", "stalled"]);
        let mut client = served.client_of("served");
        client.in_step();
        let new = Client::connect(&served.path("new"));
        let stalled = served.client_of("stalled");
        stalled.send(&[0; 7]);
        let waits = UnixStream::connect(served.path("served")).unwrap();
        let path = served.path("free");
        served.stop().unwrap();
        for client in [&client, &new, &stalled] {
            client.closed();
        }
        assert!(!path.exists());
        drop(waits);
    }
}

#[test]
fn it_ends_when_each_device_has_had_its_only_client() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut server = pool(2, PATIENT);
    let source = Source::Connected(theirs);
    server.add("connected", make("test"), source).unwrap();
    let server = thread::spawn(move || server.run());
    let mut client = Client::over(ours);
    client.agree(QEMU);
    client.in_step();
    drop(client);
    server.join().unwrap().unwrap();

    let once = Served::by(pool(2, PATIENT).once(true), [("once", make("test"))]);
    once.client_of("once").in_step();
    once.wait().unwrap();
}

#[test]
fn it_ends_when_no_first_client_comes() {
    let devices = || [("a", make("test")), ("b", make("test"))];
    let hasty = pool(1, PATIENT).first_client_within(Duration::from_millis(50));
    Served::by(hasty, devices()).wait().unwrap();

    // One that came in time may come again at any time.
    let patient = pool(1, PATIENT).first_client_within(Duration::from_secs(3600));
    let served = Served::by(patient, devices());
    for _ in 0..3 {
        served.client_of("a").in_step();
    }
}
