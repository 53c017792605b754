//! The program under an unmodified QEMU with a bare-metal guest.
//!
//! Between QEMU and the server stands a recorder, so that a test can say
//! which messages made what the guest saw.

mod command_line;
mod errors;
mod functions;
mod lifecycle;
mod mapped;
#[path = "../rig/mod.rs"]
mod rig;
mod stage;
mod writes;
