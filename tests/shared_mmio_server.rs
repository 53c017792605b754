//! The server's side of shared-memory MMIO, against a client that has only the
//! specification.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod wire;

use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::thread;

use rustix::fs::SealFlags;
use rustix::net::{AddressFamily, SocketType, sockopt};
use serde_json::{Value, json};
use wire::device::{ID, Reg, result};
use wire::messages::{EVENTFD, MSIX, TRIGGER, access, irqs, query, write};
use wire::shared::{READ, Shared, Slot, WRITE, capabilities, proposal};
use wire::{Client, Cmd, PATIENT, Served, eventfd, message, model, posted, rung, wait_for};

const EINVAL: i32 = libc::EINVAL;

/// A session with the test device that has so many slots.
fn session(served: &Served, slots: u32) -> (Client, Shared) {
    let mut client = served.connect();
    let shared = Shared::agree(&mut client, slots);
    (client, shared)
}

fn at(register: Reg) -> u64 {
    use vgpu_stub::device::Register;
    register.row().offset.into()
}

/// What a server answers about shared memory, and how many descriptors come.
fn negotiated(said: &str) -> (Value, usize) {
    let served = Served::new();
    let mut client = served.connect();
    let received = client.agree(&format!(r#"{{"capabilities":{said}}}"#));
    client.in_step();
    let answer = capabilities(&received)["shared_mmio"].clone();
    (answer, received.fds.len())
}

#[test]
fn it_is_offered_only_to_clients_that_ask_and_only_as_much_as_they_can_take() {
    let agreed = |slots: u32, fd_index: u32| json!({"version": 1, "slots": slots, "ring": 256, "fd_index": fd_index});
    let cases = [
        (r#"{"max_msg_fds":16}"#, Value::Null, 0),
        (
            r#"{"max_msg_fds":16,"shared_mmio":{"version":1,"slots":1}}"#,
            agreed(1, 0),
            3,
        ),
        (
            r#"{"max_msg_fds":16,"shared_mmio":{"version":7,"slots":2},"twin_socket":{"supported":true}}"#,
            agreed(2, 1),
            5,
        ),
        (
            r#"{"max_msg_fds":16,"shared_mmio":{"version":1,"slots":100}}"#,
            agreed(14, 0),
            16,
        ),
        (
            r#"{"max_msg_fds":16,"shared_mmio":{"version":1,"slots":14},"twin_socket":{"supported":true}}"#,
            agreed(13, 1),
            16,
        ),
        (
            r#"{"max_msg_fds":253,"shared_mmio":{"version":1,"slots":1000}}"#,
            agreed(64, 0),
            66,
        ),
        (
            r#"{"max_msg_fds":4294967296,"shared_mmio":{"version":1,"slots":4294967296}}"#,
            agreed(64, 0),
            66,
        ),
        (
            r#"{"max_msg_fds":3,"shared_mmio":{"version":1,"slots":2}}"#,
            agreed(1, 0),
            3,
        ),
        // Not even one slot.
        (
            r#"{"max_msg_fds":2,"shared_mmio":{"version":1,"slots":1}}"#,
            Value::Null,
            0,
        ),
        (r#"{"shared_mmio":{"version":1,"slots":1}}"#, Value::Null, 0),
        (
            r#"{"max_msg_fds":3,"shared_mmio":{"version":1,"slots":1},"twin_socket":{"supported":true}}"#,
            Value::Null,
            1,
        ),
    ];
    for (said, answer, fds) in cases {
        assert_eq!(negotiated(said), (answer, fds), "{said}");
    }
}

#[test]
fn the_memory_is_sealed_and_zero_and_all_else_are_stream_sockets() {
    let served = Served::new();
    let mut client = served.connect();
    let received = client.agree(&proposal(2));
    for fd in &received.fds[1..] {
        assert_eq!(sockopt::socket_domain(fd), Ok(AddressFamily::UNIX));
        assert_eq!(sockopt::socket_type(fd), Ok(SocketType::STREAM));
    }
    let shared = Shared::of(received);
    let size = shared.file.metadata().unwrap().len();
    // 512 bytes, two slots of 128 and 256 entries of 32, in whole pages.
    assert_eq!(size, 12288);
    let seals = rustix::fs::fcntl_get_seals(&shared.file).unwrap();
    assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL));
    shared.file.set_len(0).unwrap_err();
    shared.file.set_len(size + 4096).unwrap_err();
    shared.memory.wait_until_the_server_sleeps();
    let mut bytes = vec![0; usize::try_from(size).unwrap()];
    shared.file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>(), 1);
}

/// A session with the device of all kinds of registers, by shared memory.
fn model_session() -> (Served, Client, Shared) {
    let served = Served::of(PATIENT, [("model", model::endpoint())]);
    let mut client = served.connect();
    let shared = Shared::agree(&mut client, 1);
    (served, client, shared)
}

/// The errno or the answer to a read or write over the socket.
fn by_socket(client: &mut Client, command: Cmd, body: &[u8], count: usize) -> Result<u64, i32> {
    let received = client.ask(command, body);
    if received.errno() != 0 {
        return Err(received.errno());
    }
    let mut value = [0; 8];
    if command == Cmd::RegionRead {
        value[..count].copy_from_slice(&received.body()[16..]);
    }
    Ok(u64::from_le_bytes(value))
}

#[test]
fn each_access_does_what_it_does_over_the_socket() {
    let (_one, _silent, mut shared) = model_session();
    let (_other, mut client, _) = model_session();
    let slot = &mut shared.slots[0];
    let size = model::SIZE as u64;
    let pattern = 0x8192_a3b4_c5d6_e7f8_u64;
    for offset in 0..=size {
        for count in 1..=8u8 {
            let data = &pattern.to_le_bytes()[..count.into()];
            let expected = by_socket(
                &mut client,
                Cmd::RegionWrite,
                &write(0, offset, data),
                count.into(),
            );
            let written = slot.write(0, offset, count, pattern);
            assert_eq!(written, expected.map(|_| ()), "{offset:#x} {count}");
            for offset in [offset, offset.saturating_sub(3)] {
                let body = access(0, offset, count.into());
                let expected = by_socket(&mut client, Cmd::RegionRead, &body, count.into());
                assert_eq!(slot.read(0, offset, count), expected, "{offset:#x} {count}");
            }
        }
    }
    // Config space: the whole header with capabilities, BAR sizing included.
    for offset in (0x10..0x28).step_by(4) {
        slot.write(7, offset, 4, 0xffff_ffff).unwrap();
        client.write(7, offset, &[0xff; 4]);
    }
    for offset in 0..0x100 {
        for count in 1..=8u8 {
            let body = access(7, offset, count.into());
            let expected = by_socket(&mut client, Cmd::RegionRead, &body, count.into());
            assert_eq!(slot.read(7, offset, count), expected, "{offset:#x} {count}");
        }
    }
    assert_eq!(slot.read(7, 4096 - 4, 8), Err(EINVAL));
}

#[test]
fn what_is_posted_comes_before_what_is_asked_later_in_the_same_order() {
    let served = Served::new();
    let (mut client, mut shared) = session(&served, 1);
    let mut rings = 0;
    for round in 0..200u64 {
        let posts = round % 257;
        for value in 0..posts {
            // Nobody is woken: that is left to what comes after.
            let what = 4 << 40;
            shared.ring.put([at(Reg::BELL), value, what, 0]);
        }
        rings += posts;
        let last = posts.saturating_sub(1);
        let (rung, said) = if round % 2 == 0 {
            let slot = &mut shared.slots[0];
            let rung = slot.read(0, at(Reg::RINGS), 4).unwrap();
            (rung, slot.read(0, at(Reg::LAST), 4).unwrap())
        } else {
            (client.get(Reg::RINGS), client.get(Reg::LAST))
        };
        assert_eq!(rung, rings, "round {round}");
        if posts > 0 {
            assert_eq!(said, last, "round {round}");
        }
        assert_eq!(shared.ring.head(), shared.ring.tail);
    }
}

#[test]
fn what_is_posted_comes_before_each_of_many_commands_that_are_sent_at_once() {
    let served = Served::new();
    let (client, mut shared) = session(&served, 1);
    let read = access(0, at(Reg::RINGS), 4);
    let mut commands = Vec::new();
    for id in 0..50 {
        shared.ring.put([at(Reg::BELL), 0, 4 << 40, 0]);
        commands.extend(posted(
            0,
            Cmd::RegionWrite,
            &write(0, at(Reg::LEVEL), &[0; 4]),
        ));
        commands.extend(message(id, Cmd::RegionRead, &read));
    }
    client.send(&commands);
    for id in 0..50 {
        let received = client.receive();
        assert_eq!((received.id(), received.u32(32)), (id, 50));
    }
}

#[test]
fn posted_writes_are_carried_out_without_anything_else() {
    let served = Served::new();
    let (_client, mut shared) = session(&served, 1);
    for value in 0..1000 {
        shared.ring.post(0, at(Reg::SCRATCH64), 8, value << 32);
        if value % 100 == 0 {
            shared.memory.wait_until_the_server_sleeps();
        }
        if shared.ring.tail.wrapping_sub(shared.ring.head()) == shared.ring.entries {
            shared.ring.wait_until_empty();
        }
    }
    shared.ring.wait_until_empty();
    let slot = &mut shared.slots[0];
    assert_eq!(slot.read(0, at(Reg::SCRATCH64), 8), Ok(999 << 32));
}

#[test]
fn the_counters_of_the_ring_and_of_a_slot_wrap() {
    // The whole way round is too far: a server that compared sizes and not
    // differences would fail at the ring's own size already.
    let served = Served::new();
    let (_client, mut shared) = session(&served, 1);
    for _ in 0..2000 {
        shared.ring.put([at(Reg::BELL), 1, 4 << 40, 0]);
        shared.ring.put([at(Reg::BELL), 2, 4 << 40, 0]);
        shared.slots[0].read(0, at(Reg::ID), 4).unwrap();
    }
    let slot = &mut shared.slots[0];
    assert_eq!(slot.read(0, at(Reg::RINGS), 4), Ok(4000));
    // A sequence is new if it differs, whatever it is.
    for sequence in [u32::MAX - 1, 0x7fff_ffff, 0, u32::MAX] {
        slot.sequence = sequence;
        assert_eq!(slot.read(0, at(Reg::ID), 4), Ok(ID.into()));
    }
}

#[test]
fn nonsense_in_a_slot_is_refused_and_nothing_is_done() {
    let served = Served::new();
    let (mut client, mut shared) = session(&served, 1);
    let slot = &mut shared.slots[0];
    slot.write(0, at(Reg::SCRATCH), 4, 0x77).unwrap();
    let scratch = at(Reg::SCRATCH);
    let mut nonsense = vec![
        // Outside the region, by a byte and by a wrap.
        (Slot::what(WRITE, 4, 0), 0x4000),
        (Slot::what(WRITE, 8, 0), 0x3ffc),
        (Slot::what(WRITE, 4, 0), u64::MAX),
        (Slot::what(READ, 8, 0), u64::MAX - 7),
        (Slot::what(READ, 4, 0), scratch + (1 << 32)),
    ];
    for operation in [0, 3, 4, 0x80, 0xff] {
        nonsense.push((Slot::what(operation, 4, 0), scratch));
    }
    for count in [0, 9, 16, 0x84, 0xff] {
        nonsense.push((Slot::what(WRITE, count, 0), scratch));
        nonsense.push((Slot::what(READ, count, 0), scratch));
    }
    for region in [1, 8, 9, 0x100, 0xffff] {
        nonsense.push((Slot::what(WRITE, 4, region), scratch));
        nonsense.push((Slot::what(READ, 4, region), scratch));
    }
    for (what, offset) in nonsense {
        let answer = slot.ask(what, offset, u64::MAX);
        assert_eq!(answer, Err(EINVAL), "{what:#x} {offset:#x}");
        assert_eq!(slot.read(0, scratch, 4), Ok(0x77));
    }
    client.in_step();
}

#[test]
fn nonsense_in_the_ring_is_dropped_and_the_rest_is_written() {
    let served = Served::new();
    let (mut client, mut shared) = session(&served, 1);
    let bell = at(Reg::BELL);
    for words in [
        [bell, 1, 0, 0],
        [bell, 1, 9 << 40, 0],
        [bell, 1, 4 << 40 | 9 << 48, 0],
        [bell, 1, 4 << 40 | 0xffff << 48, 0],
        [0x4000, 1, 4 << 40, 0],
        [u64::MAX, u64::MAX, u64::MAX, u64::MAX],
    ] {
        shared.ring.put(words);
        shared.ring.put([bell, 5, 4 << 40, 0]);
    }
    let slot = &mut shared.slots[0];
    assert_eq!(slot.read(0, at(Reg::RINGS), 4), Ok(6));
    client.in_step();
}

#[test]
fn a_ring_that_holds_more_than_it_can_ends_the_session() {
    for more in [257, 1000, u32::MAX] {
        let served = Served::new();
        let (client, mut shared) = session(&served, 1);
        shared.ring.post(0, at(Reg::BELL), 4, 1);
        shared.ring.wait_until_empty();
        shared.ring.set_tail(shared.ring.head().wrapping_add(more));
        shared.memory.wake();
        client.closed();
        // Nothing of it was done, and the next client is served.
        let mut next = served.client();
        assert_eq!(next.get(Reg::RINGS), 1);
    }
}

#[test]
fn a_ring_that_holds_too_much_ends_the_session_also_before_a_message() {
    let served = Served::new();
    let (mut client, mut shared) = session(&served, 1);
    shared.ring.set_tail(257);
    client.command(Cmd::RegionWrite, &write(0, at(Reg::BELL), &[0; 4]), &[]);
    client.closed();
    assert_eq!(served.client().get(Reg::RINGS), 0);
}

#[test]
fn a_server_that_sleeps_is_woken_by_whatever_comes() {
    let served = Served::new();
    let (mut client, mut shared) = session(&served, 2);
    let mut rings = 0;
    for round in 0..300u64 {
        shared.memory.wait_until_the_server_sleeps();
        match round % 3 {
            0 => {
                let what = Slot::what(READ, 4, 0);
                assert!(shared.slots[1].begin(what, at(Reg::ID), 0), "it slept");
                assert_eq!(shared.slots[1].finish(), (0, ID.into()));
            }
            1 => {
                rings += 1;
                shared.ring.post(0, at(Reg::BELL), 4, round);
                shared.ring.wait_until_empty();
            }
            _ => assert_eq!(client.get(Reg::RINGS), rings),
        }
    }
}

#[test]
fn a_wake_up_for_nothing_is_nothing() {
    let served = Served::new();
    let (mut client, mut shared) = session(&served, 1);
    for _ in 0..50 {
        shared.memory.wait_until_the_server_sleeps();
        shared.memory.signal();
        shared.slots[0].read(0, 0, 4).unwrap();
    }
    client.in_step();
}

/// Has the test device ask for guest memory in the middle of a write of its
/// register GO, by slot.
fn begin_dma(slot: &mut Slot, address: u64, go: u64) {
    slot.write(0, at(Reg::ADDRESS), 8, address).unwrap();
    slot.begin(Slot::what(WRITE, 4, 0), at(Reg::GO), go);
}

#[test]
fn a_device_reaches_the_clients_memory_by_messages_in_the_middle_of_an_access() {
    let served = Served::new();
    let (mut client, mut shared) = session(&served, 1);
    client.map_without(0x1000, 0x1000);
    let slot = &mut shared.slots[0];
    begin_dma(slot, 0x1000, 1);
    client.prove_sound();
    assert_eq!(slot.answer(), None);
    client.provide(&[1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(slot.finish(), (0, 0));
    assert_eq!(slot.read(0, at(Reg::RESULT), 4), Ok(result::DONE));
    let value = u64::from_le_bytes([1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(slot.read(0, at(Reg::VALUE), 8), Ok(value));
    begin_dma(slot, 0x1010, 2);
    assert_eq!(client.accept(), (0x1010, vec![1, 2, 3, 4, 5, 6, 7, 8]));
    assert_eq!(slot.finish(), (0, 0));
}

#[test]
fn commands_that_come_in_the_middle_of_an_access_are_answered_after_it() {
    let served = Served::new();
    let (mut client, mut shared) = session(&served, 1);
    client.map_without(0x1000, 0x1000);
    let slot = &mut shared.slots[0];
    begin_dma(slot, 0x1000, 1);
    client.prove_sound();
    let id = client.command(Cmd::RegionRead, &access(0, at(Reg::VALUE), 8), &[]);
    // Posted while the server is busy: it comes before the command's answer.
    shared.ring.post(0, at(Reg::BELL), 4, 1);
    let later = client.command(Cmd::RegionRead, &access(0, at(Reg::RINGS), 4), &[]);
    client.provide(&[7; 8]);
    let received = client.receive();
    assert_eq!(
        (received.id(), received.u64(32)),
        (id, 0x0707_0707_0707_0707)
    );
    let received = client.receive();
    assert_eq!((received.id(), received.u32(32)), (later, 1));
    assert_eq!(slot.finish(), (0, 0));
}

#[test]
fn a_device_reaches_the_clients_memory_over_the_twin_in_the_middle_of_an_access() {
    let served = Served::new();
    let mut client = served.connect();
    let asked = proposal(1).replacen(
        r#""pgsizes""#,
        r#""twin_socket":{"supported":true},"pgsizes""#,
        1,
    );
    let mut received = client.agree(&asked);
    let twin = received.fds[0].try_clone().unwrap();
    let twin = Client::over(UnixStream::from(twin));
    received.fds[0] = eventfd();
    let mut shared = Shared::of(received);
    client.map_without(0x1000, 0x1000);
    let slot = &mut shared.slots[0];
    begin_dma(slot, 0x1000, 1);
    twin.prove_sound();
    twin.provide(&[3; 8]);
    assert_eq!(slot.finish(), (0, 0));
    assert_eq!(slot.read(0, at(Reg::VALUE), 8), Ok(0x0303_0303_0303_0303));
}

#[test]
fn a_client_that_sleeps_is_woken() {
    let served = Served::new();
    let (mut client, mut shared) = session(&served, 2);
    client.map_without(0x1000, 0x1000);
    let mut slot = shared.slots.remove(1);
    begin_dma(&mut slot, 0x1000, 1);
    client.prove_sound();
    for round in 0..100 {
        // The answer waits for the client's memory, and the client sleeps.
        thread::scope(|scope| {
            let sleeping = scope.spawn(|| slot.sleep());
            slot.wait_until_it_says_that_it_sleeps();
            client.provide(&[round; 8]);
            assert_eq!(sleeping.join().unwrap(), (0, 0));
        });
        begin_dma(&mut slot, 0x1000, 1);
    }
    client.provide(&[0; 8]);
    slot.finish();
    // Who does not sleep is not signalled.
    assert!(!slot.rung());
    assert!(!shared.slots[0].rung());
}

#[test]
fn each_session_has_memory_of_its_own() {
    let served = Served::new();
    let (client, mut old) = session(&served, 1);
    old.slots[0].write(0, at(Reg::SCRATCH), 4, 1).unwrap();
    drop(client);
    let (mut client, mut new) = session(&served, 1);
    let inode = |shared: &Shared| shared.file.metadata().unwrap().ino();
    assert_ne!(inode(&old), inode(&new));
    let before = new.slots[0].read(0, at(Reg::LEFT), 4).unwrap();
    assert_eq!(before, 1);
    // Who writes into the old one talks to nobody.
    old.ring.post(0, at(Reg::BELL), 4, 1);
    old.slots[0].begin(Slot::what(WRITE, 4, 0), at(Reg::SCRATCH), 2);
    assert!(old.memory.is_left());
    assert_eq!(new.slots[0].read(0, at(Reg::SCRATCH), 4), Ok(1));
    assert_eq!(client.get(Reg::RINGS), 0);
    assert_eq!(old.slots[0].answer(), None);
    assert_eq!(old.ring.head(), 0);
}

#[test]
fn several_requesters_ask_at_once() {
    const EACH: u64 = 200;
    let served = Served::new();
    let (mut client, shared) = session(&served, 14);
    let slots = shared.slots.len() as u64;
    thread::scope(|scope| {
        for (number, mut slot) in shared.slots.into_iter().enumerate() {
            scope.spawn(move || {
                let offset = 0x1000 + 8 * number as u64;
                for value in 0..EACH {
                    slot.write(0, at(Reg::BELL), 4, value).unwrap();
                    slot.begin(Slot::what(WRITE, 8, 0), offset, value);
                    if value % 2 == 0 {
                        assert_eq!(slot.sleep(), (0, 0));
                    }
                    slot.finish();
                    assert_eq!(slot.read(0, offset, 8), Ok(value));
                }
            });
        }
    });
    assert_eq!(client.get(Reg::RINGS), slots * EACH);
}

#[test]
fn doorbells_and_interrupts_work_beside_it() {
    let served = Served::new();
    let (mut client, mut shared) = session(&served, 1);
    let received = client.ask(Cmd::GetRegionIoFds, &query(1024, 0));
    let interrupt = eventfd();
    let body = irqs(EVENTFD | TRIGGER, MSIX, 0, 1);
    client.done_with(Cmd::SetIrqs, &body, &[interrupt.as_fd()]);
    let slot = &mut shared.slots[0];
    for rings in 1..50 {
        shared.memory.wait_until_the_server_sleeps();
        rustix::io::write(&received.fds[0], &1u64.to_ne_bytes()).unwrap();
        while slot.read(0, at(Reg::RINGS), 4).unwrap() < rings {}
        slot.write(0, at(Reg::RAISE), 4, 0).unwrap();
        wait_for(&interrupt);
        assert_eq!(rung(&interrupt), 1);
    }
}

#[test]
fn a_doorbell_that_was_just_offered_is_heard_before_an_access() {
    let served = Served::new();
    for _ in 0..50 {
        let (mut client, mut shared) = session(&served, 1);
        let before = client.get(Reg::RINGS);
        let received = client.ask(Cmd::GetRegionIoFds, &query(1024, 0));
        rustix::io::write(&received.fds[0], &1u64.to_ne_bytes()).unwrap();
        let rings = shared.slots[0].read(0, at(Reg::RINGS), 4);
        assert_eq!(rings, Ok(before + 1));
    }
}

#[test]
fn a_server_that_sleeps_can_be_stopped() {
    let served = Served::new();
    let (client, shared) = session(&served, 1);
    shared.memory.wait_until_the_server_sleeps();
    served.stop().unwrap();
    client.closed();
}

#[test]
fn a_session_with_shared_memory_takes_descriptors_and_long_messages_as_ever() {
    let served = Served::new();
    let (mut client, mut shared) = session(&served, 1);
    let file = wire::memory(0x1000, &[0x44; 0x1000]);
    for _ in 0..3 {
        client.map(&file, 0x80_0000, 0x1000);
        begin_dma(&mut shared.slots[0], 0x80_0000, 1);
        assert_eq!(shared.slots[0].finish(), (0, 0));
        let long = vec![7; 0x8000];
        client.write(2, 0, &long);
        assert_eq!(
            shared.slots[0].read(2, 0x7ff8, 8),
            Ok(0x0707_0707_0707_0707)
        );
        client.done(Cmd::DmaUnmap, &wire::messages::unmap_all());
    }
    assert_eq!(client.get(Reg::VALUE), u64::from_le_bytes([0x44; 8]));
}
