//! The least that two processes do to exchange a word in memory that they
//! share: a floor for all that use such memory.

use std::fs::File;
use std::hint::{black_box, spin_loop};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use super::beside::{self, Wait};
use crate::bench::{Interrupt, Trouble};

/// How often it is looked for in vain until we see whether to go on.
const SPINS: u32 = 1 << 16;

/// Each side's word is alone on its cache line, and on the line beside, which
/// some processors fetch as well.
const QUESTION: usize = 0;
const ANSWER: usize = 128;
/// What goes one way only: [`ENTRIES`] of so many words.
const RING: usize = 256;
const ENTRY: usize = 4;

/// How many entries there are.
pub(in crate::bench) const ENTRIES: u32 = 64;

const SIZE: usize = RING + ENTRIES as usize * ENTRY * 8;

/// The memory.
struct Line(MmapRegion<()>);

impl Line {
    fn map(memory: OwnedFd) -> io::Result<Self> {
        let file = FileOffset::new(File::from(memory), 0);
        let memory = MmapRegion::from_file(file, SIZE.next_multiple_of(4096));
        Ok(Line(memory.map_err(io::Error::other)?))
    }

    #[inline]
    fn word(&self, at: usize) -> io::Result<&AtomicU64> {
        self.0.get_atomic_ref(at).map_err(io::Error::other)
    }

    /// The words of an entry.
    #[inline]
    fn entry(&self, number: u32) -> impl Iterator<Item = io::Result<&AtomicU64>> {
        let first = RING + (number % ENTRIES) as usize * ENTRY * 8;
        (0..ENTRY).map(move |word| self.word(first + word * 8))
    }
}

/// What a question says: how many were asked, and how many entries there are.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Question {
    asked: u32,
    entries: u32,
}

impl Question {
    fn word(self) -> u64 {
        u64::from(self.entries) << 32 | u64::from(self.asked)
    }

    fn of(word: u64) -> Self {
        #[allow(clippy::cast_possible_truncation)] // Its lower half.
        let asked = word as u32;
        Question {
            asked,
            entries: (word >> 32) as u32,
        }
    }
}

/// Takes entries and answers questions until the other side leaves.
pub(super) fn answer(stream: &UnixStream) -> io::Result<()> {
    let [memory] = beside::take(stream)?;
    let line = Line::map(memory)?;
    let (question, answer) = (line.word(QUESTION)?, line.word(ANSWER)?);
    let mut last = Question::default();
    let mut spins = 0u32;
    loop {
        let now = Question::of(question.load(Ordering::Acquire));
        if now == last {
            spins = spins.wrapping_add(1);
            if spins.is_multiple_of(SPINS) && beside::is_over(stream) {
                return Ok(());
            }
            spin_loop();
            continue;
        }
        while last.entries != now.entries {
            for word in line.entry(last.entries) {
                black_box(word?.load(Ordering::Relaxed));
            }
            last.entries = last.entries.wrapping_add(1);
        }
        if now.asked != last.asked {
            answer.store(now.asked.into(), Ordering::Release);
        }
        last = now;
    }
}

/// The side that asks.
pub(in crate::bench) struct Asker {
    line: Line,
    stream: UnixStream,
    next: Question,
    interrupt: Interrupt,
}

impl Asker {
    /// Gives memory to the peer at the other end of `stream`.
    ///
    /// # Errors
    ///
    /// If there is none, or the peer is gone.
    pub(in crate::bench) fn new(stream: UnixStream, interrupt: Interrupt) -> Result<Self, Trouble> {
        let failed = |error: io::Error| Trouble::new("memory for a peer", error);
        let memory = || -> io::Result<OwnedFd> {
            let memory = memfd_create("vgpu-stub-bench", MemfdFlags::CLOEXEC)?;
            ftruncate(&memory, SIZE.next_multiple_of(4096) as u64)?;
            beside::give(&stream, &[memory.as_fd()])?;
            Ok(memory)
        };
        let line = memory().and_then(Line::map).map_err(failed)?;
        Ok(Asker {
            line,
            stream,
            next: Question::default(),
            interrupt,
        })
    }

    /// Sends a word and waits for the answer, which pushes all entries.
    ///
    /// # Errors
    ///
    /// If there is none.
    #[inline]
    pub(in crate::bench) fn ask(&mut self) -> Result<(), Trouble> {
        self.next.asked = self.next.asked.wrapping_add(1);
        let answer = self.put(ANSWER)?;
        let wanted = u64::from(self.next.asked);
        let mut spins = 0u32;
        let mut wait = Wait::default();
        while answer.load(Ordering::Acquire) != wanted {
            spins = spins.wrapping_add(1);
            if spins.is_multiple_of(SPINS) {
                wait.go_on(&self.stream, &self.interrupt)?;
            }
            spin_loop();
        }
        Ok(())
    }

    /// Adds an entry. After [`ENTRIES`] of them somebody must ask.
    ///
    /// # Errors
    ///
    /// None that can happen.
    #[inline]
    pub(in crate::bench) fn tell(&mut self) -> Result<(), Trouble> {
        for word in self.line.entry(self.next.entries) {
            let word = word.map_err(|error| Trouble::new("memory", error))?;
            word.store(self.next.entries.into(), Ordering::Relaxed);
        }
        self.next.entries = self.next.entries.wrapping_add(1);
        self.put(QUESTION).map(|_| ())
    }

    /// Shows what is next, and returns another word.
    #[inline]
    fn put(&self, word: usize) -> Result<&AtomicU64, Trouble> {
        let failed = |error: io::Error| Trouble::new("memory", error);
        let question = self.line.word(QUESTION).map_err(failed)?;
        question.store(self.next.word(), Ordering::Release);
        self.line.word(word).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn each_question_is_answered_once_its_entries_are_taken() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let peer = thread::spawn(move || answer(&theirs));
        let mut asker = Asker::new(ours, Interrupt::default()).unwrap();
        for _ in 0..3 {
            for _ in 0..ENTRIES {
                asker.tell().unwrap();
            }
            asker.ask().unwrap();
        }
        drop(asker);
        peer.join().unwrap().unwrap();
    }

    #[test]
    fn a_peer_that_is_gone_or_an_interrupt_ends_the_wait() {
        use std::sync::atomic::Ordering;
        let (ours, theirs) = UnixStream::pair().unwrap();
        let interrupt = Interrupt::default();
        let mut asker = Asker::new(ours, interrupt.clone()).unwrap();
        drop(theirs);
        assert_eq!(
            asker.ask().unwrap_err().to_string(),
            "it ended the connection"
        );
        interrupt.flag().store(true, Ordering::Relaxed);
        assert_eq!(asker.ask().unwrap_err().to_string(), "interrupted");
    }
}
