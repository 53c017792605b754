//! DMA by messages: memory that the client does not share.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod wire;

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;

use vgpu_stub::devices::CopierRegister;
use vgpu_stub::server::Limits;
use wire::device::{Reg, result};
use wire::messages::{MSIX, WRITEABLE, access, irqs, map, version, write};
use wire::{
    Client, Cmd, PATIENT, SHORT, Served, bytes, errno_reply, eventfd, message, reply, rung,
};

/// Has the test device read or write guest memory within an access; returns
/// the id of that access, which is answered once the client has answered.
fn begin(client: &mut Client, address: u64, go: u32) -> u16 {
    client.set(Reg::ADDRESS, address);
    client.command(Cmd::RegionWrite, &write(0, 0x40, &bytes![go]), &[])
}

/// Receives the answer to the access, and returns RESULT.
#[track_caller]
fn finish(client: &mut Client, id: u16) -> u64 {
    let received = client.receive();
    assert_eq!((received.id(), received.flags()), (id, 1));
    client.get(Reg::RESULT)
}

/// The errno that the device was told.
fn errno(client: &mut Client) -> i32 {
    i32::try_from(client.get(Reg::ERRNO)).unwrap()
}

/// A session whose memory from 0x1000 on is reached by messages, and whose
/// messages are known to be sound.
fn session(served: &Served) -> Client {
    let mut client = served.client();
    client.map_without(0x1000, 0x10_0000);
    let id = begin(&mut client, 0x1000, 1);
    client.prove_sound();
    client.provide(&[1; 8]);
    assert_eq!(finish(&mut client, id), result::DONE);
    client
}

/// A session that has negotiated a twin socket.
fn with_twin(served: &Served) -> (Client, Client) {
    let mut client = served.connect();
    let json = r#"{"capabilities":{"twin_socket":{"supported":true}}}"#;
    let mut received = client.ask(Cmd::Version, &version(1, json));
    let twin = Client::over(UnixStream::from(received.fds.remove(0)));
    client.map_without(0x1000, 0x10_0000);
    (client, twin)
}

#[test]
fn a_device_reads_and_writes_by_messages() {
    let served = Served::new();
    let mut client = session(&served);
    let id = begin(&mut client, 0x1234, 1);
    assert_eq!(client.provide(&[1, 2, 3, 4, 5, 6, 7, 8]), 0x1234);
    assert_eq!(finish(&mut client, id), result::DONE);
    assert_eq!(client.get(Reg::VALUE), 0x0807_0605_0403_0201);
    let id = begin(&mut client, 0x2222, 2);
    assert_eq!(client.accept(), (0x2222, vec![1, 2, 3, 4, 5, 6, 7, 8]));
    assert_eq!(finish(&mut client, id), result::DONE);
}

#[test]
fn a_client_whose_messages_are_not_the_specifications_is_refused_dma() {
    let served = Served::new();
    let mut client = served.client();
    client.map_without(0x1000, 0x1000);
    let id = begin(&mut client, 0x1000, 2);
    let (question, ..) = client.question(Cmd::DmaWrite);
    client.send(&reply(question, Cmd::DmaWrite, &[]));
    assert_eq!(finish(&mut client, id), result::REFUSED);
    assert_eq!(errno(&mut client), libc::ENOTSUP);
    // It is not asked again.
    let id = begin(&mut client, 0x1000, 1);
    assert_eq!(finish(&mut client, id), result::REFUSED);
    client.in_step();
}

#[test]
fn a_reply_to_a_write_may_have_the_narrow_count_of_the_specifications_table() {
    let served = Served::new();
    let mut client = session(&served);
    let id = begin(&mut client, 0x1000, 2);
    let (question, address, ..) = client.question(Cmd::DmaWrite);
    client.send(&reply(question, Cmd::DmaWrite, &bytes![address, 8u32]));
    assert_eq!(finish(&mut client, id), result::DONE);
}

#[test]
fn commands_that_come_while_the_device_waits_are_answered_afterwards_in_order() {
    let served = Served::new();
    let mut client = session(&served);
    let id = begin(&mut client, 0x1000, 1);
    // All of this is sent before the client looks at the server's question.
    let reads: Vec<u16> = (0..100)
        .map(|_| client.command(Cmd::RegionRead, &access(0, 0, 4), &[]))
        .collect();
    let file = wire::memory(0x1000, &[0x44; 0x1000]);
    let body = map(WRITEABLE | 1, 0, 0x80_0000, 0x1000);
    let mapped = client.command(Cmd::DmaMap, &body, &[file.as_fd()]);
    let long = write(2, 0, &vec![7; 0x8000]);
    let written = client.command(Cmd::RegionWrite, &long, &[]);
    client.provide(&[5; 8]);
    for expected in [vec![id], reads, vec![mapped, written]].concat() {
        let received = client.receive();
        assert_eq!((received.id(), received.flags()), (expected, 1));
    }
    assert_eq!(client.get(Reg::VALUE), u64::from_le_bytes([5; 8]));
    // The map got its descriptor.
    client.set(Reg::ADDRESS, 0x80_0000);
    client.set(Reg::GO, 1);
    assert_eq!(client.get(Reg::VALUE), u64::from_le_bytes([0x44; 8]));
}

#[test]
fn a_client_that_sends_commands_without_end_and_no_answer_loses_the_access_and_no_command() {
    let served = Served::new();
    let mut client = session(&served);
    let go = begin(&mut client, 0x1000, 1);
    let sender = client.again();
    let sending = thread::spawn(move || {
        for id in 0..2000u16 {
            sender.send(&message(id, Cmd::RegionRead, &access(0, 0, 4)));
        }
    });
    let (question, ..) = client.question(Cmd::DmaRead);
    assert_eq!(client.receive().id(), go);
    for id in 0..2000u16 {
        let received = client.receive();
        assert_eq!((received.id(), received.flags()), (id, 1));
    }
    sending.join().unwrap();
    assert_eq!(client.get(Reg::RESULT), result::TIMED_OUT);
    // Too late, and so dropped.
    let late = bytes![0x1000u64, 8u64, 0u64];
    client.send(&reply(question, Cmd::DmaRead, &late));
    client.in_step();
}

#[test]
fn a_client_may_refuse() {
    let served = Served::new();
    let mut client = session(&served);
    for (said, seen) in [(libc::EFAULT, libc::EFAULT), (0, libc::EIO)] {
        for (go, command) in [(1, Cmd::DmaRead), (2, Cmd::DmaWrite)] {
            let id = begin(&mut client, 0x1000, go);
            let (question, ..) = client.question(command);
            client.send(&errno_reply(question, command as u16, said, &[]));
            assert_eq!(finish(&mut client, id), result::REFUSED);
            assert_eq!(errno(&mut client), seen);
        }
    }
    client.in_step();
}

#[test]
fn an_answer_that_is_none_fails_the_access() {
    let served = Served::new();
    let mut client = session(&served);
    let reads = [
        Vec::new(),
        vec![1; 15],
        bytes![0x1000u64, 8u64],
        bytes![0x1000u64, 8u64, 1u32],
        bytes![0x1000u64, 8u64, 1u64, 1u8],
        bytes![0x1000u64, 4u64, 1u32],
        bytes![0x1000u64, 9u64, 1u64, 1u8],
        bytes![0x1008u64, 8u64, 1u64],
        bytes![u64::MAX, 8u64, 1u64],
        bytes![0x1000u64, u64::MAX, 1u64],
    ];
    for body in reads {
        let id = begin(&mut client, 0x1000, 1);
        let (question, ..) = client.question(Cmd::DmaRead);
        client.send(&reply(question, Cmd::DmaRead, &body));
        assert_eq!(finish(&mut client, id), result::REFUSED, "{body:?}");
        assert_eq!(errno(&mut client), libc::EPROTO);
    }
    let writes = [
        vec![1; 11],
        bytes![0x1000u64, 4u64],
        bytes![0x1008u64, 8u64],
        bytes![0x1000u64, 8u64, 0u8],
    ];
    for body in writes {
        let id = begin(&mut client, 0x1000, 2);
        let (question, ..) = client.question(Cmd::DmaWrite);
        client.send(&reply(question, Cmd::DmaWrite, &body));
        assert_eq!(finish(&mut client, id), result::REFUSED, "{body:?}");
    }
    client.in_step();
}

#[test]
fn an_answer_to_another_question_is_dropped() {
    let served = Served::new();
    let mut client = session(&served);
    let id = begin(&mut client, 0x1000, 1);
    let (question, ..) = client.question(Cmd::DmaRead);
    let wrong = bytes![0x1000u64, 8u64, 6u64];
    client.send(&reply(question.wrapping_add(1), Cmd::DmaRead, &wrong));
    client.send(&reply(question.wrapping_sub(1), Cmd::DmaRead, &wrong));
    client.send(&reply(question, Cmd::RegionRead, &wrong));
    client.send(&reply(
        question,
        Cmd::DmaRead,
        &bytes![0x1000u64, 8u64, 7u64],
    ));
    assert_eq!(finish(&mut client, id), result::DONE);
    assert_eq!(client.get(Reg::VALUE), 7);
    // And so is one to no question.
    client.send(&reply(question, Cmd::DmaRead, &wrong));
    client.in_step();
}

#[test]
fn a_client_that_never_answers_is_waited_for_a_bounded_time() {
    let limits = Limits {
        dma: SHORT.dma,
        ..PATIENT
    };
    let served = Served::with(limits, &["test"]);
    let mut client = session(&served);
    let id = begin(&mut client, 0x1000, 1);
    let (question, ..) = client.question(Cmd::DmaRead);
    assert_eq!(finish(&mut client, id), result::TIMED_OUT);
    client.send(&reply(
        question,
        Cmd::DmaRead,
        &bytes![0x1000u64, 8u64, 6u64],
    ));
    client.in_step();
    // The next question is another one.
    let id = begin(&mut client, 0x1000, 1);
    client.provide(&[3; 8]);
    assert_eq!(finish(&mut client, id), result::DONE);
}

#[test]
fn a_client_that_never_answers_on_its_twin_is_waited_for_a_bounded_time() {
    let limits = Limits {
        dma: SHORT.dma,
        ..PATIENT
    };
    let served = Served::with(limits, &["test"]);
    let (mut client, twin) = with_twin(&served);
    let id = begin(&mut client, 0x1000, 1);
    let (question, address, ..) = twin.question(Cmd::DmaWrite);
    assert_eq!(finish(&mut client, id), result::TIMED_OUT);
    // The late answer is not taken for the next one.
    twin.send(&reply(question, Cmd::DmaWrite, &bytes![address, 0u64]));
    let id = begin(&mut client, 0x1000, 1);
    twin.prove_sound();
    twin.provide(&[4; 8]);
    assert_eq!(finish(&mut client, id), result::DONE);
    assert_eq!(client.get(Reg::VALUE), u64::from_le_bytes([4; 8]));
}

#[test]
fn a_twin_that_talks_nonsense_or_leaves_fails_the_access_only() {
    let served = Served::new();
    for nonsense in [&[0u8; 16][..], &[0xff; 16], b""] {
        let (mut client, twin) = with_twin(&served);
        let id = begin(&mut client, 0x1000, 1);
        twin.question(Cmd::DmaWrite);
        twin.send(nonsense);
        drop(twin);
        assert_eq!(finish(&mut client, id), result::DISCONNECTED);
        let id = begin(&mut client, 0x1000, 1);
        assert_eq!(finish(&mut client, id), result::DISCONNECTED);
        client.in_step();
    }
}

#[test]
fn dma_over_the_twin_goes_on_while_the_client_waits_on_the_main_socket() {
    let served = Served::new();
    let (mut client, twin) = with_twin(&served);
    let answering = thread::spawn(move || {
        twin.prove_sound();
        for _ in 0..50 {
            twin.provide(&[6; 8]);
        }
    });
    client.set(Reg::ADDRESS, 0x1000);
    for _ in 0..50 {
        client.set(Reg::GO, 1);
    }
    assert_eq!(client.get(Reg::RESULT), result::DONE);
    answering.join().unwrap();
}

#[test]
fn a_client_that_leaves_in_the_middle_is_followed_by_the_next() {
    let served = Served::new();
    for cut in [0, 1, 15, 16, 24, 39] {
        let mut client = session(&served);
        begin(&mut client, 0x1000, 1);
        let (question, ..) = client.question(Cmd::DmaRead);
        let answer = reply(question, Cmd::DmaRead, &bytes![0x1000u64, 8u64, 6u64]);
        client.send(&answer[..cut]);
        drop(client);
        let mut client = served.client();
        assert_eq!(
            client.get(Reg::RESULT),
            result::DISCONNECTED,
            "cut at {cut}"
        );
    }
}

/// The copier, which moves memory on a thread of its own, at work on memory
/// that is reached by messages. Returns the event of its completion.
fn copying(client: &mut Client) -> std::os::fd::OwnedFd {
    let done = eventfd();
    client.done_with(Cmd::SetIrqs, &irqs(0x24, MSIX, 0, 1), &[done.as_fd()]);
    client.set(CopierRegister::SOURCE, 0x1000);
    client.set(CopierRegister::DESTINATION, 0x8000);
    client.post(CopierRegister::START, 0x1800);
    done
}

/// What the copier says of its last copy.
fn outcome(client: &mut Client) -> String {
    let text = client.read(2, 0, 256);
    let end = text.iter().position(|byte| *byte == 0).unwrap();
    String::from_utf8(text[..end].to_vec()).unwrap()
}

#[test]
fn a_device_with_a_thread_of_its_own_leaves_the_session_free() {
    let served = Served::with(PATIENT, &["copier"]);
    let mut client = served.client();
    client.map_without(0x1000, 0x10_0000);
    let done = copying(&mut client);
    client.prove_sound();
    assert_eq!(client.provide(&[1; 0x1000]), 0x1000);
    assert_eq!(client.accept(), (0x8000, vec![1; 0x1000]));
    let (question, address, count, _) = client.question(Cmd::DmaRead);
    assert_eq!((address, count), (0x2000, 0x800));
    // While it waits, the client is served.
    assert_eq!(client.get(CopierRegister::SOURCE), 0x1000);
    let body = [&bytes![address, count][..], &[2; 0x800]].concat();
    client.send(&reply(question, Cmd::DmaRead, &body));
    assert_eq!(client.accept(), (0x9000, vec![2; 0x800]));
    wire::wait_for(&done);
    assert_eq!(rung(&done), 1);
    assert_eq!(outcome(&mut client), "copied");
}

#[test]
fn a_reset_ends_messages_that_are_outstanding() {
    let served = Served::with(PATIENT, &["copier"]);
    let mut client = served.client();
    client.map_without(0x1000, 0x10_0000);
    copying(&mut client);
    client.prove_sound();
    let (question, address, count, _) = client.question(Cmd::DmaRead);
    client.done(Cmd::Reset, &[]);
    assert_eq!(outcome(&mut client), "the device is being reset");
    // A late answer is dropped.
    let body = [&bytes![address, count][..], &[2; 0x1000]].concat();
    client.send(&reply(question, Cmd::DmaRead, &body));
    assert_eq!(client.get(CopierRegister::SOURCE), 0);
    // The device works again.
    copying(&mut client);
    client.provide(&[1; 0x1000]);
    client.accept();
}

#[test]
fn a_reset_ends_messages_over_the_twin_within_their_limit() {
    let limits = Limits {
        dma: SHORT.dma,
        ..PATIENT
    };
    let served = Served::with(limits, &["copier"]);
    let (mut client, twin) = with_twin(&served);
    copying(&mut client);
    twin.question(Cmd::DmaWrite);
    client.done(Cmd::Reset, &[]);
    assert_eq!(client.get(CopierRegister::SOURCE), 0);
}

#[test]
fn a_client_that_leaves_but_keeps_its_twin_is_followed_by_the_next_at_once() {
    let served = Served::with(PATIENT, &["copier"]);
    let (mut client, twin) = with_twin(&served);
    copying(&mut client);
    twin.question(Cmd::DmaWrite);
    drop(client);
    twin.closed();
    let mut client = served.client();
    assert_eq!(outcome(&mut client), "no client");
}

#[test]
fn a_map_by_messages_ends_with_its_unmap() {
    let served = Served::new();
    let mut client = session(&served);
    client.done(Cmd::DmaUnmap, &wire::messages::unmap(0x1000, 0x10_0000));
    let id = begin(&mut client, 0x1000, 1);
    assert_eq!(finish(&mut client, id), result::UNMAPPED);
}
