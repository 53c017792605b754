//! What is kept between runs: directories that are whole or absent.
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

use super::Error;

const STAMP: &str = "stamp";

/// The cache directory, made if it is not there.
///
/// # Errors
///
/// Missing if there is no place for it.
pub fn directory() -> Result<PathBuf, Error> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        // The XDG base directory specification: a relative path is ignored.
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    let Some(base) = base else {
        return Err(Error::missing(
            "no cache directory",
            "neither XDG_CACHE_HOME nor HOME is set",
            "set XDG_CACHE_HOME to a directory with 600 MB of space",
        ));
    };
    let path = base.join("vgpu-stub");
    fs::create_dir_all(&path).map_err(|error| {
        Error::missing(
            format!("cannot make the cache directory {}", path.display()),
            error,
            "set XDG_CACHE_HOME to a directory that can be written",
        )
    })?;
    Ok(path)
}

/// A short name for `parts`.
pub fn key(parts: impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// An I/O error with the path it concerns.
pub fn io_failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let what = format!("{what} {}", path.display());
    move |error| Error::failed(what, error)
}

/// A lock file, held until drop.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    fn open(path: &Path) -> Result<File, Error> {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(io_failed("cannot open the lock file", path))
    }

    fn take(path: &Path, operation: FlockOperation) -> Result<Option<Self>, Error> {
        let file = Self::open(path)?;
        loop {
            match flock(&file, operation) {
                Ok(()) => return Ok(Some(Self { _file: file })),
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(io_failed("cannot lock", path)(error.into())),
            }
        }
    }

    /// Waits until nobody else holds the lock.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened or locked.
    pub fn alone(path: &Path) -> Result<Self, Error> {
        match Self::take(path, FlockOperation::LockExclusive)? {
            Some(lock) => Ok(lock),
            None => Err(Error::failed("cannot lock", path.display())),
        }
    }
}

/// Whether this path holds what was made of this recipe, of whatever age.
pub fn is_kept(path: &Path, recipe: &str) -> bool {
    fs::read_to_string(path.join(STAMP)).is_ok_and(|text| text == recipe)
}

/// Makes a directory where it stays, for what cannot be renamed afterwards.
/// The caller holds a lock on it alone.
///
/// # Errors
///
/// What `make` returns, or if the cache cannot be written.
pub fn fill(
    path: &Path,
    recipe: &str,
    make: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    if is_kept(path, recipe) {
        return Ok(());
    }
    remove(path)?;
    fs::create_dir_all(path).map_err(io_failed("cannot make", path))?;
    make()?;
    let stamp = path.join(STAMP);
    fs::write(&stamp, recipe).map_err(io_failed("cannot write", &stamp))
}

/// Something that is made once and kept.
pub struct Kept<'a> {
    /// Where it lies.
    pub path: PathBuf,
    /// All that it is made of, in full.
    pub recipe: &'a str,
    /// Made anew when older than this.
    pub lifetime: Option<Duration>,
    /// Whether what lies at the path works.
    pub check: &'a dyn Fn(&Path) -> Result<(), Error>,
    /// Makes it in the empty directory given.
    pub make: &'a dyn Fn(&Path) -> Result<(), Error>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Absent,
    Old,
    Good,
}

impl Kept<'_> {
    /// Makes the directory if needed; nobody replaces it while the lock lives.
    ///
    /// # Errors
    ///
    /// What `make` or `check` returns, or if the cache cannot be written.
    pub fn obtain(&self) -> Result<Lock, Error> {
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
    fn remake(&self, lock_path: &Path) -> Result<bool, Error> {
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
                log::warn!("{error}; using what {} holds", self.path.display());
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    fn state(&self) -> State {
        let stamp = self.path.join(STAMP);
        if is_kept(&self.path, self.recipe) && (self.check)(&self.path).is_ok() {
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

    fn replace(&self) -> Result<(), Error> {
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
fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_failed("cannot remove", path)(error))
        }
        _ => Ok(()),
    }
}
