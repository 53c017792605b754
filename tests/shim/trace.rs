//! The trace events: each that is declared is known, and they tell a story.

use std::fs;
use std::path::Path;

use crate::fake::Fake;
use crate::rig::require;
use crate::stage::{Card, board, empty};
use crate::wire::device::Reg;

fn declared() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("qemu-patches/hw/misc/trace-events");
    let text = fs::read_to_string(path).unwrap();
    let names = text.lines().filter_map(|line| line.split_once('('));
    names
        .map(|(name, _)| name.trim().to_owned())
        .filter(|name| name.starts_with("vgpu_stub_"))
        .collect()
}

#[test]
fn every_declared_event_can_be_traced() {
    let events = declared();
    assert!(!events.is_empty());
    // QEMU warns of a name that it does not know.
    let mut board = require!(empty());
    for event in &events {
        board = board.args(["-trace", event]);
    }
    let said = board.start().quit();
    assert!(said.is_empty(), "{said:?}");
}

#[test]
fn a_trace_tells_of_the_connection_and_of_accesses() {
    let fake = Fake::honest();
    let board = require!(board(&fake.socket(), ""));
    let mut card = Card::start(board.args(["-trace", "vgpu_stub_*"]));
    card.set(Reg::SCRATCH, 0x0bad_cafe);
    card.get(Reg::SCRATCH);
    let said = card.qemu.quit();
    let told = said.iter().filter(|line| line.contains("vgpu_stub_"));
    assert!(told.count() >= 3, "{said:?}");
    assert!(said.iter().any(|line| line.contains("badcafe")), "{said:?}");
}
