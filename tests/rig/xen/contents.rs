//! What dom0 consists of: Debian's kernel and a memory disk with a few programs
//! of Xen's packages, the libraries that they load, busybox and
//! Debian's device model. No disk, no package's scripts, no service manager.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use vgpu_stub::debian::{Recipe, Tree};

use super::super::RigError;
use super::super::cache::io_failed;
use super::super::cpio::Archive;
use super::identity;

/// The hypervisor, as QEMU loads it.
pub(super) const HYPERVISOR: &str = "xen";

/// Dom0's memory disk.
pub(super) const INITRAMFS: &str = "initramfs";

const BUSYBOX: &str = "usr/bin/busybox";
const DEVICE_MODEL: &str = "usr/libexec/xen-qemu-system-i386";
const COMPRESSED: &str = "boot/xen-4.20-amd64.gz";
const LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

pub(super) const RECIPE: Recipe = Recipe {
    name: "xen",
    backports: true,
    packages: &[
        "busybox-static",
        "qemu-system-xen",
        "xen-hypervisor-4.20-amd64",
        "xen-utils-4.20",
        "xenstore-utils",
    ],
    // Not the cloud kernel, which has nothing for dom0.
    alone: Some(("linux-image-amd64", "linux-image-")),
    programs: &[(DEVICE_MODEL, "--version")],
};

/// Programs, which bring their libraries.
const PROGRAMS: [&str; 13] = [
    DEVICE_MODEL,
    "usr/bin/xenstore-exists",
    "usr/bin/xenstore-list",
    "usr/bin/xenstore-ls",
    "usr/bin/xenstore-read",
    "usr/bin/xenstore-rm",
    "usr/bin/xenstore-watch",
    "usr/bin/xenstore-write",
    "usr/lib/xen-4.20/bin/libxl-save-helper",
    "usr/lib/xen-4.20/bin/xen-init-dom0",
    "usr/lib/xen-4.20/bin/xenconsoled",
    "usr/lib/xen-4.20/bin/xenstored",
    "usr/lib/xen-4.20/bin/xl",
];

/// Files that those open.
const DATA: [&str; 8] = [
    BUSYBOX,
    LOADER,
    "usr/lib/xen-4.20/boot/hvmloader",
    "usr/share/seabios/bios-256k.bin",
    "usr/share/qemu/keymaps/en-us",
    "usr/share/qemu/kvmvapic.bin",
    "usr/share/qemu/linuxboot_dma.bin",
    "usr/share/qemu/multiboot_dma.bin",
];

/// Kernel modules in the order in which they need each other.
const MODULES: [&str; 9] = [
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
    "xen-privcmd",
    "xenfs",
    "netfs",
    "9pnet",
    "9pnet_virtio",
    "9p",
];

/// Where Debian 13 has links into `usr`.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// The files that dom0 is made of.
#[derive(Debug)]
pub(super) struct Contents {
    /// Dom0's kernel.
    pub(super) kernel: PathBuf,
    /// Not compressed after all: Xen is a module for QEMU.
    hypervisor: PathBuf,
    busybox: PathBuf,
    /// Paths in dom0, and what is there.
    files: Vec<(String, PathBuf)>,
}

impl Contents {
    /// Finds them in an unpacked tree.
    pub(super) fn of(tree: &Tree) -> Result<Self, RigError> {
        let modules = tree.path("usr/lib/modules");
        let release = only(&modules, |_| true)?;
        let kernel = only(&tree.path("boot"), |name| name.starts_with("vmlinuz-"))?;
        let mut files: Vec<(String, PathBuf)> = PROGRAMS
            .iter()
            .chain(&DATA)
            .map(|path| ((*path).to_owned(), tree.path(path)))
            .collect();
        for program in PROGRAMS {
            for library in tree.libraries(program)? {
                let name = library.file_name().unwrap_or_default().display();
                files.push((format!("{LIBRARIES}/{name}"), library));
            }
        }
        let mut all = Vec::new();
        list(&release.join("kernel"), &mut all)?;
        for module in MODULES {
            let name = format!("{module}.ko.xz");
            let path = all
                .iter()
                .find(|path| path.file_name() == Some(OsStr::new(&name)))
                .ok_or_else(|| RigError::failed(release.display(), format!("has no {name}")))?;
            files.push((format!("modules/{name}"), path.clone()));
        }
        files.sort();
        files.dedup_by(|a, b| a.0 == b.0);
        Ok(Self {
            kernel,
            hypervisor: tree.path(COMPRESSED),
            busybox: tree.path(BUSYBOX),
            files,
        })
    }

    /// A text that is another one when any of it is.
    pub(super) fn made_of(&self) -> Result<String, RigError> {
        let mut lines = vec![init()];
        for path in [&self.kernel, &self.hypervisor] {
            lines.push(identity(path)?);
        }
        for (inside, path) in &self.files {
            lines.push(format!("{inside}: {}", identity(path)?));
        }
        Ok(lines.join("\n"))
    }

    /// Writes the hypervisor and the memory disk.
    pub(super) fn write(&self, directory: &Path) -> Result<(), RigError> {
        let hypervisor = directory.join(HYPERVISOR);
        let output = File::create(&hypervisor).map_err(io_failed("cannot write", &hypervisor))?;
        // Static, so that this machine can run it.
        let status = Command::new(&self.busybox)
            .arg("zcat")
            .arg(&self.hypervisor)
            .stdin(Stdio::null())
            .stdout(output)
            .status()
            .map_err(io_failed("cannot run", &self.busybox))?;
        if !status.success() {
            return Err(RigError::failed("busybox zcat", status));
        }
        let initramfs = directory.join(INITRAMFS);
        fs::write(&initramfs, self.initramfs()?).map_err(io_failed("cannot write", &initramfs))
    }

    fn initramfs(&self) -> Result<Vec<u8>, RigError> {
        let mut archive = Archive::default();
        for name in MERGED {
            archive.directory(&format!("usr/{name}"));
            archive.link(name, &format!("usr/{name}"));
        }
        archive.character_device("dev/console", 5, 1);
        archive.program("init", init().as_bytes());
        // xl complains without it.
        archive.program("etc/xen/xl.conf", b"");
        for (inside, path) in &self.files {
            let contents = fs::read(path).map_err(io_failed("cannot read", path))?;
            archive.program(inside, &contents);
        }
        Ok(archive.finish())
    }
}

fn init() -> String {
    include_str!("init").replace("@MODULES@", &MODULES.join(" "))
}

/// The one entry of a directory that has such a name.
fn only(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf, RigError> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory).map_err(io_failed("cannot read", directory))? {
        let entry = entry.map_err(io_failed("cannot read", directory))?;
        if wanted(&entry.file_name().to_string_lossy()) {
            entries.push(entry.path());
        }
    }
    match <[PathBuf; 1]>::try_from(entries) {
        Ok([entry]) => Ok(entry),
        Err(entries) => Err(RigError::failed(
            directory.display(),
            format!("has {} of what there should be one", entries.len()),
        )),
    }
}

/// All files below a directory.
fn list(directory: &Path, into: &mut Vec<PathBuf>) -> Result<(), RigError> {
    for entry in fs::read_dir(directory).map_err(io_failed("cannot read", directory))? {
        let path = entry.map_err(io_failed("cannot read", directory))?.path();
        if path.is_dir() {
            list(&path, into)?;
        } else {
            into.push(path);
        }
    }
    Ok(())
}
