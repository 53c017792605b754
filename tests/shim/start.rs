//! Servers that fail before the machine has started. QEMU ends in time, with
//! one line that names the socket.

use std::time::{Duration, Instant};

use crate::fake::{Fake, Peer, Then, is};
use crate::rig::RigError;
use crate::rig::require;
use crate::stage::{board, device, reason};
use crate::wire::messages::{header, message, reply};
use crate::wire::{Cmd, Received, bytes};

/// Short, for tests that reach it.
const TIMEOUT: &str = ",connect-timeout=400";

/// Generous: what the issue of such a start may take at most.
const SOON: Duration = Duration::from_secs(5);

/// All that a client asks before it knows the device.
const QUESTIONS: [Cmd; 4] = [
    Cmd::Version,
    Cmd::GetInfo,
    Cmd::GetRegionInfo,
    Cmd::GetIrqInfo,
];

/// Starts QEMU with this server; returns why it did not come up, soon.
#[track_caller]
fn refused(fake: &Fake) -> Result<String, RigError> {
    let before = Instant::now();
    let mut qemu = board(&fake.socket(), TIMEOUT)?.start();
    assert!(!qemu.is_up(), "QEMU takes this server");
    let ended = qemu.ended();
    let took = before.elapsed();
    assert!(took < SOON, "{took:?}");
    let reason = reason(&ended, &device(&fake.socket(), TIMEOUT));
    let socket = fake.socket().display().to_string();
    assert!(reason.contains(&socket), "it names no socket: {reason}");
    Ok(reason)
}

/// A server that does this at a question, and is honest before.
fn at(question: Cmd, mut does: impl FnMut(&Peer<'_>, &Received) -> Then + Send + 'static) -> Fake {
    Fake::start(move |peer, message| {
        if is(message, question) {
            does(peer, message)
        } else {
            Then::Honest
        }
    })
}

#[test]
fn a_server_that_does_not_answer_is_given_up() {
    for question in QUESTIONS {
        let fake = at(question, |_, _| Then::Hang);
        let reason = require!(refused(&fake));
        assert!(reason.contains("time"), "{question:?}: {reason}");
    }
}

#[test]
fn a_server_that_leaves_is_given_up() {
    for question in QUESTIONS {
        let fake = at(question, |_, _| Then::Leave);
        require!(refused(&fake));
    }
}

/// One byte after the other, so that each wait alone is a short one.
#[test]
fn a_server_that_answers_in_drops_is_given_up() {
    for question in QUESTIONS {
        let fake = at(question, |peer, message| {
            let Ok(Some(answer)) = peer.honest(message) else {
                return Then::Leave;
            };
            for byte in answer.bytes.chunks(1) {
                if !peer.send(byte) {
                    return Then::Leave;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            Then::Done
        });
        let reason = require!(refused(&fake));
        assert!(reason.contains("time"), "{question:?}: {reason}");
    }
}

/// Each answer alone comes in time, all of them do not.
#[test]
fn all_of_the_start_has_one_limit() {
    let fake = Fake::start(|_, _| {
        std::thread::sleep(Duration::from_millis(150));
        Then::Honest
    });
    let reason = require!(refused(&fake));
    assert!(reason.contains("time"), "{reason}");
}

/// It asks for memory instead, without end.
#[test]
fn a_server_that_only_asks_is_given_up() {
    let fake = at(Cmd::GetInfo, |peer, _| {
        let question = message(1, Cmd::DmaRead, &bytes![0x10_0000u64, 8u64]);
        while peer.send(&question) {}
        Then::Leave
    });
    require!(refused(&fake));
    // Or it takes the answers as well.
    let fake = at(Cmd::GetInfo, |peer, _| {
        while peer
            .ask(1, Cmd::DmaRead, &bytes![0x10_0000u64, 8u64])
            .is_ok()
        {}
        Then::Leave
    });
    require!(refused(&fake));
}

/// A listener whose queue is full lets nobody connect.
#[test]
fn a_server_that_does_not_accept_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let listener = rustix::net::socket(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    let address = rustix::net::SocketAddrUnix::new(&socket).unwrap();
    rustix::net::bind(&listener, &address).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    // As many as it keeps; then it is full.
    let _waiting = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    let before = Instant::now();
    let mut qemu = require!(board(&socket, TIMEOUT)).start();
    assert!(!qemu.is_up());
    let ended = qemu.ended();
    assert!(before.elapsed() < SOON);
    reason(&ended, &device(&socket, TIMEOUT));
}

/// Bytes that are no message at all.
#[test]
fn a_server_that_sends_garbage_is_given_up() {
    let garbage: [Vec<u8>; 5] = [
        vec![0; 64],
        vec![0xff; 4096],
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        header(0, 1, 0xffff_ffff, 1),
        reply(0, Cmd::MigDataRead, &[0xaa; 100]),
    ];
    for question in QUESTIONS {
        for bytes in garbage.clone() {
            let fake = at(question, move |peer, _| {
                peer.send(&bytes);
                Then::Done
            });
            require!(refused(&fake));
        }
    }
}
