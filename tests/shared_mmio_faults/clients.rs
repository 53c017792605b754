//! Hostile clients of our server.

use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, SealFlags};
use rustix::io::Errno;
use vgpu_stub::device::Register;
use vgpu_stub::server::Server;

use super::counter::{Account, Reg, endpoint};
use super::peer::Peer;
use super::random::{Random, SEED};
use super::turn;
use super::wire::messages::write;
use super::wire::shared::{READ, Shared, Slot, WRITE};
use super::wire::{Client, Cmd, PATIENCE, PATIENT, SHORT, Served, bytes, open_descriptors, posted};

/// Where what is in the shared pages (docs/shared-mmio.md).
const SERVER_SLEEPS: usize = 0;
const SLOT: usize = 512;
const REQUEST: usize = SLOT;
const OFFSET: usize = SLOT + 8;
const VALUE: usize = SLOT + 16;
const CLIENT_SLEEPS: usize = SLOT + 24;

/// What a client that is gone may have left behind, in bytes: sizes of
/// buffers, not an amount for each of the many sessions.
const GROWTH: u64 = 8 << 20;

fn at(register: Reg) -> u64 {
    register.row().offset.into()
}

fn session(socket: &Path, slots: u32) -> (Client, Shared) {
    let mut client = Client::connect(socket);
    let shared = Shared::agree(&mut client, slots);
    (client, shared)
}

/// A server of two devices, and what these were told.
struct Scene {
    served: Served,
    victim: Account,
    honest: Account,
}

impl Scene {
    fn new(server: Server) -> Self {
        let (victim, honest) = (Account::default(), Account::default());
        let devices = [("victim", endpoint(&victim)), ("honest", endpoint(&honest))];
        Scene {
            served: Served::by(server, devices),
            victim,
            honest,
        }
    }

    /// On a thread for each device, and on one for both.
    fn both(limits: vgpu_stub::server::Limits) -> [Self; 2] {
        let server = || Server::new().limits(limits);
        let one = NonZeroUsize::MIN;
        [Self::new(server()), Self::new(server().threads(one))]
    }

    /// An honest client works until `peer` has ended, and all that it wrote
    /// was delivered once and in order.
    fn work_beside(&self, peer: &mut Peer) {
        let before = self.honest.all().len();
        let (mut client, mut shared) = session(&self.served.path("honest"), 1);
        let mut value = 0;
        let mut more = true;
        while more {
            // A last round is after its end.
            more = peer.runs_on(Duration::from_millis(1));
            let slot = &mut shared.slots[0];
            shared.ring.post(0, at(Reg::VALUE), 8, value);
            assert_eq!(slot.read(0, at(Reg::VALUE), 8), Ok(value));
            slot.write(0, at(Reg::VALUE), 8, value + 1).unwrap();
            let read = client.read(0, at(Reg::VALUE), 8);
            assert_eq!(read, bytes![value + 1]);
            value += 2;
        }
        let delivered = self.honest.all().split_off(before);
        assert!(delivered.iter().copied().eq(0..value), "{value} writes");
    }

    /// Has a peer play a client of the victim to its end, and the next client
    /// finds a server that works.
    fn suffers(&self, role: &str, seed: u64) {
        let mut peer = Peer::start(role, seed, &self.served.path("victim"));
        self.work_beside(&mut peer);
        peer.succeeds();
        self.serves_on();
    }

    /// How many descriptors there are beside a client of each device.
    fn descriptors(&self) -> usize {
        // Answered when the session of the client before is over.
        let mut clients = ["victim", "honest"].map(|name| self.served.client_of(name));
        for client in &mut clients {
            client.read(0, at(Reg::VALUE), 8);
        }
        open_descriptors()
    }

    fn serves_on(&self) {
        let (mut client, mut shared) = session(&self.served.path("victim"), 1);
        let slot = &mut shared.slots[0];
        slot.write(0, at(Reg::NARROW), 4, 77).unwrap();
        assert_eq!(slot.read(0, at(Reg::NARROW), 4), Ok(77));
        assert_eq!(client.read(0, at(Reg::NARROW), 4), bytes![77u32]);
    }
}

/// What this process takes, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Plays a hostile client, if `role` is one.
pub(crate) fn play(role: &str, socket: &Path, random: Random) -> bool {
    match role {
        "scribbler" => scribble(socket, random),
        "flipper" => flip(socket, random),
        "overrunner" => overrun(socket, random),
        "rewriter" => rewrite(socket),
        "file owner" => own_the_file(socket),
        "holder" => hold(socket),
        "deaf" => be_deaf(socket),
        "revenant" => come_back(socket),
        _ => return false,
    }
    true
}

#[test]
fn a_client_that_writes_nonsense_everywhere_harms_nobody_else() {
    let _turn = turn();
    for scene in Scene::both(PATIENT) {
        scene.suffers("scribbler", SEED);
        let (descriptors, memory) = (scene.descriptors(), resident());
        for seed in SEED + 1..SEED + 4 {
            scene.suffers("scribbler", seed);
        }
        assert_eq!(scene.descriptors(), descriptors);
        let grown = resident().saturating_sub(memory);
        assert!(grown < GROWTH, "{grown} bytes more");
    }
}

/// Any words at any place, at any time, in one session after the other.
fn scribble(socket: &Path, mut random: Random) {
    for _ in 0..20 {
        let (client, shared) = session(socket, 2);
        let size = usize::try_from(shared.file.metadata().unwrap().len()).unwrap();
        let words = (SLOT + 2 * 128 + 256 * 32) / 8;
        assert!(words * 8 <= size);
        for _ in 0..2_000 {
            let word = match random.below(8) {
                0..4 => usize::try_from(random.below(words as u64)).unwrap() * 8,
                4 => SERVER_SLEEPS,
                5 => REQUEST + 128 * usize::try_from(random.below(2)).unwrap(),
                6 => CLIENT_SLEEPS,
                _ => OFFSET,
            };
            let value = plausible(&mut random);
            shared.memory.u64_at(word).store(value, Ordering::SeqCst);
            match random.below(16) {
                0 => drop(rustix::net::send(
                    client.stream(),
                    &posted(
                        9,
                        Cmd::RegionWrite,
                        &write(0, at(Reg::NARROW), &bytes![1u32]),
                    ),
                    rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT,
                )),
                1 => shared.memory.poke(),
                2 => thread::yield_now(),
                _ => {}
            }
        }
    }
}

/// A word that may mean something.
fn plausible(random: &mut Random) -> u64 {
    let what = Slot::what(
        random.of(&[READ, WRITE, WRITE, 0, 3, 0xff]),
        random.of(&[1, 2, 4, 8, 0, 9, 0xff]),
        random.of(&[0, 0, 0, 1, 7, 9, 0xffff]),
    );
    match random.below(4) {
        0 => random.next(),
        1 => random.of(&[0, 4, 8, 12, 0xfff, 0x1000, u64::MAX, u64::MAX - 7]),
        2 => u64::from(what) << 32 | random.below(4),
        _ => u64::from(what) << 8 | random.below(300),
    }
}

#[test]
fn flags_that_lie_cost_a_client_its_own_time_and_nothing_is_lost_or_done_twice() {
    let _turn = turn();
    for scene in Scene::both(PATIENT) {
        scene.suffers("flipper", SEED);
        let delivered = scene.victim.all();
        assert!(
            delivered.iter().copied().eq(0..FLIPS),
            "{}",
            delivered.len()
        );
    }
}

const FLIPS: u64 = 2_000;

/// Says of both sides at random that they sleep or do not.
fn flip(socket: &Path, mut random: Random) {
    let (mut client, mut shared) = session(socket, 1);
    let done = AtomicBool::new(false);
    let memory = shared.memory.clone();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let flag = random.of(&[SERVER_SLEEPS, CLIENT_SLEEPS]);
                let value = random.of(&[0, 1, 2, u32::MAX]);
                memory.u32_at(flag).store(value, Ordering::SeqCst);
                thread::yield_now();
            }
        });
        for value in 0..FLIPS {
            let slot = &mut shared.slots[0];
            if value % 2 == 0 {
                slot.begin(Slot::what(WRITE, 8, 0), at(Reg::VALUE), value);
                // It may sleep though it was said that it does not.
                finish(&mut client, slot);
            } else {
                shared.ring.post(0, at(Reg::VALUE), 8, value);
                if value % 64 == 63 {
                    client.read(0, at(Reg::NARROW), 4);
                }
            }
        }
        client.read(0, at(Reg::NARROW), 4);
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_ring_that_holds_more_than_it_can_ends_that_session_alone() {
    let _turn = turn();
    for scene in Scene::both(PATIENT) {
        scene.suffers("overrunner", SEED);
        assert!(scene.victim.all().is_empty());
    }
}

fn overrun(socket: &Path, mut random: Random) {
    for _ in 0..20 {
        let (client, mut shared) = session(socket, 1);
        let most = shared.ring.entries;
        let tail = u32::try_from(random.next() >> 32).unwrap();
        let tail = random.of(&[most + 1, u32::MAX, tail.max(most + 1)]);
        shared.ring.set_tail(tail);
        if !shared.memory.wake() {
            shared.memory.poke();
        }
        client.closed();
    }
}

#[test]
fn a_request_that_is_rewritten_while_it_is_handled_is_done_once() {
    let _turn = turn();
    for scene in Scene::both(PATIENT) {
        scene.suffers("rewriter", SEED);
        let delivered = scene.victim.all();
        assert_eq!(delivered.len() as u64, REWRITES);
        assert!(delivered.iter().all(|value| VALUES.contains(value)));
    }
}

const REWRITES: u64 = 3_000;
const VALUES: [u64; 2] = [0x1111_1111_1111_1111, 0x2222_2222_2222_2222];

/// Two valid values, and offsets of which one is valid: the same request is
/// carried out once, with one of the values, or refused.
fn rewrite(socket: &Path) {
    let (_client, mut shared) = session(socket, 1);
    let done = AtomicBool::new(false);
    let memory = shared.memory.clone();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for value in VALUES {
                    memory.u64_at(VALUE).store(value, Ordering::SeqCst);
                    memory.u64_at(OFFSET).store(u64::MAX, Ordering::SeqCst);
                    memory
                        .u64_at(OFFSET)
                        .store(at(Reg::VALUE), Ordering::SeqCst);
                }
            }
        });
        let mut written = 0;
        while written < REWRITES {
            match shared.slots[0].write(0, at(Reg::VALUE), 8, VALUES[0]) {
                Ok(()) => written += 1,
                Err(errno) => assert_eq!(errno, libc::EINVAL),
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn the_memory_can_neither_be_cut_nor_sealed_and_holes_in_it_are_nonsense() {
    let _turn = turn();
    for scene in Scene::both(PATIENT) {
        scene.suffers("file owner", SEED);
    }
}

fn own_the_file(socket: &Path) {
    let (_client, mut shared) = session(socket, 1);
    let file = &shared.file;
    let size = file.metadata().unwrap().len();
    for length in [0, 4096, size - 1, size + 1, size * 2] {
        let cut = file.set_len(length).unwrap_err();
        assert_eq!(cut.raw_os_error(), Some(libc::EPERM), "{length}");
    }
    for seals in [SealFlags::WRITE, SealFlags::FUTURE_WRITE, SealFlags::SEAL] {
        assert_eq!(
            rustix::fs::fcntl_add_seals(file, seals),
            Err(Errno::PERM),
            "{seals:?}"
        );
    }
    let done = AtomicBool::new(false);
    let owner = file.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            for _ in 0..300 {
                rustix::fs::fallocate(&owner, hole, 0, size).unwrap();
                owner.write_all_at(&[0xff; 8], OFFSET as u64).unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        // Requests and answers vanish: none of this need be answered. Nor
        // does a signal more than the kernel keeps wake anybody.
        let mut pokes = 0..100;
        while !done.load(Ordering::Relaxed) {
            let slot = &mut shared.slots[0];
            slot.begin(Slot::what(WRITE, 4, 0), at(Reg::NARROW), 1);
            let patience = Instant::now() + Duration::from_millis(1);
            while slot.answer().is_none() && Instant::now() < patience {}
            if slot.answer().is_none() && pokes.next().is_some() {
                shared.memory.poke();
            }
        }
    });
    // In the same session all works again as soon as it is left alone.
    shared.memory.poke();
    let slot = &mut shared.slots[0];
    slot.write(0, at(Reg::NARROW), 4, 5).unwrap();
    assert_eq!(slot.read(0, at(Reg::NARROW), 4), Ok(5));
}

#[test]
fn a_client_that_dies_holding_a_slot_is_left_in_time() {
    let _turn = turn();
    for scene in Scene::both(SHORT) {
        let peer = Peer::start("holder", SEED, &scene.served.path("victim"));
        let deadline = Instant::now() + PATIENCE;
        while !scene.victim.asked() {
            assert!(Instant::now() < deadline, "the device was not asked");
            thread::yield_now();
        }
        peer.kill();
        scene.serves_on();
        scene.served.client_of("honest").read(0, at(Reg::VALUE), 8);
    }
}

/// Has the device ask for guest memory and never answers.
fn hold(socket: &Path) {
    let (mut client, mut shared) = session(socket, 1);
    client.map_without(0x1000, 0x1000);
    shared.slots[0].begin(Slot::what(WRITE, 4, 0), at(Reg::ASK), 1);
    loop {
        thread::park();
    }
}

#[test]
fn a_client_that_takes_no_wake_up_blocks_nobody() {
    let _turn = turn();
    for scene in Scene::both(PATIENT) {
        scene.suffers("deaf", SEED);
        let delivered = scene.victim.all();
        assert!(delivered.iter().copied().eq(0..DEAF), "{}", delivered.len());
    }
}

const DEAF: u64 = 3_000;

/// Always says that it sleeps and never takes the signals; and signals the
/// server until that has so many that it cannot be woken by one more. Only the
/// socket wakes it then.
fn be_deaf(socket: &Path) {
    let (mut client, mut shared) = session(socket, 1);
    let memory = shared.memory.clone();
    let said = memory.u32_at(CLIENT_SLEEPS);
    for value in 0..DEAF {
        said.store(1, Ordering::SeqCst);
        let slot = &mut shared.slots[0];
        slot.begin(Slot::what(WRITE, 8, 0), at(Reg::VALUE), value);
        finish(&mut client, slot);
        while value % 500 == 0 && memory.signal() {}
    }
}

/// Waits for an answer, and wakes the server by the socket if it does not come.
fn finish(client: &mut Client, slot: &Slot) {
    let patience = Instant::now() + Duration::from_millis(2);
    while slot.answer().is_none() {
        if Instant::now() > patience {
            client.read(0, at(Reg::NARROW), 4);
            assert_eq!(slot.finish(), (0, 0));
        }
    }
}

#[test]
fn who_writes_into_the_memory_of_an_earlier_session_talks_to_nobody() {
    let _turn = turn();
    for scene in Scene::both(PATIENT) {
        scene.suffers("revenant", SEED);
        let delivered = scene.victim.all();
        assert!(
            delivered.iter().copied().eq(0..REVENANT),
            "{}",
            delivered.len()
        );
    }
}

const REVENANT: u64 = 1_000;

fn come_back(socket: &Path) {
    let (client, mut old) = session(socket, 1);
    drop(client);
    let (_client, mut new) = session(socket, 1);
    assert!(old.memory.is_left());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                old.slots[0].publish(Slot::what(WRITE, 8, 0), at(Reg::VALUE), 0xdead);
                old.ring.put([at(Reg::VALUE), 0xdead, 8 << 40, 0]);
                old.memory.poke();
            }
        });
        for value in 0..REVENANT {
            if value % 2 == 0 {
                new.ring.post(0, at(Reg::VALUE), 8, value);
            } else {
                new.slots[0].write(0, at(Reg::VALUE), 8, value).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    new.slots[0].read(0, at(Reg::VALUE), 8).unwrap();
}
