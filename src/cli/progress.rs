//! How far a measurement is, on one line of a terminal.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};

use vgpu_stub::bench::Progress;

use super::screen::fit;

/// The line on standard error; nothing is written if that is no terminal.
pub(super) struct Line {
    terminal: bool,
    written: Cell<bool>,
}

/// What most terminals have room for.
const WIDTH: usize = 78;

impl Line {
    pub(super) fn new() -> Self {
        Line {
            terminal: io::stderr().is_terminal(),
            written: Cell::new(false),
        }
    }

    /// Takes the line away.
    pub(super) fn clear(&self) {
        if self.written.take() {
            overwrite("");
        }
    }
}

/// From the line's beginning, over what stood there.
fn overwrite(text: &str) {
    let mut stderr = io::stderr().lock();
    // Nobody misses it if it cannot be written.
    let _ = write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush());
}

impl Progress for Line {
    fn step(&self, what: &str, done: u32, all: u32) {
        if self.terminal {
            self.written.set(true);
            overwrite(&fit(&format!("run {done} of {all}: {what}"), WIDTH));
        }
    }
}
