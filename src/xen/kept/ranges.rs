//! Which ranges Xen may have of a server: a guest moves its BARs at any time,
//! and the server may be killed while it tells Xen.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::device::KeptMemory;

/// The ranges that were registered, or were about to be.
#[derive(Clone, Debug)]
pub struct NotedRanges(KeptMemory);

impl NotedRanges {
    /// Pairs of words: the last address, 0 if there is none, and the first.
    pub(super) fn new(memory: KeptMemory) -> Self {
        NotedRanges(memory)
    }

    /// Before a range is registered.
    pub fn note(&self, first: u64, last: u64) {
        let pairs = self.0.words().as_chunks::<2>().0;
        if self.iter().any(|range| range == (first..=last)) {
            return;
        }
        let free = |pair: &&[AtomicU64; 2]| pair[0].load(Ordering::Relaxed) == 0;
        if let Some([end, start]) = pairs.iter().find(free) {
            start.store(first, Ordering::Relaxed);
            end.store(last, Ordering::Release);
        }
    }

    /// After it was unregistered, or could not be registered.
    pub fn forget(&self, first: u64, last: u64) {
        for [end, start] in self.0.words().as_chunks::<2>().0 {
            let is = [start, end].map(|word| word.load(Ordering::Relaxed)) == [first, last];
            if is {
                end.store(0, Ordering::Release);
            }
        }
    }

    /// All of them: a successor unregisters those that it does not want.
    pub fn all(&self) -> Vec<RangeInclusive<u64>> {
        self.iter().collect()
    }

    fn iter(&self) -> impl Iterator<Item = RangeInclusive<u64>> {
        let pairs = self.0.words().as_chunks::<2>().0.iter();
        pairs
            .map(|[end, start]| start.load(Ordering::Relaxed)..=end.load(Ordering::Acquire))
            .filter(|range| *range.end() != 0 && !range.is_empty())
    }
}
