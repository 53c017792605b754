//! Posted writes, as they are on the wire.

use vgpu_stub::devices::StubRegister as Stub;

use crate::fake::{Fake, Heard};
use crate::rig::require;
use crate::stage::{Card, board, card, served};
use crate::wire::Cmd;
use crate::wire::device::Reg;

const SCRATCH: u64 = 0x04;

fn writes(fake: &Fake) -> Vec<Heard> {
    fake.heard(|heard| heard.is(Cmd::RegionWrite) && heard.accesses(0, SCRATCH))
}

#[test]
fn writes_to_bars_ask_for_no_reply() {
    let fake = Fake::honest();
    let mut card = Card::start(require!(board(&fake.socket(), "")));
    for value in 0..100 {
        card.set(Reg::SCRATCH, value);
    }
    assert_eq!(card.get(Reg::SCRATCH), 99);
    let writes = writes(&fake);
    assert_eq!(writes.len(), 100);
    assert!(writes.iter().all(Heard::no_reply));
    // They came in order.
    let values = writes.iter().map(|heard| heard.u32(32));
    assert!(values.eq(0..100));
}

#[test]
fn writes_that_are_not_posted_ask_for_one() {
    let fake = Fake::honest();
    let mut card = Card::start(require!(board(&fake.socket(), ",posted-writes=off")));
    for value in 0..100 {
        card.set(Reg::SCRATCH, value);
    }
    // Without a read behind them: each has been answered.
    let writes = writes(&fake);
    assert_eq!(writes.len(), 100);
    assert!(!writes.iter().any(Heard::no_reply));
}

#[test]
fn many_writes_arrive_all_and_in_order() {
    let served = served("stub");
    let mut card = require!(card(&served, "stub", ""));
    for value in 1..=5000 {
        card.set(Stub::DOORBELL, value);
    }
    assert_eq!(card.get(Stub::DOORBELL_COUNT), 5000);
    assert_eq!(card.get(Stub::DOORBELL_VALUE), 5000);
}
