//! What a server that is killed leaves to its successor.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(
    clippy::cast_possible_truncation,
    reason = "numbers that the test makes, below its bounds"
)]

mod engine;
mod file;
mod memory;
mod state;
