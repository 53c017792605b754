//! `serve --poll`: who looks for work before it sleeps, and that who has none
//! is at rest.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod program;
mod wire;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use program::{Serving, output, text};
use tempfile::TempDir;
use wire::messages::{access, version};
use wire::shared::Shared;
use wire::{Client, Cmd, PATIENCE, QEMU};

/// How long a server at rest is watched.
const STRETCH: Duration = Duration::from_millis(300);

/// The program that serves the stub and a doorbell.
struct Server {
    process: Serving,
    directory: TempDir,
}

impl Server {
    fn start(poll: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let device = |name| {
            let path = directory.path().join(name);
            format!("--device={name},socket-path={}", text(&path))
        };
        let mut arguments = vec![device("stub"), device("doorbell")];
        arguments.extend(poll.iter().map(|word| (*word).to_owned()));
        let process = Serving::start(arguments);
        Server { process, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What all its threads did so far: how often each was switched away from
    /// and, where the kernel tells, how long it ran in nanoseconds.
    fn done(&self) -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let mut done: Vec<_> = tasks
            .map(|task| {
                let task = task.unwrap().path();
                let status = fs::read_to_string(task.join("status")).unwrap();
                let switches: Vec<_> = status
                    .lines()
                    .filter(|line| line.contains("ctxt_switches"))
                    .collect();
                let ran = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
                let ran = ran.split(' ').next().unwrap_or_default();
                format!("{}: {switches:?} {ran}", task.display())
            })
            .collect();
        done.sort();
        done
    }

    /// Whether it comes to rest and stays so: no thread of it runs at all, so
    /// none makes a system call.
    fn comes_to_rest(&self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let before = self.done();
            // Not to wait for something: this is the time that is watched.
            std::thread::sleep(STRETCH);
            if self.done() == before {
                return true;
            }
        }
        false
    }
}

/// Reads over the socket, so fast that looking for more is worthwhile.
fn read_a_lot(client: &mut Client) {
    for _ in 0..2000 {
        client.done(Cmd::RegionRead, &access(0, 0, 4));
    }
}

#[test]
fn a_server_without_work_is_at_rest() {
    for poll in [
        &["--poll", "never"][..],
        &["--poll", "adaptive"],
        &["--poll=adaptive", "--poll-budget=100"],
        &[],
    ] {
        let server = Server::start(poll);
        assert!(server.comes_to_rest(), "{poll:?}, no client");

        let mut client = Client::connect(&server.path("stub"));
        client.agree(QEMU);
        read_a_lot(&mut client);
        assert!(server.comes_to_rest(), "{poll:?}, by the socket");
        // Its window is small by now; it goes on as before.
        read_a_lot(&mut client);
        drop(client);

        let mut client = Client::connect(&server.path("stub"));
        let mut shared = Shared::agree(&mut client, 2);
        read_a_lot(&mut client);
        for slot in &mut shared.slots {
            for _ in 0..2000 {
                slot.read(0, 0, 4).unwrap();
            }
        }
        assert!(server.comes_to_rest(), "{poll:?}, by shared memory");
        shared.slots[0].read(0, 0, 4).unwrap();
        client.done(Cmd::RegionRead, &access(0, 0, 4));
    }
}

#[test]
fn a_server_that_waits_for_doorbells_too_is_at_rest() {
    let server = Server::start(&["--poll", "adaptive"]);
    let mut client = Client::connect(&server.path("doorbell"));
    let mut shared = Shared::agree(&mut client, 1);
    let offered = client.ask(Cmd::GetRegionIoFds, &wire::messages::query(1024, 0));
    let slot = &mut shared.slots[0];
    for rings in 1..500 {
        rustix::io::write(&offered.fds[0], &1u64.to_ne_bytes()).unwrap();
        assert_eq!(slot.read(0, 0x1000, 4), Ok(rings));
        client.done(Cmd::RegionRead, &access(0, 0x1000, 4));
    }
    assert!(server.comes_to_rest());
}

#[test]
fn a_client_that_has_not_said_its_version_lets_the_server_rest() {
    for said in [&[][..], &version(1, "{}")[..7]] {
        let server = Server::start(&["--poll", "adaptive"]);
        let client = Client::connect(&server.path("stub"));
        client.send(said);
        assert!(server.comes_to_rest());
    }
}

#[test]
fn a_client_that_signals_without_end_and_asks_for_nothing_lets_the_server_rest() {
    let server = Server::start(&["--poll", "adaptive"]);
    let mut client = Client::connect(&server.path("stub"));
    let shared = Shared::agree(&mut client, 1);
    let heard = (0..20_000).filter(|_| shared.memory.signal()).count();
    assert!(heard > 0);
    assert!(server.comes_to_rest());
    // It lost its own wake-ups, no more.
    client.done(Cmd::RegionRead, &access(0, 0, 4));
}

#[test]
fn one_that_always_looks_is_seen_to() {
    let server = Server::start(&["--poll", "always"]);
    let mut client = Client::connect(&server.path("stub"));
    client.agree(QEMU);
    let before = server.done();
    let deadline = Instant::now() + PATIENCE;
    while server.done() == before {
        assert!(Instant::now() < deadline, "it runs and nobody sees it");
    }
    read_a_lot(&mut client);
}

#[test]
fn what_makes_no_sense_is_refused_with_what_does() {
    for (arguments, expected) in [
        (
            ["--poll", "sometimes"],
            "[possible values: never, adaptive, always]",
        ),
        (["--poll-budget", "0"], "0 is not in 1..=100"),
        (["--poll-budget", "101"], "101 is not in 1..=100"),
        (["--poll-budget", "all"], "invalid digit"),
    ] {
        let output = output(["serve"].into_iter().chain(arguments));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(expected), "{said}");
    }
}
