//! What the kernel counts for a process, by which an access is known on any
//! machine.

use std::fs;

use crate::bench::measure::switches_of_process;

/// So far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// System calls that read and that write.
    pub(super) reads: f64,
    pub(super) writes: f64,
    pub(super) switches: f64,
}

impl Counts {
    /// Of all threads of a process; nothing if the kernel does not tell.
    pub(super) fn of(process: u32) -> Self {
        let io = fs::read_to_string(format!("/proc/{process}/io")).unwrap_or_default();
        Counts {
            reads: value(&io, "syscr"),
            writes: value(&io, "syscw"),
            switches: switches_of_process(process),
        }
    }

    /// Since then.
    pub(super) fn since(&self, before: &Counts) -> Self {
        Counts {
            reads: self.reads - before.reads,
            writes: self.writes - before.writes,
            switches: self.switches - before.switches,
        }
    }
}

/// The number behind a name (proc(5)).
fn value(text: &str, name: &str) -> f64 {
    let mut lines = text.lines().filter_map(|line| line.split_once(": "));
    let found = lines.find(|(found, _)| *found == name);
    found
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_counted() {
        let before = Counts::of(std::process::id());
        if before.reads == 0.0 {
            eprintln!("skipped: this kernel does not count");
            return;
        }
        // Reading the counts is one, too.
        let taken = Counts::of(std::process::id()).since(&before);
        assert!(taken.reads >= 1.0, "{taken:?}");
        assert!(value("rchar: 7\nsyscr: 12\n", "syscr") > 11.0);
    }
}
