//! A host's files: the machine's own, or a tree somebody copied. Links are
//! followed by hand, so that none leads out of the tree.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How many links one path may go through, as the kernel has it.
const MOST_LINKS: usize = 40;
/// How many names of a directory are looked at.
const MOST_NAMES: usize = 16 * 1024;

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A UNIX socket.
    Socket,
    /// A device, a FIFO, a link that was not followed.
    Other,
}

/// What `ls -l` says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// What it is.
    pub kind: Kind,
    /// Its permissions: the lower 12 bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last written.
    pub modified: SystemTime,
}

impl Facts {
    /// Anybody may execute it.
    pub(super) fn is_executable(&self) -> bool {
        self.kind == Kind::File && self.mode & 0o111 != 0
    }
}

/// A file system below a directory, which is `/` to it.
#[derive(Clone, Debug)]
pub(super) struct View {
    root: PathBuf,
}

impl View {
    /// The files below `root`.
    pub(super) fn new(root: &Path) -> Self {
        View {
            root: root.to_owned(),
        }
    }

    /// Where on this machine the thing is that `path` names here.
    ///
    /// # Errors
    ///
    /// If nothing is there, or links go in circles.
    pub(super) fn real(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(self.below(&self.resolve(path, true)?))
    }

    /// The same, but of a link the link itself. Its directory is there.
    ///
    /// # Errors
    ///
    /// If its directory is not there.
    pub(super) fn real_entry(&self, path: &Path) -> io::Result<PathBuf> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return self.real(path);
        };
        Ok(self.real(parent)?.join(name))
    }

    /// The name inside the tree, without links.
    ///
    /// # Errors
    ///
    /// As [`real`](Self::real).
    pub(super) fn name(&self, path: &Path) -> io::Result<PathBuf> {
        let inside = self.resolve(path, true)?;
        Ok(Path::new("/").join(inside))
    }

    /// What is at `path`, behind all links.
    ///
    /// # Errors
    ///
    /// As [`real`](Self::real), or if it may not be looked at.
    pub(super) fn facts(&self, path: impl AsRef<Path>) -> io::Result<Facts> {
        let metadata = fs::symlink_metadata(self.real(path.as_ref())?)?;
        let kind = match metadata.file_type() {
            kind if kind.is_file() => Kind::File,
            kind if kind.is_dir() => Kind::Directory,
            kind if kind.is_socket() => Kind::Socket,
            _ => Kind::Other,
        };
        let since = u64::try_from(metadata.mtime()).unwrap_or(0);
        Ok(Facts {
            kind,
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            size: metadata.len(),
            modified: SystemTime::UNIX_EPOCH + Duration::from_secs(since),
        })
    }

    /// Something is at `path`.
    pub(super) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.facts(path).is_ok()
    }

    /// What the link at `path` says.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub(super) fn link(&self, path: impl AsRef<Path>) -> io::Result<PathBuf> {
        fs::read_link(self.real_entry(path.as_ref())?)
    }

    /// Opens a regular file. What is not one is not touched.
    ///
    /// # Errors
    ///
    /// If it is not there, not a regular file, or may not be read.
    pub(super) fn open(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let real = self.real(path.as_ref())?;
        if !fs::symlink_metadata(&real)?.is_file() {
            return Err(io::Error::other("is not a regular file"));
        }
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        OpenOptions::new().read(true).custom_flags(flags).open(real)
    }

    /// At most the first `most` bytes of a file.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub(super) fn read(&self, path: impl AsRef<Path>, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open(path)?.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// A small file as text; what is not UTF-8 is replaced.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub(super) fn text(&self, path: impl AsRef<Path>) -> io::Result<String> {
        const MOST: u64 = 1 << 20;
        Ok(String::from_utf8_lossy(&self.read(path, MOST)?).into_owned())
    }

    /// The names in a directory, sorted; none if it cannot be read. A name
    /// that is not UTF-8 is none that anything here looks for.
    pub(super) fn list(&self, directory: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = self.real(directory.as_ref()).and_then(fs::read_dir) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .take(MOST_NAMES)
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        names
    }

    fn below(&self, inside: &Path) -> PathBuf {
        self.root.join(inside)
    }

    /// The path relative to the root, without links: the last one is followed
    /// only if asked.
    fn resolve(&self, path: &Path, last: bool) -> io::Result<PathBuf> {
        let mut ahead: VecDeque<OsString> = VecDeque::new();
        put_in_front(&mut ahead, path);
        let mut done = PathBuf::new();
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                done.pop();
                continue;
            }
            let here = done.join(&name);
            let metadata = fs::symlink_metadata(self.below(&here))?;
            if !metadata.is_symlink() || (ahead.is_empty() && !last) {
                done = here;
                continue;
            }
            links += 1;
            if links > MOST_LINKS {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            }
            let target = fs::read_link(self.below(&here))?;
            if target.is_absolute() {
                done = PathBuf::new();
            }
            put_in_front(&mut ahead, &target);
        }
        Ok(done)
    }
}

fn put_in_front(ahead: &mut VecDeque<OsString>, path: &Path) {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    let names: Vec<OsString> = names.collect();
    for name in names.into_iter().rev() {
        ahead.push_front(name);
    }
}
