//! Debian's source packages: apt downloads, `dpkg-source` unpacks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::apt::{Apt, download};
use super::cache::{self, Kept, Lock, io_failed};
use super::process::{self, Stop};
use super::{Error, sources};

/// Increase when what an earlier version kept is of no use.
const VERSION: u32 = 1;
const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
const UNPACK_LIMIT: Duration = Duration::from_secs(300);
const DESCRIPTION: &str = ".dsc";
const REMEDY: &str = "install the package dpkg-dev";

/// A source package as it was downloaded; it is not replaced while this lives.
#[derive(Debug)]
pub struct Source {
    description: PathBuf,
    _lock: Lock,
}

impl Source {
    /// Finds the source of `package` in Debian's release `suite` in the cache
    /// or downloads it.
    ///
    /// # Errors
    ///
    /// Missing if this machine, its programs or its network do not allow it.
    pub fn obtain(package: &str, suite: &str, stop: Stop<'_>) -> Result<Self, Error> {
        let home = cache::directory()?.join("debian");
        fs::create_dir_all(&home).map_err(io_failed("cannot make", &home))?;
        let path = home.join(format!("{package}-{suite}-source"));
        let lock = Kept {
            path: path.clone(),
            recipe: &format!("{VERSION} {package} {suite}"),
            lifetime: Some(LIFETIME),
            check: &|path| file_in(path, DESCRIPTION).map(drop),
            make: &|path| fetch(&home, path, package, suite, stop),
        }
        .obtain()?;
        Ok(Self {
            description: file_in(&path, DESCRIPTION)?,
            _lock: lock,
        })
    }

    /// Package and version, such as `qemu_5.2+dfsg-11+deb11u3`.
    pub fn name(&self) -> String {
        let name = self.description.file_stem().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Unpacks it, with Debian's patches, into a directory that is not there
    /// yet.
    ///
    /// # Errors
    ///
    /// If `dpkg-source` fails; missing if it is absent.
    pub fn unpack(&self, into: &Path, stop: Stop<'_>) -> Result<(), Error> {
        let mut unpack = Command::new("dpkg-source");
        // apt checked the signature when it downloaded.
        unpack
            .args(["--no-check", "--no-copy", "-x"])
            .arg(&self.description);
        process::run_unless(stop, unpack.arg(into), UNPACK_LIMIT, REMEDY).map(drop)
    }

    /// The text of one file as upstream has it; `inside` is its path in the
    /// tree.
    ///
    /// # Errors
    ///
    /// If it is not there; missing if `tar` is absent.
    pub fn file(&self, inside: &str, stop: Stop<'_>) -> Result<String, Error> {
        let archive = file_in(&self.directory(), ".orig.tar.xz")?;
        let mut tar = Command::new("tar");
        tar.args(["--to-stdout", "--wildcards", "--occurrence", "-xf"]);
        tar.arg(archive).arg(format!("*/{inside}"));
        process::run_unless(stop, &mut tar, UNPACK_LIMIT, "install the package tar")
    }

    fn directory(&self) -> PathBuf {
        self.description.with_file_name("")
    }
}

fn fetch(
    home: &Path,
    into: &Path,
    package: &str,
    suite: &str,
    stop: Stop<'_>,
) -> Result<(), Error> {
    // A state per suite: lists that a source list no longer names are deleted.
    let state = home.join(format!("apt-source-{suite}"));
    let apt = Apt::new(&state, &into.join("archives"))?;
    let mut mirrors = sources::mirrors();
    mirrors.push(sources::ARCHIVE.to_owned());
    apt.update("deb-src", &[suite.to_owned()], &mirrors, stop)?;
    let mut get = apt.command("apt-get");
    get.args(["source", "--download-only", package]);
    download(get.current_dir(into), stop)
}

/// The file whose name ends so.
fn file_in(path: &Path, end: &str) -> Result<PathBuf, Error> {
    fs::read_dir(path)
        .map_err(io_failed("cannot read", path))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|file| file.to_string_lossy().ends_with(end))
        .ok_or_else(|| Error::failed(path.display(), format!("holds no {end} file")))
}
