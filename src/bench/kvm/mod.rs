//! Rung 4: a VM of our own, so that the trap is real and QEMU is not in the
//! way.
//!
//! | file | what happens there |
//! |---|---|
//! | `rows` | which rows there are, and what each is made of |
//! | `guest` | the guest's code |
//! | `space` | a VM and the memory that its guest sees |
//! | `vm` | a guest in it, and why it stops |
//! | `watchdog` | gets us out of a guest that does not come back |
//! | `answer` | what an access that traps is answered by |
//! | `trapped`, `batched` | accesses that trap, and that do not, become samples |
//! | `breakdown` | where the time of a read goes |

mod answer;
mod batched;
mod breakdown;
mod guest;
mod rows;
mod space;
#[cfg(test)]
mod tests;
mod trapped;
mod vm;
mod watchdog;

use std::path::Path;

use super::{Bench, Section};

/// Measures what a guest's access costs. `program` is this program, to be run
/// again as the server's process.
pub fn kvm(bench: &Bench<'_>, program: &Path) -> Vec<Section> {
    rows::sections(bench, program, Path::new("/dev/kvm"))
}
