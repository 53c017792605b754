//! Servers that fail while the machine runs: reads become all-ones within
//! msg-timeout, then cost nothing more, and QEMU lives.

use std::time::{Duration, Instant};

use vgpu_stub::devices::StubRegister as Stub;

use crate::fake::{Fake, Peer, Then, is};
use crate::rig::require;
use crate::rig::{RigError, Server};
use crate::stage::{Card, MAILBOX, board};
use crate::wire::device::Reg;
use crate::wire::messages::{ERROR, REPLY, access, header, message, reply};
use crate::wire::{Cmd, Received, bytes, memory};

const ONES: u64 = 0xffff_ffff;

/// What a device waits for its server at most, for tests that reach it.
const TIMEOUT: &str = ",msg-timeout=300";

/// A generous limit for what takes one such timeout.
const SOON: Duration = Duration::from_secs(3);

/// The register at whose access the scripts here begin to fail.
const TRIGGER: u64 = 0x04;

fn triggers(message: &Received) -> bool {
    let is_access = is(message, Cmd::RegionRead) || is(message, Cmd::RegionWrite);
    is_access && message.u64(16) == TRIGGER && message.u32(24) == 0
}

/// A server that does this at each access to the trigger, and a device.
fn failing(
    mut does: impl FnMut(&Peer<'_>, &Received) -> Then + Send + 'static,
) -> Result<(Fake, Card), RigError> {
    let fake = Fake::start(move |peer, message| {
        if triggers(message) {
            does(peer, message)
        } else {
            Then::Honest
        }
    });
    let mut card = Card::start(board(&fake.socket(), TIMEOUT)?);
    assert_eq!(card.get(Reg::ID), 0x5550_4756);
    Ok((fake, card))
}

impl Card {
    /// Reads the trigger, which must soon give all-ones.
    #[track_caller]
    fn trigger(&mut self) {
        let before = Instant::now();
        assert_eq!(self.read(TRIGGER, 4), ONES);
        let took = before.elapsed();
        assert!(took < SOON, "{took:?}");
    }

    /// The device is broken: all is ones and goes nowhere, in no time, and
    /// QEMU is well.
    #[track_caller]
    pub(crate) fn is_broken(&mut self, fake: &Fake) {
        fake.clear();
        let before = Instant::now();
        for width in [1, 2, 4, 8] {
            assert_eq!(self.read(0x08, width), u64::MAX >> (64 - 8 * width));
            self.write(0x08, width, 5);
        }
        for _ in 0..1000 {
            assert_eq!(self.get(Reg::ID), ONES);
        }
        let took = before.elapsed();
        assert!(took < SOON, "{took:?}");
        self.qemu.alive();
        // Answers that were on their way may still be heard.
        let heard = fake.heard(|heard| heard.is(Cmd::RegionRead) || heard.is(Cmd::RegionWrite));
        assert!(heard.is_empty(), "{} accesses", heard.len());
        // A reset finds a device that is gone, and goes on.
        self.qemu.reset();
        self.qemu.alive();
    }
}

#[test]
fn a_server_that_leaves_during_a_read_breaks_the_device() {
    let (fake, mut card) = require!(failing(|_, _| Then::Leave));
    card.trigger();
    card.is_broken(&fake);
}

#[test]
fn a_server_that_leaves_unasked_breaks_the_device() {
    let (fake, mut card) = require!(failing(|_, _| Then::Honest));
    fake.hang_up();
    card.trigger();
    card.is_broken(&fake);
}

#[test]
fn a_server_that_is_killed_breaks_the_device() {
    let run = || -> Result<(), RigError> {
        let mut server = Server::start(&["stub"])?;
        let mut card = Card::start(board(&server.socket(0), TIMEOUT)?);
        card.set(Stub::SCRATCH, 5);
        assert_eq!(card.get(Stub::SCRATCH), 5);
        server.kill();
        for value in 0..100 {
            card.set(Stub::SCRATCH, value);
        }
        assert_eq!(card.get(Stub::SCRATCH), ONES);
        card.qemu.alive();
        Ok(())
    };
    require!(run());
}

/// It dies with writes that it has not read.
#[test]
fn a_server_that_leaves_with_writes_unread_breaks_the_device() {
    let (fake, mut card) = require!(failing(|_, _| Then::Hang));
    for value in 0..100 {
        card.write(TRIGGER, 4, value);
    }
    fake.hang_up();
    card.trigger();
    card.is_broken(&fake);
}

/// A server that does not read lets writes pile up until the socket is full;
/// then one of them waits, and no other.
#[test]
fn writes_to_a_server_that_hangs_wait_once() {
    let (fake, mut card) = require!(failing(|_, _| Then::Hang));
    let before = Instant::now();
    for value in 0..20_000 {
        card.write(TRIGGER, 4, value);
    }
    let took = before.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    card.trigger();
    card.is_broken(&fake);
}

#[test]
fn a_server_that_does_not_answer_is_waited_for_once() {
    let (fake, mut card) = require!(failing(|_, _| Then::Done));
    card.trigger();
    assert_eq!(fake.count(|heard| heard.accesses(0, TRIGGER)), 1);
    card.is_broken(&fake);
}

#[test]
fn a_write_that_is_not_posted_is_waited_for_once() {
    let fake = Fake::start(|_, message| {
        if triggers(message) {
            Then::Done
        } else {
            Then::Honest
        }
    });
    let properties = format!("{TIMEOUT},posted-writes=off");
    let mut card = Card::start(require!(board(&fake.socket(), &properties)));
    let before = Instant::now();
    for value in 0..100 {
        card.write(TRIGGER, 4, value);
    }
    assert!(before.elapsed() < SOON);
    card.is_broken(&fake);
}

#[test]
fn a_server_that_answers_in_drops_is_not_waited_for_longer() {
    let (fake, mut card) = require!(failing(|peer, message| {
        if let Ok(Some(answer)) = peer.honest(message) {
            for byte in answer.bytes.chunks(1) {
                if !peer.send(byte) {
                    return Then::Leave;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        panic!("the client took all drops");
    }));
    card.trigger();
    card.is_broken(&fake);
}

/// What is wrong about an answer to a read.
type Lie = fn(&mut Received);

fn put(answer: &mut Received, at: usize, bytes: &[u8]) {
    answer.bytes[at..at + bytes.len()].copy_from_slice(bytes);
}

fn resize(answer: &mut Received, by: i32) {
    let size = answer.bytes.len().checked_add_signed(by as isize).unwrap();
    answer.bytes.resize(size, 0);
    put(answer, 4, &u32::try_from(size).unwrap().to_ne_bytes());
}

#[test]
fn an_answer_that_is_wrong_breaks_the_device() {
    let lies: [(&str, Lie); 11] = [
        ("another id", |answer| answer.bytes[0] ^= 1),
        ("another command", |answer| answer.bytes[2] = 10),
        ("a size of 0", |answer| put(answer, 4, &[0; 4])),
        ("a size of 15", |answer| {
            put(answer, 4, &15u32.to_ne_bytes());
        }),
        ("a size of 4 GiB", |answer| put(answer, 4, &[0xff; 4])),
        ("a command", |answer| put(answer, 8, &[0; 4])),
        ("no type", |answer| put(answer, 8, &[0x0f, 0, 0, 0])),
        ("a header only", |answer| resize(answer, -20)),
        ("fewer bytes", |answer| resize(answer, -1)),
        ("more bytes", |answer| resize(answer, 1)),
        ("more bytes than fit", |answer| resize(answer, 1 << 17)),
    ];
    for (name, lie) in lies {
        println!("{name}");
        let (fake, mut card) = require!(failing(move |peer, message| peer.lie(message, lie)));
        card.trigger();
        card.is_broken(&fake);
    }
}

/// The reply's own words about what was read do not matter, its data does.
#[test]
fn an_answer_that_describes_another_read_is_survived() {
    let lies: [(&str, Lie); 4] = [
        ("another offset", |answer| put(answer, 16, &[1, 2, 3])),
        ("another region", |answer| put(answer, 24, &[2])),
        ("a count of 0", |answer| put(answer, 28, &[0])),
        ("a count of 4 GiB", |answer| put(answer, 28, &[0xff; 4])),
    ];
    for (name, lie) in lies {
        println!("{name}");
        let (_fake, mut card) = require!(failing(move |peer, message| peer.lie(message, lie)));
        let value = card.read(TRIGGER, 4);
        assert!([0x1234_5678, ONES].contains(&value), "{value:#x}");
        card.qemu.alive();
    }
}

/// A refusal is an answer: the device goes on.
#[test]
fn an_error_to_a_read_is_all_ones_for_that_read() {
    for errno in [libc::EINVAL, 0, -1, i32::MAX] {
        let (_fake, mut card) = require!(failing(move |peer, message| {
            let error = bytes![message.id(), message.command(), 16u32, REPLY | ERROR, errno];
            peer.send(&error);
            Then::Done
        }));
        for _ in 0..3 {
            card.trigger();
            assert_eq!(card.get(Reg::ID), 0x5550_4756, "errno {errno}");
        }
    }
}

/// What a server may say unasked, and the device must not die of more than
/// once.
fn nonsense() -> Vec<(&'static str, Vec<u8>)> {
    let mut state = 0x2026_1121u64;
    let random = (0..64 * 1024)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_be_bytes()[0]
        })
        .collect();
    vec![
        ("zeros", vec![0; 16]),
        ("ones", vec![0xff; 16]),
        ("random bytes", random),
        (
            "a reply to nothing",
            reply(0x4242, Cmd::RegionRead, &access(0, 0, 0)),
        ),
        ("an old reply", reply(1, Cmd::Version, &[0; 5])),
        (
            "a command of the client's",
            message(1, Cmd::RegionRead, &access(0, 0, 4)),
        ),
        ("no command", header(1, 99, 16, 0)),
        ("a question that is cut", message(1, Cmd::DmaRead, &[0; 3])),
        (
            "a question with a size of 4 GiB",
            header(1, 11, u32::MAX, 0),
        ),
        (
            "data that is not there",
            message(1, Cmd::DmaWrite, &bytes![MAILBOX, 1u64 << 40]),
        ),
        ("half a header", vec![1, 0, 11]),
    ]
}

#[test]
fn nonsense_between_accesses_is_survived() {
    for (name, bytes) in nonsense() {
        println!("{name}");
        let (fake, mut card) = require!(failing(|_, _| Then::Honest));
        fake.interject(&bytes);
        // It may answer, wait for the rest, or be broken; but not for ever.
        let before = Instant::now();
        let value = card.get(Reg::ID);
        assert!([0x5550_4756, ONES].contains(&value), "{name}: {value:#x}");
        card.get(Reg::SCRATCH64);
        assert!(before.elapsed() < SOON);
        card.qemu.alive();
    }
}

#[test]
fn nonsense_instead_of_an_answer_is_survived() {
    for (name, bytes) in nonsense() {
        println!("{name}");
        let (_fake, mut card) = require!(failing(move |peer, _| {
            peer.send(&bytes);
            Then::Done
        }));
        card.trigger();
        assert_eq!(card.get(Reg::ID), ONES, "{name}");
        card.qemu.alive();
    }
}

/// Questions without end, whether the server takes the answers or not, do not
/// make an access longer.
#[test]
fn a_flood_of_questions_ends_an_access_in_time() {
    let question = || message(1, Cmd::DmaRead, &bytes![MAILBOX, 4096u64]);
    let (fake, mut card) = require!(failing(move |peer, _| {
        while peer.send(&question()) {}
        Then::Leave
    }));
    card.trigger();
    card.is_broken(&fake);
    let (fake, mut card) = require!(failing(|peer, _| {
        while peer.ask(1, Cmd::DmaRead, &bytes![MAILBOX, 4096u64]).is_ok() {}
        Then::Leave
    }));
    card.trigger();
    card.is_broken(&fake);
}

/// The same while the guest does nothing: QEMU still goes about its business.
#[test]
fn a_flood_of_questions_does_not_stop_qemu() {
    let (fake, mut card) = require!(failing(|peer, _| {
        // Posted: nobody waits for its answer.
        while peer.ask(1, Cmd::DmaRead, &bytes![MAILBOX, 4096u64]).is_ok() {}
        Then::Leave
    }));
    card.write(TRIGGER, 4, 1);
    for _ in 0..20 {
        card.qemu.alive();
    }
    // Whatever became of the device.
    card.get(Reg::ID);
    card.qemu.alive();
    drop(card);
    fake.wait_ended(1);
}

/// Descriptors that nobody asked for are closed.
#[test]
fn descriptors_with_every_answer_do_not_pile_up() {
    let (_fake, mut card) = require!(failing(|peer, message| {
        peer.lie(message, |answer| {
            let file = memory(4096, &[]);
            let again = || file.try_clone().unwrap().into();
            answer.fds.extend((0..10).map(|_| again()));
        })
    }));
    // Those of one message may be on their way.
    let open = |card: &Card| {
        let path = format!("/proc/{}/fd", card.qemu.id());
        std::fs::read_dir(path).unwrap().count()
    };
    let before = open(&card);
    for _ in 0..200 {
        card.read(TRIGGER, 4);
    }
    card.qemu.alive();
    assert!(
        open(&card) <= before + 20,
        "{before} before, {} now",
        open(&card)
    );
}
