//! VERSION: what is agreed on, and how it is refused.

mod wire;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use wire::device::{Reg, result};
use wire::messages::{NO_REPLY, WRITEABLE, access, header, map, region_info, version, write};
use wire::{Client, Cmd, QEMU, Served, bytes, errno_reply, memory, message, posted, reply};

/// The whole reply to a proposal of 0.`minor`.
fn answer(json: &str, minor: u16) -> Vec<u8> {
    let served = Served::new();
    let mut client = served.connect();
    let received = client.ask(Cmd::Version, &version(minor, json));
    client.in_step();
    received.bytes
}

fn capabilities(json: &str) -> String {
    format!("{{\"capabilities\":{json}}}")
}

/// Asserts that this VERSION body is refused and the connection closed.
#[track_caller]
fn refused(body: &[u8], errno: i32) {
    let served = Served::new();
    let mut client = served.connect();
    let id = client.command(Cmd::Version, body, &[]);
    let expected = errno_reply(id, Cmd::Version as u16, errno, &[]);
    let text = String::from_utf8_lossy(body).into_owned();
    assert_eq!(client.receive().bytes, expected, "{text}");
    client.closed();
    // The next client is served.
    served.client().in_step();
}

/// A client that agreed on these capabilities.
fn agreed(served: &Served, json: &str) -> Client {
    let mut client = served.connect();
    client.agree(&capabilities(json));
    client
}

#[test]
fn minor_0_and_1_are_spoken_and_a_higher_one_becomes_1() {
    for (asked, answered) in [(0, 0u16), (1, 1), (2, 1), (u16::MAX, 1)] {
        let body = [&bytes![0u16, answered][..], b"{\"capabilities\":{}}\0"].concat();
        assert_eq!(answer("{}", asked), reply(1, Cmd::Version, &body));
    }
}

#[test]
fn absent_and_empty_version_data_mean_the_defaults() {
    let served = Served::new();
    for data in [&b""[..], b"\0", b"{}\0", b" {\"capabilities\":{}} \0"] {
        let mut client = served.connect();
        let body = [&bytes![0u16, 0u16][..], data].concat();
        let answer = client.done(Cmd::Version, &body);
        assert_eq!(answer[4..], b"{\"capabilities\":{}}\0"[..]);
        client.in_step();
    }
}

#[test]
fn unknown_keys_are_ignored() {
    let json = r#"{"new":1,"capabilities":{"newer":{"x":[null]},"write_multiple":true,"twin_socket":{"newest":"y"}}}"#;
    let answered = answer(json, 1);
    assert_eq!(
        answered[20..],
        b"{\"capabilities\":{\"write_multiple\":true}}\0"[..]
    );
}

#[test]
fn qemus_proposal_is_answered_with_some_of_its_keys_and_fewer_bytes() {
    let answered = answer(QEMU, 0);
    let request = version(0, QEMU);
    assert!(answered.len() - 16 < request.len());
    let said: serde_json::Value =
        serde_json::from_slice(&answered[20..answered.len() - 1]).unwrap();
    let expected = serde_json::json!({"capabilities": {
        "max_data_xfer_size": 1_048_576,
        "max_dma_maps": 65_535,
        "max_msg_fds": 16,
        "pgsizes": 4096,
        "write_multiple": true,
    }});
    assert_eq!(said, expected);
}

#[test]
fn only_what_was_proposed_is_answered() {
    let keys = [
        (r#"{"max_msg_fds":1}"#, r#"{"max_msg_fds":16}"#),
        (r#"{"max_msg_fds":32}"#, r#"{"max_msg_fds":32}"#),
        (r#"{"max_msg_fds":1000}"#, r#"{"max_msg_fds":253}"#),
        (
            r#"{"max_data_xfer_size":4096}"#,
            r#"{"max_data_xfer_size":4096}"#,
        ),
        (
            r#"{"max_data_xfer_size":99999999999}"#,
            r#"{"max_data_xfer_size":1048576}"#,
        ),
        (r#"{"max_dma_maps":3}"#, r#"{"max_dma_maps":3}"#),
        (
            r#"{"max_dma_maps":99999999999}"#,
            r#"{"max_dma_maps":65535}"#,
        ),
        (r#"{"pgsizes":2097152}"#, r#"{"pgsizes":2097152}"#),
        (r#"{"pgsizes":4097}"#, r#"{"pgsizes":4096}"#),
        (r#"{"write_multiple":false}"#, r#"{"write_multiple":false}"#),
        (r#"{"migration":{"pgsize":4096}}"#, "{}"),
        (r#"{"twin_socket":{"supported":false}}"#, "{}"),
    ];
    for (proposed, expected) in keys {
        let answered = answer(&capabilities(proposed), 1);
        let expected = capabilities(expected) + "\0";
        assert_eq!(answered[20..], *expected.as_bytes(), "{proposed}");
    }
}

#[test]
fn a_key_of_the_wrong_type_or_range_is_refused() {
    let never = ["-1", "1.5", "1e3", "\"1\"", "true", "null", "[]", "{}"];
    for key in [
        "max_msg_fds",
        "max_data_xfer_size",
        "max_dma_maps",
        "pgsizes",
    ] {
        for value in never {
            let json = capabilities(&format!("{{\"{key}\":{value}}}"));
            refused(&version(1, &json), libc::EINVAL);
        }
    }
    for json in [
        r#"{"max_data_xfer_size":0}"#,
        r#"{"max_dma_maps":0}"#,
        r#"{"pgsizes":0}"#,
        r#"{"pgsizes":2048}"#,
        r#"{"write_multiple":1}"#,
        r#"{"twin_socket":true}"#,
        r#"{"twin_socket":{"supported":1}}"#,
        r#"{"twin_socket":{"fd_index":-1}}"#,
        r#"{"migration":4096}"#,
        r#"{"migration":{"pgsize":0}}"#,
        r#"{"migration":{"max_bitmap_size":"1"}}"#,
        "[]",
        "null",
    ] {
        refused(&version(1, &capabilities(json)), libc::EINVAL);
    }
}

#[test]
fn version_data_that_is_no_text_or_no_json_is_refused() {
    for data in [
        &b"{}"[..],
        b"{}\0\0",
        b"{\0}\0",
        b"\0\0",
        b"{\0",
        b"{} {}\0",
        b"\xff\0",
        b"[]\0",
        b"null\0",
        b" \0",
    ] {
        refused(&[&bytes![0u16, 1u16][..], data].concat(), libc::EINVAL);
    }
}

#[test]
fn deep_or_long_version_data_is_refused() {
    let deep = [&bytes![0u16, 1u16][..], &[b'['; 8000], &[0]].concat();
    refused(&deep, libc::EINVAL);
    let long = [&bytes![0u16, 1u16][..], &[b' '; 16 << 10], &[0]].concat();
    refused(&long, libc::E2BIG);
    let huge = [&bytes![0u16, 1u16][..], &vec![b' '; 1 << 20], &[0]].concat();
    refused(&huge, libc::E2BIG);
}

#[test]
fn a_version_without_room_for_its_numbers_is_refused() {
    for length in 0..4 {
        refused(&vec![0; length], libc::EINVAL);
    }
}

#[test]
fn another_major_version_is_refused() {
    for major in [1u16, 2, u16::MAX] {
        refused(&[&bytes![major, 0u16][..], b"{}\0"].concat(), libc::ENOTSUP);
    }
}

#[test]
fn a_version_with_a_descriptor_is_refused() {
    let served = Served::new();
    let mut client = served.connect();
    let file = memory(4096, &[]);
    let id = client.command(Cmd::Version, &version(1, "{}"), &[file.as_fd()]);
    let expected = errno_reply(id, Cmd::Version as u16, libc::EINVAL, &[]);
    assert_eq!(client.receive().bytes, expected);
    client.closed();
}

#[test]
fn a_refused_version_that_wants_no_reply_ends_in_silence() {
    let served = Served::new();
    let client = served.connect();
    client.send(&posted(1, Cmd::Version, &bytes![1u16, 0u16]));
    client.closed();
}

#[test]
fn a_version_that_wants_no_reply_gets_none_and_counts() {
    let served = Served::new();
    let mut client = served.connect();
    client.send(&posted(7, Cmd::Version, &version(1, "{}")));
    client.in_step();
}

#[test]
fn commands_before_version_are_refused_and_version_still_works() {
    let served = Served::new();
    let mut client = served.connect();
    let requests = [
        (Cmd::DmaMap, map(WRITEABLE, 0, 0, 4096), 0),
        (Cmd::GetInfo, bytes![16u32, 0u32, 0u32, 0u32], 16),
        (Cmd::GetRegionInfo, region_info(32, 0), 32),
        (Cmd::RegionRead, access(0, 0, 4), 16),
        (Cmd::RegionWrite, write(0, 4, &[1; 4]), 16),
        (Cmd::Reset, Vec::new(), 0),
    ];
    for (command, body, size) in requests {
        let received = client.ask(command, &body);
        let mut padding = body[..body.len().min(size).min(16)].to_vec();
        padding.resize(size, 0xff);
        let expected = errno_reply(received.id(), command as u16, libc::EINVAL, &padding);
        assert_eq!(received.bytes, expected, "{command:?}");
    }
    client.send(&header(99, 77, 16, 0));
    let expected = errno_reply(99, 77, libc::ENOSYS, &[]);
    assert_eq!(client.receive().bytes, expected);
    client.send(&posted(9, Cmd::RegionWrite, &write(0, 4, &[1; 4])));
    client.agree("{}");
    assert_eq!(client.get(Reg::SCRATCH), 0x1234_5678);
}

#[test]
fn a_second_version_is_refused_and_changes_nothing() {
    let served = Served::new();
    let mut client = agreed(&served, r#"{"max_data_xfer_size":8}"#);
    client.refused(Cmd::Version, &version(1, QEMU), libc::EINVAL);
    client.refused(Cmd::Version, &bytes![1u16, 0u16], libc::EINVAL);
    client.refused(Cmd::RegionWrite, &write(0, 0, &[0; 9]), libc::EINVAL);
}

#[test]
fn max_data_xfer_size_bounds_region_accesses() {
    let served = Served::new();
    let mut client = agreed(&served, r#"{"max_data_xfer_size":8}"#);
    assert_eq!(client.read(0, 0, 8).len(), 8);
    client.write(0, 8, &[0; 8]);
    client.refused(Cmd::RegionWrite, &write(0, 0, &[0; 9]), libc::EINVAL);
    // The error is no longer than the longest read.
    let body = access(0, 0, 9);
    let received = client.ask(Cmd::RegionRead, &body);
    let padding = [&body[..], &[0xff; 8]].concat();
    let id = received.id();
    let expected = errno_reply(id, Cmd::RegionRead as u16, libc::EINVAL, &padding);
    assert_eq!(received.bytes, expected);
    client.in_step();
}

#[test]
fn without_a_word_a_transfer_has_at_most_a_mebibyte() {
    let served = Served::new();
    let mut client = agreed(&served, "{}");
    assert_eq!(client.read(2, 0, 1 << 20).len(), 1 << 20);
    client.write(2, 0, &vec![5; 1 << 20]);
    client.refused(Cmd::RegionRead, &access(2, 0, (1 << 20) + 1), libc::EINVAL);
    client.send(&header(9, Cmd::RegionWrite as u16, (1 << 20) + 33, 0));
    let expected = errno_reply(9, Cmd::RegionWrite as u16, libc::EINVAL, &[]);
    assert_eq!(client.receive().bytes, expected);
    client.closed();
}

#[test]
fn max_data_xfer_size_bounds_dma_messages_as_well() {
    let served = Served::new();
    let mut client = agreed(&served, r#"{"max_data_xfer_size":4}"#);
    client.map_without(0x1000, 0x1000);
    client.write(0, 0x30, &bytes![0x1ff8u32]);
    let id = client.command(Cmd::RegionWrite, &write(0, 0x40, &[1, 0, 0, 0]), &[]);
    client.prove_sound();
    assert_eq!(client.provide(&[1, 2, 3, 4]), 0x1ff8);
    assert_eq!(client.provide(&[5, 6, 7, 8]), 0x1ffc);
    assert_eq!(client.receive().id(), id);
    assert_eq!(client.read(0, 0x38, 4), [1, 2, 3, 4]);
    assert_eq!(client.read(0, 0x3c, 4), [5, 6, 7, 8]);
}

#[test]
fn max_dma_maps_bounds_the_maps() {
    let served = Served::new();
    let mut client = agreed(&served, r#"{"max_dma_maps":2}"#);
    client.map_without(0, 0x1000);
    client.map_without(0x1000, 0x1000);
    let third = map(WRITEABLE, 0, 0x2000, 0x1000);
    client.refused(Cmd::DmaMap, &third, libc::ENOSPC);
    client.done(Cmd::DmaUnmap, &wire::messages::unmap(0, 0x1000));
    client.done(Cmd::DmaMap, &third);
}

#[test]
fn pgsizes_align_the_maps() {
    let served = Served::new();
    let mut client = agreed(&served, r#"{"pgsizes":2097152}"#);
    for (address, size) in [(0, 0x1000), (0x1000, 0x20_0000)] {
        let body = map(WRITEABLE, 0, address, size);
        client.refused(Cmd::DmaMap, &body, libc::EINVAL);
    }
    client.map_without(0x20_0000, 0x40_0000);
    drop(client);
    // The next client has its own terms.
    let mut client = agreed(&served, "{}");
    client.map_without(0x1000, 0x1000);
}

#[test]
fn write_multi_needs_write_multiple() {
    let served = Served::new();
    let one = bytes![1u64, 4u64, 0u32, 4u32, 7u64];
    for json in ["{}", r#"{"write_multiple":false}"#] {
        let mut client = agreed(&served, json);
        client.refused(Cmd::WriteMulti, &one, libc::ENOTSUP);
        assert_eq!(client.get(Reg::SCRATCH), 0x1234_5678);
    }
    let mut client = agreed(&served, r#"{"write_multiple":true}"#);
    assert_eq!(client.done(Cmd::WriteMulti, &one), bytes![1u64]);
    assert_eq!(client.get(Reg::SCRATCH), 7);
}

#[test]
fn a_twin_socket_comes_with_the_reply_and_carries_dma() {
    let served = Served::new();
    let mut client = served.connect();
    let json = capabilities(r#"{"twin_socket":{"supported":true}}"#);
    let mut received = client.ask(Cmd::Version, &version(1, &json));
    let said = capabilities(r#"{"twin_socket":{"fd_index":0,"supported":true}}"#) + "\0";
    assert_eq!(received.bytes[20..], *said.as_bytes());
    assert_eq!(received.fds.len(), 1);
    let fd: OwnedFd = received.fds.remove(0);
    let twin = Client::over(UnixStream::from(fd));
    client.map_without(0x1000, 0x1000);
    client.set(Reg::ADDRESS, 0x1008);
    let id = client.command(Cmd::RegionWrite, &write(0, 0x40, &[1, 0, 0, 0]), &[]);
    twin.prove_sound();
    assert_eq!(twin.provide(&[9; 8]), 0x1008);
    assert_eq!(client.receive().id(), id);
    assert_eq!(client.get(Reg::RESULT), result::DONE);
    assert_eq!(client.get(Reg::VALUE), u64::from_le_bytes([9; 8]));
}

#[test]
fn a_client_that_takes_no_descriptors_gets_none() {
    let served = Served::new();
    let mut client = served.connect();
    let json = r#"{"max_msg_fds":0,"twin_socket":{"supported":true}}"#;
    let received = client.ask(Cmd::Version, &version(1, &capabilities(json)));
    assert_eq!(received.fds.len(), 0);
    let said = capabilities(r#"{"max_msg_fds":16}"#) + "\0";
    assert_eq!(received.bytes[20..], *said.as_bytes());
    // A region that could be mapped is only trapped.
    for index in [0, 2] {
        let received = client.ask(Cmd::GetRegionInfo, &region_info(256, index));
        assert_eq!((received.fds.len(), received.u32(20)), (0, 3));
        assert_eq!(received.body().len(), 32);
    }
    let body = wire::messages::query(256, 0);
    client.refused(Cmd::GetRegionIoFds, &body, libc::EINVAL);
}

#[test]
fn a_client_that_takes_one_descriptor_gets_no_two() {
    let served = Served::new();
    let mut client = agreed(&served, "{}");
    let received = client.ask(Cmd::GetRegionInfo, &region_info(256, 0));
    assert_eq!(received.fds.len(), 1);
    let body = wire::messages::query(256, 0);
    client.refused(Cmd::GetRegionIoFds, &body, libc::EINVAL);
}

#[test]
fn more_descriptors_than_announced_are_taken_where_they_belong() {
    let served = Served::new();
    let mut client = agreed(&served, r#"{"max_msg_fds":1}"#);
    let events: Vec<OwnedFd> = (0..32).map(|_| wire::eventfd()).collect();
    let fds: Vec<_> = events.iter().map(AsFd::as_fd).collect();
    let body = wire::messages::irqs(0x24, wire::messages::MSIX, 0, 32);
    client.done_with(Cmd::SetIrqs, &body, &fds);
}

#[test]
fn an_error_flag_or_errno_in_a_version_is_ignored() {
    let served = Served::new();
    let client = served.connect();
    let body = version(1, "{}");
    let mut bytes = message(5, Cmd::Version, &body);
    bytes[8..16].copy_from_slice(&bytes![0xffff_ff20u32 & !NO_REPLY, 22u32]);
    client.send(&bytes);
    assert_eq!(client.receive().flags(), 1);
}
