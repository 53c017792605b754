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
    pub(super) fn recipe() -> String {
        format!("{RECIPE:?}")
    }

    /// A command that starts a program that was built with it.
    pub(super) fn command(&self, program: &Path) -> Command {
        // A path that is absolute stays as it is.
        self.0.command(&program.to_string_lossy())
    }

    /// Makes a build use it; `base` is the build's own directory.
    pub(super) fn prepare(&self, command: &mut Command, base: &Path) -> Result<(), RigError> {
        let python = base.join("python");
        if !python.exists() {
            self.link_meson(&python)?;
        }
        let root = self.0.path("");
        let root = root.display();
        let search = ["lib/x86_64-linux-gnu", "share"]
            .map(|place| format!("{root}usr/{place}/pkgconfig"))
            .join(":");
        command
            // Debian's gcc looks for start files and libraries beside itself,
            // which --sysroot does not change.
            .env(
                "CC",
                format!("cc --sysroot={root} -B{root}usr/lib/x86_64-linux-gnu"),
            )
            .env("PKG_CONFIG_LIBDIR", search)
            .env("PKG_CONFIG_SYSROOT_DIR", self.0.path(""))
            .env("PYTHONPATH", &python);
        Ok(())
    }

    /// Of Python's packages Meson alone, or others would come before this
    /// machine's.
    fn link_meson(&self, python: &Path) -> Result<(), RigError> {
        fs::create_dir_all(python).map_err(io_failed("cannot make", python))?;
        let packages = self.0.path(PYTHON_PACKAGES);
        let entries = fs::read_dir(&packages).map_err(io_failed("cannot read", &packages))?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name.to_string_lossy().starts_with("meson") {
                let link = python.join(&name);
                symlink(entry.path(), &link).map_err(io_failed("cannot make", &link))?;
            }
        }
        Ok(())
    }
}
