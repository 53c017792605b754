//! One more device in a tree of QEMU's source, of whatever build system.

use std::fs;
use std::path::Path;

use super::super::RigError;
use super::super::cache::io_failed;
use super::Shim;

const KCONFIG: &str = "\nconfig VGPU_STUB\n    bool\n    default y if PCI_DEVICES\n    \
    depends on PCI && MSI_NONBROKEN\n";

/// Where the targets' devices are switched on: 4.2, 5.0 to 6.0, after that.
const DEFAULTS: [&str; 3] = [
    "default-configs/i386-softmmu.mak",
    "default-configs/devices/i386-softmmu.mak",
    "configs/devices/i386-softmmu/default.mak",
];

/// Makes the tree build `hw/misc/vgpu-stub.c`, and those devices of QEMU's
/// own that tests use. Does nothing to a tree that does already.
pub(crate) fn add(tree: &Path, devices: &[&str]) -> Result<(), RigError> {
    let misc = tree.join("hw/misc");
    let meson = misc.join("meson.build");
    if meson.exists() {
        let text = read(&meson)?;
        let set = if text.contains("softmmu_ss.add") {
            "softmmu_ss"
        } else {
            "system_ss"
        };
        let line = format!("{set}.add(when: 'CONFIG_VGPU_STUB', if_true: files('vgpu-stub.c'))\n");
        append(&meson, "vgpu-stub.c", &line)?;
        // Debian's source has no firmware to install.
        write(
            &tree.join("pc-bios/meson.build"),
            "roms = []\nsubdir('keymaps')\n",
        )?;
    } else {
        let line = "common-obj-$(CONFIG_VGPU_STUB) += vgpu-stub.o\n";
        append(&misc.join("Makefile.objs"), "vgpu-stub.o", line)?;
        add_what_tcg_needs(tree)?;
    }
    append(&misc.join("Kconfig"), "config VGPU_STUB", KCONFIG)?;
    let defaults = DEFAULTS.map(|path| tree.join(path));
    let defaults = defaults.iter().find(|path| path.exists()).ok_or_else(|| {
        RigError::failed(
            tree.display(),
            "is no source of QEMU that can be built here",
        )
    })?;
    for device in ["VGPU_STUB"].iter().chain(devices) {
        let line = format!("CONFIG_{device}=y\n");
        append(defaults, &line, &line)?;
    }
    Ok(())
}

/// XCP-ng's QEMU has no TCG and so builds nothing for AES instructions.
fn add_what_tcg_needs(tree: &Path) -> Result<(), RigError> {
    let path = tree.join("crypto/Makefile.objs");
    if path.exists() && read(&path)?.contains("\ncrypto-obj-y = hash.o\n") {
        let line = "crypto-obj-y += aes.o # for TCG\n";
        append(&path, line, line)?;
    }
    Ok(())
}

/// Puts the shim's files into a tree that [`add`] was done to. A file that
/// would not change keeps its time, so that nothing is built again.
pub(crate) fn put(tree: &Path, shim: &Shim) -> Result<(), RigError> {
    let misc = tree.join("hw/misc");
    let update = |path: &Path, text: &str| match fs::read_to_string(path) {
        Ok(old) if old == text => Ok(()),
        _ => write(path, text),
    };
    update(&misc.join("vgpu-stub.c"), &shim.code)?;
    update(&misc.join("vgpu-stub-shm.h"), &shim.header)?;
    let events = misc.join("trace-events");
    let others = read(&events)?;
    let others: String = others
        .split_inclusive('\n')
        .filter(|line| !line.starts_with("vgpu_stub_") && !line.starts_with("# vgpu-stub.c"))
        .collect();
    let ours = shim.trace_events.trim_start();
    update(&events, &format!("{}\n\n{ours}", others.trim_end()))
}

fn append(path: &Path, mark: &str, addition: &str) -> Result<(), RigError> {
    let text = read(path)?;
    if text.contains(mark) {
        return Ok(());
    }
    write(path, &(text + addition))
}

fn read(path: &Path) -> Result<String, RigError> {
    fs::read_to_string(path).map_err(io_failed("cannot read", path))
}

fn write(path: &Path, text: &str) -> Result<(), RigError> {
    fs::write(path, text).map_err(io_failed("cannot write", path))
}
