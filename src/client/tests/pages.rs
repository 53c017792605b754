//! A server's half of shared memory by hand, as docs/shared-mmio.md draws it:
//! it does what a test says and nothing else.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::{io::Write, thread};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use super::*;
use crate::fastpath::{Layout, VERSION};
use crate::protocol::SharedMmio;

/// What our server seals.
pub(super) const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

/// The shared pages, and the server's ends of the wake descriptors.
pub(super) struct Pages {
    memory: MmapRegion<()>,
    layout: Layout,
    /// What wakes each slot's client.
    wakes: Vec<UnixStream>,
    /// The server's own; it has no use for it.
    _server: UnixStream,
}

/// What a client asks for in a slot.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) operation: u64,
    pub(super) count: u64,
    pub(super) region: u64,
    pub(super) offset: u64,
    pub(super) value: u64,
}

impl Pages {
    /// And the descriptors to send.
    pub(super) fn new(layout: Layout) -> (Pages, Vec<OwnedFd>) {
        Pages::of(layout, SEALS, layout.size() as u64)
    }

    /// With those seals, and of so many bytes for the client.
    pub(super) fn of(layout: Layout, seals: SealFlags, size: u64) -> (Pages, Vec<OwnedFd>) {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memfd = memfd_create("pages", flags).unwrap();
        ftruncate(&memfd, layout.size() as u64).unwrap();
        let file = File::from(memfd.try_clone().unwrap());
        let memory = MmapRegion::from_file(FileOffset::new(file, 0), layout.size()).unwrap();
        ftruncate(&memfd, size).unwrap();
        fcntl_add_seals(&memfd, seals).unwrap();
        let (server, theirs) = UnixStream::pair().unwrap();
        let mut fds = vec![memfd, theirs.into()];
        let pairs = (0..layout.slots()).map(|_| UnixStream::pair().unwrap());
        let (wakes, theirs): (Vec<_>, Vec<_>) = pairs.unzip();
        fds.extend(theirs.into_iter().map(OwnedFd::from));
        let pages = Pages {
            memory,
            layout,
            wakes,
            _server: server,
        };
        (pages, fds)
    }

    fn long(&self, at: usize) -> &AtomicU64 {
        self.memory.get_atomic_ref(at).unwrap()
    }

    fn short(&self, at: usize) -> &AtomicU32 {
        self.memory.get_atomic_ref(at).unwrap()
    }

    /// How many writes the client has posted.
    pub(super) fn tail(&self) -> u32 {
        self.short(128).load(Ordering::Acquire)
    }

    /// The entry of a posted write: offset, value and the rest.
    pub(super) fn entry(&self, number: usize) -> [u64; 3] {
        let at = self.layout.ring_at() + 32 * number;
        [0, 8, 16].map(|word| self.long(at + word).load(Ordering::Relaxed))
    }

    /// Waits for the access with this number in a slot, from 1.
    pub(super) fn asked(&self, slot: usize, number: u32) -> Asked {
        let at = 512 + 128 * slot;
        let request = loop {
            let request = self.long(at).load(Ordering::Acquire);
            if request & 0xffff_ffff == u64::from(number) {
                break request;
            }
            thread::yield_now();
        };
        Asked {
            operation: request >> 32 & 0xff,
            count: request >> 40 & 0xff,
            region: request >> 48,
            offset: self.long(at + 8).load(Ordering::Relaxed),
            value: self.long(at + 16).load(Ordering::Relaxed),
        }
    }

    /// Answers an access, and wakes its client whether it sleeps or not.
    pub(super) fn answer(&self, slot: usize, number: u32, errno: u32, result: u64) {
        let at = 512 + 128 * slot;
        self.long(at + 40).store(result, Ordering::Relaxed);
        let answer = u64::from(errno) << 32 | u64::from(number);
        self.long(at + 32).store(answer, Ordering::SeqCst);
        self.wake(slot);
    }

    pub(super) fn wake(&self, slot: usize) {
        // The client may have left.
        let _ = (&self.wakes[slot]).write(&[1]);
    }
}

/// What a server says that shares such pages.
pub(super) fn terms(layout: Layout) -> SharedMmio {
    SharedMmio {
        version: VERSION,
        slots: layout.slots().into(),
        ring: Some(layout.ring()),
        fd_index: Some(0),
    }
}

pub(super) fn layout(slots: u16, ring: u32) -> Layout {
    Layout::new(slots, ring).unwrap()
}

/// Answers VERSION with these terms and descriptors.
pub(super) fn share(peer: &mut Peer, terms: SharedMmio, fds: &[OwnedFd]) {
    let capabilities = Capabilities {
        shared_mmio: Some(terms),
        ..Capabilities::default()
    };
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    peer.version(capabilities, &fds);
}

/// A client with 2 slots and a ring of 4, whose server then does as `script`
/// says.
pub(super) fn sharing(
    options: Options,
    script: impl FnOnce(&mut Peer, &Pages) + Send + 'static,
) -> Client {
    let client = connect(options.shared_mmio(2), |peer| {
        let layout = layout(2, 4);
        let (pages, fds) = Pages::new(layout);
        share(peer, terms(layout), &fds);
        script(peer, &pages);
    });
    client.unwrap()
}
