//! The bench's socket rungs, on plans so small that their times mean nothing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![cfg(feature = "bench")]

mod liar;
mod other;
mod shared;

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use vgpu_stub::bench::{
    Bench, Clock, Peer, PeerKind, PeerOptions, Pinning, Plan, Quiet, Section, socket,
};
use vgpu_stub::client::{Client, Options};

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_vgpu-stub"))
}

fn exists(process: u32) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

#[test]
fn both_servers_serve_the_stub_and_end_with_their_handle() {
    for kind in [PeerKind::Stub, PeerKind::CrateServer] {
        let (peer, stream) = Peer::start(program(), &PeerOptions::of(kind)).unwrap();
        let mut client = Client::over(stream, &Options::default()).unwrap();
        let mut id = [0; 4];
        client.read(0, 0, &mut id).unwrap();
        assert_eq!(&id, b"VGPU", "{kind}");
        let process = peer.id();
        assert!(exists(process));
        drop(peer);
        assert!(!exists(process));
        assert!(client.read(0, 0, &mut id).is_err());
    }
}

#[test]
fn a_paused_peer_answers_when_it_is_resumed() {
    for spin in [false, true] {
        let options = PeerOptions {
            spin,
            ..PeerOptions::of(PeerKind::PingPong)
        };
        let (peer, mut stream) = Peer::start(program(), &options).unwrap();
        peer.pause().unwrap();
        stream.write_all(&[4, 0, 9, 0]).unwrap();
        peer.resume().unwrap();
        stream.read_exact(&mut [0; 9]).unwrap();
        assert_eq!(peer.stamps().unwrap(), []);
    }
}

#[test]
fn a_program_that_is_none_is_told() {
    let nothing = Path::new("/nowhere/at/all");
    let trouble = Peer::start(nothing, &PeerOptions::of(PeerKind::Stub)).unwrap_err();
    let text = trouble.to_string();
    assert!(text.starts_with("cannot run /nowhere/at/all: "), "{text}");
}

#[test]
fn a_peer_hands_over_when_it_received_and_answered_each_read() {
    for spin in [false, true] {
        let options = PeerOptions {
            spin,
            stamps: true,
            ..PeerOptions::of(PeerKind::Stub)
        };
        let clock = Clock::new();
        let (peer, stream) = Peer::start(program(), &options).unwrap();
        let mut client = Client::over(stream, &Options::default()).unwrap();
        let mut last = clock.now();
        let mut sent = Vec::new();
        for _ in 0..20 {
            sent.push(clock.now());
            client.read(0, 0, &mut [0; 4]).unwrap();
            client.write(0, 0xc, &[0; 4]).unwrap();
        }
        let stamps = peer.stamps().unwrap();
        assert_eq!(stamps.len(), sent.len());
        for (stamps, sent) in stamps.iter().zip(sent) {
            assert!(last <= sent && sent <= stamps.received);
            assert!(stamps.received <= stamps.answering);
            assert!(stamps.answering <= stamps.answered);
            last = stamps.answering;
        }
    }
}

fn tiny(pinning: Pinning) -> Bench<'static> {
    let plan = Plan {
        runs: 2,
        slices: 1,
        slice: Duration::from_millis(1),
        ..Plan::quick(pinning)
    };
    Bench::new(plan, &Quiet)
}

fn names(section: &Section) -> Vec<&str> {
    section.rows.iter().map(|row| row.name.as_str()).collect()
}

/// The last part of a row's name.
fn server_of(row: &str) -> &str {
    row.rsplit('.').next().unwrap()
}

/// The peers that this thread has started and that are not gone.
fn children() -> String {
    // Absent, it says nothing.
    fs::read_to_string("/proc/thread-self/children").unwrap_or_default()
}

#[test]
fn every_placement_has_its_rows_beside_their_floors() {
    let pinning = Pinning::choose().unwrap();
    let mut sections = tiny(pinning).in_runs(|bench| socket(bench, program()));
    assert_eq!(sections.len(), 4);
    let many = sections.remove(3);
    let rows = ["alone", "threads", "pool"];
    let expected = rows.map(|row| format!("devices.read.{row}"));
    assert_eq!(names(&many), expected, "{:?}", many.gaps);
    assert!(many.rows.iter().all(|row| row.partial.is_none()));
    let accesses = [
        "read",
        "write",
        "posted",
        "sustained",
        "server-cpu",
        "read-back",
    ];
    for (section, placement) in sections.iter().zip(["same", "two", "spin"]) {
        if placement != "same" && pinning.other.is_none() {
            assert_eq!(section.gaps.len(), 1);
            continue;
        }
        assert!(section.gaps.is_empty(), "{:?}", section.gaps);
        let mut expected = Vec::new();
        for access in accesses {
            for server in ["floor", "stub", "crate"] {
                expected.push(format!("socket.{placement}.{access}.{server}"));
            }
        }
        for server in ["floor", "stub"] {
            expected.push(format!("socket.{placement}.write-multi.{server}"));
        }
        // It cannot spin, and who spins has no CPU time of its work alone.
        expected.retain(|name| {
            placement != "spin" || server_of(name) != "crate" && !name.contains("server-cpu")
        });
        assert_eq!(names(section), expected);
        for row in &section.rows {
            assert_eq!(row.partial, None, "{}", row.name);
            assert_eq!(row.runs.len(), 2, "{}", row.name);
            let is_floor = server_of(&row.name) == "floor";
            assert_eq!(is_floor, row.what.starts_with("floor: "));
            assert_eq!(row.ratio.is_none(), is_floor, "{}", row.name);
        }
    }
    assert_eq!(children(), "");
    // Each side sleeps once in a read, and both are counted. Whatever else
    // runs here can only add to it.
    let read = &sections[0].rows[1];
    assert!(read.context_switches.unwrap() > 1.9, "{read:?}");
}

#[test]
fn a_second_cpu_that_is_missing_is_a_gap() {
    let pinning = Pinning {
        other: None,
        ..Pinning::choose().unwrap()
    };
    let sections = tiny(pinning).in_runs(|bench| socket(bench, program()));
    let gaps: Vec<usize> = sections.iter().map(|section| section.gaps.len()).collect();
    assert_eq!(gaps, [0, 1, 1, 0]);
}

#[test]
fn a_program_that_serves_nothing_is_a_gap() {
    let sections =
        tiny(Pinning::choose().unwrap()).in_runs(|bench| socket(bench, Path::new("/bin/true")));
    for section in sections {
        assert!(section.rows.is_empty());
        let [gap] = &section.gaps[..] else {
            panic!("{section:?}");
        };
        assert!(!gap.why.contains('\n'), "{}", gap.why);
    }
}
