//! Rung 4 where there is no guest for it.

use std::path::Path;

use super::{Bench, Section};

/// Measures nothing: the guest's code is x86_64's.
pub fn kvm(_: &Bench<'_>, _: &Path) -> Vec<Section> {
    let mut section = Section::new(4, "KVM: a guest of our own");
    let why = "its code is for x86_64 only; measure inside a Linux guest, with guest-bench";
    section.gap("kvm", why);
    vec![section]
}
