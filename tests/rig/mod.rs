//! The rig: how tests obtain and run real components.
//!
//! A test file says `mod rig;`, asks for what it needs and hands the answer
//! to [`or_skip`]:
//!
//! ```ignore
//! let Some(qemu) = or_skip(Qemu::new(Accelerator::Tcg)) else { return };
//! ```
//!
//! - [`qemu`]: QEMU from Debian's backports, started, watched and reaped.
//! - [`qtest`]: QEMU without a guest, moved by the test.
//! - [`guest`]: bare-metal guests, compiled here.
//! - [`server`]: the program under test; [`recorder`]: what goes over its socket.
//! - [`shim_qemu`]: QEMU with the shim, built from source.
//! - [`linux`]: Debian's cloud kernel with an initramfs made here.
//! - [`xen`]: Xen with a dom0 that has `xl`, all of it inside QEMU.
//!
//! Where the packages come from and are kept is [`vgpu_stub::debian`].
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "every test file includes the whole rig and uses its own part of it"
)]

pub(crate) mod cpio;
pub(crate) mod guest;
pub(crate) mod linux;
pub(crate) mod qemu;
pub(crate) mod qmp;
pub(crate) mod qtest;
pub(crate) mod recorder;
mod running;
pub(crate) mod server;
pub(crate) mod shim_qemu;
mod skip;
pub(crate) mod xen;

pub(crate) use guest::Guest;
pub(crate) use linux::Linux;
pub(crate) use qemu::{Accelerator, Machine, Memory, Qemu, kvm_works};
pub(crate) use recorder::Recorder;
pub(crate) use running::{Outcome, Running};
pub(crate) use server::Server;
pub(crate) use skip::{or_skip, require};
pub(crate) use vgpu_stub::debian::{Error as RigError, cache, process, sources};
