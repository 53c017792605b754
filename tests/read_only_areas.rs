//! Pages of registers and doorbells with a value, as a client gets them that
//! asked for them, and as one that did not.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod wire;

use std::os::fd::{AsFd, OwnedFd};

use vgpu_stub::client::{self, Options};
use vgpu_stub::device::Register;
use vgpu_stub::devices::DoorbellRegister as Bell;
use vgpu_stub::protocol::{Area, IoEventFd, Shadow};
use wire::{Cmd, PATIENT, Served, bytes};

const ASKED: &str =
    r#"{"capabilities":{"max_msg_fds":8,"read_only_areas":true,"shadow_doorbells":true}}"#;

fn region_info(argsz: u32) -> Vec<u8> {
    bytes![argsz, 0u32, 0u32, 0u32, 0u64, 0u64]
}

fn io_fds(argsz: u32) -> Vec<u8> {
    bytes![argsz, 0u32, 0u32, 0u32]
}

#[test]
fn a_client_that_did_not_ask_sees_nothing_new() {
    let served = Served::with(PATIENT, &["doorbell"]);
    let mut client = served.connect();
    let reply = client.agree(wire::QEMU);
    let said = String::from_utf8_lossy(reply.body()).into_owned();
    assert!(
        !said.contains("read_only") && !said.contains("shadow"),
        "{said}"
    );
    let received = client.ask(Cmd::GetRegionInfo, &region_info(256));
    // One capability, of one sparse area.
    let mut expected = bytes![64u32, 0xfu32, 0u32, 32u32, 0x2000u64, 0u64];
    expected.extend(bytes![1u16, 1u16, 0u32, 1u32, 0u32, 0x1000u64, 0x1000u64]);
    assert_eq!(received.body(), expected);
    let received = client.ask(Cmd::GetRegionIoFds, &io_fds(256));
    let mut expected = bytes![56u32, 0u32, 0u32, 1u32];
    expected.extend(bytes![4u64, 4u64, 0u32, 0u32, 0u32, 0u32, 0u64]);
    assert_eq!(received.body(), expected);
    assert_eq!(received.fds.len(), 1);
    // A write of the other one is a write.
    client.set(Bell::SUBMIT, 5);
    assert_eq!(client.get(Bell::SUBMITTED), 5);
}

#[test]
fn a_client_that_asked_gets_both() {
    let served = Served::with(PATIENT, &["doorbell"]);
    let mut client = served.connect();
    let reply = client.agree(ASKED);
    let said = String::from_utf8_lossy(reply.body()).into_owned();
    assert!(said.contains(r#""read_only_areas":true"#), "{said}");
    assert!(said.contains(r#""shadow_doorbells":true"#), "{said}");
    let received = client.ask(Cmd::GetRegionInfo, &region_info(96));
    let mut expected = bytes![96u32, 0xfu32, 0u32, 32u32, 0x2000u64, 0u64];
    expected.extend(bytes![1u16, 1u16, 64u32, 1u32, 0u32, 0x1000u64, 0x1000u64]);
    expected.extend(bytes![0xff00u16, 1u16, 0u32, 1u32, 0u32, 0u64, 0x1000u64]);
    assert_eq!(received.body(), expected);
    assert_eq!(received.fds.len(), 1);
    let received = client.ask(Cmd::GetRegionIoFds, &io_fds(112));
    let mut expected = bytes![112u32, 0u32, 0u32, 2u32];
    expected.extend(bytes![4u64, 4u64, 0u32, 0u32, 0u32, 0u32, 0u64, 0u64]);
    expected.extend(bytes![8u64, 4u64, 1u32, 2u32, 0u32, 2u32, 0u64, 0u64]);
    assert_eq!(received.body(), expected);
    assert_eq!(received.fds.len(), 3);
}

#[test]
fn a_client_that_takes_no_descriptors_gets_no_areas() {
    let served = Served::with(PATIENT, &["doorbell"]);
    let mut client = served.connect();
    client.agree(r#"{"capabilities":{"max_msg_fds":0,"read_only_areas":true}}"#);
    let received = client.ask(Cmd::GetRegionInfo, &region_info(96));
    assert_eq!(
        received.body(),
        bytes![32u32, 3u32, 0u32, 0u32, 0x2000u64, 0u64]
    );
    assert!(received.fds.is_empty());
}

#[test]
fn what_a_capability_of_ours_must_be_is_said() {
    let served = Served::with(PATIENT, &["doorbell"]);
    for key in ["read_only_areas", "shadow_doorbells"] {
        let client = served.connect();
        let json = format!("{{\"capabilities\":{{\"{key}\":\"yes\"}}}}");
        client.send(&wire::messages::message(
            1,
            Cmd::Version,
            &wire::messages::version(1, &json),
        ));
        assert_eq!(client.receive().errno(), libc::EINVAL);
    }
}

fn asking(served: &Served) -> client::Client {
    let options = Options::default().read_only_areas().shadow_doorbells();
    client::Client::connect(&served.path("doorbell"), &options).unwrap()
}

const READ_ONLY: Area = Area {
    offset: 0,
    size: 0x1000,
};
const COUNTERS: Area = Area {
    offset: 0x1000,
    size: 0x1000,
};

fn get(client: &mut client::Client, register: Bell) -> u32 {
    let mut value = [0; 4];
    client
        .read(0, register.row().offset.into(), &mut value)
        .unwrap();
    u32::from_le_bytes(value)
}

fn peek(area: &client::MappedArea, register: Bell) -> u32 {
    let offset = u64::from(register.row().offset) - area.area().offset;
    let mut value = [0; 4];
    assert!(area.read(usize::try_from(offset).unwrap(), &mut value));
    u32::from_le_bytes(value)
}

#[test]
fn our_client_reads_both_pages_without_a_message() {
    let served = Served::with(PATIENT, &["doorbell"]);
    let mut client = asking(&served);
    let region = client.region(0).unwrap();
    assert_eq!(region.areas(), [COUNTERS]);
    assert_eq!(region.info.read_only, [READ_ONLY]);
    let shown = region.map(READ_ONLY).unwrap();
    let counters = region.map(COUNTERS).unwrap();
    assert_eq!(peek(&shown, Bell::ID), 0x4c4c_4542);
    assert_eq!(peek(&shown, Bell::RING), u32::MAX);
    client.write(0, 8, &77u32.to_le_bytes()).unwrap();
    assert_eq!(peek(&shown, Bell::SUBMITTED), 77);
    assert_eq!(peek(&counters, Bell::COUNT), 1);
    // It is for reading; the other is memory.
    assert!(!shown.write(0, &[0; 4]));
    assert!(counters.write(4, &9u32.to_le_bytes()));
    assert_eq!(get(&mut client, Bell::EVERY), 9);
}

#[test]
fn a_shadow_doorbell_brings_the_newest_value() {
    let served = Served::with(PATIENT, &["doorbell"]);
    let mut client = asking(&served);
    let (io_fds, fds) = client.io_fds(0).unwrap();
    let bell = io_fds.sub_regions.iter().find(|bell| bell.shadow.is_some());
    let bell = client::Doorbell::new(bell.unwrap(), &fds).unwrap();
    let mut rings = 0;
    for value in [5, 0xffff_ffff, 0] {
        for earlier in [1, 2, value] {
            bell.ring(earlier).unwrap();
            rings += 1;
        }
        assert_eq!(u64::from(get(&mut client, Bell::SUBMITTED)), value);
        assert_eq!(get(&mut client, Bell::COUNT), rings);
    }
    // Who writes all the same is heard all the same.
    client.write(0, 8, &6u32.to_le_bytes()).unwrap();
    assert_eq!(get(&mut client, Bell::SUBMITTED), 6);
}

#[test]
fn a_client_that_left_reaches_nobody() {
    let served = Served::with(PATIENT, &["doorbell"]);
    let mut client = asking(&served);
    let counters = client.region(0).unwrap().map(COUNTERS).unwrap();
    let (io_fds, fds) = client.io_fds(0).unwrap();
    let bells: Vec<_> = io_fds
        .sub_regions
        .iter()
        .map(|bell| client::Doorbell::new(bell, &fds).unwrap())
        .collect();
    bells[1].ring(4).unwrap();
    assert_eq!(get(&mut client, Bell::COUNT), 1);
    drop(client);
    let mut client = asking(&served);
    let region = client.region(0).unwrap();
    let theirs = region.map(COUNTERS).unwrap();
    client.io_fds(0).unwrap();
    for bell in &bells {
        bell.ring(9).unwrap();
    }
    assert!(counters.write(0, &[0xee; 8]));
    // The device's state stays.
    assert_eq!(peek(&theirs, Bell::COUNT), 1);
    assert_eq!(get(&mut client, Bell::SUBMITTED), 4);
    assert_eq!(get(&mut client, Bell::EVERY), 1);
}

#[test]
fn a_doorbell_that_cannot_be_is_refused() {
    let served = Served::with(PATIENT, &["doorbell"]);
    let mut client = asking(&served);
    let (io_fds, fds) = client.io_fds(0).unwrap();
    let bell = io_fds.sub_regions[1];
    let shadow = bell.shadow.unwrap();
    let wrong = |change: &dyn Fn(&mut IoEventFd)| {
        let mut bell = bell;
        change(&mut bell);
        assert!(client::Doorbell::new(&bell, &fds).is_err(), "{bell:?}");
    };
    wrong(&|bell| bell.size = 3);
    wrong(&|bell| bell.fd_index = 99);
    let with = |shadow: Shadow| wrong(&|bell| bell.shadow = Some(shadow));
    with(Shadow {
        fd_index: 3,
        ..shadow
    });
    for offset in [2, 4096, u64::MAX - 3] {
        with(Shadow { offset, ..shadow });
    }
}

/// The seals hold for what shows registers, too.
#[test]
fn a_client_cannot_shrink_the_memory_of_registers() {
    let served = Served::with(PATIENT, &["doorbell"]);
    let mut client = asking(&served);
    let region = client.region(0).unwrap();
    let fd: OwnedFd = region.file().unwrap().try_clone_to_owned().unwrap();
    assert!(rustix::fs::ftruncate(&fd, 0).is_err());
    let (_, fds) = client.io_fds(0).unwrap();
    assert!(rustix::fs::ftruncate(fds[2].as_fd(), 0).is_err());
    assert_eq!(get(&mut client, Bell::ID), 0x4c4c_4542);
}
