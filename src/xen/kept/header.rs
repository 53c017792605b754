//! The first page of the file: whose state it is.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::{Cause, KeptError};
use super::file::StateFile;
use super::layout::{Description, HEADER, Layout, NAME, unpack};
use super::{MAX_FUNCTIONS, PAGE_WORDS, Server};
use crate::device::{StateError, StateReader, StateWriter};

/// The first word, written last: "vgpukept" (little-endian).
const MAGIC: u64 = 0x7470_656b_7570_6776;

/// Changes with what the words mean.
const VERSION: u64 = 1;

/// The most vCPUs that have a place in an ioreq page.
const MAX_VCPUS: usize = 128;

/// Its words behind the first, with their sum. It is always as long.
const SIZE: usize = 5 + MAX_VCPUS + 1 + MAX_FUNCTIONS * DESCRIPTION + 1;
const DESCRIPTION: usize = NAME + 3;
const _: () = assert!(SIZE < HEADER);

/// Words of an ioreq (xen/include/public/hvm/ioreq.h), and which one has
/// `vp_eport`, in its low half.
const IOREQ_WORDS: usize = 4;
const PORT_WORD: usize = 3;

/// The place of a vCPU that nearly no guest has. Xen does not look there, and
/// the guest has no such page.
const MARK_AT: usize = (MAX_VCPUS - 1) * IOREQ_WORDS;

/// Which server of which guest, and which functions.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) server: Server,
    /// In the ioreq page, too, if there is room.
    mark: u64,
    /// The event channel of each vCPU, which Xen gave the server.
    ports: Vec<u32>,
    functions: Vec<Description>,
}

impl Header {
    /// Marks the page.
    pub(super) fn new(server: Server, page: &[AtomicU64; PAGE_WORDS], layout: &Layout) -> Self {
        // Two servers of one guest have different marks. Never 0, which an
        // unused place of the page has.
        let mark = RandomState::new().build_hasher().finish() | 1;
        if server.vcpus < MAX_VCPUS {
            page[MARK_AT].store(mark, Ordering::Release);
        }
        Header {
            ports: ports(page, server.vcpus).collect(),
            mark,
            server,
            functions: layout.descriptions().to_vec(),
        }
    }

    /// Whether this is the page that was marked, with the event channels of
    /// then.
    pub(super) fn is_behind(&self, page: &[AtomicU64; PAGE_WORDS]) -> bool {
        let marked = || page[MARK_AT].load(Ordering::Acquire) == self.mark;
        ports(page, self.server.vcpus).eq(self.ports.iter().copied())
            && (self.server.vcpus == MAX_VCPUS || marked())
    }

    /// Whether the functions are these.
    pub(super) fn agrees(&self, layout: &Layout) -> Result<(), Cause> {
        if self.functions == layout.descriptions() {
            return Ok(());
        }
        let names = self.functions.iter().map(|function| unpack(&function.name));
        let kept = names.collect::<Vec<_>>().join(" and ");
        Err(Cause::Functions { kept })
    }

    /// Writes the page, which from then on is one.
    pub(super) fn write(&self, words: &[AtomicU64]) {
        let (Some(magic), Some(rest)) = (words.first(), words.get(1..=SIZE)) else {
            return;
        };
        let mut state = StateWriter::new(rest);
        self.save(&mut state);
        let _ = state.finish();
        magic.store(MAGIC, Ordering::Release);
    }

    fn save(&self, state: &mut StateWriter<'_>) {
        state.put(VERSION);
        let server = &self.server;
        state.put(server.domain);
        state.put(server.id);
        state.put(self.mark);
        state.put(self.ports.len() as u64);
        for number in 0..MAX_VCPUS {
            state.put(self.ports.get(number).copied().unwrap_or(0));
        }
        state.put(self.functions.len() as u64);
        let nothing = Description::default();
        for number in 0..MAX_FUNCTIONS {
            let function = self.functions.get(number).unwrap_or(&nothing);
            for word in function.name.iter().chain(&function.sizes) {
                state.put(*word);
            }
        }
    }

    /// Reads what a file begins with; `None` if nothing was kept in it yet.
    pub(super) fn read(file: &StateFile) -> Result<Option<Self>, KeptError> {
        let mut words = [0; HEADER];
        let length = file.head(&mut words)?;
        let nonsense = |why| file.error(Cause::Nonsense { why });
        match words[0] {
            // Of one that was being made the magic number is missing.
            0 => return Ok(None),
            MAGIC if length == HEADER => {}
            MAGIC => return Err(nonsense("it is short")),
            _ => return Err(nonsense("it begins otherwise")),
        }
        let header = Self::parse(&words[1..=SIZE]);
        header.map(Some).map_err(|error| match error {
            StateError::Torn => nonsense("it is torn"),
            _ => nonsense("its first page"),
        })
    }

    fn parse(words: &[u64]) -> Result<Self, StateError> {
        let mut state = StateReader::new(words)?;
        state.get_up_to(VERSION, "version")?;
        let id = |value: Result<u64, StateError>| value.map(|id| (id & 0xffff) as u16);
        let domain = id(state.get_up_to(u16::MAX.into(), "domain"))?;
        let server = id(state.get_up_to(u16::MAX.into(), "server"))?;
        let mark = state.get()?;
        let vcpus = state.get_up_to(MAX_VCPUS as u64, "vCPUs")?;
        let vcpus = usize::try_from(vcpus).unwrap_or(MAX_VCPUS);
        let mut ports = Vec::with_capacity(MAX_VCPUS);
        for _ in 0..MAX_VCPUS {
            ports.push(state.get_u32("port")?);
        }
        ports.truncate(vcpus);
        let count = state.get_up_to(MAX_FUNCTIONS as u64, "functions")?;
        let mut functions = Vec::new();
        for _ in 0..MAX_FUNCTIONS {
            functions.push(Description {
                name: get_words(&mut state)?,
                sizes: get_words(&mut state)?,
            });
        }
        functions.truncate(usize::try_from(count).unwrap_or(MAX_FUNCTIONS));
        state.finish()?;
        Ok(Header {
            server: Server {
                domain,
                id: server,
                vcpus,
            },
            mark,
            ports,
            functions,
        })
    }
}

/// From now on nothing is kept; whether anything was.
pub(super) fn invalidate(words: &[AtomicU64]) -> bool {
    let magic = words.first();
    magic.is_some_and(|magic| magic.swap(0, Ordering::AcqRel) != 0)
}

fn get_words<const N: usize>(state: &mut StateReader<'_>) -> Result<[u64; N], StateError> {
    let mut words = [0; N];
    for word in &mut words {
        *word = state.get()?;
    }
    Ok(words)
}

/// The event channels in an ioreq page.
fn ports(page: &[AtomicU64; PAGE_WORDS], vcpus: usize) -> impl Iterator<Item = u32> {
    let ioreqs = page.chunks_exact(IOREQ_WORDS).take(vcpus);
    ioreqs.map(|ioreq| (ioreq[PORT_WORD].load(Ordering::Acquire) & 0xffff_ffff) as u32)
}
