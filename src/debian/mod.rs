//! Programs from Debian's archive, unpacked into private trees.
//!
//! The tests and the bench run real components: QEMU, a Linux kernel. They
//! come from here, so that neither asks anybody to install a thing; the
//! host's own packages and its apt state are only read.
//!
//! Everything that is kept lies under `$XDG_CACHE_HOME/vgpu-stub`
//! (`~/.cache/vgpu-stub`) and may be deleted at any time.
//!
//! | file | what happens there |
//! |---|---|
//! | `tree` | a [`Recipe`] becomes a [`Tree`]: apt downloads, dpkg unpacks |
//! | `source` | a [`Source`] package, as Debian builds it |
//! | `apt` | apt with a state of its own |
//! | [`qemu`] | QEMU from the backports |
//! | [`cache`] | directories that are whole or absent, shared between processes |
//! | [`sources`] | which mirror to ask |
//! | [`process`] | child processes with deadlines, and their output as lines |

mod apt;
pub mod cache;
mod error;
pub mod process;
pub mod qemu;
mod source;
pub mod sources;
mod tree;

pub use error::Error;
pub use source::Source;
pub use tree::{Recipe, Tree};
