//! Debian packages, unpacked into private trees.
//!
//! apt only downloads; `dpkg -x` unpacks. Nothing of the host changes, no root
//! is needed, and no version is pinned. Programs start through the tree's own
//! dynamic loader, so the host's C library does not matter.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use super::apt::{APT_REMEDY, Apt, download};
use super::cache::{self, Kept, Lock, io_failed};
use super::process::{self, Stop};
use super::{Error, sources};

/// Increase when trees made by an earlier version are of no use.
const VERSION: u32 = 1;
const SUITE: &str = "trixie";
const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
const UNPACK_LIMIT: Duration = Duration::from_secs(60);

/// What a tree is made of.
#[derive(Debug)]
pub struct Recipe {
    /// The tree's name in the cache.
    pub name: &'static str,
    /// Whether packages come from the suite's backports where they can.
    pub backports: bool,
    /// Packages unpacked with all that they depend on.
    pub packages: &'static [&'static str],
    /// An empty package of which only the dependency with this prefix is
    /// unpacked, alone.
    pub alone: Option<(&'static str, &'static str)>,
    /// Programs that must start; the argument makes them end at once.
    pub programs: &'static [(&'static str, &'static str)],
}

/// An unpacked tree; it is not replaced while this lives.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    _lock: Lock,
}

impl Tree {
    /// Whether it is in the cache, of whatever age.
    pub fn is_kept(recipe: &Recipe) -> bool {
        let place = recipe.place();
        place.is_ok_and(|(_, made_of, path)| cache::is_kept(&path, &made_of))
    }

    /// Finds the tree in the cache or makes it, unless told to stop.
    ///
    /// # Errors
    ///
    /// Missing if this machine, its programs or its network do not allow it.
    pub fn obtain(recipe: &Recipe, stop: Stop<'_>) -> Result<Self, Error> {
        if !cfg!(target_arch = "x86_64") {
            return Err(Error::missing(
                "cannot run Debian's amd64 packages",
                format!("this machine is {}", std::env::consts::ARCH),
                "use an x86_64 machine",
            ));
        }
        let (home, made_of, path) = recipe.place()?;
        fs::create_dir_all(&home).map_err(io_failed("cannot make", &home))?;
        let lock = Kept {
            path: path.clone(),
            recipe: &made_of,
            lifetime: Some(LIFETIME),
            check: &|root| recipe.check(root),
            make: &|root| recipe.make(&home, root, stop),
        }
        .obtain()?;
        Ok(Self {
            root: path,
            _lock: lock,
        })
    }

    /// A path inside the tree.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.root.join(inside)
    }

    /// A command that starts a program of the tree.
    pub fn command(&self, program: &str) -> Command {
        command(&self.root, program)
    }

    /// The libraries that a program of the tree loads.
    ///
    /// # Errors
    ///
    /// If its loader fails.
    pub fn libraries(&self, program: &str) -> Result<Vec<PathBuf>, Error> {
        let mut list = loader(&self.root);
        list.arg("--list").arg(self.root.join(program));
        let text = process::run(&mut list, UNPACK_LIMIT, APT_REMEDY)?;
        let found = text
            .lines()
            .filter_map(|line| line.split_once(" => ")?.1.split_once(" (0x"));
        Ok(found.map(|(path, _)| PathBuf::from(path)).collect())
    }
}

fn loader(root: &Path) -> Command {
    let mut command = Command::new(root.join("usr/lib64/ld-linux-x86-64.so.2"));
    command
        .arg("--library-path")
        .arg(root.join("usr/lib/x86_64-linux-gnu"));
    command
}

fn command(root: &Path, program: &str) -> Command {
    let mut command = loader(root);
    command.arg(root.join(program));
    command
}

impl Recipe {
    /// All trees' directory, what this one is made of, and where it is kept.
    fn place(&self) -> Result<(PathBuf, String, PathBuf), Error> {
        let home = cache::directory()?.join("debian");
        let made_of = format!("{VERSION} {SUITE} {self:?}");
        let path = home.join(format!("{}-{}", self.name, cache::key(&made_of)));
        Ok((home, made_of, path))
    }

    fn check(&self, root: &Path) -> Result<(), Error> {
        for (program, argument) in self.programs {
            process::run(
                command(root, program).arg(argument),
                UNPACK_LIMIT,
                "the unpacked tree is broken",
            )?;
        }
        Ok(())
    }

    /// Downloads and unpacks into `root`; `home` holds apt's state.
    fn make(&self, home: &Path, root: &Path, stop: Stop<'_>) -> Result<(), Error> {
        let archives = root.join("archives");
        let apt = Apt::new(&home.join("apt"), &archives)?;
        let suites = [SUITE.to_owned(), format!("{SUITE}-backports")];
        apt.update("deb", &suites, &sources::mirrors(), stop)?;
        let mut install = apt.command("apt-get");
        install.args(["install", "--yes", "--download-only"]);
        install.arg("--no-install-recommends");
        if self.backports {
            install.args(["--target-release", &format!("{SUITE}-backports")]);
        }
        download(install.args(self.packages), stop)?;
        if let Some((package, prefix)) = self.alone {
            let real = apt.dependency(package, prefix)?;
            let mut get = apt.command("apt-get");
            download(get.args(["download", &real]).current_dir(&archives), stop)?;
        }
        drop(apt);
        unpack(&archives, root, stop)?;
        // As an installed system has them; linker scripts name them.
        for (inside, name) in [("usr/lib", "lib"), ("usr/lib64", "lib64")] {
            let link = root.join(name);
            symlink(inside, &link).map_err(io_failed("cannot make", &link))?;
        }
        fs::remove_dir_all(&archives).map_err(io_failed("cannot remove", &archives))
    }
}

/// Unpacks all archives, on two threads: most of it is decompression.
fn unpack(archives: &Path, root: &Path, stop: Stop<'_>) -> Result<(), Error> {
    let packages: Vec<PathBuf> = fs::read_dir(archives)
        .map_err(io_failed("cannot read", archives))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|kind| kind == "deb"))
        .collect();
    let queue = Mutex::new(packages.into_iter());
    let work = || {
        // Written so that the lock is not held while unpacking.
        let next = || queue.lock().ok()?.next();
        while let Some(package) = next() {
            let mut dpkg = Command::new("dpkg");
            dpkg.arg("-x").arg(&package).arg(root);
            process::run_unless(stop, &mut dpkg, UNPACK_LIMIT, APT_REMEDY)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let other = scope.spawn(work);
        let own = work();
        other
            .join()
            .unwrap_or_else(|_| Err(Error::failed("unpacking", "the thread panicked")))
            .and(own)
    })
}
