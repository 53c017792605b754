//! One receive, with the descriptors that come along.
#![allow(
    unsafe_code,
    reason = "rustix's recvmsg also takes the sender's address apart, in \
              more instructions than all the rest of a register access"
)]

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::{ptr, slice};

use rustix::io::Errno;

use super::MAX_FDS;

/// Room for the control message of a receive, aligned as the kernel needs it.
type Control = [u64; rustix::cmsg_space!(ScmRights(MAX_FDS)).div_ceil(8)];

/// Receives at most as many bytes as `room` has, and appends the descriptors
/// that came with them to `fds`. With `wait` not before there is something.
///
/// # Errors
///
/// What the kernel says, and [`Errno::MFILE`] if descriptors were lost: this
/// process has too many, or there were more than the kernel carries.
#[allow(clippy::inline_always, reason = "every access comes through here")]
#[inline(always)]
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    room: &mut [u8],
    wait: bool,
    fds: &mut Vec<OwnedFd>,
) -> Result<usize, Errno> {
    let mut control = MaybeUninit::<Control>::uninit();
    let mut part = libc::iovec {
        iov_base: room.as_mut_ptr().cast(),
        iov_len: room.len(),
    };
    let mut message = libc::msghdr {
        msg_name: ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: &raw mut part,
        msg_iovlen: 1,
        msg_control: control.as_mut_ptr().cast(),
        msg_controllen: size_of::<Control>(),
        msg_flags: 0,
    };
    let how = libc::MSG_CMSG_CLOEXEC | if wait { 0 } else { libc::MSG_DONTWAIT };
    // SAFETY: the descriptor is open. The kernel writes within `room`, which
    // is borrowed, within `control`, and to `message`, which all outlive the
    // call; and any bytes may be in `room`.
    let bytes = unsafe { recvmsg(socket.as_raw_fd(), &raw mut message, how) }?;
    if message.msg_controllen > 0 || message.msg_flags & libc::MSG_CTRUNC != 0 {
        // SAFETY: the kernel has written so many bytes of control messages to
        // `control`, and nobody has taken descriptors from them.
        unsafe { take(&message, fds)? };
    }
    Ok(bytes)
}

/// The system call.
///
/// Not libc's: that is a point at which POSIX threads may be cancelled, which
/// takes it more instructions than the rest.
///
/// # Safety
///
/// As recvmsg(2): `message` and what it points to may be written.
#[cfg(target_arch = "x86_64")]
#[allow(clippy::inline_always, reason = "every access comes through here")]
#[inline(always)]
unsafe fn recvmsg(
    socket: libc::c_int,
    message: *mut libc::msghdr,
    how: libc::c_int,
) -> Result<usize, Errno> {
    let result: libc::c_long;
    // SAFETY: the kernel's calling convention: number and result in rax,
    // arguments in rdi, rsi, rdx; rcx and r11 are overwritten, nothing else.
    // What it does to memory is what the caller allows.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") libc::SYS_recvmsg => result,
            in("edi") socket,
            in("rsi") message,
            in("edx") how,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack, preserves_flags),
        );
    }
    usize::try_from(result).map_err(|_| failed(result))
}

#[cfg(target_arch = "x86_64")]
#[cold]
fn failed(result: libc::c_long) -> Errno {
    Errno::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EIO))
}

/// The same by libc, which knows the other conventions.
///
/// # Safety
///
/// As recvmsg(2): `message` and what it points to may be written.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn recvmsg(
    socket: libc::c_int,
    message: *mut libc::msghdr,
    how: libc::c_int,
) -> Result<usize, Errno> {
    // SAFETY: as the caller promises.
    let result = unsafe { libc::recvmsg(socket, message, how) };
    usize::try_from(result).map_err(|_| {
        let error = std::io::Error::last_os_error();
        Errno::from_io_error(&error).unwrap_or(Errno::IO)
    })
}

/// Appends the descriptors of a received message to `fds`.
///
/// # Safety
///
/// The kernel has filled in `message`, whose control messages are still there,
/// and this is called once for it.
#[cold]
unsafe fn take(message: &libc::msghdr, fds: &mut Vec<OwnedFd>) -> Result<(), Errno> {
    // SAFETY: the caller's promise; so for all that follows.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: the macros return a null or a header inside the control messages.
    while let Some(header) = unsafe { next.as_ref() } {
        if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: no more than arithmetic.
            let length = header.cmsg_len - unsafe { libc::CMSG_LEN(0) } as usize;
            // SAFETY: the kernel has written so many bytes behind the header.
            let numbers = unsafe { slice::from_raw_parts(libc::CMSG_DATA(header), length) };
            for number in numbers.as_chunks().0 {
                let fd = libc::c_int::from_ne_bytes(*number);
                // SAFETY: the kernel has opened it for us, and only we know it.
                fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        // SAFETY: as the first.
        next = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    match message.msg_flags & libc::MSG_CTRUNC {
        0 => Ok(()),
        _ => Err(Errno::MFILE),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    use super::*;

    fn received(socket: &UnixStream, most: usize) -> (Vec<u8>, Vec<OwnedFd>) {
        let (mut room, mut fds) = (vec![0; most], Vec::new());
        let received = receive(socket.as_fd(), &mut room, false, &mut fds).unwrap();
        room.truncate(received);
        (room, fds)
    }

    #[test]
    fn bytes_come_as_far_as_there_is_room_and_an_end_is_none() {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        peer.write_all(b"abcdef").unwrap();
        assert_eq!(received(&ours, 4).0, b"abcd");
        assert_eq!(received(&ours, 4).0, b"ef");
        let nothing = receive(ours.as_fd(), &mut [0; 4], false, &mut Vec::new());
        assert_eq!(nothing.err(), Some(Errno::AGAIN));
        drop(peer);
        assert_eq!(received(&ours, 4).0, b"");
    }

    #[test]
    fn descriptors_come_as_many_as_were_sent_and_are_closed_on_exec() {
        let (ours, peer) = UnixStream::pair().unwrap();
        for count in [1, 2, MAX_FDS] {
            let sent = vec![peer.as_fd(); count];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(&sent)));
            let parts = [IoSlice::new(b"x")];
            sendmsg(&peer, &parts, &mut control, SendFlags::empty()).unwrap();
            let (bytes, fds) = received(&ours, 4);
            assert_eq!((bytes.as_slice(), fds.len()), (&b"x"[..], count));
            for fd in fds {
                let flags = rustix::io::fcntl_getfd(&fd).unwrap();
                assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
            }
        }
    }
}
