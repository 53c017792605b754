//! Native on Xen: a secondary ioreq server, which Xen asks itself.
//!
//! The hypervisor sends the accesses to a PCI function and to its BARs
//! straight to this process; QEMU is not in the path and needs neither patch
//! nor argument. docs/xen.md has the whole story.
//!
//! Hypercalls go through Linux's drivers and never by their numbers alone:
//! those two can be restricted to one domain. The crates that wrap Xen's own
//! libraries link to one version of Xen, and none of the others has the
//! operations of a device model.

mod dispatch;
mod dm_op;
mod domain;
mod error;
mod evtchn;
mod foreign;
mod function;
mod interrupts;
mod ioctl;
mod ioreq;
pub mod kept;
mod privcmd;
mod ranges;
mod serve;

pub use domain::{Bdf, Domain, DomainId, Range, ServerId};
pub use error::XenError;
pub use evtchn::{EventChannels, LocalPort, Waker};
pub use foreign::{BusMaster, GuestMemory, MapGuest};
pub use function::Slot;
pub use interrupts::Injector;
pub use privcmd::{ForeignPages, ResourcePage};
pub use serve::{End, Handle, ServeError, Server, Serving};
