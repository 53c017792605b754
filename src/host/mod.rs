//! A host's side: a server for each VM that wants the device, and what is
//! wrong when a VM does not start.

pub mod config;
pub mod doctor;
pub mod face;
mod kind;
pub mod launch;
pub mod setting;
pub mod xenstore;

pub use kind::is_pvh;
