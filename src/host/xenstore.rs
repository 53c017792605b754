//! Reads xenstore, over xenstored's socket or the kernel's device.
//!
//! The messages are those of Xen's `public/io/xs_wire.h`. An answer has a
//! limit in size and in time, so that a xenstored that hangs hangs nobody else.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use thiserror::Error;

use super::config::first_existing;
use super::setting::show;

/// Where xenstored may be reached.
pub const PATHS: [&str; 3] = [
    "/run/xenstored/socket",
    "/var/run/xenstored/socket",
    "/dev/xen/xenbus",
];

/// `XENSTORE_PAYLOAD_MAX`.
const MAX_PAYLOAD: usize = 4096;
const HEADER: usize = 16;

const XS_READ: u32 = 2;
const XS_WATCH_EVENT: u32 = 15;
const XS_ERROR: u32 = 16;

/// Why xenstore has not answered.
#[derive(Debug, Error)]
pub enum XenstoreError {
    /// It cannot be reached, or the connection broke.
    #[error("{path}: {source}")]
    Io {
        /// The socket or device.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It has not answered in time.
    #[error("{path}: no answer in time")]
    Timeout {
        /// The socket or device.
        path: PathBuf,
    },
    /// It answered something that is no answer.
    #[error("{path}: {what}")]
    Protocol {
        /// The socket or device.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// It refused.
    #[error("{path}: xenstored says {error} to reading {key}")]
    Refused {
        /// The socket or device.
        path: PathBuf,
        /// What was asked for.
        key: String,
        /// Its error, such as `EACCES`.
        error: String,
    },
}

/// A connection to xenstored.
#[derive(Debug)]
pub struct Xenstore {
    fd: OwnedFd,
    path: PathBuf,
    /// For each request and its answer.
    timeout: Duration,
    next: u32,
}

impl Xenstore {
    /// Connects to `path`, else to the first of [`PATHS`] that exists; `None`
    /// if there is none. Each call, this one too, ends within `timeout`.
    ///
    /// # Errors
    ///
    /// See [`XenstoreError`].
    pub fn connect(
        path: Option<&Path>,
        timeout: Duration,
    ) -> Result<Option<Xenstore>, XenstoreError> {
        let path = match path {
            Some(path) => path.exists().then(|| path.to_owned()),
            None => first_existing(&PATHS),
        };
        let Some(path) = path else {
            return Ok(None);
        };
        let fd = open(&path, Instant::now() + timeout).map_err(|source| XenstoreError::Io {
            path: path.clone(),
            source,
        })?;
        Ok(Some(Xenstore {
            fd,
            path,
            timeout,
            next: 1,
        }))
    }

    /// The value of `key`; `None` if there is no such key.
    ///
    /// # Errors
    ///
    /// See [`XenstoreError`].
    pub fn read(&mut self, key: &str) -> Result<Option<Vec<u8>>, XenstoreError> {
        let until = Instant::now() + self.timeout;
        if key.len() >= MAX_PAYLOAD || key.contains('\0') {
            return Err(self.wrong("the key is too long"));
        }
        let id = self.next;
        self.next = id.wrapping_add(1);
        // At most MAX_PAYLOAD.
        let size = u32::try_from(key.len() + 1).unwrap_or(0);
        let mut request = Vec::with_capacity(HEADER + key.len() + 1);
        // Not in a transaction.
        for word in [XS_READ, id, 0, size] {
            request.extend(word.to_ne_bytes());
        }
        request.extend(key.as_bytes());
        request.push(0);
        self.send(&request, until)?;
        let (kind, value) = self.answer(id, until)?;
        if kind == XS_READ {
            return Ok(Some(value));
        }
        let error = String::from_utf8_lossy(&value);
        match error.trim_end_matches('\0') {
            "ENOENT" => Ok(None),
            error => Err(XenstoreError::Refused {
                path: self.path.clone(),
                key: key.to_owned(),
                error: show(error),
            }),
        }
    }

    /// The answer to a request: its kind and payload.
    fn answer(&self, id: u32, until: Instant) -> Result<(u32, Vec<u8>), XenstoreError> {
        loop {
            let mut header = [0; HEADER];
            self.receive(&mut header, until)?;
            let word = |at: usize| {
                let mut bytes = [0; 4];
                bytes.copy_from_slice(&header[at..at + 4]);
                u32::from_ne_bytes(bytes)
            };
            let (kind, of, size) = (word(0), word(4), word(12) as usize);
            if size > MAX_PAYLOAD {
                return Err(self.wrong("an answer of more than 4096 bytes"));
            }
            let mut payload = vec![0; size];
            self.receive(&mut payload, until)?;
            match kind {
                XS_READ | XS_ERROR if of == id => return Ok((kind, payload)),
                // Nobody asked, but it is allowed.
                XS_WATCH_EVENT => {}
                _ => return Err(self.wrong("an answer to another question")),
            }
        }
    }

    fn send(&self, mut bytes: &[u8], until: Instant) -> Result<(), XenstoreError> {
        while !bytes.is_empty() {
            match rustix::io::write(&self.fd, bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) => self.wait(error, PollFlags::OUT, until)?,
            }
        }
        Ok(())
    }

    fn receive(&self, mut bytes: &mut [u8], until: Instant) -> Result<(), XenstoreError> {
        while !bytes.is_empty() {
            match rustix::io::read(&self.fd, &mut *bytes) {
                Ok(0) => return Err(self.wrong("xenstored has closed the connection")),
                Ok(count) => bytes = &mut bytes[count..],
                Err(error) => self.wait(error, PollFlags::IN, until)?,
            }
        }
        Ok(())
    }

    /// Waits until it can go on after `error`.
    fn wait(&self, error: Errno, what: PollFlags, until: Instant) -> Result<(), XenstoreError> {
        match error {
            Errno::INTR => return Ok(()),
            Errno::AGAIN => {}
            _ => {
                return Err(XenstoreError::Io {
                    path: self.path.clone(),
                    source: error.into(),
                });
            }
        }
        if wait(&self.fd, what, until) {
            return Ok(());
        }
        Err(XenstoreError::Timeout {
            path: self.path.clone(),
        })
    }

    fn wrong(&self, what: &'static str) -> XenstoreError {
        XenstoreError::Protocol {
            path: self.path.clone(),
            what,
        }
    }
}

/// Opens the socket or the device, so that no call on it blocks.
fn open(path: &Path, until: Instant) -> io::Result<OwnedFd> {
    if !std::fs::metadata(path)?.file_type().is_socket() {
        let mut options = OpenOptions::new();
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = options
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(path)?;
        return Ok(file.into());
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let address = SocketAddrUnix::new(path)?;
    loop {
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(socket),
            // Its queue is full.
            Err(Errno::AGAIN) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits for one of `what` on `fd`; `false` when `until` has come first.
pub(super) fn wait(fd: impl AsFd, what: PollFlags, until: Instant) -> bool {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or(Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        });
        let mut fds = [PollFd::new(&fd, what)];
        match poll(&mut fds, Some(&left)) {
            Err(Errno::INTR) => {}
            ready => return ready.is_ok_and(|count| count > 0),
        }
    }
}
