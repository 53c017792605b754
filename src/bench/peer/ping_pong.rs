//! The least that a server on a socket does: a floor for all others.

use std::io;
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// Room for the longest message and the longest reply.
const ROOM: usize = 1 << 16;

/// Answers each message as it asks for, until the other side leaves.
///
/// # Errors
///
/// What the kernel says; a message that is shorter than its two lengths.
pub(super) fn answer(stream: &UnixStream, spin: bool) -> io::Result<()> {
    let (mut buffer, reply) = (vec![0; ROOM], vec![0; ROOM]);
    let mut end = 0;
    loop {
        match receive(stream, &mut buffer[end..], spin)? {
            0 => return Ok(()),
            count => end += count,
        }
        let mut start = 0;
        while let Some((length, wanted)) = lengths(&buffer[start..end])? {
            if start + length > end {
                break;
            }
            start += length;
            if wanted > 0 {
                send_all(stream, &reply[..wanted])?;
            }
        }
        // Hardly ever is there a part of another one.
        buffer.copy_within(start..end, 0);
        end -= start;
    }
}

/// A message's own length and its reply's; none if that is not here yet.
fn lengths(message: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let Some(&[own_low, own_high, low, high]) = message.first_chunk() else {
        return Ok(None);
    };
    let own = usize::from(u16::from_ne_bytes([own_low, own_high]));
    let reply = usize::from(u16::from_ne_bytes([low, high]));
    if own < 4 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(Some((own, reply)))
}

/// Receives what is there; 0 if the other side left.
fn receive(stream: &UnixStream, space: &mut [u8], spin: bool) -> io::Result<usize> {
    let flags = if spin {
        RecvFlags::DONTWAIT
    } else {
        RecvFlags::empty()
    };
    loop {
        match recv(stream, &mut *space, flags) {
            Ok((_, count)) => return Ok(count),
            Err(Errno::AGAIN) if spin => std::hint::spin_loop(),
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(0),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn send_all(stream: &UnixStream, mut reply: &[u8]) -> io::Result<()> {
    while !reply.is_empty() {
        match send(stream, reply, SendFlags::NOSIGNAL) {
            Ok(count) => reply = &reply[count..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::thread;

    use super::*;

    fn message(own: u16, reply: u16) -> Vec<u8> {
        let mut message = [own.to_ne_bytes(), reply.to_ne_bytes()].concat();
        message.resize(own.into(), 7);
        message
    }

    #[test]
    fn each_message_gets_the_reply_that_it_asks_for_in_whatever_pieces_it_comes() {
        for spin in [false, true] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            let peer = thread::spawn(move || answer(&theirs, spin));
            let all = [message(32, 36), message(36, 0), message(4, 1)].concat();
            ours.write_all(&all[..33]).unwrap();
            ours.read_exact(&mut [0; 36]).unwrap();
            ours.write_all(&all[33..]).unwrap();
            ours.read_exact(&mut [0; 1]).unwrap();
            drop(ours);
            peer.join().unwrap().unwrap();
        }
    }

    #[test]
    fn a_message_without_room_for_its_lengths_is_an_error() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(&message(3, 0)).unwrap();
        ours.write_all(&[0]).unwrap();
        let error = answer(&theirs, false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
