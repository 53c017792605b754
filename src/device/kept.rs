//! Memory that outlives the process, for what a device's thread does between
//! accesses.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{StateError, StateReader, StateWriter};

/// Words that a successor finds as they were when the process was killed.
pub trait KeptWords: Send + Sync {
    /// The words.
    fn words(&self) -> &[AtomicU64];
}

/// A device's part of such words.
#[derive(Clone)]
pub struct KeptMemory {
    words: Arc<dyn KeptWords>,
    range: Range<usize>,
}

impl KeptMemory {
    /// A part of `words`. It is empty if `range` is not inside.
    pub fn new(words: Arc<dyn KeptWords>, range: Range<usize>) -> Self {
        KeptMemory { words, range }
    }

    /// The words.
    #[inline]
    pub fn words(&self) -> &[AtomicU64] {
        let words = self.words.words().get(self.range.clone());
        words.unwrap_or_default()
    }

    /// A part of these words. It is empty if `range` is not inside.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> KeptMemory {
        let inside = range.start <= range.end && range.end <= self.range.len();
        let start = self.range.start;
        KeptMemory {
            words: self.words.clone(),
            range: if inside {
                start + range.start..start + range.end
            } else {
                start..start
            },
        }
    }
}

impl fmt::Debug for KeptMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeptMemory").field(&self.range).finish()
    }
}

/// A state that changes as a whole or not at all: two places for it, and a
/// word that says which one holds. For one writer at a time.
#[derive(Clone, Debug)]
pub struct Journal {
    memory: KeptMemory,
    size: usize,
}

impl Journal {
    /// How many words it takes to keep a state of `size` words, its sum
    /// included ([`StateWriter::measure`]).
    pub const fn words(size: usize) -> usize {
        1 + 2 * size
    }

    /// Over memory of [`Journal::words`]; as much as is missing is not kept.
    pub fn new(memory: KeptMemory, size: usize) -> Self {
        Journal { memory, size }
    }

    /// Writes a state. Until this returns, the one before holds.
    pub fn commit(&self, save: impl FnOnce(&mut StateWriter<'_>)) {
        let words = self.memory.words();
        let Some(holds) = words.first() else { return };
        let spare = if holds.load(Ordering::Relaxed) == 1 {
            2
        } else {
            1
        };
        let mut writer = StateWriter::new(self.place(spare));
        save(&mut writer);
        let fits = writer.finish();
        debug_assert!(fits, "a state of another size than was measured");
        holds.store(spare, Ordering::Release);
    }

    /// Reads the state that holds, if there ever was one.
    ///
    /// # Errors
    ///
    /// What `restore` finds, and [`StateError::Torn`].
    pub fn latest<T>(
        &self,
        restore: impl FnOnce(&mut StateReader<'_>) -> Result<T, StateError>,
    ) -> Result<Option<T>, StateError> {
        let holds = self.memory.words().first();
        let place = match holds.map_or(0, |word| word.load(Ordering::Acquire)) {
            0 => return Ok(None),
            place @ 1..=2 => self.place(place),
            value => {
                let name = "a journal's place";
                return Err(StateError::Value { name, value });
            }
        };
        // A copy: it does not change after it was checked.
        let copy: Vec<u64> = place.iter().map(|w| w.load(Ordering::Relaxed)).collect();
        let mut reader = StateReader::new(&copy)?;
        let state = restore(&mut reader)?;
        reader.finish()?;
        Ok(Some(state))
    }

    /// Place 1 or 2.
    fn place(&self, number: u64) -> &[AtomicU64] {
        let first = if number == 1 { 1 } else { 1 + self.size };
        let words = self.memory.words().get(first..first + self.size);
        words.unwrap_or_default()
    }
}
