//! The pages of a BAR that show registers, so that an access needs no exit of
//! the guest.

use std::ops::Range;
use std::sync::Arc;

use crate::device::{RegisterMap, Row, SharedMemory, Sharing, Window, pages};

/// Memory that shows registers, and what of it a client may map.
pub(super) struct RegisterPages {
    map: &'static RegisterMap,
    window: Arc<Window>,
    /// The window's, as of this session.
    pub(super) memory: SharedMemory,
    /// Where reads and writes need no exit.
    pub(super) mapped: Vec<Range<u64>>,
    /// Where reads need none.
    pub(super) read_only: Vec<Range<u64>>,
}

impl RegisterPages {
    /// The pages of `map`, but for those that are `taken`.
    pub(super) fn new(
        map: &'static RegisterMap,
        window: Arc<Window>,
        taken: impl Fn(&Range<u32>) -> bool,
    ) -> Self {
        let (mut mapped, mut read_only) = (Vec::new(), Vec::new());
        for page in pages(map.size()).filter(|page| !taken(page)) {
            match map.page(&page) {
                Sharing::Mapped => append(&mut mapped, &page),
                Sharing::Shown => append(&mut read_only, &page),
                Sharing::Trapped => {}
            }
        }
        RegisterPages {
            map,
            memory: window.memory(),
            window,
            mapped,
            read_only,
        }
    }

    /// For the next client, new memory. `value` is what a read gives.
    pub(super) fn renew(&mut self, value: impl FnMut(&Row) -> u64) {
        self.window.renew(self.map, value);
        self.memory = self.window.memory();
    }

    /// After a reset, what the guest wrote over is right again.
    pub(super) fn refresh(&self, value: impl FnMut(&Row) -> u64) {
        self.window.refresh(self.map, value);
    }
}

/// Appends a page that lies behind all others.
fn append(areas: &mut Vec<Range<u64>>, page: &Range<u32>) {
    let (start, end) = (page.start.into(), page.end.into());
    match areas.last_mut() {
        Some(last) if last.end == start => last.end = end,
        _ => areas.push(start..end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Register, RegisterFile};

    crate::registers! {
        /// Pages of each sort.
        enum Reg[0xa000] {
            0x0000 ONE: u32 ro mapped = 1, "a value";
            0x0ff8 LAST: u64 rw mapped = 2, "a value";
            0x1000 NEXT: u8 rw mapped = 3, "mapped, like the page before";
            0x2000 SHOWN: u32 w1c shown = 4, "a value";
            0x2004 WRITTEN: u32 wo = 0, "a value";
            0x2008 AMONG: u32 rw mapped = 5, "a value";
            0x3000 TRAPPED: u32 ro = 6, "a value";
            0x3004 BESIDE: u32 ro mapped = 7, "a value";
            0x4000 ALONE: u32 wo = 0, "a value";
            0x6000 TABLE: u32 ro mapped = 8, "has MSI-X beside it";
            0x7000 READ: u32 ro shown = 9, "a value";
            0x8000 STATUS: u32 ro mapped = 10, "a value";
            0x8004 BELL: u32 wo = 0, "a value";
        }
        reserved {
            0x0004..0x0ff8, 0x1001..0x2000, 0x200c..0x3000, 0x3008..0x4000, 0x4004..0x6000,
            0x6004..0x7000, 0x7004..0x8000, 0x8008..0xa000
        }
    }

    fn register_pages(window: Arc<Window>) -> RegisterPages {
        RegisterPages::new(Reg::MAP, window, |page| page.contains(&0x6800))
    }

    #[test]
    fn a_page_is_offered_if_all_of_its_registers_agree() {
        let file = RegisterFile::<Reg>::mapped().unwrap();
        let pages = register_pages(file.window().unwrap());
        let both = 0..0x2000;
        assert_eq!(pages.mapped, std::slice::from_ref(&both));
        assert_eq!(pages.read_only, [0x2000..0x3000, 0x7000..0x9000]);
    }

    fn bytes(memory: &SharedMemory, offset: u64) -> [u8; 8] {
        let mut bytes = [0; 8];
        memory.read(offset, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_is_no_value_shows_all_ones_and_what_is_trapped_nothing() {
        let file = RegisterFile::<Reg>::mapped().unwrap();
        let memory = register_pages(file.window().unwrap()).memory;
        assert_eq!(bytes(&memory, 0), [1, 0, 0, 0, 255, 255, 255, 255]);
        assert_eq!(bytes(&memory, 0xff8), [2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes(&memory, 0x2000), [4, 0, 0, 0, 255, 255, 255, 255]);
        assert_eq!(bytes(&memory, 0x2ff8), [255; 8]);
        assert_eq!(bytes(&memory, 0x3000)[..4], [0; 4]);
        assert_eq!(bytes(&memory, 0x4000), [0; 8]);
    }

    #[test]
    fn the_next_client_has_memory_of_its_own_and_the_device_finds_it() {
        let mut file = RegisterFile::<Reg>::mapped().unwrap();
        let mut pages = register_pages(file.window().unwrap());
        let old = pages.memory.clone();
        old.write(0x1000, &[77]).unwrap();
        assert_eq!(file.get(Reg::NEXT), 77);
        file.set(Reg::ONE, 11);
        let value = |row: &Row| match row.name {
            "ONE" => file.get(Reg::ONE),
            "NEXT" => file.get(Reg::NEXT),
            _ => row.reset,
        };
        pages.renew(value);
        assert_eq!(bytes(&pages.memory, 0), [11, 0, 0, 0, 255, 255, 255, 255]);
        // Who left reaches nobody.
        old.write(0x1000, &[99]).unwrap();
        assert_eq!(file.get(Reg::NEXT), 77);
        pages.memory.write(0x1000, &[33]).unwrap();
        assert_eq!(file.get(Reg::NEXT), 33);
        file.set(Reg::ONE, 12);
        assert_eq!(bytes(&pages.memory, 0)[..4], [12, 0, 0, 0]);
        assert_eq!(bytes(&old, 0)[..4], [11, 0, 0, 0]);
    }

    #[test]
    fn what_a_guest_wrote_over_is_put_right() {
        let mut file = RegisterFile::<Reg>::mapped().unwrap();
        let pages = register_pages(file.window().unwrap());
        pages.memory.write(0, &[0; 0x3000]).unwrap();
        file.reset();
        pages.refresh(|row| row.reset);
        assert_eq!(bytes(&pages.memory, 0), [1, 0, 0, 0, 255, 255, 255, 255]);
        assert_eq!(
            bytes(&pages.memory, 0x2000),
            [4, 0, 0, 0, 255, 255, 255, 255]
        );
        assert_eq!(file.get(Reg::LAST), 2);
    }
}
