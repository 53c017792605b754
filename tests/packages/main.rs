//! The packages: built, looked into, installed into a scratch root and started
//! from there.
//!
//! Whether scriptlets do what they should is seen in a root that has nothing
//! but a shell and programs that note how they were called.

mod built;
mod deb;
mod installed;
mod old_host;
#[path = "../program/mod.rs"]
mod program;
#[path = "../rig/mod.rs"]
mod rig;
mod root;
mod rpm;
mod scripts;
mod units;
