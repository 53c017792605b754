//! What the rig keeps between runs: directories that are whole or absent.
//!
//! A kept directory is made under another name, gets its stamp file as the
//! last thing, and is renamed into place. The stamp holds the recipe in full,
//! so neither a half-made directory nor a hash collision is taken for good.
//! One lock file per directory makes this safe between test processes: users
//! hold it shared for as long as they live, a maker holds it alone.

use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};

use super::RigError;

const STAMP: &str = "stamp";

/// The rig's cache directory, made if it is not there.
pub(crate) fn directory() -> Result<PathBuf, RigError> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        // The XDG base directory specification: a relative path is ignored.
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    let Some(base) = base else {
        return Err(RigError::missing(
            "no cache directory",
            "neither XDG_CACHE_HOME nor HOME is set",
            "set XDG_CACHE_HOME to a directory with 600 MB of space",
        ));
    };
    let path = base.join("vgpu-stub");
    fs::create_dir_all(&path).map_err(|error| {
        RigError::missing(
            format!("cannot make the cache directory {}", path.display()),
            error,
            "set XDG_CACHE_HOME to a directory that can be written",
        )
    })?;
    Ok(path)
}

/// A short name for `parts`.
pub(crate) fn key(parts: impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// An I/O error with the path it concerns.
pub(crate) fn io_failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> RigError {
    let what = format!("{what} {}", path.display());
    move |error| RigError::failed(what, error)
}

/// A lock file, held until drop.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    fn open(path: &Path) -> Result<File, RigError> {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(io_failed("cannot open the lock file", path))
    }

    fn take(path: &Path, operation: FlockOperation) -> Result<Option<Self>, RigError> {
        let file = Self::open(path)?;
        loop {
            match flock(&file, operation) {
                Ok(()) => return Ok(Some(Self(file))),
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(io_failed("cannot lock", path)(error.into())),
            }
        }
    }

    /// Waits until nobody else holds the lock.
    pub(crate) fn alone(path: &Path) -> Result<Self, RigError> {
        match Self::take(path, FlockOperation::LockExclusive)? {
            Some(lock) => Ok(lock),
            None => Err(RigError::failed("cannot lock", path.display())),
        }
    }
}

/// Something that is made once and kept.
pub(crate) struct Kept<'a> {
    /// Where it lies.
    pub(crate) path: PathBuf,
    /// All that it is made of, in full.
    pub(crate) recipe: &'a str,
    /// Made anew when older than this.
    pub(crate) lifetime: Option<Duration>,
    /// Whether what lies at the path works.
    pub(crate) check: &'a dyn Fn(&Path) -> Result<(), RigError>,
    /// Makes it in the empty directory given.
    pub(crate) make: &'a dyn Fn(&Path) -> Result<(), RigError>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Absent,
    Old,
    Good,
}

impl Kept<'_> {
    /// Makes the directory if needed; nobody replaces it while the lock lives.
    pub(crate) fn obtain(&self) -> Result<Lock, RigError> {
        let lock_path = self.path.with_extension("lock");
        let mut old_will_do = false;
        loop {
            if let Some(lock) = Lock::take(&lock_path, FlockOperation::LockShared)? {
                match self.state() {
                    State::Good => return Ok(lock),
                    State::Old if old_will_do => return Ok(lock),
                    State::Absent | State::Old => {}
                }
            }
            old_will_do = self.remake(&lock_path)?;
        }
    }

    /// Returns whether an old one will have to do.
    fn remake(&self, lock_path: &Path) -> Result<bool, RigError> {
        let operation = match self.state() {
            State::Good => return Ok(false),
            State::Absent => FlockOperation::LockExclusive,
            // Others may be running programs from it.
            State::Old => FlockOperation::NonBlockingLockExclusive,
        };
        let Some(_lock) = Lock::take(lock_path, operation)? else {
            return Ok(true);
        };
        let state = self.state();
        if state == State::Good {
            return Ok(false);
        }
        match self.replace() {
            Ok(()) => Ok(false),
            Err(error) if state == State::Old => {
                eprintln!("rig: {error}; using what {} holds", self.path.display());
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    fn state(&self) -> State {
        let stamp = self.path.join(STAMP);
        if fs::read_to_string(&stamp).is_ok_and(|text| text == self.recipe)
            && (self.check)(&self.path).is_ok()
        {
            let made = fs::metadata(&stamp).and_then(|stamp| stamp.modified());
            // A stamp from the future counts as new.
            let age = made.map(|made| SystemTime::now().duration_since(made).unwrap_or_default());
            match (age, self.lifetime) {
                (Ok(age), Some(lifetime)) if age > lifetime => State::Old,
                _ => State::Good,
            }
        } else {
            State::Absent
        }
    }

    fn replace(&self) -> Result<(), RigError> {
        let new = self.path.with_extension("new");
        remove(&new)?;
        fs::create_dir_all(&new).map_err(io_failed("cannot make", &new))?;
        (self.make)(&new)?;
        (self.check)(&new)?;
        let stamp = new.join(STAMP);
        fs::write(&stamp, self.recipe).map_err(io_failed("cannot write", &stamp))?;
        remove(&self.path)?;
        fs::rename(&new, &self.path).map_err(io_failed("cannot rename", &new))
    }
}

/// Removes a directory that may be absent.
fn remove(path: &Path) -> Result<(), RigError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_failed("cannot remove", path)(error))
        }
        _ => Ok(()),
    }
}
