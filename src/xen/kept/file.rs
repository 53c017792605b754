//! The file itself: opened, locked, made as large as it has to be.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::Errno;

use super::error::{Cause, KeptError};
use super::mapping::Mapping;

/// Group and others may write.
const WRITABLE: u32 = 0o022;

/// A state file, locked while this is open.
#[derive(Debug)]
pub(super) struct StateFile {
    file: File,
    path: Option<PathBuf>,
}

impl StateFile {
    pub(super) fn at(path: &Path) -> Result<Self, KeptError> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path);
        let what = "open";
        let file = file.map_err(|error| {
            KeptError::new(path.display().to_string(), Cause::System { what, error })
        })?;
        let path = Some(path.to_owned());
        StateFile { file, path }.locked()
    }

    pub(super) fn from_fd(fd: OwnedFd) -> Result<Self, KeptError> {
        let file = File::from(fd);
        StateFile { file, path: None }.locked()
    }

    fn locked(self) -> Result<Self, KeptError> {
        let metadata = self.file.metadata();
        let metadata = metadata.map_err(|error| self.system("look at", error))?;
        if !metadata.is_file() {
            return Err(self.error(Cause::NoFile));
        }
        if metadata.mode() & WRITABLE != 0 {
            return Err(self.error(Cause::Writable));
        }
        match rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(self),
            Err(Errno::WOULDBLOCK) => Err(self.error(Cause::Locked)),
            Err(error) => Err(self.system("lock", error.into())),
        }
    }

    /// Its first words, as many as it has of them.
    pub(super) fn head(&self, words: &mut [u64]) -> Result<usize, KeptError> {
        let mut bytes = vec![0; words.len() * 8];
        let mut length = 0;
        while length < bytes.len() {
            match self.file.read_at(&mut bytes[length..], length as u64) {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.system("read", error)),
            }
        }
        let (chunks, _) = bytes[..length].as_chunks::<8>();
        for (word, bytes) in words.iter_mut().zip(chunks) {
            *word = u64::from_ne_bytes(*bytes);
        }
        Ok(length / 8)
    }

    /// Makes it empty and then zeros of this length, with all its pages now.
    pub(super) fn make_room(&self, words: usize) -> Result<(), KeptError> {
        let bytes = words as u64 * 8;
        let emptied = self.file.set_len(0);
        emptied.map_err(|error| self.system("empty", error))?;
        let made = rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, bytes);
        made.map_err(|error| self.system("make room in", error.into()))
    }

    /// Maps it, if it is as long as that.
    pub(super) fn map(&self, words: usize) -> Result<Mapping, KeptError> {
        let metadata = self.file.metadata();
        let metadata = metadata.map_err(|error| self.system("look at", error))?;
        if metadata.len() != words as u64 * 8 {
            let why = "its length";
            return Err(self.error(Cause::Nonsense { why }));
        }
        Mapping::new(&self.file, words).map_err(|error| self.system("map", error))
    }

    /// Takes the name away: who opens it makes another.
    pub(super) fn remove(&self) {
        if let Some(path) = &self.path
            && let Err(error) = std::fs::remove_file(path)
        {
            log::warn!("{}", self.system("remove", error));
        }
    }

    pub(super) fn error(&self, cause: Cause) -> KeptError {
        let name = self.path.as_ref();
        let name = name.map_or("that was inherited".to_owned(), |p| p.display().to_string());
        KeptError::new(name, cause)
    }

    fn system(&self, what: &'static str, error: io::Error) -> KeptError {
        self.error(Cause::System { what, error })
    }
}
