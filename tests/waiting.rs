//! Servers that spin do all that those that sleep do; servers that are watched.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vgpu_stub::client::{Client, Options};
use vgpu_stub::devices;
use vgpu_stub::endpoint::Endpoint;
use vgpu_stub::fastpath::Polling;
use vgpu_stub::protocol::{Command, Header};
use vgpu_stub::server::{Limits, Observer, ServeError, Server, Source, Stopper, serve_observed};

const PATIENCE: Duration = Duration::from_secs(20);

fn device(name: &str) -> Endpoint {
    let kind = devices::Kind::find(name).unwrap();
    Endpoint::new(kind.builder(devices::Options::default()).unwrap()).unwrap()
}

/// A server of a device, looking without end for a client at the other end.
fn spinning(
    name: &str,
    limits: Limits,
) -> (UnixStream, Stopper, JoinHandle<Result<(), ServeError>>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut server = Server::new().limits(limits).polling(Polling::Always);
    server
        .add(name, device(name), Source::Connected(theirs))
        .unwrap();
    let stopper = server.stopper();
    (ours, stopper, thread::spawn(|| server.run()))
}

fn client(stream: &UnixStream) -> Client {
    let stream = stream.try_clone().unwrap();
    Client::over(stream, &Options::default()).unwrap()
}

#[test]
fn it_answers_and_ends_when_its_client_leaves() {
    let (stream, _, server) = spinning("stub", Limits::default());
    let mut client = client(&stream);
    for value in 0u32..10 {
        client.write(0, 0xc, &value.to_le_bytes()).unwrap();
        let mut read = [0; 4];
        client.read(0, 0xc, &mut read).unwrap();
        assert_eq!(u32::from_le_bytes(read), value);
    }
    drop((client, stream));
    server.join().unwrap().unwrap();
}

#[test]
fn it_ends_when_it_is_stopped() {
    for agreed in [false, true] {
        let (stream, stopper, server) = spinning("stub", Limits::default());
        if agreed {
            client(&stream).read(0, 0, &mut [0; 4]).unwrap();
        }
        stopper.stop();
        server.join().unwrap().unwrap();
        assert_eq!((&stream).read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn it_gives_up_a_client_that_is_silent_or_stalls() {
    let short = Duration::from_millis(50);
    let limits = Limits {
        handshake: short,
        message: short,
        ..Limits::default()
    };
    for agreed in [false, true] {
        let (stream, _, server) = spinning("stub", limits);
        if agreed {
            client(&stream).read(0, 0, &mut [0; 4]).unwrap();
            (&stream).write_all(&[0; 7]).unwrap();
        }
        let begun = Instant::now();
        server.join().unwrap().unwrap();
        assert!(begun.elapsed() < PATIENCE);
    }
}

#[test]
fn it_hears_doorbells_between_two_commands() {
    let (stream, _, server) = spinning("doorbell", Limits::default());
    let mut client = client(&stream);
    let (_, fds) = client.io_fds(0).unwrap();
    for rings in 1u32..4 {
        rustix::io::write(&fds[0], &1u64.to_ne_bytes()).unwrap();
        let mut count = [0; 4];
        client.read(0, 0x1000, &mut count).unwrap();
        assert_eq!(u32::from_le_bytes(count), rings);
    }
    drop((client, stream));
    server.join().unwrap().unwrap();
}

/// What was heard of each command, in order.
#[derive(Default)]
struct Heard(Vec<(&'static str, Option<Command>)>);

impl Observer for Heard {
    fn received(&mut self, command: &Header) {
        let command = Command::from_wire(command.command);
        self.0.push(("received", command));
    }

    fn answering(&mut self, command: &Header) {
        let command = Command::from_wire(command.command);
        self.0.push(("answering", command));
    }

    fn answered(&mut self, command: &Header) {
        let command = Command::from_wire(command.command);
        self.0.push(("answered", command));
    }
}

#[test]
fn an_observer_hears_of_each_command_and_of_those_that_are_answered() {
    for polling in [Polling::Never, Polling::default(), Polling::Always] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = thread::spawn(move || {
            let mut heard = Heard::default();
            serve_observed(&mut device("stub"), theirs, polling, &mut heard).unwrap();
            heard.0
        });
        let mut client = Client::over(ours, &Options::default()).unwrap();
        client.post(0, 0xc, &[0; 4]).unwrap();
        client.read(0, 0xc, &mut [0; 4]).unwrap();
        client.read(0, 0x1000, &mut [0; 4]).unwrap_err();
        drop(client);
        let heard = server.join().unwrap();
        let expected = [
            ("received", Command::Version),
            ("answering", Command::Version),
            ("answered", Command::Version),
            ("received", Command::RegionWrite),
            ("received", Command::RegionRead),
            ("answering", Command::RegionRead),
            ("answered", Command::RegionRead),
            ("received", Command::RegionRead),
        ];
        let expected = expected.map(|(what, command)| (what, Some(command)));
        assert_eq!(heard, expected);
    }
}
