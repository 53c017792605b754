//! What kind of guest a domain is, which Xen's interface for device models does
//! not say.

use std::time::Duration;

use super::xenstore::Xenstore;
use crate::xen::DomainId;

/// How long xenstored may take for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether `xl` says that the domain is a PVH guest: Xen makes ioreq servers for
/// it as for an HVM guest, and the guest never looks for PCI.
///
/// Other toolstacks, or none that answers, say nothing.
pub fn is_pvh(domain: DomainId) -> bool {
    let Ok(Some(mut store)) = Xenstore::connect(None, PATIENCE) else {
        return false;
    };
    let kind = store.read(&format!("/libxl/{domain}/type"));
    matches!(kind, Ok(Some(kind)) if kind == b"pvh")
}
