//! The bench's socket rungs, on plans so small that their times mean nothing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![cfg(feature = "bench")]

use std::io::{Read, Write};
use std::path::Path;

use vgpu_stub::bench::{Peer, PeerKind, PeerOptions};
use vgpu_stub::client::{Client, Options};

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_vgpu-stub"))
}

fn options(kind: PeerKind) -> PeerOptions {
    PeerOptions {
        kind,
        spin: false,
        cpu: None,
        stamps: false,
    }
}

fn exists(process: u32) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

#[test]
fn both_servers_serve_the_stub_and_end_with_their_handle() {
    for kind in [PeerKind::Stub, PeerKind::CrateServer] {
        let (peer, stream) = Peer::start(program(), &options(kind)).unwrap();
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
            ..options(PeerKind::PingPong)
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
    let trouble = Peer::start(nothing, &options(PeerKind::Stub)).unwrap_err();
    let text = trouble.to_string();
    assert!(text.starts_with("cannot run /nowhere/at/all: "), "{text}");
}
