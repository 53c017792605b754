//! What the rungs share that measure with a bare-metal guest of their own: 5,
//! which QEMU runs, and 7, which Xen does.
//!
//! | file | what happens there |
//! |---|---|
//! | `guest.s`, `guest` | the guest, what it is told, and what it leaves in its memory |
//! | `rows` | which accesses to which devices |
//! | `samples` | what it left becomes rows |
//! | `program` | which QEMU: the user's, one in PATH, Debian's |
//! | `server` | a server process for each device of ours |
//! | `child` | processes that do not outlive us |

pub(super) mod child;
pub(super) mod guest;
pub(super) mod program;
pub(super) mod rows;
pub(super) mod samples;
pub(super) mod server;
