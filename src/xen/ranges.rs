//! Which guest addresses are ours: what the functions' BARs want, against what
//! Xen has been told.
//!
//! A guest may put BARs anywhere, over each other as well, and moves them and
//! takes their decoding away at any time. Xen refuses a range that overlaps
//! another one of the same server: the first keeps it, and the second gets it
//! when the first has gone. Over RAM a range means nothing, as nothing traps
//! there; over another server's, Xen asks the youngest.

/// How Xen is told; a test has its own.
pub(super) trait Routes {
    /// Has all accesses inside `first..=last` come to us.
    ///
    /// # Errors
    ///
    /// See [`Refused`].
    fn map(&self, first: u64, last: u64) -> Result<(), Refused>;

    /// Has them come no more. That they did not is as good.
    fn unmap(&self, first: u64, last: u64);
}

/// Why Xen does not take a range.
#[derive(Debug)]
pub(super) enum Refused {
    /// It has it, or part of it.
    Exists,
    /// Something else.
    Failed(Box<dyn std::error::Error>),
}

/// A BAR where the guest has put it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Whose it is: the function's number.
    pub(super) function: usize,
    /// Which BAR.
    pub(super) bar: u32,
    /// The guest address of its first byte.
    pub(super) first: u64,
    /// That of its last.
    pub(super) last: u64,
}

impl Place {
    fn overlaps(&self, other: &Place) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// The places of all functions' BARs.
#[derive(Debug)]
pub(super) struct Ranges<R> {
    routes: R,
    /// What Xen sends to us; no two of them overlap.
    ours: Vec<Place>,
    /// What it does not send to us.
    waiting: Vec<Place>,
}

impl<R: Routes> Ranges<R> {
    pub(super) fn new(routes: R) -> Self {
        Ranges {
            routes,
            ours: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// The place that an access to `first..=last` is inside of.
    #[inline]
    pub(super) fn find(&self, first: u64, last: u64) -> Option<Place> {
        let mut places = self.ours.iter();
        places
            .find(|place| place.first <= first && last <= place.last)
            .copied()
    }

    /// Makes what Xen sends to us what a function wants now.
    pub(super) fn update(&mut self, function: usize, wanted: &[Place]) {
        let is_kept = |place: &Place| place.function != function || wanted.contains(place);
        self.waiting.retain(is_kept);
        let gone: Vec<Place> = self.ours.extract_if(.., |place| !is_kept(place)).collect();
        for place in &gone {
            self.routes.unmap(place.first, place.last);
        }
        let mut is_new = false;
        for place in wanted {
            if !self.ours.contains(place) && !self.waiting.contains(place) {
                self.waiting.push(*place);
                is_new = true;
            }
        }
        if is_new || !gone.is_empty() {
            self.try_all();
        }
    }

    /// Tries what waits, in the order in which it came.
    fn try_all(&mut self) {
        for place in std::mem::take(&mut self.waiting) {
            if self.ours.iter().any(|other| other.overlaps(&place)) {
                log::debug!("{place:x?} is over another BAR");
                self.waiting.push(place);
                continue;
            }
            match self.routes.map(place.first, place.last) {
                // It is from a server before us that has not come to say so.
                Ok(()) | Err(Refused::Exists) => self.ours.push(place),
                Err(Refused::Failed(error)) => {
                    log::warn!("Xen does not send us the accesses to {place:x?}: {error}");
                    self.waiting.push(place);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Xen's ranges of one server.
    #[derive(Default)]
    struct Fake {
        ranges: RefCell<Vec<(u64, u64)>>,
        calls: RefCell<Vec<String>>,
        refuses: RefCell<bool>,
    }

    impl Routes for &Fake {
        fn map(&self, first: u64, last: u64) -> Result<(), Refused> {
            self.calls.borrow_mut().push(format!("+{first:x}"));
            if *self.refuses.borrow() {
                return Err(Refused::Failed("no memory".into()));
            }
            let mut ranges = self.ranges.borrow_mut();
            if ranges
                .iter()
                .any(|range| range.0 <= last && first <= range.1)
            {
                return Err(Refused::Exists);
            }
            ranges.push((first, last));
            Ok(())
        }

        fn unmap(&self, first: u64, last: u64) {
            self.calls.borrow_mut().push(format!("-{first:x}"));
            self.ranges
                .borrow_mut()
                .retain(|range| *range != (first, last));
        }
    }

    impl Fake {
        fn calls(&self) -> String {
            self.calls.take().join(" ")
        }
    }

    fn place(function: usize, first: u64) -> Place {
        Place {
            function,
            bar: 0,
            first,
            last: first + 0xfff,
        }
    }

    #[test]
    fn a_bar_that_is_moved_or_not_decoded_is_told_to_xen_once() {
        let xen = Fake::default();
        let mut ranges = Ranges::new(&xen);
        ranges.update(0, &[place(0, 0x1000)]);
        ranges.update(0, &[place(0, 0x1000)]);
        assert_eq!(xen.calls(), "+1000");
        // It overlaps its own place of before.
        ranges.update(0, &[place(0, 0x1800)]);
        assert_eq!(xen.calls(), "-1000 +1800");
        assert_eq!(ranges.find(0x1000, 0x1003), None);
        assert_eq!(ranges.find(0x27fc, 0x27ff), Some(place(0, 0x1800)));
        assert_eq!(ranges.find(0x27fd, 0x2800), None);
        ranges.update(0, &[]);
        assert_eq!(xen.calls(), "-1800");
        assert_eq!(ranges.find(0x1800, 0x1800), None);
    }

    #[test]
    fn a_bar_over_anothers_waits_until_that_has_gone() {
        let xen = Fake::default();
        let mut ranges = Ranges::new(&xen);
        ranges.update(0, &[place(0, 0x1000)]);
        ranges.update(1, &[place(1, 0x1800)]);
        ranges.update(2, &[place(2, 0x1800)]);
        assert_eq!(xen.calls(), "+1000");
        assert_eq!(ranges.find(0x1800, 0x1803), Some(place(0, 0x1000)));
        assert_eq!(ranges.find(0x2000, 0x2003), None);
        ranges.update(0, &[place(0, 0x8000)]);
        assert_eq!(xen.calls(), "-1000 +1800 +8000");
        assert_eq!(ranges.find(0x2000, 0x2003), Some(place(1, 0x1800)));
        ranges.update(1, &[]);
        assert_eq!(xen.calls(), "-1800 +1800");
        assert_eq!(ranges.find(0x2000, 0x2003), Some(place(2, 0x1800)));
        ranges.update(2, &[]);
        assert_eq!(*xen.ranges.borrow(), [(0x8000, 0x8fff)]);
    }

    #[test]
    fn what_xen_has_from_before_is_ours() {
        let xen = Fake::default();
        xen.ranges.borrow_mut().push((0x1000, 0x1fff));
        let mut ranges = Ranges::new(&xen);
        ranges.update(0, &[place(0, 0x1000)]);
        assert_eq!(ranges.find(0x1000, 0x1003), Some(place(0, 0x1000)));
    }

    #[test]
    fn what_xen_refuses_is_tried_again_when_something_changes() {
        let xen = Fake::default();
        let mut ranges = Ranges::new(&xen);
        xen.refuses.replace(true);
        ranges.update(0, &[place(0, 0x1000)]);
        assert_eq!(ranges.find(0x1000, 0x1003), None);
        xen.refuses.replace(false);
        ranges.update(1, &[place(1, 0x5000)]);
        assert_eq!(xen.calls(), "+1000 +1000 +5000");
        assert_eq!(ranges.find(0x1000, 0x1003), Some(place(0, 0x1000)));
    }
}
