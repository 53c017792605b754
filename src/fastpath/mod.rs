//! Accesses by shared memory: a slot for each requester's synchronous access,
//! and a ring for posted writes. docs/shared-mmio.md is the specification.
//!
//! | file | what |
//! |---|---|
//! | `layout`, `access` | where what is in the shared pages, and what one access is there |
//! | `memory`, `wake` | the pages and the wake descriptors: the kernel's part |
//! | `slot`, `ring` | both halves of a slot, and of the ring |
//! | `sleep` | how a side falls asleep without missing anything |
//! | `serving` | the server's half |
//! | `open` | how both halves come about |
//! | `spin`, `polling` | how long to look before sleeping; for sockets and Xen too |
//!
//! A peer writes the pages at any time and anything: each field is read once,
//! as an atomic, copied and checked. `tests/loom.rs` compiles these files with
//! loom's atomics and tries all that two requesters and a server can do.

mod access;
mod layout;
mod memory;
mod open;
mod polling;
mod ring;
mod serving;
mod sleep;
mod slot;
mod spin;
mod sync;
#[cfg(test)]
mod tests;
mod wake;

pub use access::{Access, Operation};
pub use layout::{ENTRY_SIZE, Layout, MAX_RING, MAX_SLOTS, RING, SLOT_SIZE, SLOTS_AT, VERSION};
pub use open::{OpenError, open};
pub use polling::Polling;
pub use ring::{Fault, Poster};
pub use serving::{Handler, Serving};
pub use slot::Requester;
pub use spin::{Clock, Monotonic, Spin};
