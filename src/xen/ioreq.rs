//! The ioreq page: a slot for each vCPU, in which Xen asks for one access and
//! gets the answer (xen/include/public/hvm/ioreq.h).
//!
//! A slot's words are read once and become a [`Request`] that later code
//! cannot fail on. The vCPU of a slot waits until its state says that the
//! answer is there, so each request must get one, whatever it asks for. Xen
//! destroys a domain whose states go anywhere else than to the next.

use std::sync::atomic::{AtomicU64, Ordering};

/// The page, as words. Both sides only ever store whole bytes and words.
pub(super) type Words = [AtomicU64; 512];

/// How many vCPUs one page has slots for.
pub(super) const MAX_VCPUS: usize = 128;

/// Words of a slot, and what is in them.
const SLOT: usize = 4;
const ADDRESS: usize = 0;
const DATA: usize = 1;
/// `count`, and `size` above it.
const COUNT: usize = 2;
/// `vp_eport`, 16 bits of nothing, the flags and the type.
const STATE: usize = 3;

/// The flags' place in their word.
const FLAGS_SHIFT: u32 = 48;
const STATE_MASK: u64 = 0xf;
const IS_POINTER: u64 = 1 << 4;
const IS_READ: u64 = 1 << 5;
const IS_BACKWARDS: u64 = 1 << 6;
const TYPE_SHIFT: u32 = 56;

/// `STATE_IOREQ_*`, `STATE_IORESP_READY`: whose turn it is.
const READY: u64 = 1;
const IN_PROCESS: u64 = 2;
const ANSWERED: u64 = 3;

/// `IOREQ_TYPE_*` that come to a server like ours.
const TYPE_MEMORY: u64 = 1;
const TYPE_CONFIG: u64 = 2;
const TYPE_INVALIDATE: u64 = 8;

/// The most bytes that one repeated access moves. Xen ends one at each page.
const MAX_MOVED: u64 = 64 << 10;

/// Which way an access goes; a write brings its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// The guest reads.
    Read,
    /// The guest writes the low bytes of this.
    Write(u64),
}

/// What one vCPU waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// One access to memory.
    Memory {
        /// The guest address.
        address: u64,
        /// 1, 2, 4 or 8 bytes.
        size: usize,
        /// What it does.
        operation: Operation,
    },
    /// An instruction with a `rep` prefix.
    Repeated(Repeated),
    /// An access to a function's config space.
    Config {
        /// Segment, bus, device and function as one number.
        function: u32,
        /// The register, in bytes.
        register: u32,
        /// 1, 2 or 4 bytes.
        size: usize,
        /// What it does.
        operation: Operation,
    },
    /// The guest gave memory back: no mapping of it may be used again.
    Invalidate,
    /// Nothing that a server like ours is asked for: reads give all-ones,
    /// writes are dropped.
    Unfit {
        /// Whether an answer is read.
        is_read: bool,
    },
}

/// The accesses of an instruction with a `rep` prefix: as many and as large as
/// fit in 64 KiB, all at addresses that do not wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Repeated {
    /// The guest address of the first.
    address: u64,
    /// How many.
    pub(super) count: u32,
    /// 1, 2, 4 or 8 bytes each.
    pub(super) size: usize,
    /// Whether each is below the one before it (the direction flag).
    is_backwards: bool,
    /// What the device's side does; the value is what each writes if there is
    /// no buffer.
    pub(super) operation: Operation,
    /// Where in guest memory the other side begins, if that is memory.
    buffer: Option<u64>,
}

impl Repeated {
    /// The guest addresses of the lowest and the last byte that the device's
    /// side touches.
    pub(super) fn bounds(&self) -> (u64, u64) {
        let before_last = u64::from(self.count - 1) * self.size as u64;
        let lowest = if self.is_backwards {
            self.address - before_last
        } else {
            self.address
        };
        (lowest, lowest + before_last + (self.size as u64 - 1))
    }

    /// Where access number `number` is on the device's side.
    pub(super) fn address(&self, number: u32) -> u64 {
        self.step(self.address, number)
    }

    /// Where access number `number` is on the other side.
    pub(super) fn buffer(&self, number: u32) -> Option<u64> {
        self.buffer.map(|buffer| self.step(buffer, number))
    }

    /// As far from `start`. A guest's buffer may wrap around; nothing is there.
    fn step(&self, start: u64, number: u32) -> u64 {
        let distance = u64::from(number) * self.size as u64;
        if self.is_backwards {
            start.wrapping_sub(distance)
        } else {
            start.wrapping_add(distance)
        }
    }
}

/// The slots of a domain's vCPUs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots<'a> {
    words: &'a Words,
    vcpus: usize,
}

impl<'a> Slots<'a> {
    /// Those of the first `vcpus`; one page has 128 at most.
    pub(super) fn new(words: &'a Words, vcpus: usize) -> Self {
        Slots {
            words,
            vcpus: vcpus.min(MAX_VCPUS),
        }
    }

    /// How many there are.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.vcpus
    }

    /// Xen's event channel for a vCPU, once the server is enabled.
    pub(super) fn remote_port(&self, vcpu: usize) -> u32 {
        halves(self.word(vcpu, STATE).load(Ordering::Acquire)).0
    }

    /// Whether any vCPU waits for us.
    #[inline]
    pub(super) fn has_request(&self) -> bool {
        (0..self.vcpus).any(|vcpu| state(self.word(vcpu, STATE).load(Ordering::Relaxed)) == READY)
    }

    /// Whether any request or answer is under way.
    pub(super) fn is_busy(&self) -> bool {
        (0..self.vcpus).any(|vcpu| state(self.word(vcpu, STATE).load(Ordering::Relaxed)) != 0)
    }

    /// What a vCPU asks for, if it does. It is ours from now on.
    #[inline]
    pub(super) fn take(&self, vcpu: usize) -> Option<Request> {
        let word = self.word(vcpu, STATE).load(Ordering::Acquire);
        (state(word) == READY).then(|| {
            self.set_state(vcpu, word, IN_PROCESS);
            self.request(vcpu, word)
        })
    }

    /// What a server before us took and has not answered.
    pub(super) fn begun(&self, vcpu: usize) -> Option<Request> {
        let word = self.word(vcpu, STATE).load(Ordering::Acquire);
        (state(word) == IN_PROCESS).then(|| self.request(vcpu, word))
    }

    /// Writes what a read gives. The vCPU does not look yet.
    #[inline]
    pub(super) fn put(&self, vcpu: usize, value: u64) {
        self.word(vcpu, DATA).store(value, Ordering::Relaxed);
    }

    /// Ends a request that was taken: the vCPU may go on once it is notified.
    #[inline]
    pub(super) fn finish(&self, vcpu: usize) {
        let word = self.word(vcpu, STATE).load(Ordering::Relaxed);
        self.set_state(vcpu, word, ANSWERED);
    }

    /// The other fields of the word are ours while the state is.
    #[inline]
    fn set_state(&self, vcpu: usize, word: u64, state: u64) {
        let word = word & !(STATE_MASK << FLAGS_SHIFT) | state << FLAGS_SHIFT;
        self.word(vcpu, STATE).store(word, Ordering::Release);
    }

    #[inline]
    fn request(&self, vcpu: usize, word: u64) -> Request {
        let load = |index| self.word(vcpu, index).load(Ordering::Relaxed);
        let flags = word >> FLAGS_SHIFT;
        let data = load(DATA);
        let is_read = flags & IS_READ != 0;
        let operation = if is_read {
            Operation::Read
        } else {
            Operation::Write(data)
        };
        let address = load(ADDRESS);
        let (count, size) = halves(load(COUNT));
        let size = size as usize;
        let is_pointer = flags & IS_POINTER != 0;
        let unfit = Request::Unfit {
            is_read: is_read && !is_pointer,
        };
        match word >> TYPE_SHIFT {
            TYPE_MEMORY if !matches!(size, 1 | 2 | 4 | 8) => unfit,
            TYPE_MEMORY if count == 1 && !is_pointer => Request::Memory {
                address,
                size,
                operation,
            },
            TYPE_MEMORY => repeated(Repeated {
                address,
                count,
                size,
                is_backwards: flags & IS_BACKWARDS != 0,
                operation,
                buffer: is_pointer.then_some(data),
            })
            .map_or(unfit, Request::Repeated),
            TYPE_CONFIG if matches!(size, 1 | 2 | 4) && count == 1 && !is_pointer => {
                let (register, function) = halves(address);
                Request::Config {
                    function,
                    register,
                    size,
                    operation,
                }
            }
            TYPE_INVALIDATE => Request::Invalidate,
            _ => unfit,
        }
    }

    #[inline]
    fn word(&self, vcpu: usize, index: usize) -> &'a AtomicU64 {
        &self.words[SLOT * (vcpu % MAX_VCPUS) + index]
    }
}

#[inline]
fn state(word: u64) -> u64 {
    word >> FLAGS_SHIFT & STATE_MASK
}

/// The lower half and the upper one.
#[allow(clippy::cast_possible_truncation, reason = "the halves are meant")]
#[inline]
fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

/// If they are not too many and their addresses do not wrap.
fn repeated(repeated: Repeated) -> Option<Repeated> {
    let bytes = u64::from(repeated.count) * repeated.size as u64;
    if bytes == 0 || bytes > MAX_MOVED {
        return None;
    }
    let before_last = bytes - repeated.size as u64;
    let lowest = if repeated.is_backwards {
        repeated.address.checked_sub(before_last)?
    } else {
        repeated.address
    };
    lowest.checked_add(bytes - 1)?;
    Some(repeated)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A page of plain memory.
    pub(in crate::xen) fn page() -> Box<Words> {
        Box::new(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    /// What Xen writes into a slot.
    #[derive(Clone, Copy, Debug)]
    pub(in crate::xen) struct Asked {
        pub(in crate::xen) kind: u64,
        pub(in crate::xen) address: u64,
        pub(in crate::xen) data: u64,
        pub(in crate::xen) count: u32,
        pub(in crate::xen) size: u32,
        /// `data_is_ptr`, `dir`, `df` as they lie there.
        pub(in crate::xen) flags: u64,
    }

    pub(in crate::xen) const READS: u64 = IS_READ;
    pub(in crate::xen) const POINTS: u64 = IS_POINTER;
    pub(in crate::xen) const DOWN: u64 = IS_BACKWARDS;

    impl Asked {
        pub(in crate::xen) fn memory(address: u64, size: u32, flags: u64) -> Self {
            Asked {
                kind: TYPE_MEMORY,
                address,
                data: 0,
                count: 1,
                size,
                flags,
            }
        }

        pub(in crate::xen) fn config(function: u32, register: u32, size: u32, flags: u64) -> Self {
            Asked {
                kind: TYPE_CONFIG,
                address: u64::from(function) << 32 | u64::from(register),
                ..Asked::memory(0, size, flags)
            }
        }

        pub(in crate::xen) fn data(self, data: u64) -> Self {
            Asked { data, ..self }
        }

        pub(in crate::xen) fn times(self, count: u32) -> Self {
            Asked { count, ..self }
        }

        /// As Xen does it.
        pub(in crate::xen) fn put(self, words: &Words, vcpu: usize) {
            let word = |index: usize| &words[SLOT * vcpu + index];
            word(ADDRESS).store(self.address, Ordering::Relaxed);
            word(DATA).store(self.data, Ordering::Relaxed);
            let counts = u64::from(self.count) | u64::from(self.size) << 32;
            word(COUNT).store(counts, Ordering::Relaxed);
            let port = word(STATE).load(Ordering::Relaxed) & u64::from(u32::MAX);
            let flags = (self.flags | READY) << FLAGS_SHIFT;
            let state = port | flags | self.kind << TYPE_SHIFT;
            word(STATE).store(state, Ordering::Release);
        }
    }

    /// The answer, taken as Xen does it.
    pub(in crate::xen) fn answer(words: &Words, vcpu: usize) -> Option<u64> {
        let word = &words[SLOT * vcpu + STATE];
        let now = word.load(Ordering::Acquire);
        (state(now) == ANSWERED).then(|| {
            word.store(now & !(STATE_MASK << FLAGS_SHIFT), Ordering::Relaxed);
            words[SLOT * vcpu + DATA].load(Ordering::Relaxed)
        })
    }

    pub(in crate::xen) fn set_port(words: &Words, vcpu: usize, port: u32) {
        words[SLOT * vcpu + STATE].store(port.into(), Ordering::Relaxed);
    }

    fn taken(asked: Asked) -> Request {
        let words = page();
        asked.put(&words, 3);
        let slots = Slots::new(&words, 4);
        assert!(slots.has_request());
        let request = slots.take(3).unwrap();
        assert_eq!((slots.take(3), slots.has_request()), (None, false));
        assert_eq!(slots.begun(3), Some(request));
        slots.finish(3);
        assert_eq!(slots.begun(3), None);
        request
    }

    #[test]
    fn a_read_and_a_write_are_what_they_say() {
        let read = taken(Asked::memory(0xf000_0010, 4, READS));
        let expected = Request::Memory {
            address: 0xf000_0010,
            size: 4,
            operation: Operation::Read,
        };
        assert_eq!(read, expected);
        let write = taken(Asked::config(0x60, 0x3d, 2, 0).data(0x1234));
        let expected = Request::Config {
            function: 0x60,
            register: 0x3d,
            size: 2,
            operation: Operation::Write(0x1234),
        };
        assert_eq!(write, expected);
    }

    #[test]
    fn a_state_is_moved_on_and_nothing_else_of_its_word() {
        let words = page();
        set_port(&words, 1, 77);
        Asked::memory(0x1000, 8, READS).put(&words, 1);
        let slots = Slots::new(&words, 2);
        assert!(slots.take(0).is_none());
        slots.take(1).unwrap();
        slots.put(1, 99);
        assert_eq!(answer(&words, 1), None);
        assert!(slots.is_busy());
        slots.finish(1);
        assert_eq!((answer(&words, 1), slots.remote_port(1)), (Some(99), 77));
        assert!(!slots.is_busy());
    }

    #[test]
    fn sizes_counts_and_types_that_do_not_fit_are_told_apart() {
        let read = Request::Unfit { is_read: true };
        for size in [0, 3, 5, 6, 7, 9, 16, u32::MAX] {
            assert_eq!(taken(Asked::memory(0, size, READS)), read);
            assert_eq!(taken(Asked::config(0, 0, size, READS)), read);
        }
        assert_eq!(taken(Asked::config(0, 0, 8, READS)), read);
        assert_eq!(taken(Asked::config(0, 0, 4, READS).times(2)), read);
        for count in [0, 0x1_0001, u32::MAX] {
            assert_eq!(taken(Asked::memory(0, 1, READS).times(count)), read);
        }
        assert_eq!(taken(Asked::memory(0, 8, READS).times(0x2001)), read);
        for kind in (0..=255).filter(|kind| !(1..=2).contains(kind) && *kind != 8) {
            let asked = Asked {
                kind,
                ..Asked::memory(0, 4, READS)
            };
            assert_eq!(taken(asked), read);
        }
        let pointed = taken(Asked::memory(0, 3, READS | POINTS));
        assert_eq!(pointed, Request::Unfit { is_read: false });
    }

    #[test]
    fn repeated_accesses_go_up_or_down_and_never_wrap() {
        let Request::Repeated(up) = taken(Asked::memory(0x1000, 4, POINTS).data(8).times(3)) else {
            panic!("not repeated");
        };
        assert_eq!(up.bounds(), (0x1000, 0x100b));
        assert_eq!((up.address(2), up.buffer(2)), (0x1008, Some(16)));
        let down = Asked::memory(0x1000, 4, POINTS | DOWN).data(8).times(3);
        let Request::Repeated(down) = taken(down) else {
            panic!("not repeated");
        };
        assert_eq!(down.bounds(), (0xff8, 0x1003));
        assert_eq!((down.address(2), down.buffer(2)), (0xff8, Some(0)));
        let unfit = Request::Unfit { is_read: false };
        assert_eq!(taken(Asked::memory(u64::MAX - 6, 4, 0).times(2)), unfit);
        assert_eq!(taken(Asked::memory(3, 4, DOWN).times(2)), unfit);
    }

    #[test]
    fn no_words_make_it_panic() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        println!("seed {seed:#x}");
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        let words = page();
        let slots = Slots::new(&words, 1);
        for _ in 0..100_000 {
            for word in &words[..SLOT] {
                let shift = next() % 64;
                word.store(next() >> shift, Ordering::Relaxed);
            }
            if let Some(Request::Repeated(repeated)) = slots.take(0).or_else(|| slots.begun(0)) {
                let (lowest, last) = repeated.bounds();
                assert!(lowest <= last && last - lowest < MAX_MOVED);
            }
        }
    }
}
