//! How a session's thread waits: it looks for a while, if that pays off, and
//! sleeps.

use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::Timespec;

use super::{Session, SessionError};
use crate::protocol::{Inbox, ReceiveError, Wait};
use crate::server::Observer;
use crate::server::connection::Connection;
use crate::server::watch::Watch;

/// Beside shared memory, the socket is looked at this seldom, about every 10
/// us: it takes as long as some ten looks into memory.
const LOOKS_PER_RECEIVE: u32 = 256;

impl<O: Observer> Session<'_, O> {
    /// Waits until the client has sent something, and receives it; until an
    /// event was signalled; or until there is something in shared memory. For
    /// when there is nothing left to do: after [`Session::turn`].
    pub(in crate::server) fn wait(&mut self) -> Result<(), SessionError> {
        self.watch_all()?;
        match self.spin() {
            Some(came) => came,
            None => self.sleep(),
        }
    }

    /// Looks for something to do for as long as that pays off.
    #[inline]
    fn spin(&mut self) -> Option<Result<(), SessionError>> {
        let handshake = self.handshake();
        let Session {
            spin,
            looks,
            connection,
            watch,
            shared,
            endpoint,
            ..
        } = self;
        let inbox = &mut connection.as_deref_mut()?.inbox;
        let watch = watch.as_ref().filter(|_| endpoint.has_events());
        spin.look(|| {
            *looks = looks.wrapping_add(1);
            if let Some(shared) = shared
                && !looks.is_multiple_of(LOOKS_PER_RECEIVE)
            {
                return shared.has_work().then_some(Ok(()));
            }
            match receive(inbox, watch, handshake) {
                Ok(true) => Some(Ok(())),
                Ok(false) => None,
                Err(error) => Some(Err(error)),
            }
        })
    }

    /// Sleeps until there is something to do.
    fn sleep(&mut self) -> Result<(), SessionError> {
        let handshake = self.handshake();
        let Session {
            spin,
            looks,
            connection,
            watch,
            shared,
            ..
        } = self;
        let Some(Connection { inbox, .. }) = connection.as_deref_mut() else {
            return Ok(());
        };
        let Some(watch) = watch else {
            if handshake.is_some_and(is_over) {
                return Err(ReceiveError::TimedOut.into());
            }
            let wait = handshake.map_or(Wait::Forever, Wait::Until);
            return Ok(spin.sleep(|| inbox.wait(wait))?);
        };
        let deadline = earlier(inbox.deadline(), handshake);
        let timeout = deadline.map(left);
        let sleep = || watch.wait(timeout.as_ref()).map(Some);
        let woken = spin.sleep(|| match shared {
            Some(shared) => shared.sleep(sleep).unwrap_or(Ok(None)),
            None => sleep(),
        });
        match woken.map_err(SessionError::Wait)? {
            Some(ready) if !ready.socket && deadline.is_none() => return Ok(()),
            Some(_) => {}
            None => {
                *looks = looks.wrapping_add(1);
                if !looks.is_multiple_of(LOOKS_PER_RECEIVE) {
                    return Ok(());
                }
                // There is always more in shared memory: the socket's turn.
            }
        }
        receive(inbox, None, handshake).map(|_| ())
    }

    /// Receives what the client has sent, if it has; does not wait for it.
    pub(in crate::server) fn look(&mut self) -> Result<bool, SessionError> {
        let handshake = self.handshake();
        receive(&mut self.connection().inbox, None, handshake)
    }

    /// When the client must be given up if nothing comes until then.
    pub(in crate::server) fn deadline(&mut self) -> Option<Instant> {
        let handshake = self.handshake();
        earlier(self.connection().inbox.deadline(), handshake)
    }

    /// Until when VERSION must have come, whatever else the client sends.
    #[inline]
    fn handshake(&self) -> Option<Instant> {
        (self.agreed.is_none()).then(|| self.connected_at + self.limits.handshake)
    }

    /// Watches what there is to wait for besides the socket, if there is
    /// anything.
    #[inline]
    pub(super) fn watch_all(&mut self) -> Result<(), SessionError> {
        if self.watched == Some(self.endpoint.event_changes()) {
            return Ok(());
        }
        self.watch_anew()
    }

    #[cold]
    fn watch_anew(&mut self) -> Result<(), SessionError> {
        self.watched = Some(self.endpoint.event_changes());
        self.watch = None;
        if self.shared.is_none() && !self.endpoint.has_events() {
            return Ok(());
        }
        let wake = self.shared.as_ref().map(|shared| shared.wake_fd());
        let watch = Watch::new(self.socket.as_fd(), wake, self.endpoint.event_fds());
        self.watch = Some(watch.map_err(SessionError::Wait)?);
        Ok(())
    }
}

/// Receives what the client has sent, if it has, within the time that it has
/// for that. With `watch` a signalled event is as good.
#[inline]
fn receive(
    inbox: &mut Inbox,
    watch: Option<&Watch>,
    handshake: Option<Instant>,
) -> Result<bool, SessionError> {
    let came = match watch {
        None => inbox.look()?,
        Some(watch) => {
            let ready = watch.look().map_err(SessionError::Wait)?;
            ready.socket && inbox.look()? || ready.has_events()
        }
    };
    if !came && earlier(inbox.deadline(), handshake).is_some_and(is_over) {
        return Err(ReceiveError::TimedOut.into());
    }
    Ok(came)
}

#[inline]
fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

fn is_over(deadline: Instant) -> bool {
    Instant::now() >= deadline
}

/// The time until then.
fn left(deadline: Instant) -> Timespec {
    let left = deadline.saturating_duration_since(Instant::now());
    // All limits are seconds.
    Timespec::try_from(left).unwrap_or_default()
}
