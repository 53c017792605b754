//! PCI as a function shows it: configuration space, BARs and capabilities.
//!
//! [`ConfigSpace`] is built once from an [`Identity`], BARs and capabilities,
//! and then takes whatever a guest does to it. [`describe()`] goes the other way:
//! it decodes the config space of any device, and prints as `lspci -vv` does.
//!
//! ```
//! use vgpu_stub::pci::{BarKind, BarLayout, Capability, ConfigSpace, Identity, Msix, describe};
//!
//! let identity = Identity {
//!     vendor: 0x1af4,
//!     device: 0x1111,
//!     subsystem_vendor: 0x1af4,
//!     subsystem: 0x1100,
//!     revision: 1,
//!     class: 0x12_00_00,
//! };
//! let bar0 = BarLayout { kind: BarKind::Memory32, prefetchable: false, size: 4096 };
//! let bars = [Some(bar0), None, None, None, None, None];
//! let msix = Msix { vectors: 16, table: (0, 0x800), pba: (0, 0xc00) };
//! let config = ConfigSpace::new(&identity, &bars, None, &[Capability::Msix(msix)])?;
//!
//! let mut image = vec![0; config.size()];
//! config.read(0, &mut image);
//! let description = describe(&image, [4096, 0, 0, 0, 0, 0])?;
//! assert!(description.to_string().contains("MSI-X: Enable- Count=16 Masked-"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bar;
mod capability;
mod config;
pub mod describe;
mod error;
#[cfg(test)]
mod fixture;
mod registers;
pub mod spec;

pub use bar::{BarKind, BarLayout};
pub use capability::{Capability, Msi, Msix};
pub use config::{
    ConfigEffects, ConfigSpace, Identity, InterruptControl, InterruptPin, MsiControl, MsixControl,
};
pub use describe::{Description, describe};
pub use error::{ConfigError, MsixPart};
