//! Framing: messages in pieces, in bursts, too short, too long, unknown.

mod wire;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use wire::device::{Reg, result};
use wire::messages::{
    BOOL, MSIX, NO_REPLY, NONE, TRIGGER, UNMASK, access, bools, header, irqs, map, query,
    region_info, unmap, version, write,
};
use wire::{
    Client, Cmd, QEMU, SHORT, Served, bytes, errno_reply, eventfd, memory, message, posted, reply,
    rung,
};

/// A session that uses every command, one message after the other. It ends
/// with a reset, so that each session is like the first.
fn session() -> Vec<Vec<u8>> {
    let bodies = [
        (Cmd::Version, version(1, QEMU)),
        (Cmd::GetInfo, query(16, 0)),
        (Cmd::GetRegionInfo, region_info(32, 0)),
        (Cmd::GetRegionInfo, region_info(80, 0)),
        (Cmd::GetRegionIoFds, query(16, 0)),
        (Cmd::GetIrqInfo, query(16, MSIX)),
        (Cmd::DmaMap, map(3, 0, 0, 0x1000)),
        (Cmd::SetIrqs, bools(BOOL | TRIGGER, MSIX, 3, &[1, 0, 1])),
        (Cmd::SetIrqs, irqs(NONE | TRIGGER, MSIX, 0, 0)),
        (Cmd::RegionRead, access(0, 0, 8)),
        (Cmd::RegionWrite, write(0, 4, &[1, 2, 3, 4])),
        (Cmd::RegionRead, access(0, 4, 4)),
        (Cmd::RegionRead, access(0, 0x4000, 4)),
        (Cmd::WriteMulti, bytes![1u64, 8u64, 0u32, 8u32, 0x55u64]),
        (Cmd::RegionRead, access(0, 8, 8)),
        (Cmd::DmaRead, bytes![0u64, 4u64]),
        (Cmd::DirtyPages, vec![7; 5]),
        (Cmd::Feature, bytes![8u32, 0x1_0001u32]),
        (Cmd::MigDataRead, bytes![16u32, 8u32]),
        (Cmd::MigDataWrite, bytes![9u32, 1u32, 0u8]),
        (Cmd::DmaUnmap, unmap(0, 0x1000)),
    ];
    let mut messages: Vec<_> = (1..)
        .zip(&bodies)
        .map(|(id, (command, body))| message(id, *command, body))
        .collect();
    messages.push(posted(90, Cmd::RegionWrite, &write(0, 4, &[5; 4])));
    messages.push(posted(91, Cmd::RegionWrite, &write(9, 4, &[5; 4])));
    messages.push(reply(92, Cmd::DmaRead, &[1, 2, 3]));
    messages.push(message(93, Cmd::RegionRead, &access(0, 4, 4)));
    messages.push(message(94, Cmd::Reset, &[]));
    messages
}

/// How many of a session's messages are answered.
fn answered(messages: &[Vec<u8>]) -> usize {
    let wants = |message: &&Vec<u8>| message[8] & 0x11 == 0;
    messages.iter().filter(wants).count()
}

fn answers(client: &Client, count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|_| client.receive().bytes).collect()
}

/// The answers to a session that is sent one message at a time.
fn expected(served: &Served) -> Vec<Vec<u8>> {
    let client = served.connect();
    let mut all = Vec::new();
    for message in session() {
        client.send(&message);
        let count = answered(std::slice::from_ref(&message));
        all.extend(answers(&client, count));
    }
    all
}

#[test]
fn a_session_in_one_send_is_answered_as_one_in_many() {
    let served = Served::new();
    let expected = expected(&served);
    let client = served.connect();
    client.send(&session().concat());
    assert_eq!(answers(&client, expected.len()), expected);
}

#[test]
fn a_session_may_be_split_at_every_byte() {
    let served = Served::new();
    let expected = expected(&served);
    let whole = session().concat();
    for at in 1..whole.len() {
        let client = served.connect();
        client.send(&whole[..at]);
        client.wait_until_taken();
        client.send(&whole[at..]);
        assert_eq!(answers(&client, expected.len()), expected, "split at {at}");
    }
}

#[test]
fn a_session_may_come_byte_by_byte() {
    let served = Served::new();
    let expected = expected(&served);
    let client = served.connect();
    for byte in session().concat() {
        client.send(&[byte]);
        client.wait_until_taken();
    }
    assert_eq!(answers(&client, expected.len()), expected);
}

#[test]
fn a_message_of_a_mebibyte_may_come_in_pieces() {
    let served = Served::new();
    let client = served.client();
    let data: Vec<u8> = (0..1u32 << 20).map(|n| n.to_le_bytes()[1]).collect();
    for piece in message(5, Cmd::RegionWrite, &write(2, 0, &data)).chunks(50_021) {
        client.send(piece);
    }
    assert_eq!(client.receive().flags(), 1);
    client.send(&message(6, Cmd::RegionRead, &access(2, 0, 1 << 20)));
    assert_eq!(client.receive().body()[16..], data);
}

#[test]
fn descriptors_stay_with_a_message_that_is_split_anywhere() {
    let served = Served::new();
    let mut client = served.client();
    let body = irqs(0x24, MSIX, 0, 2);
    let whole = message(7, Cmd::SetIrqs, &body);
    for at in 1..whole.len() {
        let events = [eventfd(), eventfd()];
        let fds: Vec<_> = events.iter().map(AsFd::as_fd).collect();
        // Once behind a region access, once behind another command.
        if at % 2 == 0 {
            client.in_step();
        }
        client.send_with(&whole[..at], &fds);
        client.wait_until_taken();
        client.send(&whole[at..]);
        assert_eq!(client.receive().flags(), 1, "split at {at}");
        client.set(Reg::RAISE, 1);
        assert_eq!([rung(&events[0]), rung(&events[1])], [0, 1]);
    }
}

#[test]
fn descriptors_may_come_with_each_piece_of_a_message() {
    let served = Served::new();
    let mut client = served.client();
    let whole = message(7, Cmd::SetIrqs, &irqs(0x24, MSIX, 0, 3));
    let events: Vec<OwnedFd> = (0..3).map(|_| eventfd()).collect();
    for (piece, event) in whole.chunks(12).zip(&events) {
        client.send_with(piece, &[event.as_fd()]);
        client.wait_until_taken();
    }
    assert_eq!(client.receive().flags(), 1);
    for (vector, event) in (0u64..).zip(&events) {
        client.set(Reg::RAISE, vector);
        assert_eq!(rung(event), 1);
    }
}

#[test]
fn descriptors_belong_to_the_first_message_of_a_send() {
    let served = Served::new();
    let mut client = served.client();
    client.done(Cmd::GetInfo, &query(16, 0));
    let file = memory(0x1000, &[3; 8]);
    let both = [
        message(7, Cmd::DmaMap, &map(3, 0, 0, 0x1000)),
        message(8, Cmd::RegionRead, &access(0, 0, 4)),
    ];
    client.send_with(&both.concat(), &[file.as_fd()]);
    assert_eq!((client.receive().flags(), client.receive().flags()), (1, 1));
    client.set(Reg::GO, 1);
    assert_eq!(client.get(Reg::VALUE), u64::from_le_bytes([3; 8]));
}

#[test]
fn maps_that_are_split_and_pipelined_keep_their_own_descriptors() {
    let served = Served::new();
    let mut client = served.client();
    let whole = |id: u16| {
        let address = u64::from(id) * 0x1000;
        message(id, Cmd::DmaMap, &map(3, 0, address, 0x1000))
    };
    for at in 1..48u16 {
        let files: Vec<File> = (1..=3u8).map(|n| memory(0x1000, &[n; 8])).collect();
        if at % 2 == 0 {
            client.in_step();
        }
        client.send_with(&whole(1), &[files[0].as_fd()]);
        client.send(&whole(2));
        let (head, tail) = (&whole(3)[..at.into()], &whole(3)[at.into()..]);
        client.send_with(head, &[files[1].as_fd()]);
        client.wait_until_taken();
        client.send(tail);
        client.send_with(&whole(4), &[files[2].as_fd()]);
        for _ in 0..4 {
            assert_eq!(client.receive().flags(), 1);
        }
        for (address, number) in [(0x1000, 1u8), (0x3000, 2), (0x4000, 3)] {
            client.set(Reg::ADDRESS, address);
            client.set(Reg::GO, 1);
            assert_eq!(client.get(Reg::RESULT), result::DONE);
            assert_eq!(client.get(Reg::VALUE), u64::from_le_bytes([number; 8]));
        }
        client.done(Cmd::DmaUnmap, &wire::messages::unmap_all());
    }
}

/// Asserts that a header gets an error reply, and then the connection ends.
#[track_caller]
fn unframed(served: &Served, size: u32, flags: u32) {
    for agreed in [false, true] {
        let client = if agreed {
            served.client()
        } else {
            served.connect()
        };
        client.send(&header(77, 9, size, flags));
        if flags & NO_REPLY == 0 {
            let expected = errno_reply(77, 9, libc::EINVAL, &[]);
            assert_eq!(client.receive().bytes, expected, "size {size}");
        }
        client.closed();
    }
    served.client().in_step();
}

#[test]
fn a_size_without_room_for_the_header_ends_the_session() {
    let served = Served::new();
    for size in 0..16 {
        unframed(&served, size, 0);
    }
    unframed(&served, 15, NO_REPLY);
}

#[test]
fn a_size_of_more_than_a_mebibyte_and_its_head_ends_the_session() {
    let served = Served::new();
    for size in [(1 << 20) + 33, 1 << 24, 1 << 31, u32::MAX] {
        unframed(&served, size, 0);
    }
    unframed(&served, u32::MAX, NO_REPLY);
}

#[test]
fn a_type_that_is_neither_command_nor_reply_ends_the_session() {
    let served = Served::new();
    for kind in 2..16 {
        unframed(&served, 16, kind);
    }
    unframed(&served, 16, 2 | NO_REPLY);
}

#[test]
fn the_largest_message_is_taken() {
    let served = Served::new();
    let mut client = served.client();
    client.send(&message(7, Cmd::DirtyPages, &vec![1; (1 << 20) + 16]));
    let expected = errno_reply(7, 14, libc::ENOSYS, &[]);
    assert_eq!(client.receive().bytes, expected);
    client.in_step();
}

#[test]
fn a_bare_header_is_a_message() {
    let served = Served::new();
    let mut client = served.client();
    let commands = [
        Cmd::Version,
        Cmd::DmaMap,
        Cmd::DmaUnmap,
        Cmd::GetInfo,
        Cmd::GetRegionInfo,
        Cmd::GetRegionIoFds,
        Cmd::GetIrqInfo,
        Cmd::SetIrqs,
        Cmd::RegionRead,
        Cmd::RegionWrite,
        Cmd::DmaRead,
        Cmd::DmaWrite,
        Cmd::WriteMulti,
        Cmd::Feature,
        Cmd::MigDataRead,
        Cmd::MigDataWrite,
    ];
    for command in commands {
        client.refused(command, &[], libc::EINVAL);
    }
    client.done(Cmd::Reset, &[]);
    client.refused(Cmd::Reset, &[0], libc::EINVAL);
}

#[test]
fn a_message_that_is_shorter_than_it_says_ends_the_session_in_time() {
    let served = Served::with(SHORT, &["test"]);
    for sent in [1, 15, 16, 17, 31] {
        let client = served.client();
        client.send(&message(1, Cmd::RegionRead, &access(0, 0, 4))[..sent]);
        client.closed();
    }
    served.client().in_step();
}

#[test]
fn a_message_that_is_longer_than_it_says_is_two() {
    let served = Served::new();
    let client = served.client();
    let mut long = message(1, Cmd::RegionRead, &access(0, 0, 4));
    long[4..8].copy_from_slice(&bytes![24u32]);
    client.send(&long);
    let short = errno_reply(
        1,
        9,
        libc::EINVAL,
        &[&access(0, 0, 4)[..8], &[0xff; 8]].concat(),
    );
    assert_eq!(client.receive().bytes, short);
    // The other 8 bytes begin the next one: region 0, count 4.
    client.send(&[0; 8]);
    assert_eq!(client.receive().bytes, errno_reply(0, 0, libc::EINVAL, &[]));
    client.closed();
}

#[test]
fn unknown_commands_are_not_there() {
    let served = Served::new();
    let mut client = served.client();
    for number in [0, 14, 19, 255, 256, u16::MAX] {
        for body in [&[][..], &[1; 100]] {
            let size = u32::try_from(16 + body.len()).unwrap();
            client.send(&[&header(9, number, size, 0)[..], body].concat());
            let expected = errno_reply(9, number, libc::ENOSYS, &[]);
            assert_eq!(client.receive().bytes, expected);
            client.in_step();
        }
    }
}

#[test]
fn replies_where_commands_belong_are_dropped() {
    let served = Served::new();
    let mut client = served.client();
    let file = memory(4096, &[]);
    for number in 0..20 {
        for flags in [1, 1 | NO_REPLY, 0x21] {
            let reply = [&header(9, number, 20, flags)[..], &[9; 4]].concat();
            client.send(&reply);
            client.send_with(&reply, &[file.as_fd()]);
        }
    }
    client.in_step();
}

#[test]
fn a_servers_own_commands_are_refused() {
    let served = Served::new();
    let mut client = served.client();
    let body = bytes![0u64, 4u64, 1u32];
    for command in [Cmd::DmaRead, Cmd::DmaWrite] {
        client.refused(command, &body, libc::EINVAL);
        client.refused(command, &body[..16], libc::EINVAL);
    }
}

#[test]
fn a_command_that_wants_no_reply_gets_none_whatever_is_wrong() {
    let served = Served::new();
    let mut client = served.client();
    let file = memory(4096, &[]);
    for number in 0..20 {
        client.send(&header(9, number, 16, NO_REPLY));
        let long = [&header(9, number, 20, NO_REPLY)[..], &[9; 4]].concat();
        client.send_with(&long, &[file.as_fd()]);
    }
    for (command, body) in [
        (Cmd::RegionRead, access(0, 0, 4)),
        (Cmd::RegionRead, access(0, 0x4000, 4)),
        (Cmd::RegionWrite, write(8, 0, &[0; 4])),
        (Cmd::DmaUnmap, unmap(0, 0x1000)),
        (Cmd::SetIrqs, irqs(NONE | UNMASK, 9, 0, 1)),
        (Cmd::GetRegionInfo, region_info(32, 2)),
        (Cmd::Version, version(1, "{}")),
    ] {
        client.send(&posted(9, command, &body));
    }
    client.in_step();
    // What is right is done in silence.
    client.send(&posted(9, Cmd::RegionWrite, &write(0, 4, &[7; 4])));
    assert_eq!(client.get(Reg::SCRATCH), 0x0707_0707);
}

#[test]
fn error_and_reserved_flags_of_a_command_are_ignored() {
    let served = Served::new();
    let client = served.client();
    let mut bytes = message(5, Cmd::RegionRead, &access(0, 0, 4));
    bytes[8..16].copy_from_slice(&bytes![0xffff_ffe0u32, 22u32]);
    client.send(&bytes);
    let received = client.receive();
    assert_eq!((received.flags(), received.u32(12)), (1, 0));
}

#[test]
fn ids_are_the_clients_own_and_may_repeat() {
    let served = Served::new();
    let client = served.client();
    for id in [0, 0, 0xffff, 7, 7, 0] {
        client.send(&message(id, Cmd::RegionRead, &access(0, 0, 4)));
        assert_eq!(client.receive().id(), id);
    }
}
