//! What a server that is killed leaves to its successor.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod engine;
mod file;
mod memory;
mod state;
