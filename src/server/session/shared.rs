//! What comes besides the socket's messages: accesses by shared memory
//! (docs/shared-mmio.md), and the endpoint's events.

use std::io;

use super::{Session, SessionError};
use crate::endpoint::{Endpoint, RegionError};
use crate::fastpath::{Fault, Handler, Serving};
use crate::server::Observer;
use crate::server::connection::Lent;
use crate::server::watch::Watch;

/// What the client's accesses reach: the regions, and doorbells that it rang
/// before.
struct Regions<'a> {
    endpoint: &'a mut Endpoint,
    /// What tells of the endpoint's events, if there can be any.
    watch: Option<&'a Watch>,
}

impl Regions<'_> {
    /// Deals with all that was signalled until now. An error is as good as
    /// none: the session meets it where it waits.
    #[inline]
    fn hear(&mut self) {
        if let Some(watch) = self.watch {
            let _ = hear(self.endpoint, watch);
        }
    }
}

impl Handler for Regions<'_> {
    #[inline]
    fn read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), u32> {
        self.hear();
        self.endpoint.read(region, offset, data).map_err(errno)
    }

    /// Not inlined: it is called for a slot and for the ring.
    #[inline(never)]
    fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), u32> {
        self.hear();
        self.endpoint.write(region, offset, data).map_err(errno)
    }
}

/// An access outside its region, as for one that comes by message.
fn errno(_: RegionError) -> u32 {
    libc::EINVAL.unsigned_abs()
}

/// Deals with all of the endpoint's events that were signalled until now.
#[cold]
fn hear(endpoint: &mut Endpoint, watch: &Watch) -> io::Result<()> {
    // Each that is dealt with is gone, so that this comes to an end, which a
    // client that goes on signalling must not put off.
    let mut left = endpoint.event_fds().count();
    loop {
        let ready = watch.look()?;
        for number in ready.events() {
            endpoint.handle_event(number);
        }
        left = left.saturating_sub(ready.events().count());
        if left == 0 || !ready.is_full() {
            return Ok(());
        }
    }
}

impl<O: Observer> Session<'_, O> {
    /// Deals with the endpoint's events that were signalled until now.
    #[inline]
    pub(super) fn hear(&mut self) -> Result<(), SessionError> {
        if !self.endpoint.has_events() {
            return Ok(());
        }
        self.watch_all()?;
        let Some(watch) = &self.watch else {
            return Ok(());
        };
        let _lent = Lent::new(&mut self.connection);
        hear(self.endpoint, watch).map_err(SessionError::Wait)
    }

    #[inline]
    pub(super) fn shared_has_work(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.has_work())
    }

    /// Carries out what is in shared memory, in one bounded round; whether
    /// there was anything.
    #[inline]
    pub(super) fn serve_shared(&mut self) -> Result<bool, SessionError> {
        match self.shared {
            None => Ok(false),
            Some(_) => self.with_shared(|shared, regions| shared.serve(regions)),
        }
    }

    /// Carries out what was posted to shared memory until now: it comes before
    /// the message that was received.
    #[inline]
    pub(super) fn drain(&mut self) -> Result<(), SessionError> {
        match self.shared {
            None => Ok(()),
            Some(_) => self
                .with_shared(|shared, regions| shared.drain(regions))
                .map(|_| ()),
        }
    }

    #[inline]
    fn with_shared(
        &mut self,
        act: impl FnOnce(&mut Serving, &mut Regions<'_>) -> Result<u32, Fault>,
    ) -> Result<bool, SessionError> {
        // A client may use what a command has just given it.
        self.watch_all()?;
        let Some(shared) = &mut self.shared else {
            return Ok(false);
        };
        let mut regions = Regions {
            watch: self.watch.as_ref().filter(|_| self.endpoint.has_events()),
            endpoint: self.endpoint,
        };
        let _lent = Lent::new(&mut self.connection);
        Ok(act(shared, &mut regions)? > 0)
    }
}
