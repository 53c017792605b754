//! Descriptors and memory: nothing that a client sends stays behind.
//!
//! These tests look at their whole process, so they take turns.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod wire;

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wire::device::{Reg, result};
use wire::messages::{
    BOOL, EVENTFD, FILE_IO, MASK, MSI, MSIX, NO_REPLY, NONE, TRIGGER, UNMASK, access, bools,
    header, irqs, map, query, region_info, unmap_all, version, write,
};
use wire::shared::Shared;
use wire::{
    Client, Cmd, QEMU, Served, bytes, eventfd, memory, message, open_descriptors, posted,
    wrong_kinds,
};

static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The process's memory in bytes, shared pages of the test files left out.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let mut fields = statm
        .split(' ')
        .map(|field| field.parse::<usize>().unwrap());
    let (resident, shared) = (fields.nth(1).unwrap(), fields.next().unwrap());
    (resident - shared) * 4096
}

/// Asserts that refused commands close what came with them.
#[track_caller]
fn closes(client: &mut Client, command: Cmd, body: &[u8], fds: &[BorrowedFd<'_>], errno: i32) {
    let before = open_descriptors();
    client.refused_with(command, body, fds, errno);
    assert_eq!(open_descriptors(), before, "{command:?} {body:02x?}");
}

#[test]
fn a_session_with_shared_memory_leaves_nothing_behind() {
    let _turn = turn();
    let served = Served::new();
    let session = || {
        let mut client = served.connect();
        let mut shared = Shared::agree(&mut client, 14);
        assert!(shared.slots[0].read(0, 0, 4).is_ok());
    };
    // While the next client is served, all of the last one is gone; both
    // are counted with that client there, as the server closes its end of a
    // client that left in its own time.
    let held = || {
        let mut client = served.client();
        client.in_step();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let maps = maps.lines().filter(|line| line.contains("memfd")).count();
        (open_descriptors(), maps)
    };
    session();
    let before = held();
    for _ in 0..100 {
        session();
    }
    assert_eq!(held(), before);
}

#[test]
fn every_refusal_closes_the_descriptors_that_came() {
    let _turn = turn();
    let served = Served::new();
    let mut client = served.client();
    let file = memory(0x1000, &[]);
    let fd = file.as_fd();
    for (command, body, errno) in [
        (Cmd::Version, version(1, "{}"), libc::EINVAL),
        (Cmd::DmaMap, map(3, 0, 0, 0), libc::EINVAL),
        (Cmd::DmaMap, map(3, 0, 1, 0x1000), libc::EINVAL),
        (Cmd::DmaMap, map(3, 1, 0, 0x1000), libc::EINVAL),
        (Cmd::DmaMap, map(3, 0, 0, 0x2000), libc::EINVAL),
        (Cmd::DmaMap, map(3 | FILE_IO, 0, 0, 0x2000), libc::EINVAL),
        (Cmd::DmaMap, map(0, 0, 0, 0x1000), libc::EINVAL),
        (Cmd::DmaUnmap, unmap_all(), libc::EINVAL),
        (Cmd::GetInfo, query(16, 0), libc::EINVAL),
        (Cmd::GetRegionInfo, region_info(32, 0), libc::EINVAL),
        (Cmd::GetRegionIoFds, query(96, 0), libc::EINVAL),
        (Cmd::GetIrqInfo, query(16, 0), libc::EINVAL),
        (
            Cmd::SetIrqs,
            irqs(EVENTFD | TRIGGER, MSIX, 0, 1),
            libc::EINVAL,
        ),
        (
            Cmd::SetIrqs,
            irqs(EVENTFD | TRIGGER, MSIX, 0, 2),
            libc::EINVAL,
        ),
        (Cmd::SetIrqs, irqs(EVENTFD | TRIGGER, 9, 0, 1), libc::EINVAL),
        (Cmd::SetIrqs, irqs(NONE | TRIGGER, MSIX, 0, 1), libc::EINVAL),
        (
            Cmd::SetIrqs,
            bools(BOOL | TRIGGER, MSIX, 0, &[1]),
            libc::EINVAL,
        ),
        (Cmd::RegionRead, access(0, 0, 4), libc::EINVAL),
        (Cmd::RegionWrite, write(0, 4, &[0; 4]), libc::EINVAL),
        (
            Cmd::WriteMulti,
            bytes![1u64, 4u64, 0u32, 4u32, 0u64],
            libc::EINVAL,
        ),
        (Cmd::DmaRead, bytes![0u64, 4u64], libc::EINVAL),
        (Cmd::DmaWrite, bytes![0u64, 4u64, 0u32], libc::EINVAL),
        (Cmd::Reset, Vec::new(), libc::EINVAL),
        (Cmd::DirtyPages, vec![0; 24], libc::ENOSYS),
        (Cmd::Feature, bytes![8u32, 0x1_0001u32], libc::EINVAL),
        (Cmd::MigDataRead, bytes![8u32, 0u32], libc::EINVAL),
        (Cmd::MigDataWrite, bytes![8u32, 0u32], libc::EINVAL),
    ] {
        closes(&mut client, command, &body, &[fd], errno);
        closes(
            &mut client,
            command,
            &body,
            &[fd; 253],
            if errno == libc::ENOSYS {
                errno
            } else {
                libc::EINVAL
            },
        );
    }
    for (_, kind) in wrong_kinds() {
        let body = map(3, 0, 0, 0x1000);
        closes(
            &mut client,
            Cmd::DmaMap,
            &body,
            &[kind.as_fd()],
            libc::EINVAL,
        );
    }
}

#[test]
fn dropped_replies_and_posted_refusals_close_theirs() {
    let _turn = turn();
    let served = Served::new();
    let mut client = served.client();
    client.in_step();
    let before = open_descriptors();
    let file = memory(0x1000, &[]);
    for flags in [1, 0x21, NO_REPLY] {
        client.send_with(&header(1, 99, 16, flags), &[file.as_fd(); 100]);
    }
    client.send_with(
        &posted(1, Cmd::RegionRead, &access(0, 0, 4)),
        &[file.as_fd()],
    );
    client.in_step();
    drop(file);
    assert_eq!(open_descriptors(), before);
}

#[test]
fn what_is_unmapped_replaced_or_disabled_is_closed() {
    let _turn = turn();
    let served = Served::new();
    let mut client = served.client();
    let file = memory(0x1000, &[]);
    let event = eventfd();
    client.in_step();
    let before = open_descriptors();
    for number in 0..8u64 {
        let flags = if number % 2 == 0 { 3 } else { 3 | FILE_IO };
        let body = map(flags, 0, number * 0x1000, 0x1000);
        client.done_with(Cmd::DmaMap, &body, &[file.as_fd()]);
    }
    assert_eq!(open_descriptors(), before + 8);
    client.done(Cmd::DmaUnmap, &wire::messages::unmap(0, 0x1000));
    assert_eq!(open_descriptors(), before + 7);
    client.done(Cmd::DmaUnmap, &unmap_all());
    assert_eq!(open_descriptors(), before);
    for action in [TRIGGER, MASK, UNMASK] {
        let body = irqs(EVENTFD | action, MSIX, 0, 32);
        // What the server waits with for the client's events and the socket.
        let waits = usize::from(action != TRIGGER);
        for _ in 0..2 {
            client.done_with(Cmd::SetIrqs, &body, &[event.as_fd(); 32]);
            client.in_step();
            assert_eq!(open_descriptors(), before + 32 + waits);
        }
        client.done(Cmd::SetIrqs, &irqs(EVENTFD | action, MSIX, 0, 31));
        client.in_step();
        assert_eq!(open_descriptors(), before + 1 + waits);
        client.done(Cmd::SetIrqs, &irqs(NONE | TRIGGER, MSIX, 0, 0));
        client.in_step();
        assert_eq!(open_descriptors(), before);
    }
}

/// A session that leaves descriptors of every kind with the server.
fn busy(served: &Served, file: &impl AsFd) -> Client {
    let mut client = served.connect();
    let twin = r#"{"capabilities":{"max_msg_fds":16,"twin_socket":{"supported":true}}}"#;
    client.ask(Cmd::Version, &version(1, twin));
    client.map(file, 0, 0x1000);
    client.done_with(
        Cmd::DmaMap,
        &map(3 | FILE_IO, 0, 0x1000, 0x1000),
        &[file.as_fd()],
    );
    let events: Vec<OwnedFd> = (0..32).map(|_| eventfd()).collect();
    let fds: Vec<_> = events.iter().map(AsFd::as_fd).collect();
    client.done_with(Cmd::SetIrqs, &irqs(EVENTFD | TRIGGER, MSIX, 0, 32), &fds);
    client.done_with(Cmd::SetIrqs, &irqs(EVENTFD | UNMASK, MSI, 0, 32), &fds);
    client.ask(Cmd::GetRegionInfo, &region_info(256, 0));
    client.ask(Cmd::GetRegionIoFds, &query(256, 0));
    // A message that is not whole, with descriptors.
    client.send_with(&header(1, 2, 48, 0), &[file.as_fd(); 50]);
    client.wait_until_taken();
    client
}

#[test]
fn a_client_that_left_leaves_no_descriptor_and_no_memory_behind() {
    let _turn = turn();
    let served = Served::new();
    let file = memory(0x2000, &[]);
    let mut descriptors = 0;
    let mut memory = 0;
    for round in 0..300 {
        let client = busy(&served, &file);
        client.stream().shutdown(std::net::Shutdown::Write).unwrap();
        client.closed();
        drop(client);
        match round {
            // What is made once has been made by now.
            50 => (descriptors, memory) = (settled(&served), resident()),
            299 => assert_eq!(settled(&served), descriptors),
            _ => {}
        }
    }
    let grown = resident().saturating_sub(memory);
    assert!(grown < 4 << 20, "{grown} bytes more");
}

/// The number of descriptors while a client is served and nothing else.
fn settled(served: &Served) -> usize {
    let mut client = served.client();
    client.in_step();
    open_descriptors()
}

#[test]
fn a_thousand_visitors_leave_no_descriptor_and_no_memory_behind() {
    let _turn = turn();
    let served = Served::new();
    let read = message(2, Cmd::RegionRead, &access(2, 0, 1 << 20));
    let hello = message(1, Cmd::Version, &version(1, QEMU));
    let visit = |number: usize| {
        let client = served.connect();
        let mut stream = client.stream();
        match number % 5 {
            0 => {}
            1 => drop(stream.write_all(&hello[..number % hello.len()])),
            2 => drop(stream.write_all(&header(1, 1, u32::MAX, 0))),
            3 => drop(stream.write_all(&[&hello[..], &read].concat())),
            _ => drop(stream.write_all(&message(1, Cmd::Version, &vec![b'['; 100_000]))),
        }
    };
    (0..200).for_each(visit);
    let (descriptors, memory) = (settled(&served), resident());
    (0..1000).for_each(visit);
    assert_eq!(settled(&served), descriptors);
    let grown = resident().saturating_sub(memory);
    assert!(grown < 4 << 20, "{grown} bytes more");
}

#[test]
fn commands_that_are_put_aside_hold_a_bounded_number_of_descriptors() {
    let _turn = turn();
    let served = Served::new();
    let mut client = served.client();
    client.map_without(0, 0x1000);
    let file = memory(0x1000, &[]);
    client.in_step();
    let before = open_descriptors();
    client.post(Reg::GO, 1);
    client.question(Cmd::DmaWrite);
    for id in 0..8 {
        let body = map(3, 0, 0x1000, 0x1000);
        client.send_with(&message(id, Cmd::DmaMap, &body), &[file.as_fd(); 253]);
    }
    // The device does not get its answer, and all commands get theirs.
    for id in 0..8 {
        let received = client.receive();
        assert_eq!((received.id(), received.errno()), (id, libc::EINVAL));
    }
    assert_eq!(client.get(Reg::RESULT), result::TIMED_OUT);
    assert_eq!(open_descriptors(), before);
}

/// While it lives, the process gets no new descriptor.
struct NoMore(Rlimit);

impl NoMore {
    fn new() -> Self {
        let before = getrlimit(Resource::Nofile);
        // Every new one must be below this.
        let current = Some(3);
        setrlimit(Resource::Nofile, Rlimit { current, ..before }).unwrap();
        NoMore(before)
    }
}

impl Drop for NoMore {
    fn drop(&mut self) {
        setrlimit(Resource::Nofile, self.0).unwrap();
    }
}

#[test]
fn a_process_without_descriptors_left_serves_on_when_it_has_some_again() {
    let _turn = turn();
    let served = Served::new();
    let mut first = served.client();
    let mut second = served.connect();
    let event = eventfd();
    let no_more = NoMore::new();
    // A descriptor that cannot be received ends the session: without it, the
    // command would be another.
    let body = map(3, 0, 0, 0x1000);
    first.command(Cmd::DmaMap, &body, &[event.as_fd()]);
    first.closed();
    second.command(Cmd::Version, &version(1, QEMU), &[]);
    let patience = std::time::Duration::from_millis(50).try_into().unwrap();
    let stream = second.stream();
    let mut fds = [PollFd::new(stream, PollFlags::IN)];
    let answered = poll(&mut fds, Some(&patience));
    drop(no_more);
    assert_eq!(answered, Ok(0));
    assert_eq!(second.receive().flags(), 1);
    second.in_step();
}

#[test]
fn memory_that_was_cut_short_takes_no_memory_of_ours() {
    let _turn = turn();
    let served = Served::new();
    let mut client = served.client();
    let size = 256 << 20;
    let file = memory(size, &[]);
    client.map(&file, 0, size);
    file.set_len(0).unwrap();
    client.set(Reg::GO, 2);
    let before = resident();
    for page in 0..4096u64 {
        client.post(Reg::ADDRESS, page << 12);
        client.post(Reg::GO, 2);
    }
    assert_eq!(client.get(Reg::RESULT), result::GONE);
    let grown = resident().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes more");
}
