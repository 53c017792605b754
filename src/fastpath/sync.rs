//! The atomics that the shared pages are made of. `tests/loom.rs` compiles the
//! files of this room with loom's in their place.

pub(super) use std::sync::Arc;
pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
