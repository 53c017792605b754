//! A PCI device in a process of its own, served over vfio-user.

pub mod client;
pub mod device;
pub mod devices;
pub mod endpoint;
pub mod pci;
pub mod protocol;
pub mod server;
