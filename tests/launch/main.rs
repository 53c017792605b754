//! The launcher end to end: a fake xenstored, a recording `qemu-wrapper`, real
//! servers and a real QEMU.

mod face;
mod failures;
mod host;
mod passthrough;
mod plain;
#[path = "../program/mod.rs"]
mod program;
#[path = "../rig/mod.rs"]
mod rig;
mod servers;
mod settings;
mod store;
mod units;
