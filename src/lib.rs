//! A PCI device in a process of its own.
//!
//! A device is a Rust file; QEMU connects to it over a UNIX socket and the
//! guest sees an ordinary PCI function. Nobody rebuilds QEMU to change it.
//!
//! # Where things are
//!
//! An access crosses these rooms downwards, each once, and its answer returns
//! the same way. No room knows the one above it.
//!
//! | room | what happens there |
//! |---|---|
//! | [`protocol`] | bytes of a peer become checked messages, with the descriptors that came with them |
//! | [`server`] | a session: what is allowed when, and the errno of what is not |
//! | [`endpoint`] | "region 0, offset 8, 4 bytes" becomes an access to a register; config space, interrupts, DMA table, resets |
//! | [`device`] | what an author reads: [`Device`](device::Device), registers, [`Irq`](device::Irq), [`Dma`](device::Dma) |
//! | [`devices`] | the stub, and small devices that teach |
//! | [`pci`] | what PCI says: config space, BARs, capabilities |
//! | [`fastpath`] | accesses by memory that server and client share; imports none of the others |
//! | `xen` | accesses that the hypervisor sends itself, without QEMU in the path (feature `xen`) |
//! | [`client`] | the other side: a vfio-user client, for `demo` and `probe` |
//! | `host` | a host's side: starting a server for a VM, finding out why one does not start (feature `host`) |
//! | `bench` | what an access costs, hop by hop, each beside its floor (feature `bench`) |
//! | `debian` | QEMU and what else the bench and the tests run, from Debian's archive (feature `bench`) |
//!
//! # A device in one page
//!
//! ```
//! use vgpu_stub::device::{
//!     Access, AccessError, Bar, Device, Function, Irq, Register, RegisterFile,
//! };
//! use vgpu_stub::endpoint::Endpoint;
//! use vgpu_stub::pci::{Identity, Msi};
//!
//! vgpu_stub::registers! {
//!     /// A bell.
//!     pub enum Reg[0x1000] {
//!         0x0 RING: u32 wo = 0, "any value rings";
//!         0x4 COUNT: u32 ro shown = 0, "rings since reset";
//!     }
//!     reserved { 0x8..0x1000 }
//! }
//!
//! struct Bell {
//!     registers: RegisterFile<Reg>,
//!     irq: Irq,
//! }
//!
//! impl Device for Bell {
//!     fn function(&self) -> Function {
//!         let identity = Identity {
//!             vendor: 0x1af4,
//!             device: 0x11ff,
//!             subsystem_vendor: 0x1af4,
//!             subsystem: 0x1100,
//!             revision: 1,
//!             class: 0x12_00_00,
//!         };
//!         let msi = Msi { vectors: 1, per_vector_masking: false };
//!         Function::new(identity).bar(0, Bar::of(&self.registers)).msi(msi)
//!     }
//!
//!     fn read(&mut self, at: Access) -> Result<u64, AccessError> {
//!         Ok(self.registers.get(Reg::at(at)?))
//!     }
//!
//!     fn write(&mut self, at: Access, value: u64) -> Result<(), AccessError> {
//!         match Reg::at(at)? {
//!             Reg::RING => {
//!                 self.registers.count(Reg::COUNT);
//!                 self.irq.raise(0);
//!             }
//!             register => self.registers.write(register, value)?,
//!         }
//!         Ok(())
//!     }
//!
//!     fn reset(&mut self) {
//!         self.registers.reset();
//!     }
//! }
//!
//! // On any face: here the endpoint is used directly, as a test would.
//! let mut bell = Endpoint::new(|irq, _dma| {
//!     Ok(Box::new(Bell { registers: RegisterFile::mapped()?, irq }))
//! })?;
//! bell.write(0, 0x0, &1u32.to_le_bytes())?;
//! let mut count = [0; 4];
//! bell.read(0, 0x4, &mut count)?;
//! assert_eq!(u32::from_le_bytes(count), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! COUNT is [`shown`](device::Sharing): a client may map its page, and then the
//! guest polls it without an exit.
//!
//! To serve it on a socket, give the endpoint to a [`Server`](server::Server).

// An expect has its reason; in tests a failed unwrap is a failed test.
#![deny(clippy::unwrap_used)]

#[cfg(feature = "bench")]
pub mod bench;
pub mod client;
#[cfg(feature = "bench")]
pub mod debian;
pub mod device;
pub mod devices;
pub mod endpoint;
pub mod fastpath;
#[cfg(feature = "host")]
pub mod host;
pub mod pci;
pub mod protocol;
pub mod server;
#[cfg(feature = "xen")]
pub mod xen;
