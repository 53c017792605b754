//! Heap allocations of the thread that serves a device.
//!
//! A program that counts them declares a [`Counting`] as its global
//! allocator. The device under test is the stub in a wrapper that notes, at
//! each access, how many allocations its thread has made so far.
#![allow(unsafe_code, reason = "an allocator is unsafe by its nature")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use vgpu_stub::device::{Access as At, AccessError, Device, Function};
use vgpu_stub::devices::{Stub, VECTORS};
use vgpu_stub::endpoint::Endpoint;
use vgpu_stub::server::{Server, Source};

use super::Runs;
use super::client::{Access, Client};
use crate::rig::RigError;

/// The system's allocator, counting what each thread takes from it.
pub(crate) struct Counting;

thread_local! {
    static TAKEN: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    TAKEN.set(TAKEN.get() + 1);
}

// SAFETY: all is left to the system's allocator. The counter is plain memory
// of the thread: it neither allocates nor needs a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(old, layout) }
    }
}

/// How many allocations the calling thread has made.
pub(crate) fn taken() -> u64 {
    TAKEN.get()
}

/// The stub, noting its thread's allocations.
struct Metered {
    stub: Stub,
    taken: Arc<AtomicU64>,
}

impl Metered {
    fn note(&self) {
        self.taken.store(taken(), Ordering::SeqCst);
    }
}

impl Device for Metered {
    fn function(&self) -> Function {
        self.stub.function()
    }

    fn read(&mut self, at: At) -> Result<u64, AccessError> {
        self.note();
        self.stub.read(at)
    }

    fn write(&mut self, at: At, value: u64) -> Result<(), AccessError> {
        self.note();
        self.stub.write(at, value)
    }

    fn reset(&mut self) {
        self.stub.reset();
    }
}

/// The allocations of the server's thread for each access, from the receipt
/// of one to the receipt of the next.
pub(crate) fn per_access(access: Access, runs: Runs) -> Result<f64, RigError> {
    measure(access, runs).map_err(|error| RigError::failed("cannot count allocations", error))
}

fn measure(access: Access, runs: Runs) -> io::Result<f64> {
    let taken = Arc::new(AtomicU64::new(0));
    let noted = taken.clone();
    let endpoint = Endpoint::new(move |irq, dma| {
        let stub = Stub::new(VECTORS, irq, dma);
        Ok(Box::new(Metered { stub, taken: noted }))
    })
    .map_err(io::Error::other)?;
    let (ours, theirs) = UnixStream::pair()?;
    let mut server = Server::new();
    server.add("metered", endpoint, Source::Connected(theirs))?;
    let serving = thread::spawn(move || server.run());

    let mut client = Client::new(ours)?;
    // A read is answered after all that went before it, and adds itself.
    client.repeat(access, runs.short)?;
    client.repeat(Access::Read, 1)?;
    let short = taken.load(Ordering::SeqCst);
    client.repeat(access, runs.long - runs.short)?;
    client.repeat(Access::Read, 1)?;
    let long = taken.load(Ordering::SeqCst);
    drop(client);
    match serving.join() {
        Ok(ended) => ended.map_err(io::Error::other)?,
        Err(panic) => std::panic::resume_unwind(panic),
    }
    Ok(runs.per_access(short, long))
}
