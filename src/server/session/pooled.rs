//! How a session is served by a pool: it never waits.

use std::os::fd::{AsFd, BorrowedFd};

use super::{Session, SessionError};
use crate::server::Observer;

impl<O: Observer> Session<'_, O> {
    /// Carries out what is here, one bounded round. `true`: that was all, and
    /// [`Session::wakes_by`] tells when there is more.
    ///
    /// # Errors
    ///
    /// Why the client cannot be served any more.
    pub(in crate::server) fn look_after(&mut self) -> Result<bool, SessionError> {
        if let Some(shared) = &mut self.shared {
            shared.wakes_up();
        }
        // What is watched beside the socket is told once, so it is asked
        // whatever else there is.
        let socket = match &self.watch {
            Some(watch) => watch.look().map_err(SessionError::Wait)?.socket,
            None => true,
        };
        if socket || self.deadline().is_some() {
            self.look()?;
        }
        self.turn()?;
        self.watch_all()?;
        Ok(match &mut self.shared {
            Some(shared) => shared.falls_asleep(),
            None => true,
        })
    }

    /// What is readable when there is more to do.
    pub(in crate::server) fn wakes_by(&self) -> BorrowedFd<'_> {
        match &self.watch {
            Some(watch) => watch.as_fd(),
            None => self.socket.as_fd(),
        }
    }
}
