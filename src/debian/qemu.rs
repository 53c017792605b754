//! QEMU from Debian's backports.

use std::ffi::{OsStr, OsString};
use std::process::Command;
use std::time::Duration;

use super::process::{self, Stop};
use super::{Error, Recipe, Tree};

const PROGRAM: &str = "usr/bin/qemu-system-x86_64";

/// How long QEMU may take to say its version.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

const RECIPE: Recipe = Recipe {
    name: "qemu",
    backports: true,
    packages: &["qemu-system-x86"],
    alone: None,
    programs: &[(PROGRAM, "--version")],
};

/// Major, minor and micro version.
pub type Version = (u32, u32, u32);

/// The first with a `vfio-user-pci` that works: it came with 10.1, and 10.1.0
/// had a regression.
pub const OLDEST: Version = (10, 1, 1);

/// An unpacked QEMU.
#[derive(Debug)]
pub struct Qemu {
    tree: Tree,
    version: Version,
}

impl Qemu {
    /// Whether it is in the cache, so that [`obtain`](Self::obtain) need not
    /// fetch it.
    pub fn is_kept() -> bool {
        Tree::is_kept(&RECIPE)
    }

    /// Finds it in the cache or fetches it.
    ///
    /// # Errors
    ///
    /// Missing if it cannot be fetched or is older than [`OLDEST`].
    pub fn obtain(stop: Stop<'_>) -> Result<Self, Error> {
        let tree = Tree::obtain(&RECIPE, stop)?;
        let mut ask = tree.command(PROGRAM);
        let text = process::run(ask.arg("--version"), ANSWER_LIMIT, "")?;
        let version = parse_version(&text)
            .ok_or_else(|| Error::failed("cannot read QEMU's version", &text))?;
        if version < OLDEST {
            return Err(Error::missing(
                format!("QEMU {version:?} is older than {OLDEST:?}"),
                "the mirror's trixie-backports has no newer one",
                "use another mirror",
            ));
        }
        Ok(Self { tree, version })
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// A command that starts it; [`data_arguments`](Self::data_arguments) must
    /// be among its arguments.
    pub fn command(&self) -> Command {
        let mut command = self.tree.command(PROGRAM);
        command.env(
            "QEMU_MODULE_DIR",
            self.tree.path("usr/lib/x86_64-linux-gnu/qemu"),
        );
        command
    }

    /// Arguments that tell it where its firmware is.
    pub fn data_arguments(&self) -> Vec<OsString> {
        let mut arguments = Vec::new();
        for data in ["qemu", "seabios"] {
            let directory = self.tree.path("usr/share").join(data);
            arguments.extend([OsStr::new("-L").to_owned(), directory.into()]);
        }
        arguments
    }
}

/// Reads `QEMU emulator version 11.1.3 (Debian ...)`.
pub fn parse_version(text: &str) -> Option<Version> {
    let number = text.split_once("version ")?.1.split([' ', '\n']).next()?;
    let mut parts = number.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        let real = "QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)\nCopyright";
        assert_eq!(parse_version(real), Some((11, 1, 3)));
        assert!(parse_version("QEMU emulator version 10.1.0\n") < Some(OLDEST));
        assert_eq!(parse_version("something else"), None);
    }
}
