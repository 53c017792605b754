//! Rung 7 where this program has nothing of Xen's.

use std::path::Path;

use super::{Bench, Section};

/// Measures nothing.
pub fn xen(_: &Bench<'_>, _: &Path, _: Option<&Path>) -> Vec<Section> {
    let mut section = Section::new(7, "Xen");
    section.gap("xen.*", "this program was built without its feature xen");
    vec![section]
}
