//! Resets, hot unplug, and one client after the other.

use std::os::unix::process::ExitStatusExt;

use serde_json::json;
use vgpu_stub::protocol::Command;

use crate::rig::RigError;
use crate::rig::recorder::Seen;
use crate::rig::require;
use crate::stage::{LIMIT, Stage, finish};

const SIGABRT: i32 = 6;

fn is_reset(seen: &Seen) -> bool {
    seen.is(Command::DeviceReset)
}

/// All commands of the client that wait for an answer got one, and none was
/// refused.
fn all_answered(stage: &Stage) {
    let awaited = |seen: &Seen| !seen.is_reply && !seen.no_reply;
    let commands = stage.recorder.count(awaited);
    assert_eq!(stage.recorder.count(|seen| seen.is_reply), commands);
    let refused = stage.recorder.all(|seen| seen.error.is_some());
    assert!(refused.is_empty(), "{refused:?}");
}

#[test]
fn a_reset_from_the_monitor_reaches_the_device() {
    let stage = require!(Stage::new("stub"));
    let tests = "wait-reset irq-msix";
    let guest = require!(stage.guest(tests, &json!({})));
    let mut running = guest.start().unwrap();
    running.wait_line("waiting=reset", LIMIT).unwrap();
    stage.recorder.clear();
    let qmp = running.qmp().unwrap();
    qmp.execute("system_reset", &json!({})).unwrap();
    finish(running, tests).unwrap();
    assert!(stage.recorder.count(is_reset) > 0);
    all_answered(&stage);
    stage.end().unwrap();
}

#[test]
fn a_reset_by_the_guest_reaches_the_device() {
    let stage = require!(Stage::new("stub"));
    let tests = "leave-mark reset dma-copy irq-intx";
    require!(stage.run(tests));
    assert!(stage.recorder.count(is_reset) >= 3);
    all_answered(&stage);
    stage.end().unwrap();
}

#[test]
fn a_function_level_reset_is_the_devices_own() {
    let stage = require!(Stage::new("stub"));
    let tests = "dirty flr irq-msix dma-fence";
    require!(stage.run(tests));
    all_answered(&stage);
    stage.end().unwrap();
}

/// A device that is taken away gives all memory back; the machine goes on,
/// and the server serves the next one.
#[test]
fn a_device_without_msix_is_unplugged_cleanly() {
    let stage = require!(Stage::new("doorbell"));
    let tests = "device=0x1112 bell wait-unplug";
    let guest = require!(stage.guest(tests, &json!({"id": "bell"})));
    let mut running = guest.start().unwrap();
    running.wait_line("waiting=unplug", LIMIT).unwrap();
    let qmp = running.qmp().unwrap();
    qmp.execute("device_del", &json!({"id": "bell"})).unwrap();
    let event = qmp.wait_event("DEVICE_DELETED", LIMIT).unwrap();
    assert_eq!(event["data"]["device"], "bell");
    assert!(stage.recorder.wait_ended(1, LIMIT));
    finish(running, tests).unwrap();
    gave_everything_back(&stage);
    all_answered(&stage);

    let tests = "device=0x1112 bell";
    stage.run(tests).unwrap();
    assert!(stage.recorder.wait_ended(2, LIMIT));
    stage.end().unwrap();
}

fn gave_everything_back(stage: &Stage) {
    let ranges = |command: Command, address: usize| {
        let seen = stage.recorder.all(|seen| seen.is(command));
        let range = |seen: &Seen| seen.body[address..address + 16].to_vec();
        let mut ranges: Vec<Vec<u8>> = seen.iter().map(range).collect();
        ranges.sort();
        ranges
    };
    // Address and size follow argsz, flags and, for a map, the offset.
    let maps = ranges(Command::DmaMap, 16);
    assert!(!maps.is_empty());
    assert_eq!(maps, ranges(Command::DmaUnmap, 8));
}

/// QEMU 11.1 aborts in the middle of letting go of a vfio-user device with
/// MSI-X. What the server sees until then is in order, and it goes on.
#[test]
fn a_device_with_msix_is_unplugged_as_far_as_qemu_can() {
    let stage = require!(Stage::new("stub"));
    let tests = "registers wait-unplug";
    let guest = require!(stage.guest(tests, &json!({"id": "gpu"})));
    let mut running = guest.start().unwrap();
    running.wait_line("waiting=unplug", LIMIT).unwrap();
    let qmp = running.qmp().unwrap();
    qmp.execute("device_del", &json!({"id": "gpu"})).unwrap();
    assert!(stage.recorder.wait_ended(1, LIMIT));
    let outcome = running.wait(LIMIT).unwrap();
    if outcome.status.signal() == Some(SIGABRT) {
        let said = outcome.errors.join(" ");
        assert!(said.contains("Assertion"), "{said}");
    } else {
        // A QEMU without this mistake.
        outcome.passed(tests).unwrap();
        gave_everything_back(&stage);
    }
    let refused = stage.recorder.all(|seen| seen.error.is_some());
    assert!(refused.is_empty(), "{refused:?}");

    stage.run("identity registers irq-msix").unwrap();
    stage.end().unwrap();
}

/// Each of the next clients finds a device that works, also after one that
/// was killed in the middle of something.
#[test]
fn one_client_after_the_other_is_served() {
    let run = || -> Result<Stage, RigError> {
        let stage = Stage::new("stub")?;
        let tests = "dirty wait-reset";
        let mut running = stage.guest(tests, &json!({}))?.start()?;
        running.wait_line("waiting=reset", LIMIT)?;
        drop(running.stop()?);
        assert!(stage.recorder.wait_ended(1, LIMIT));
        stage.run("identity registers dma-copy irq-msix")?;
        Ok(stage)
    };
    let stage = require!(run());
    stage.end().unwrap();
}
