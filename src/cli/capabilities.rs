//! What the program supports, for management software, in the style of QEMU's
//! vhost-user backends (docs/interop/vhost-user.json).

#[cfg(feature = "host")]
use std::path::Path;

use serde_json::{Value, json};
use vgpu_stub::devices::KINDS;

use super::failure::Failure;

/// `--print-capabilities`.
pub(super) fn print() -> Result<(), Failure> {
    let devices: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    print_json(&json!({
        "type": "pci",
        "features": ["socket-path", "fd", "socket-activation", "notify", "multiple-devices"],
        "devices": devices,
    }))
}

/// The file that goes into /usr/share/vfio-user.
#[cfg(feature = "host")]
pub(super) fn print_discovery(binary: &Path) -> Result<(), Failure> {
    print_json(&json!({
        "description": "vgpu-stub: a PCI device in a process of its own",
        "type": "pci",
        "binary": binary,
    }))
}

fn print_json(value: &Value) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::failed)?;
    println!("{text}");
    Ok(())
}
