//! A file that a successor goes on from, should this server be killed: which
//! ioreq server was ours, and all that the functions' registers say.
//!
//! The file is mapped: to keep a state is a few stores, which the kernel has
//! even if the process ends behind any of them. A state is written to a spare
//! place, then one word says at once which places hold and for which vCPU's
//! request. So an access that was interrupted has either happened, and is only
//! answered, or it has not, and comes again.
//!
//! What is found on arrival is not trusted: all sizes and places follow from
//! the functions of this process, and what the file says has to agree.

mod error;
mod file;
mod header;
mod layout;
mod mapping;
mod ranges;

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use error::KeptError;
pub use ranges::NotedRanges;

use crate::device::{KeptMemory, KeptWords, StateError, StateReader, StateWriter};
use crate::endpoint::Endpoint;
use file::StateFile;
use header::Header;
use layout::{Layout, Places};
use mapping::Mapping;

/// Words of an ioreq page.
pub const PAGE_WORDS: usize = 512;

/// The most functions of one server: the devices of a bus but for its bridge.
pub const MAX_FUNCTIONS: usize = 31;

/// The places of A and B that hold, and that any does.
const HOLDS_A: u64 = 1 << 0;
const HOLDS_B: u64 = 1 << 1;
const HOLDS: u64 = 1 << 2;

/// Above it, the vCPU whose request was carried out and is not answered, plus
/// one.
const DONE_SHIFT: u32 = 8;

/// A function whose state is kept.
pub struct Subject<'a> {
    /// Its device, options and place: a successor's have to be the same. At
    /// most 64 bytes of it count.
    pub name: &'a str,
    /// The function.
    pub endpoint: &'a mut Endpoint,
}

/// An ioreq server: the state that is kept belongs to it.
#[derive(Clone, Debug)]
pub struct Server {
    /// The guest.
    pub domain: u16,
    /// Xen's number of the server.
    pub id: u16,
    /// How many vCPUs the guest has at most, 1 to 128.
    pub vcpus: usize,
}

/// A state file, locked, and not yet looked into.
#[derive(Debug)]
pub struct Unopened(StateFile);

/// What a state file says of an ioreq server of before.
#[derive(Debug)]
pub struct Predecessor {
    file: StateFile,
    header: Header,
}

/// Either there was a server before this one or there was none.
#[derive(Debug)]
pub enum Found {
    /// The file is new or empty.
    Nothing(Fresh),
    /// There was one: ask whether it is still there with
    /// [`Predecessor::is_behind`].
    Predecessor(Predecessor),
}

/// A file that is to be filled.
#[derive(Debug)]
pub struct Fresh(StateFile);

/// The kept state of all functions of a server.
#[derive(Debug)]
pub struct Kept {
    mapping: Arc<Mapping>,
    file: StateFile,
    ranges: Range<usize>,
    functions: Vec<KeptFunction>,
}

#[derive(Debug)]
struct KeptFunction {
    places: Places,
    /// Which places hold.
    holds: u64,
    /// [`Endpoint::function_changes`] when A was written.
    changes: u64,
}

impl Unopened {
    /// Opens or makes the file at `path` and locks it.
    ///
    /// # Errors
    ///
    /// See [`KeptError`].
    pub fn at(path: &Path) -> Result<Self, KeptError> {
        StateFile::at(path).map(Unopened)
    }

    /// Locks a file that was inherited. It has no name to be removed by.
    ///
    /// # Errors
    ///
    /// See [`KeptError`].
    pub fn from_fd(fd: OwnedFd) -> Result<Self, KeptError> {
        StateFile::from_fd(fd).map(Unopened)
    }

    /// Looks who wrote it.
    ///
    /// # Errors
    ///
    /// [`KeptError`], if it is no state, or one of another domain.
    pub fn look(self, domain: u16) -> Result<Found, KeptError> {
        let file = self.0;
        let Some(header) = Header::read(&file)? else {
            return Ok(Found::Nothing(Fresh(file)));
        };
        if header.server.domain != domain {
            return Err(file.error(error::Cause::Domain {
                kept: header.server.domain,
                asked: domain,
            }));
        }
        Ok(Found::Predecessor(Predecessor { file, header }))
    }
}

impl Predecessor {
    /// The server's number, and how many vCPUs it served.
    pub fn server(&self) -> &Server {
        &self.header.server
    }

    /// Whether `page` is the ioreq page of that server: another may have the
    /// same number.
    pub fn is_behind(&self, page: &[AtomicU64; PAGE_WORDS]) -> bool {
        self.header.is_behind(page)
    }

    /// The server is gone, so what was kept means nothing any more.
    pub fn forget(self) -> Fresh {
        Fresh(self.file)
    }

    /// Goes on with its functions, which are new. Their interrupts are connected
    /// already; an access to guest memory comes first with [`Endpoint::resume`].
    ///
    /// # Errors
    ///
    /// [`KeptError`], if these are other functions, or the file is torn.
    pub fn adopt(self, subjects: &mut [Subject<'_>]) -> Result<Kept, KeptError> {
        let Predecessor { file, header } = self;
        let layout = Layout::new(subjects).map_err(|cause| file.error(cause))?;
        header.agrees(&layout).map_err(|cause| file.error(cause))?;
        let mapping = file.map(layout.words())?;
        let mut kept = Kept::new(mapping, file, layout, subjects);
        kept.restore(subjects)?;
        Ok(kept)
    }
}

impl Fresh {
    /// Keeps the state of `subjects` for the ioreq server whose page this is.
    /// It is enabled, and has no ranges yet: if this fails or is killed,
    /// nothing waits for it.
    ///
    /// # Errors
    ///
    /// See [`KeptError`].
    pub fn begin(
        self,
        server: Server,
        page: &[AtomicU64; PAGE_WORDS],
        subjects: &mut [Subject<'_>],
    ) -> Result<Kept, KeptError> {
        let file = self.0;
        let layout = Layout::new(subjects).map_err(|cause| file.error(cause))?;
        file.make_room(layout.words())?;
        let mapping = file.map(layout.words())?;
        let header = Header::new(server, page, &layout);
        let mut kept = Kept::new(mapping, file, layout, subjects);
        for (number, subject) in subjects.iter().enumerate() {
            kept.commit_all(number, subject.endpoint);
        }
        header.write(kept.mapping.words());
        Ok(kept)
    }
}

impl Kept {
    /// Gives each device its part.
    fn new(
        mapping: Mapping,
        file: StateFile,
        layout: Layout,
        subjects: &mut [Subject<'_>],
    ) -> Self {
        let mapping = Arc::new(mapping);
        let ranges = layout.ranges();
        let places = layout.into_places();
        for (subject, places) in subjects.iter_mut().zip(&places) {
            if !places.device.is_empty() {
                let memory = KeptMemory::new(mapping.clone(), places.device.clone());
                subject.endpoint.keep(memory);
            }
        }
        let functions = places.into_iter().map(|places| KeptFunction {
            places,
            holds: 0,
            changes: 0,
        });
        Kept {
            functions: functions.collect(),
            mapping,
            file,
            ranges,
        }
    }

    /// Keeps what a function is after an access that vCPU `vcpu` asked for:
    /// the access has happened from now on. Its answer is in the ioreq page
    /// already. No allocation, no lock, no system call.
    #[inline]
    pub fn commit(&mut self, function: usize, vcpu: usize, endpoint: &Endpoint) {
        let Some(kept) = self.functions.get_mut(function) else {
            return;
        };
        let words = self.mapping.words();
        // Before it is written: what changes meanwhile is written next time.
        let changes = endpoint.function_changes();
        let mut holds = kept.holds ^ HOLDS_B;
        let places = &kept.places;
        let b = &places.b[usize::from(holds & HOLDS_B != 0)];
        let mut fits = write(words, b, |state| endpoint.save_device(state));
        if changes != kept.changes {
            holds ^= HOLDS_A;
            let a = &places.a[usize::from(holds & HOLDS_A != 0)];
            fits &= write(words, a, |state| endpoint.save_function(state));
            kept.changes = changes;
        }
        kept.holds = holds;
        let done = (vcpu as u64 + 1) << DONE_SHIFT;
        if !fits {
            return give_up(words);
        }
        set(words, places.commit, holds | done);
    }

    /// After the answer to the request that was committed last.
    #[inline]
    pub fn answered(&self, function: usize) {
        if let Some(kept) = self.functions.get(function) {
            set(self.mapping.words(), kept.places.commit, kept.holds);
        }
    }

    /// Whether the request of `vcpu`, which is in process, was carried out by
    /// the predecessor and has only to be answered.
    pub fn was_done(&self, vcpu: usize) -> bool {
        let done = vcpu as u64 + 1;
        self.functions
            .iter()
            .any(|kept| self.get(kept.places.commit) >> DONE_SHIFT == done)
    }

    /// After the requests that were in process are answered, before any other.
    pub fn settle(&self) {
        (0..self.functions.len()).for_each(|number| self.answered(number));
    }

    /// Where to note which ranges Xen has of the server.
    pub fn ranges(&self) -> NotedRanges {
        NotedRanges::new(KeptMemory::new(self.mapping.clone(), self.ranges.clone()))
    }

    /// The server was destroyed: nothing is left for a successor.
    pub fn remove(self) {
        header::invalidate(self.mapping.words());
        self.file.remove();
    }

    fn get(&self, word: usize) -> u64 {
        let word = self.mapping.words().get(word);
        word.map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Writes all of a function for the first time.
    fn commit_all(&mut self, number: usize, endpoint: &Endpoint) {
        if let Some(kept) = self.functions.get_mut(number) {
            kept.holds = HOLDS;
            // Whatever it is, it is another.
            kept.changes = endpoint.function_changes().wrapping_sub(1);
        }
        self.commit(number, 0, endpoint);
        self.answered(number);
    }

    fn restore(&mut self, subjects: &mut [Subject<'_>]) -> Result<(), KeptError> {
        for (number, subject) in subjects.iter_mut().enumerate() {
            let restored = self.restore_one(number, subject.endpoint);
            restored.map_err(|error| {
                let name = subject.name.to_owned();
                self.file.error(error::Cause::State { name, error })
            })?;
        }
        Ok(())
    }

    fn restore_one(&mut self, number: usize, endpoint: &mut Endpoint) -> Result<(), StateError> {
        let places = self.functions[number].places.clone();
        let commit = self.get(places.commit);
        let holds = commit & (HOLDS | HOLDS_A | HOLDS_B);
        if holds & HOLDS == 0 || commit >> DONE_SHIFT > 128 {
            let name = "which state holds";
            return Err(StateError::Value {
                name,
                value: commit,
            });
        }
        let words = self.mapping.words();
        let a = &places.a[usize::from(holds & HOLDS_A != 0)];
        read(words, a, |state| endpoint.restore_function(state))?;
        let b = &places.b[usize::from(holds & HOLDS_B != 0)];
        read(words, b, |state| endpoint.restore_device(state))?;
        let kept = &mut self.functions[number];
        kept.holds = holds;
        // What was pending may have been sent by now.
        kept.changes = endpoint.function_changes().wrapping_sub(1);
        Ok(())
    }
}

#[inline]
fn set(words: &[AtomicU64], word: usize, value: u64) {
    if let Some(word) = words.get(word) {
        word.store(value, Ordering::Release);
    }
}

/// Writes a state to its place; whether it is as long as that.
#[inline]
fn write(
    words: &[AtomicU64],
    place: &Range<usize>,
    save: impl FnOnce(&mut StateWriter<'_>),
) -> bool {
    let mut state = StateWriter::new(words.get(place.clone()).unwrap_or_default());
    save(&mut state);
    state.finish()
}

fn read(
    words: &[AtomicU64],
    place: &Range<usize>,
    restore: impl FnOnce(&mut StateReader<'_>) -> Result<(), StateError>,
) -> Result<(), StateError> {
    let words = words.get(place.clone()).unwrap_or_default();
    // A copy: it does not change after it was checked.
    let copy: Vec<u64> = words.iter().map(|w| w.load(Ordering::Relaxed)).collect();
    let mut state = StateReader::new(&copy)?;
    restore(&mut state)?;
    state.finish()
}

/// A device that writes now more and now less cannot be kept: a mistake of its
/// author.
#[cold]
fn give_up(words: &[AtomicU64]) {
    if header::invalidate(words) {
        log::error!("a device's state changes its length: nothing is kept from now on");
    }
}
