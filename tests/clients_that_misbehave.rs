//! Clients that stall, leave, flood or never read: each is given up within a
//! bound, and nobody else waits for it.

mod wire;

use std::io::Write;
use std::os::fd::AsFd;
use std::thread;
use std::time::Instant;

use vgpu_stub::server::{Limits, Listener, Server, Source};
use wire::device::Reg;
use wire::messages::{INTX, access, header, irqs, map, query, region_info, version, write};
use wire::{
    Client, Cmd, PATIENCE, PATIENT, QEMU, SHORT, Served, bytes, eventfd, make, memory, message,
    posted, reply,
};

/// Sends the same bytes again and again until the server has had enough.
fn flood(client: &Client, bytes: &[u8]) {
    let deadline = Instant::now() + PATIENCE;
    while client.stream().write_all(bytes).is_ok() {
        assert!(Instant::now() < deadline, "the server goes on for ever");
    }
}

/// What a client says from its first word on.
fn words() -> Vec<u8> {
    [
        message(1, Cmd::Version, &version(1, QEMU)),
        message(2, Cmd::GetInfo, &query(16, 0)),
        message(3, Cmd::GetRegionInfo, &region_info(80, 0)),
        message(4, Cmd::GetRegionIoFds, &query(96, 0)),
        message(5, Cmd::DmaMap, &map(3, 0, 0, 0x1000)),
        message(6, Cmd::SetIrqs, &irqs(0x21, INTX, 0, 1)),
        message(7, Cmd::RegionWrite, &write(0, 0x40, &[1, 0, 0, 0])),
        message(8, Cmd::RegionRead, &access(0, 0, 4)),
    ]
    .concat()
}

#[test]
fn a_client_that_never_speaks_is_given_up_in_time() {
    let served = Served::with(SHORT, &["test"]);
    let silent = served.connect();
    // The next one is served once its time is over.
    served.client().in_step();
    silent.closed();
}

#[test]
fn a_client_that_says_anything_but_version_is_given_up_in_time() {
    let served = Served::with(SHORT, &["test"]);
    for bytes in [
        posted(1, Cmd::RegionRead, &access(0, 0, 4)),
        reply(1, Cmd::RegionRead, &access(0, 0, 4)),
        header(1, 99, 16, 16),
    ] {
        let client = served.connect();
        flood(&client, &bytes);
    }
    served.client().in_step();
}

#[test]
fn a_client_that_stalls_in_the_middle_of_a_message_is_given_up_in_time() {
    let served = Served::with(SHORT, &["test"]);
    let hello = message(1, Cmd::Version, &version(1, QEMU));
    for sent in [1, 15, 16, 17, hello.len() - 1] {
        let client = served.connect();
        client.send(&hello[..sent]);
        client.closed();
    }
    let mut client = served.client();
    client.in_step();
    // Behind a message that is whole, in the same send.
    let read = message(1, Cmd::RegionRead, &access(0, 0, 4));
    client.send(&[&read[..], &read[..20]].concat());
    assert_eq!(client.receive().flags(), 1);
    client.closed();
    // With a descriptor.
    let client = served.client();
    let file = memory(4096, &[]);
    let whole = message(1, Cmd::DmaMap, &map(3, 0, 0, 0x1000));
    client.send_with(&whole[..40], &[file.as_fd()]);
    client.closed();
    served.client().in_step();
}

#[test]
fn a_client_with_a_session_may_be_silent_for_as_long_as_it_likes() {
    let served = Served::with(SHORT, &["test"]);
    let mut quiet = served.client();
    // Twice the time that a client has to speak up.
    for _ in 0..2 {
        let mut twin = served.connect();
        let event = eventfd();
        let timeout = (SHORT.handshake).try_into().unwrap();
        let mut fds = [rustix::event::PollFd::new(
            &event,
            rustix::event::PollFlags::IN,
        )];
        assert_eq!(rustix::event::poll(&mut fds, Some(&timeout)), Ok(0));
        quiet.in_step();
        // This one waits for its turn, and that is not held against it.
        twin.command(Cmd::Version, &version(1, "{}"), &[]);
    }
    quiet.in_step();
    drop(quiet);
    served.client().in_step();
}

#[test]
fn a_client_that_leaves_at_any_byte_is_followed_by_the_next() {
    let limits = Limits {
        dma: SHORT.dma,
        ..PATIENT
    };
    let served = Served::with(limits, &["test"]);
    let words = words();
    for at in 0..=words.len() {
        let client = served.connect();
        client.send(&words[..at]);
        client.stream().shutdown(std::net::Shutdown::Write).unwrap();
        // It waits until the server has noticed, and is gone at every second.
        if at % 2 == 0 {
            while client.try_receive().is_some() {}
        }
    }
    served.client().in_step();
}

#[test]
fn a_client_that_never_reads_its_replies_is_given_up_in_time() {
    let served = Served::with(SHORT, &["test"]);
    for count in [4, 0x4000, 1 << 20] {
        let client = served.client();
        flood(&client, &message(1, Cmd::RegionRead, &access(2, 0, count)));
        served.client().in_step();
    }
}

#[test]
fn a_client_that_never_reads_a_dma_message_is_given_up_in_time() {
    let served = Served::with(SHORT, &["test"]);
    let mut client = served.client();
    client.map_without(0, 0x1000);
    flood(
        &client,
        &message(1, Cmd::RegionWrite, &write(0, 0x40, &[2, 0, 0, 0])),
    );
    served.client().in_step();
}

#[test]
fn a_thousand_clients_that_connect_and_leave_harm_nobody() {
    let served = Served::new();
    for _ in 0..1000 {
        drop(served.connect());
    }
    served.client().in_step();
}

#[test]
fn a_second_client_waits_for_the_first_to_leave() {
    let served = Served::new();
    let mut first = served.client();
    let mut second = served.connect();
    second.command(Cmd::Version, &version(1, QEMU), &[]);
    second.command(Cmd::RegionRead, &access(0, 4, 4), &[]);
    // Had the second been served by now, it would read another value.
    first.set(Reg::SCRATCH, 1);
    first.in_step();
    first.set(Reg::SCRATCH, 2);
    drop(first);
    assert_eq!(second.receive().flags(), 1);
    assert_eq!(second.receive().body()[16..], bytes![2u32]);
}

#[test]
fn a_device_whose_client_stalls_does_not_hold_up_another() {
    let served = Served::with(PATIENT, &["test", "stub", "doorbell"]);
    // Each of these would keep its device for 20 seconds.
    let stalled = served.client_of("test");
    stalled.send(&message(1, Cmd::RegionRead, &access(0, 0, 4))[..20]);
    let silent = Client::connect(&served.path("doorbell"));
    let mut client = served.client_of("stub");
    for _ in 0..100 {
        client.in_step();
    }
    drop((stalled, silent));
    // The doorbell's ID is another.
    let mut client = served.client_of("doorbell");
    assert_eq!(client.read(0, 0, 4), *b"BELL");
}

#[test]
fn a_device_that_waits_for_its_client_does_not_hold_up_another() {
    let served = Served::with(PATIENT, &["test", "stub"]);
    let mut waiting = served.client_of("test");
    waiting.map_without(0, 0x1000);
    waiting.command(Cmd::RegionWrite, &write(0, 0x40, &[1, 0, 0, 0]), &[]);
    waiting.question(Cmd::DmaWrite);
    served.client_of("stub").in_step();
}

#[test]
fn a_server_that_is_stopped_ends_whatever_its_clients_do() {
    for mode in 0..5 {
        let served = Served::with(PATIENT, &["test"]);
        let mut client = served.connect();
        if mode > 0 {
            client.agree(QEMU);
        }
        match mode {
            2 => client.send(&header(1, 9, 32, 0)),
            3 => {
                let read = message(1, Cmd::RegionRead, &access(2, 0, 1 << 20));
                client.send(&read);
                client.wait_until_taken();
            }
            4 => {
                client.map_without(0, 0x1000);
                client.command(Cmd::RegionWrite, &write(0, 0x40, &[1, 0, 0, 0]), &[]);
                client.question(Cmd::DmaWrite);
            }
            _ => {}
        }
        let path = served.path("test");
        let begun = Instant::now();
        served.stop().unwrap();
        assert!(begun.elapsed() < PATIENCE, "mode {mode}");
        assert!(!path.exists());
    }
}

#[test]
fn a_server_for_one_client_ends_when_it_leaves() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = Listener::bind(&path, None).unwrap();
    let mut server = Server::new().limits(PATIENT).once(true);
    server
        .add("test", make("test"), Source::Listener(listener))
        .unwrap();
    let serving = thread::spawn(move || server.run());
    let mut client = Client::connect(&path);
    client.agree(QEMU);
    client.in_step();
    drop(client);
    serving.join().unwrap().unwrap();
}

#[test]
fn a_client_that_is_connected_already_is_served() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let source = Source::from_fd(ours.into()).unwrap();
    let mut server = Server::new().limits(PATIENT);
    server.add("test", make("test"), source).unwrap();
    let serving = thread::spawn(move || server.run());
    let mut client = Client::over(theirs);
    client.agree(QEMU);
    client.in_step();
    drop(client);
    serving.join().unwrap().unwrap();
}
