//! Rung 4: a VM of our own, so that the trap is real and QEMU is not in the
//! way.
//!
//! | file | what happens there |
//! |---|---|
//! | `guest` | the guest's code |
//! | `space` | a VM and the memory that its guest sees |
//! | `vm` | a guest in it, and why it stops |
//! | `watchdog` | gets us out of a guest that does not come back |
//! | `answer` | what an access that traps is answered by |
//! | `trapped`, `batched` | accesses that trap, and that do not, become samples |
//! | `breakdown` | where the time of a read goes |

#[cfg(target_arch = "x86_64")]
mod answer;
#[cfg(target_arch = "x86_64")]
mod batched;
#[cfg(target_arch = "x86_64")]
mod breakdown;
#[cfg(target_arch = "x86_64")]
mod guest;
#[cfg(target_arch = "x86_64")]
mod rows;
#[cfg(target_arch = "x86_64")]
mod space;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
#[cfg(target_arch = "x86_64")]
mod trapped;
#[cfg(target_arch = "x86_64")]
mod vm;
#[cfg(target_arch = "x86_64")]
mod watchdog;

use std::path::Path;

use super::{Bench, Section};

/// Measures what a guest's access costs. `program` is this program, to be run
/// again as the server's process.
#[cfg(target_arch = "x86_64")]
pub fn kvm(bench: &Bench<'_>, program: &Path) -> Vec<Section> {
    rows::sections(bench, program, Path::new("/dev/kvm"))
}

/// Measures nothing: the guest's code is x86's.
#[cfg(not(target_arch = "x86_64"))]
pub fn kvm(_: &Bench<'_>, _: &Path) -> Vec<Section> {
    let mut section = Section::new(4, "KVM");
    let why = "the guest's code is for x86_64 only; measure rung 6 in a guest instead";
    section.gap("kvm", why);
    vec![section]
}
