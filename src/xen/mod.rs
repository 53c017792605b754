//! Native on Xen: a secondary ioreq server, which Xen asks itself.
//!
//! The hypervisor sends the accesses to a PCI function and to its BARs
//! straight to this process; QEMU is not in the path and needs neither patch
//! nor argument. docs/xen.md has the whole story.
//!
//! Linux's drivers are used directly. rust-vmm's crate for them (`xen-ioctls`)
//! is on no registry and knows neither PCI functions nor MSIs; those that wrap
//! Xen's C libraries (`libxen-sys`, `xenctrl`) bind a program to one version of
//! Xen.

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
mod rights;
mod seccomp;
mod serve;

pub use domain::{Bdf, Domain, DomainId, Range, ServerId};
pub use error::XenError;
pub use evtchn::{EventChannels, LocalPort, Waker};
pub use foreign::{BusMaster, GuestMemory, MapGuest};
pub use function::Slot;
pub use interrupts::Injector;
pub use privcmd::{ForeignPages, ResourcePage};
pub use rights::run_as;
pub use seccomp::Seccomp;
pub use serve::{End, Handle, ServeError, Server, Serving};

/// Where a device model of Xen may be.
pub const DEVICE_MODELS: [&str; 5] = [
    "/usr/lib64/xen/bin/qemu-system-i386",
    "/usr/libexec/xen-qemu-system-i386",
    "/usr/libexec/xen/bin/qemu-system-i386",
    "/usr/lib/xen/bin/qemu-system-i386",
    "/usr/local/lib/xen/bin/qemu-system-i386",
];
