//! The least that two processes do to wake each other: a floor for what
//! sleeps while it waits for memory to change.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, read, retry_on_intr, write};

use super::beside::{self, Wait};
use crate::bench::{Interrupt, Trouble};

/// How long we sleep until we see whether to go on.
const NAP: Duration = Duration::from_millis(100);

/// Answers each signal until the other side leaves.
pub(super) fn answer(stream: &UnixStream) -> io::Result<()> {
    let [question, answer] = beside::take(stream)?;
    loop {
        if wait(&question, stream, None)? {
            take(&question)?;
            signal(&answer)?;
        } else if beside::is_over(stream) {
            return Ok(());
        }
    }
}

/// Sleeps until an event is signalled or the other side leaves; returns
/// whether it was the first.
fn wait(event: &OwnedFd, stream: &UnixStream, nap: Option<Duration>) -> io::Result<bool> {
    let nap = nap.map(Timespec::try_from).transpose();
    let nap = nap.map_err(io::Error::other)?;
    let mut fds = [
        PollFd::new(event, PollFlags::IN),
        PollFd::new(stream, PollFlags::RDHUP),
    ];
    match poll(&mut fds, nap.as_ref()) {
        Ok(_) => Ok(fds[0].revents().contains(PollFlags::IN)),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn signal(event: &OwnedFd) -> io::Result<()> {
    retry_on_intr(|| write(event, &1u64.to_ne_bytes()))?;
    Ok(())
}

fn take(event: &OwnedFd) -> io::Result<()> {
    retry_on_intr(|| read(event, &mut [0u8; 8]))?;
    Ok(())
}

/// The side that asks.
pub(in crate::bench) struct Waker {
    question: OwnedFd,
    answer: OwnedFd,
    stream: UnixStream,
    interrupt: Interrupt,
}

impl Waker {
    /// Gives eventfds to the peer at the other end of `stream`.
    ///
    /// # Errors
    ///
    /// If there are none, or the peer is gone.
    pub(in crate::bench) fn new(stream: UnixStream, interrupt: Interrupt) -> Result<Self, Trouble> {
        let made = || -> io::Result<(OwnedFd, OwnedFd)> {
            let question = eventfd(0, EventfdFlags::CLOEXEC)?;
            let answer = eventfd(0, EventfdFlags::CLOEXEC)?;
            beside::give(&stream, &[question.as_fd(), answer.as_fd()])?;
            Ok((question, answer))
        };
        let (question, answer) =
            made().map_err(|error| Trouble::new("eventfds for a peer", error))?;
        Ok(Waker {
            question,
            answer,
            stream,
            interrupt,
        })
    }

    /// Wakes the peer and waits until it wakes us.
    ///
    /// # Errors
    ///
    /// If it does not.
    #[inline]
    pub(in crate::bench) fn ask(&mut self) -> Result<(), Trouble> {
        let failed = |error: io::Error| Trouble::new("a peer", error);
        signal(&self.question).map_err(failed)?;
        let mut waited = Wait::default();
        while !wait(&self.answer, &self.stream, Some(NAP)).map_err(failed)? {
            waited.go_on(&self.stream, &self.interrupt)?;
        }
        take(&self.answer).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::thread;

    use super::*;

    #[test]
    fn each_signal_is_answered_until_one_side_leaves() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let peer = thread::spawn(move || answer(&theirs));
        let mut waker = Waker::new(ours, Interrupt::default()).unwrap();
        for _ in 0..3 {
            waker.ask().unwrap();
        }
        drop(waker);
        peer.join().unwrap().unwrap();
    }

    #[test]
    fn a_peer_that_is_gone_or_an_interrupt_ends_the_wait() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let interrupt = Interrupt::default();
        let mut waker = Waker::new(ours, interrupt.clone()).unwrap();
        drop(theirs);
        let said = waker.ask().unwrap_err().to_string();
        assert_eq!(said, "it ended the connection");
        interrupt.flag().store(true, Ordering::Relaxed);
        assert_eq!(waker.ask().unwrap_err().to_string(), "interrupted");
    }
}
