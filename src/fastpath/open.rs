//! How the two halves come about: the server makes the memory and the wake
//! descriptors, the client opens what it was sent.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use thiserror::Error;

use super::layout::Layout;
use super::memory::Memory;
use super::ring::Poster;
use super::serving::Serving;
use super::slot::Requester;
use super::wake::Wake;

/// Why a client does not take what a server sent.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Not as many descriptors as the layout has.
    #[error("{got} descriptors for shared MMIO, not {needed}")]
    Count {
        /// How many came.
        got: usize,
        /// How many the layout has.
        needed: usize,
    },
    /// The server could take the memory away.
    #[error("the shared memory is no memfd that is sealed against shrinking")]
    Unsealed,
    /// The memory is of huge pages, of which there may be none when one is
    /// touched.
    #[error("the shared memory is not of ordinary pages")]
    HugePages,
    /// The memory is smaller than the layout.
    #[error("the shared memory has {size} bytes, not {needed}")]
    Small {
        /// Its size, in bytes.
        size: i64,
        /// The layout's, in bytes.
        needed: usize,
    },
    /// A wake descriptor is none.
    #[error("wake descriptor {index} is no UNIX stream socket")]
    NoSocket {
        /// Which: 0 is the server's, 1 that of slot 0.
        index: usize,
    },
    /// The kernel does not map the memory.
    #[error("cannot map the shared memory: {0}")]
    Map(#[from] io::Error),
}

impl Serving {
    /// New shared pages, and the descriptors that the client gets, in the
    /// order in which they are sent: the memory, the server's wake
    /// descriptor, and that of each slot.
    ///
    /// # Errors
    ///
    /// What the kernel answers: it has no memory or descriptors left.
    pub fn new(layout: Layout) -> io::Result<(Serving, Vec<OwnedFd>)> {
        let mut fds = Vec::with_capacity(layout.fds());
        let (memory, memfd) = Memory::create(layout)?;
        let (wake, server) = Wake::pair()?;
        fds.extend([memfd, server]);
        let mut slots = Vec::with_capacity(layout.slots().into());
        for _ in 0..layout.slots() {
            let (ours, theirs) = Wake::pair()?;
            slots.push(ours);
            fds.push(theirs);
        }
        Ok((Serving::over(Arc::new(memory), wake, slots), fds))
    }

    /// What becomes readable when a client signals the server. It is waited
    /// for by its edge (`EPOLLET`): [`sleep`](Self::sleep) empties it, and not
    /// each time.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl Requester {
    /// What becomes readable when the server signals this requester.
    /// [`sleep`](Self::sleep) empties it.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// The client's half: a requester for each slot, and the ring. `fds` are the
/// server's, in the order of [`Serving::new`].
///
/// # Errors
///
/// They are not what they should be, or cannot be mapped.
pub fn open(layout: Layout, fds: Vec<OwnedFd>) -> Result<(Vec<Requester>, Poster), OpenError> {
    let (got, needed) = (fds.len(), layout.fds());
    let mut fds = fds.into_iter();
    let (Some(memfd), true) = (fds.next(), got == needed) else {
        return Err(OpenError::Count { got, needed });
    };
    let memory = Arc::new(Memory::open(layout, memfd)?);
    let mut wakes = Vec::with_capacity(fds.len());
    for (index, fd) in fds.enumerate() {
        wakes.push(Wake::from_peer(fd).ok_or(OpenError::NoSocket { index })?);
    }
    let mut wakes = wakes.into_iter();
    let Some(server) = wakes.next().map(Arc::new) else {
        return Err(OpenError::Count { got, needed });
    };
    let requesters = (0..)
        .zip(wakes)
        .map(|(index, wake)| Requester::new(Arc::clone(&memory), Arc::clone(&server), wake, index))
        .collect();
    Ok((requesters, Poster::new(memory, server)))
}
