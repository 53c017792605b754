//! The directories of running servers: one for each domain, of no use to
//! anyone else.
//!
//! A shared lock on a directory's `lock` says that it is in use: the launcher
//! has it until it executes QEMU, the keeper and the server until they end.
//! Nothing else has to be tidied up for a directory to be known as a leftover,
//! whatever killed its users.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process_group};

/// How long to wait for another launcher, or for a leftover to die.
const PATIENCE: Duration = Duration::from_secs(1);

/// A directory in use; it is one while this lives.
#[derive(Debug)]
pub(super) struct InUse {
    path: PathBuf,
    lock: File,
}

impl InUse {
    /// Makes the directory `name` in `run`, empty, whatever was there, and
    /// removes the directories that nobody uses any more.
    pub(super) fn make(run: &Path, name: &str) -> io::Result<InUse> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o755).create(run)?;
        // While it is held, directories only go out of use.
        let all = open(&run.join(".lock"), true)?;
        // Without it, one start in a thousand sweeps what another makes.
        lock(&all, FlockOperation::NonBlockingLockExclusive);
        sweep(run, name);
        let path = run.join(name);
        end(&path);
        remove(&path)?;
        DirBuilder::new().mode(0o700).create(&path)?;
        let lock = open(&path.join("lock"), true)?;
        flock(&lock, FlockOperation::NonBlockingLockShared)?;
        Ok(InUse { path, lock })
    }

    /// Uses, as a keeper, the directory that a launcher has made. The process
    /// leads a group, which ends with whoever makes the directory anew.
    pub(super) fn join(path: &Path) -> io::Result<InUse> {
        let lock = open(&path.join("lock"), false)?;
        flock(&lock, FlockOperation::NonBlockingLockShared)?;
        let path = path.to_owned();
        fs::write(path.join("pid"), std::process::id().to_string())?;
        Ok(InUse { path, lock })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What keeps it in use.
    pub(super) fn lock(&self) -> &File {
        &self.lock
    }

    /// Removes it.
    pub(super) fn remove(self) -> io::Result<()> {
        remove(&self.path)
    }
}

/// Removes what nobody uses, but for `except`.
fn sweep(run: &Path, except: &str) {
    let Ok(entries) = fs::read_dir(run) else {
        return;
    };
    // There cannot be as many domains as this.
    for entry in entries.take(0x8000).flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours = !name.is_empty() && name.bytes().all(|c| c.is_ascii_digit());
        if ours && name != except && !used(&entry.path()) {
            // The next start tries again.
            let _ = remove(&entry.path());
        }
    }
}

/// Whether someone has a directory in use.
pub(crate) fn used(path: &Path) -> bool {
    let lock = open(&path.join("lock"), false);
    lock.is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err())
}

/// Ends a leftover with the same name: a server whose QEMU never came, say.
fn end(path: &Path) {
    let until = Instant::now() + PATIENCE;
    while used(path) && Instant::now() < until {
        let pid = fs::read_to_string(path.join("pid"));
        let pid = pid.ok().and_then(|pid| pid.trim().parse().ok());
        // Held by one of its group, so the number is nobody else's.
        if let Some(pid) = pid.filter(|pid| *pid > 1).and_then(Pid::from_raw) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(create).create(create).mode(0o600);
    options.open(path)
}

/// Takes a lock, if it can be had in time.
fn lock(file: &File, how: FlockOperation) {
    let until = Instant::now() + PATIENCE;
    while flock(file, how).is_err() && Instant::now() < until {
        thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_uses_goes_and_what_is_used_stays() {
        let run = tempfile::tempdir().unwrap();
        let used = InUse::make(run.path(), "5").unwrap();
        for leftover in ["3", "4"] {
            fs::create_dir(run.path().join(leftover)).unwrap();
            fs::write(run.path().join(leftover).join("socket"), "").unwrap();
        }
        fs::write(run.path().join("4/lock"), "").unwrap();
        fs::create_dir(run.path().join("others")).unwrap();
        let new = InUse::make(run.path(), "6").unwrap();
        let there = |name: &str| run.path().join(name).exists();
        assert!(there("5") && there("6") && there("others"));
        assert!(!there("3") && !there("4"));
        drop(used);
        new.remove().unwrap();
        InUse::make(run.path(), "7").unwrap();
        assert!(!there("5") && !there("6"));
    }

    #[test]
    fn it_is_in_use_while_one_of_its_users_is_there() {
        let run = tempfile::tempdir().unwrap();
        let launcher = InUse::make(run.path(), "5").unwrap();
        let path = launcher.path().to_owned();
        let lock = open(&path.join("lock"), false).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockShared).unwrap();
        drop(launcher);
        assert!(used(&path));
        drop(lock);
        assert!(!used(&path));
    }

    #[test]
    fn a_leftover_of_the_same_name_is_replaced() {
        let run = tempfile::tempdir().unwrap();
        let first = InUse::make(run.path(), "5").unwrap();
        fs::write(first.path().join("socket"), "").unwrap();
        drop(first);
        let second = InUse::make(run.path(), "5").unwrap();
        assert!(!second.path().join("socket").exists());
        assert!(second.path().join("lock").exists());
    }
}
