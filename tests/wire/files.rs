//! Descriptors of every kind.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use rustix::event::{EventfdFlags, PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, SealFlags};

/// Shared memory that holds `contents` and zeros up to `size`.
pub(crate) fn memory(size: u64, contents: &[u8]) -> File {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(rustix::fs::memfd_create("test", flags).unwrap());
    file.set_len(size).unwrap();
    file.write_all_at(contents, 0).unwrap();
    file
}

/// Forbids all writes.
pub(crate) fn seal(file: &File) {
    rustix::fs::fcntl_add_seals(file, SealFlags::WRITE).unwrap();
}

/// An eventfd with a count of 0.
pub(crate) fn eventfd() -> OwnedFd {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

/// How often an eventfd was signalled since this was asked last.
pub(crate) fn rung(event: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    match rustix::io::read(event, &mut count) {
        Ok(8) => u64::from_ne_bytes(count),
        _ => 0,
    }
}

/// Descriptors that are neither files nor eventfds.
pub(crate) fn wrong_kinds() -> Vec<(&'static str, OwnedFd)> {
    let (pipe, _) = std::io::pipe().unwrap();
    let (socket, _) = UnixStream::pair().unwrap();
    let open = |path| OwnedFd::from(File::open(path).unwrap());
    vec![
        ("a pipe", pipe.into()),
        ("a socket", socket.into()),
        ("a directory", open("/")),
        ("/dev/zero", open("/dev/zero")),
    ]
}

/// How many descriptors this process has.
pub(crate) fn open_descriptors() -> usize {
    // One is the directory's own.
    std::fs::read_dir("/proc/self/fd").unwrap().count() - 1
}

/// A second descriptor of the same file.
pub(crate) fn again(fd: &impl AsFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().unwrap()
}

/// Waits until an eventfd is signalled.
pub(crate) fn wait_for(event: &OwnedFd) {
    let timeout = super::PATIENCE.try_into().unwrap();
    let mut fds = [PollFd::new(event, PollFlags::IN)];
    assert_eq!(poll(&mut fds, Some(&timeout)), Ok(1), "no signal came");
}

/// Whether the other end of a socket has yet to receive something: what that
/// takes in the kernel, in bytes.
#[allow(unsafe_code, reason = "no library has this ioctl in safe clothes")]
pub(crate) fn unreceived(stream: &UnixStream) -> i32 {
    let mut queued = 0;
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ) writes one int.
    let outcome = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut queued) };
    assert_eq!(outcome, 0);
    queued
}
