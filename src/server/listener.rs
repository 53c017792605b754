//! The socket that clients connect to.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketType, sockopt};
use thiserror::Error;

/// Why a device has no socket.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Someone answers on the path.
    #[error("{path}: another server listens there; stop it or choose another --socket-path")]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// There is something other than a socket.
    #[error("{path}: exists and is not a socket; remove it or choose another --socket-path")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The path cannot be bound.
    #[error("{path}: cannot listen: {source}; {advice}")]
    Bind {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
        /// What to do about it.
        advice: &'static str,
    },
    /// An inherited descriptor is of no use.
    #[error("file descriptor {fd} is not a UNIX stream socket; pass a listening or connected one")]
    BadDescriptor {
        /// Its number.
        fd: i32,
    },
}

/// Where a device's clients come from.
#[derive(Debug)]
pub enum Source {
    /// They connect, one after the other.
    Listener(Listener),
    /// One is connected already; the device is done when it leaves.
    Connected(UnixStream),
}

/// A listening socket; removed from the file system when dropped.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    /// The path with the inode that we made, if we made it.
    path: Option<(PathBuf, u64)>,
}

impl Listener {
    /// Listens on `path`. A socket that is there and that nobody answers on is
    /// replaced. `mode` are the socket's permissions, if not those of the
    /// umask.
    ///
    /// # Errors
    ///
    /// See [`ListenError`].
    pub fn bind(path: &Path, mode: Option<u32>) -> Result<Self, ListenError> {
        remove_stale(path)?;
        let failed = |source: io::Error| ListenError::Bind {
            path: path.to_owned(),
            advice: advice(&source),
            source,
        };
        let listener = UnixListener::bind(path).map_err(failed)?;
        let inode = fs::metadata(path).map_err(failed)?.ino();
        let listener = Listener {
            listener,
            path: Some((path.to_owned(), inode)),
        };
        if let Some(mode) = mode {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
        }
        Ok(listener)
    }

    /// Waits until a client has connected or the socket was shut down;
    /// `false` if neither happens within `time`.
    pub(super) fn wait(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // More than any time in use.
            let left = Timespec::try_from(left).unwrap_or(Timespec {
                tv_sec: i64::MAX,
                tv_nsec: 0,
            });
            let mut fds = [PollFd::new(&self.listener, PollFlags::IN)];
            match rustix::event::poll(&mut fds, Some(&left)) {
                Err(rustix::io::Errno::INTR) => {}
                // Of another error accept will tell.
                ready => return ready != Ok(0),
            }
        }
    }

    /// From now on [`Listener::accept_now`] waits for nobody, not even if
    /// another process takes the client that has come.
    pub(super) fn never_wait(&self) -> io::Result<()> {
        self.listener.set_nonblocking(true)
    }

    /// The next client if it has come.
    pub(super) fn accept_now(&self) -> io::Result<Option<UnixStream>> {
        match self.accept() {
            Ok(stream) => Ok(Some(stream)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The next client. Others wait until it has been served.
    pub(super) fn accept(&self) -> io::Result<UnixStream> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => return Ok(stream),
                // It left again before it was served.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some((path, inode)) = &self.path
            // Another server may have replaced it.
            && fs::symlink_metadata(path).is_ok_and(|metadata| metadata.ino() == *inode)
        {
            let _ = fs::remove_file(path);
        }
    }
}

impl Source {
    /// Takes over a socket that was inherited, listening or connected.
    ///
    /// # Errors
    ///
    /// [`ListenError::BadDescriptor`].
    pub fn from_fd(fd: OwnedFd) -> Result<Self, ListenError> {
        use std::os::fd::AsRawFd;
        let number = fd.as_raw_fd();
        let is_unix = sockopt::socket_domain(&fd) == Ok(AddressFamily::UNIX);
        let is_stream = sockopt::socket_type(&fd) == Ok(SocketType::STREAM);
        // Inherited, it must neither be passed on nor be non-blocking.
        let usable = rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).is_ok()
            && rustix::io::ioctl_fionbio(&fd, false).is_ok();
        match sockopt::socket_acceptconn(&fd) {
            Ok(listening) if is_unix && is_stream && usable => Ok(if listening {
                Source::Listener(Listener {
                    listener: UnixListener::from(fd),
                    path: None,
                })
            } else {
                Source::Connected(UnixStream::from(fd))
            }),
            _ => Err(ListenError::BadDescriptor { fd: number }),
        }
    }
}

fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let path = path.to_owned();
    let Ok(metadata) = fs::symlink_metadata(&path) else {
        // Not there, or bind will say why it cannot be reached.
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(ListenError::NotASocket { path });
    }
    match UnixStream::connect(&path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(&path)
            .map_err(|source| ListenError::Bind {
                path,
                advice: advice(&source),
                source,
            }),
        // Answered, or not ours to judge.
        _ => Err(ListenError::InUse { path }),
    }
}

/// Whether accept failed for want of something that others use and may give
/// back, descriptors above all.
pub(super) fn passes(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
            "raise the limit of open descriptors (ulimit -n)"
        }
        io::ErrorKind::NotFound => "make its directory first",
        io::ErrorKind::PermissionDenied => "run as a user who may write there",
        io::ErrorKind::InvalidInput => "use a shorter path, a socket's has at most 107 bytes",
        _ => "choose another --socket-path",
    }
}
