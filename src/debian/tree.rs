//! Debian packages, unpacked into private trees.
//!
//! apt runs with a state of its own (configuration, lists, an empty status
//! file) and only downloads; `dpkg -x` unpacks. Nothing of the host changes,
//! no root is needed, and no version is pinned. Programs start through the
//! tree's own dynamic loader, so the host's C library does not matter.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;
use std::{iter, thread};

use super::cache::{self, Kept, Lock, io_failed};
use super::process::{self, Stop};
use super::{Error, sources};

/// Increase when trees made by an earlier version are of no use.
const VERSION: u32 = 1;
const SUITE: &str = "trixie";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(300);
const UNPACK_LIMIT: Duration = Duration::from_secs(60);
const APT_REMEDY: &str = "install apt and dpkg, or use Debian";

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
        apt.update(stop)?;
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
        fs::remove_dir_all(&archives).map_err(io_failed("cannot remove", &archives))
    }
}

/// A private apt state, used by one process at a time.
struct Apt {
    home: PathBuf,
    _lock: Lock,
}

impl Apt {
    fn new(home: &Path, archives: &Path) -> Result<Self, Error> {
        if !Path::new(KEYRING).exists() {
            return Err(Error::missing(
                "cannot check Debian's signatures",
                format!("{KEYRING} is absent"),
                "install the package debian-archive-keyring",
            ));
        }
        let lock = Lock::alone(&home.with_extension("lock"))?;
        for directory in [
            home.join("etc/apt.conf.d"),
            home.join("etc/preferences.d"),
            home.join("etc/sources.list.d"),
            home.join("state/lists/partial"),
            archives.join("partial"),
        ] {
            fs::create_dir_all(&directory).map_err(io_failed("cannot make", &directory))?;
        }
        let apt = Self {
            home: home.to_owned(),
            _lock: lock,
        };
        apt.write("state/status", "")?;
        apt.write("apt.conf", &configuration(home, archives))?;
        Ok(apt)
    }

    fn write(&self, inside: &str, text: &str) -> Result<(), Error> {
        let path = self.home.join(inside);
        fs::write(&path, text).map_err(io_failed("cannot write", &path))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // Read before all other configuration, so the host's is never seen.
        command.env("APT_CONFIG", self.home.join("apt.conf"));
        command
    }

    /// Fetches the package lists, from the first mirror that has them.
    fn update(&self, stop: Stop<'_>) -> Result<(), Error> {
        let mut result = Ok(());
        for mirror in sources::mirrors() {
            let list = [SUITE, &format!("{SUITE}-backports")]
                .map(|suite| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))
                .concat();
            self.write("etc/sources.list", &list)?;
            // Without --error-on a mirror that is gone is only a warning.
            let mut update = self.command("apt-get");
            result = download(update.args(["update", "--error-on=any"]), stop);
            if result.is_ok() || stop() {
                break;
            }
        }
        result
    }

    /// The package behind an empty one, whatever its version is today.
    fn dependency(&self, package: &str, prefix: &str) -> Result<String, Error> {
        let mut depends = self.command("apt-cache");
        depends.args(["depends", "--important", package]);
        process::run(&mut depends, UNPACK_LIMIT, APT_REMEDY)?
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .ok_or_else(|| Error::failed(package, format!("depends on no {prefix}*")))
    }
}

/// apt.conf(5) of the private state. Only how the host reaches the network
/// is taken over from the host.
fn configuration(home: &Path, archives: &Path) -> String {
    let network = Command::new("apt-config").arg("dump").output();
    let network = network.map_or_else(
        |_| String::new(),
        |dump| String::from_utf8_lossy(&dump.stdout).into_owned(),
    );
    let network = network
        .lines()
        .filter(|line| line.starts_with("Acquire::http") && line.contains("Proxy"))
        .map(str::to_owned);
    let (home, archives) = (home.display(), archives.display());
    let own = [
        format!("Dir::Etc \"{home}/etc\";"),
        format!("Dir::State \"{home}/state\";"),
        format!("Dir::State::status \"{home}/state/status\";"),
        format!("Dir::Cache \"{home}\";"),
        format!("Dir::Cache::archives \"{archives}\";"),
        "APT::Architecture \"amd64\";".to_owned(),
        "APT::Architectures { \"amd64\"; };".to_owned(),
        // The user _apt may not read a private cache.
        "APT::Sandbox::User \"\";".to_owned(),
        "Acquire::Languages \"none\";".to_owned(),
        // Kept small: 20 MB instead of 140.
        "Acquire::GzipIndexes \"true\";".to_owned(),
        "Dir::Cache::pkgcache \"\";".to_owned(),
        "Dir::Cache::srcpkgcache \"\";".to_owned(),
        "Acquire::Retries \"2\";".to_owned(),
        "Acquire::http::Timeout \"20\";".to_owned(),
    ];
    let lines: Vec<String> = network
        .chain(own)
        .chain(iter::once(String::new()))
        .collect();
    lines.join("\n")
}

/// Runs something that needs the network: its failure is an absence.
fn download(command: &mut Command, stop: Stop<'_>) -> Result<(), Error> {
    match process::run_unless(stop, command, DOWNLOAD_LIMIT, APT_REMEDY) {
        Ok(_) => Ok(()),
        Err(Error::Failed { what, why }) => Err(Error::missing(
            format!("cannot get Debian's packages: {what}"),
            why,
            "check that this machine reaches a Debian mirror",
        )),
        Err(missing) => Err(missing),
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
