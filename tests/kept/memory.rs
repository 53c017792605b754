//! Plain memory in place of a mapped file.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vgpu_stub::device::KeptWords;

pub(crate) struct Plain(Vec<AtomicU64>);

impl KeptWords for Plain {
    fn words(&self) -> &[AtomicU64] {
        &self.0
    }
}

pub(crate) fn plain(words: &[u64]) -> Arc<Plain> {
    Arc::new(Plain(words.iter().copied().map(AtomicU64::new).collect()))
}

pub(crate) fn values(words: &[AtomicU64]) -> Vec<u64> {
    let values = words.iter().map(|word| word.load(Ordering::SeqCst));
    values.collect()
}
