//! The memory through which a client sees registers.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Kind, RegisterMap, Row, SharedMemory, Sharing, Width};

/// A page as clients map it.
const PAGE: u32 = 4096;

/// Memory that shows registers, at their offsets in the BAR: another for each
/// client, because who had it keeps it.
#[derive(Debug)]
pub(crate) struct Window {
    current: Mutex<SharedMemory>,
    generation: AtomicUsize,
}

impl Window {
    /// Memory that shows the reset values.
    ///
    /// # Errors
    ///
    /// As [`SharedMemory::new`].
    pub(super) fn new(map: &RegisterMap) -> io::Result<Window> {
        let memory = SharedMemory::new(map.size())?;
        show(map, &memory, |row| row.reset);
        Ok(Window {
            current: Mutex::new(memory),
            generation: AtomicUsize::new(0),
        })
    }

    /// The memory as it is now.
    pub(crate) fn memory(&self) -> SharedMemory {
        let current = self.current.lock();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For the next client: shows all again, in memory that nobody has.
    /// `value` is what a register holds. Without new memory, the old one has
    /// to do.
    pub(crate) fn renew(&self, map: &RegisterMap, value: impl FnMut(&Row) -> u64) {
        let Ok(memory) = SharedMemory::new(map.size()) else {
            return show(map, &self.memory(), value);
        };
        show(map, &memory, value);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = memory;
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Puts right what the guest wrote where it has nothing to write.
    pub(crate) fn refresh(&self, map: &RegisterMap, value: impl FnMut(&Row) -> u64) {
        show(map, &self.memory(), value);
    }
}

/// The whole pages of a BAR of `size` bytes.
pub(crate) fn pages(size: usize) -> impl Iterator<Item = Range<u32>> {
    let whole = u32::try_from(size).unwrap_or(u32::MAX) / PAGE;
    (0..whole).map(|number| number * PAGE..(number + 1) * PAGE)
}

/// Stores what a read of each register gives, and all-ones where there is none.
fn show(map: &RegisterMap, memory: &SharedMemory, mut value: impl FnMut(&Row) -> u64) {
    for row in map.rows.iter().filter(|row| row.sharing.is_shared()) {
        memory.store(row.offset, row.width, value(row));
    }
    for page in pages(map.size()).filter(|page| map.page(page) != Sharing::Trapped) {
        let nothing = |offset: &u32| map.row_at(*offset).is_none_or(|row| row.kind == Kind::Wo);
        for offset in page.filter(nothing) {
            memory.store(offset, Width::U8, u64::MAX);
        }
    }
}

/// A [`Window`] as a device has it, which need not be told of a new memory and
/// finds it without a lock.
#[derive(Debug)]
pub(super) struct View {
    window: Arc<Window>,
    memory: SharedMemory,
    generation: usize,
}

impl View {
    pub(super) fn new(window: Arc<Window>) -> View {
        // Before the memory: if that is newer, it is only looked at again.
        let generation = window.generation.load(Ordering::Acquire);
        View {
            memory: window.memory(),
            generation,
            window,
        }
    }

    pub(super) fn window(&self) -> Arc<Window> {
        self.window.clone()
    }

    #[inline]
    fn is_current(&self) -> bool {
        self.window.generation.load(Ordering::Acquire) == self.generation
    }

    #[inline]
    pub(super) fn load(&self, row: &Row) -> u64 {
        if self.is_current() {
            return self.memory.load(row.offset, row.width);
        }
        self.window.memory().load(row.offset, row.width)
    }

    #[inline]
    pub(super) fn store(&mut self, row: &Row, value: u64) {
        if !self.is_current() {
            *self = View::new(self.window.clone());
        }
        self.memory.store(row.offset, row.width, value);
    }
}
