//! Where in the file everything is.

use std::ops::Range;

use super::error::Cause;
use super::{MAX_FUNCTIONS, Subject};
use crate::device::StateWriter;

/// The header's words: a page.
pub(super) const HEADER: usize = 512;

/// Words of a cache line.
const LINE: usize = 8;

/// BARs of a function.
const BARS: usize = 6;

/// Words of a function's name.
pub(super) const NAME: usize = 8;

/// What the header says of a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Description {
    pub(super) name: [u64; NAME],
    /// Words of A, of B and of the device's own part.
    pub(super) sizes: [u64; 3],
}

/// The places of a function's words in the file.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// Which of the others hold.
    pub(super) commit: usize,
    /// The function, twice.
    pub(super) a: [Range<usize>; 2],
    /// The device, twice.
    pub(super) b: [Range<usize>; 2],
    /// What the device's threads keep.
    pub(super) device: Range<usize>,
}

/// The places of all functions' words.
#[derive(Debug)]
pub(super) struct Layout {
    descriptions: Vec<Description>,
    places: Vec<Places>,
    ranges: Range<usize>,
    words: usize,
}

impl Layout {
    /// As these functions need it.
    pub(super) fn new(subjects: &[Subject<'_>]) -> Result<Self, Cause> {
        let count = subjects.len();
        if count > MAX_FUNCTIONS {
            return Err(Cause::Count { count });
        }
        let mut layout = Layout {
            descriptions: Vec::with_capacity(count),
            places: Vec::with_capacity(count),
            ranges: 0..0,
            words: HEADER,
        };
        layout.ranges = layout.take(2 * BARS * count);
        for subject in subjects {
            let endpoint = &subject.endpoint;
            let a = StateWriter::measure(|state| endpoint.save_function(state));
            let b = StateWriter::measure(|state| endpoint.save_device(state));
            layout.add(subject.name, [a, b, endpoint.kept_words()]);
        }
        Ok(layout)
    }

    fn add(&mut self, name: &str, sizes: [usize; 3]) {
        let [a, b, device] = sizes;
        self.descriptions.push(Description {
            name: pack(name),
            sizes: sizes.map(|size| size as u64),
        });
        let places = Places {
            commit: self.take(1).start,
            a: [self.take(a), self.take(a)],
            b: [self.take(b), self.take(b)],
            device: self.take(device),
        };
        self.places.push(places);
    }

    /// So many words, on cache lines of their own.
    fn take(&mut self, words: usize) -> Range<usize> {
        let start = self.words;
        self.words += words.next_multiple_of(LINE);
        start..start + words
    }

    /// How many there are in all.
    pub(super) fn words(&self) -> usize {
        self.words
    }

    pub(super) fn descriptions(&self) -> &[Description] {
        &self.descriptions
    }

    /// Two for each BAR that there can be.
    pub(super) fn ranges(&self) -> Range<usize> {
        self.ranges.clone()
    }

    pub(super) fn into_places(self) -> Vec<Places> {
        self.places
    }
}

/// As much of a name as has room, filled up with zeros.
fn pack(name: &str) -> [u64; NAME] {
    let mut bytes = [0; NAME * 8];
    let length = name.len().min(bytes.len());
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    let (words, _) = bytes.as_chunks::<8>();
    std::array::from_fn(|number| u64::from_ne_bytes(words[number]))
}

/// The name in a file; what cannot be printed is left out.
pub(super) fn unpack(name: &[u64; NAME]) -> String {
    let bytes = name.iter().flat_map(|word| word.to_ne_bytes());
    let printed = bytes.filter(|byte| byte.is_ascii_graphic() || *byte == b' ');
    printed.map(char::from).collect()
}
