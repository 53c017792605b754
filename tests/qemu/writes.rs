//! How QEMU sends writes, and that the server takes them all.

use serde_json::json;
use vgpu_stub::protocol::Command;

use crate::rig::recorder::Seen;
use crate::rig::require;
use crate::stage::{LIMIT, Stage, finish};

const DOORBELL: u64 = 0x24;

fn is_ring(seen: &Seen) -> bool {
    seen.is(Command::RegionWrite) && seen.accesses(0, Some(DOORBELL))
}

fn is_reply_to_write(seen: &Seen) -> bool {
    seen.answers(Command::RegionWrite)
}

#[test]
fn writes_are_posted_and_not_answered() {
    let stage = require!(Stage::new("stub"));
    let tests = "count=500 posted-writes";
    require!(stage.run(tests));
    let rings = stage.recorder.all(is_ring);
    assert_eq!(rings.len(), 500);
    assert!(rings.iter().all(|ring| ring.no_reply));
    // Writes to config space are not posted.
    let awaited = |seen: &Seen| seen.is(Command::RegionWrite) && !seen.no_reply;
    let awaited = stage.recorder.count(awaited);
    assert_eq!(stage.recorder.count(is_reply_to_write), awaited);
    stage.end().unwrap();
}

#[test]
fn writes_that_are_not_posted_are_answered_each() {
    let stage = require!(Stage::new("stub"));
    let tests = "count=500 posted-writes count=0 registers irq-msix";
    let not_posted = json!({"x-no-posted-writes": true});
    let guest = require!(stage.guest(tests, &not_posted));
    finish(guest.start().unwrap(), tests).unwrap();
    assert_eq!(stage.recorder.count(|seen| seen.no_reply), 0);
    let writes = stage.recorder.count(|seen| seen.is(Command::RegionWrite));
    assert!(writes > 500);
    assert_eq!(stage.recorder.count(is_reply_to_write), writes);
    stage.end().unwrap();
}

/// While the server takes nothing, QEMU's queue grows beyond 1024 messages,
/// and it begins to put writes together.
#[test]
fn writes_that_pile_up_come_together_and_in_order() {
    let stage = require!(Stage::new("stub"));
    stage.recorder.hold_at(is_ring);
    let tests = "posted-writes registers";
    let guest = require!(stage.guest(tests, &json!({})));
    let mut running = guest.start().unwrap();
    running.wait_line("posted=10000", LIMIT).unwrap();
    stage.recorder.release();
    finish(running, tests).unwrap();

    let alone = stage.recorder.count(is_ring) as u64;
    let multi = stage
        .recorder
        .all(|seen| seen.is(Command::RegionWriteMulti));
    assert!(multi.iter().all(|message| message.no_reply));
    let together: u64 = multi.iter().map(Seen::writes).sum();
    assert!(together > 1000, "{alone} alone, {together} together");
    stage.end().unwrap();
}
