//! Servers that do not tell the truth about the device. QEMU either refuses
//! them with one line, or lives with what they say; it never crashes, hangs
//! or takes memory without bound.

mod config;
mod liar;
mod messages;
mod regions;
mod sharing;
