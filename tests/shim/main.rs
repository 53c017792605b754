//! QEMU's `vgpu-stub` device, `qemu-patches/hw/misc/vgpu-stub.c`, moved by
//! hand: without a guest, over the machine's ports and memory.
//!
//! What it says to servers is read from the wire; servers that fail are
//! scripts.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod accesses;
mod again;
mod counts;
mod dma;
mod fake;
mod faults;
mod guest;
mod identity;
mod irqs;
mod lies;
mod lifecycle;
mod maps;
mod nested;
mod pages;
mod properties;
#[path = "../rig/mod.rs"]
mod rig;
mod shared;
mod shown;
mod stage;
mod start;
mod trace;
#[path = "../wire/mod.rs"]
mod wire;
mod wrapper;
mod writes;
