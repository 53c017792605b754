//! Rung 7 where this program has nothing of Xen's.

use std::path::Path;

use super::{Bench, Section};

/// Nothing.
#[derive(Debug)]
pub struct XenHost(());

impl XenHost {
    /// Looks at nothing.
    pub fn look(_: &Bench<'_>, _: Option<&Path>) -> Self {
        XenHost(())
    }

    /// Measures nothing.
    pub fn measure(&self, _: &Bench<'_>, _: &Path) -> Section {
        let mut section = Section::new(7, "Xen");
        section.gap("xen.*", "this program was built without its feature xen");
        section
    }
}
