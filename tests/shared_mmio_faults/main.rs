//! Shared memory with a hostile peer in a process of its own: hostile clients
//! of our server, hostile servers of our client.
//!
//! The peer is this test program again, told by its environment what to play.
//! What it does at random follows from a seed that is printed. Whatever it
//! does: nothing hangs past its timeout, nothing is delivered twice, nothing
//! crashes, and an honest client of the same server notices nothing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../wire/mod.rs"]
mod wire;

mod clients;
mod counter;
mod peer;
mod random;
mod servers;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test at a time: they count descriptors and memory.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
