//! The measuring end of a connection: it sends and receives prepared bytes, in
//! memory that it has, and believes nothing.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::messages::Reply;
use crate::bench::waiting::Waiting;
use crate::bench::{Interrupt, Trouble};

/// How long a server may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the kernel lets us sleep until we look whether to end.
const NAP: Duration = Duration::from_millis(100);

/// How often we ask in vain until we look at the time.
const SPINS: u32 = 256;

/// More than the longest reply.
const ROOM: usize = 256;

/// A connection to a server, or to a ping-pong in its place.
pub(in crate::bench) struct Link {
    stream: UnixStream,
    flags: RecvFlags,
    buffer: [u8; ROOM],
    patience: Duration,
    interrupt: Interrupt,
}

/// How long something has been waited for.
#[derive(Default)]
struct Wait {
    spins: u32,
    until: Option<Instant>,
}

impl Link {
    /// Takes over `stream`. An `interrupt` ends every wait.
    ///
    /// # Errors
    ///
    /// If the socket does not take a timeout.
    pub(in crate::bench) fn new(
        stream: UnixStream,
        waiting: Waiting,
        interrupt: Interrupt,
    ) -> Result<Self, Trouble> {
        for timeout in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&stream, timeout, Some(NAP))
                .map_err(|errno| Trouble::new("cannot bound a wait", errno))?;
        }
        let flags = match waiting {
            Waiting::Block => RecvFlags::empty(),
            Waiting::Spin => RecvFlags::DONTWAIT,
        };
        Ok(Link {
            stream,
            flags,
            buffer: [0; ROOM],
            patience: PATIENCE,
            interrupt,
        })
    }

    /// Sends a message whole.
    ///
    /// # Errors
    ///
    /// If the other side is gone, or takes nothing in time.
    #[inline]
    pub(in crate::bench) fn send(&mut self, message: &[u8]) -> Result<(), Trouble> {
        let mut rest = message;
        let mut wait = Wait::default();
        loop {
            match send(&self.stream, rest, SendFlags::NOSIGNAL) {
                Ok(sent) if sent == rest.len() => return Ok(()),
                Ok(sent) => rest = &rest[sent..],
                Err(errno) => self.wait(&mut wait, errno)?,
            }
        }
    }

    /// Receives a reply, which must be this one.
    ///
    /// # Errors
    ///
    /// If it is another one, or does not come whole and in time.
    #[inline]
    pub(in crate::bench) fn receive(&mut self, reply: &Reply) -> Result<(), Trouble> {
        let mut here = 0;
        let mut wait = Wait::default();
        loop {
            match recv(&self.stream, &mut self.buffer[here..], self.flags) {
                Ok((_, 0)) => return Err(ended()),
                Ok((_, count)) => here += count,
                Err(errno) => {
                    self.wait(&mut wait, errno)?;
                    continue;
                }
            }
            let received = &self.buffer[..here];
            if here == reply.size && received.starts_with(&reply.head) {
                return Ok(());
            }
            if reply.is_whole(received)? {
                return Ok(());
            }
        }
    }

    /// What the reply that was received last had behind its beginning.
    #[inline]
    pub(in crate::bench) fn data(&self, reply: &Reply) -> &[u8] {
        self.buffer.get(reply.head.len()..reply.size).unwrap_or(&[])
    }

    /// After a call that brought nothing: whether to try again.
    #[cold]
    fn wait(&self, wait: &mut Wait, errno: Errno) -> Result<(), Trouble> {
        match errno {
            Errno::AGAIN | Errno::INTR => {}
            Errno::CONNRESET | Errno::PIPE => return Err(ended()),
            errno => return Err(Trouble::new("the connection failed", errno)),
        }
        wait.spins = wait.spins.wrapping_add(1);
        if self.flags.contains(RecvFlags::DONTWAIT) && !wait.spins.is_multiple_of(SPINS) {
            std::hint::spin_loop();
            return Ok(());
        }
        if self.interrupt.raised() {
            return Err(Trouble("interrupted".to_owned()));
        }
        let now = Instant::now();
        if now >= *wait.until.get_or_insert(now + self.patience) {
            let seconds = self.patience.as_secs_f64();
            return Err(Trouble(format!("no answer within {seconds} s")));
        }
        Ok(())
    }
}

fn ended() -> Trouble {
    Trouble("it ended the connection".to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::thread;

    use super::super::messages::Messages;
    use super::*;

    const BOTH: [Waiting; 2] = [Waiting::Block, Waiting::Spin];

    fn pair(waiting: Waiting) -> (Link, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let link = Link::new(ours, waiting, Interrupt::default()).unwrap();
        (link, theirs)
    }

    #[test]
    fn a_reply_may_come_in_pieces() {
        for waiting in BOTH {
            let (mut link, mut peer) = pair(waiting);
            let reply = Messages::ping_pong().read.reply.unwrap();
            let size = reply.size;
            let peer = thread::spawn(move || {
                for _ in 0..size {
                    peer.write_all(&[0]).unwrap();
                }
                peer
            });
            link.receive(&reply).unwrap();
            drop(peer.join().unwrap());
            let trouble = link.receive(&reply).unwrap_err();
            assert_eq!(trouble.to_string(), "it ended the connection");
            let trouble = link.send(&[0]).unwrap_err();
            assert_eq!(trouble.to_string(), "it ended the connection");
        }
    }

    #[test]
    fn a_peer_that_is_silent_is_given_up_in_time() {
        for waiting in BOTH {
            let (mut link, _peer) = pair(waiting);
            link.patience = Duration::from_millis(20);
            let reply = Messages::ping_pong().read.reply.unwrap();
            let trouble = link.receive(&reply).unwrap_err();
            assert_eq!(trouble.to_string(), "no answer within 0.02 s");
        }
    }

    #[test]
    fn a_peer_that_takes_nothing_is_given_up_in_time() {
        let (mut link, _peer) = pair(Waiting::Block);
        link.patience = Duration::from_millis(20);
        let trouble = loop {
            if let Err(trouble) = link.send(&[0; ROOM]) {
                break trouble;
            }
        };
        assert_eq!(trouble.to_string(), "no answer within 0.02 s");
    }

    #[test]
    fn an_interrupt_ends_a_wait() {
        use std::sync::atomic::Ordering;
        for waiting in BOTH {
            let (mut link, _peer) = pair(waiting);
            link.interrupt.flag().store(true, Ordering::Relaxed);
            let reply = Messages::ping_pong().read.reply.unwrap();
            let trouble = link.receive(&reply).unwrap_err();
            assert_eq!(trouble.to_string(), "interrupted");
        }
    }
}
