//! Debian 13's libraries, to build with and to run with.
//!
//! A program for a host of another release must not be linked with this
//! machine's libraries: Xen's change with each release. So this machine's
//! compiler looks into an unpacked tree (`--sysroot`), and so does its
//! pkg-config. Meson comes from there too, for this machine's may be too old.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use vgpu_stub::debian::{Recipe, Tree};

use super::super::cache::io_failed;
use super::super::{RigError, process};

const RECIPE: Recipe = Recipe {
    name: "xen-build",
    backports: false,
    packages: &[
        "libc6-dev",
        "libfdt-dev",
        "libglib2.0-dev",
        "libpixman-1-dev",
        "libxen-dev",
        "meson",
        "zlib1g-dev",
    ],
    alone: None,
    programs: &[("usr/bin/pkgconf", "--version")],
};

const PYTHON_PACKAGES: &str = "usr/lib/python3/dist-packages";

/// The unpacked tree.
#[derive(Debug)]
pub(super) struct Libraries(Tree);

impl Libraries {
    pub(super) fn obtain() -> Result<Self, RigError> {
        Tree::obtain(&RECIPE, process::NEVER).map(Self)
    }

    /// What it is made of.
    pub(super) fn recipe(&self) -> String {
        format!("{RECIPE:?}")
    }

    /// A command that starts a program that was built with it.
    pub(super) fn command(&self, program: &Path) -> Command {
        // A path that is absolute stays as it is.
        self.0.command(&program.to_string_lossy())
    }

    /// Makes a build use it; `base` is the build's own directory.
    pub(super) fn prepare(&self, command: &mut Command, base: &Path) -> Result<(), RigError> {
        let root = base.join("sysroot");
        let python = base.join("python");
        if !python.exists() {
            self.link(&root, &python)?;
        }
        let show = root.display();
        let search = ["lib/x86_64-linux-gnu", "share"]
            .map(|place| format!("{show}/usr/{place}/pkgconfig"))
            .join(":");
        command
            .env("CC", format!("cc --sysroot={show}"))
            .env("PKG_CONFIG_LIBDIR", search)
            .env("PKG_CONFIG_SYSROOT_DIR", &root)
            .env("PYTHONPATH", &python);
        Ok(())
    }

    /// The directories that the C library's linker scripts name, which a
    /// package does not bring; and of Python's packages Meson alone, or
    /// others would come before this machine's.
    fn link(&self, root: &Path, python: &Path) -> Result<(), RigError> {
        let make = |path: &Path| fs::create_dir_all(path).map_err(io_failed("cannot make", path));
        let link =
            |to: &Path, path: &Path| symlink(to, path).map_err(io_failed("cannot make", path));
        make(root)?;
        link(&self.0.path("usr"), &root.join("usr"))?;
        link(Path::new("usr/lib"), &root.join("lib"))?;
        link(Path::new("usr/lib64"), &root.join("lib64"))?;
        make(python)?;
        let packages = self.0.path(PYTHON_PACKAGES);
        let entries = fs::read_dir(&packages).map_err(io_failed("cannot read", &packages))?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name.to_string_lossy().starts_with("meson") {
                link(&entry.path(), &python.join(&name))?;
            }
        }
        Ok(())
    }
}
