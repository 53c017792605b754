//! What happens to a function besides the client's accesses: doorbells that
//! ring, and eventfds with which the client masks and unmasks interrupts.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::Endpoint;
use super::eventfd::EventFd;
use super::irqs::IrqIndex;
use crate::device::{Access, Bar};

/// A register whose whole writes may come as a counted event.
pub(super) struct Doorbell {
    at: Access,
    datamatch: Option<u64>,
    event: Arc<EventFd>,
    offered: bool,
}

impl Doorbell {
    /// For the next client. The one that left may go on ringing its own.
    pub(super) fn renew(&mut self) {
        self.offered = false;
        // Without a new one, that is all that it can do.
        if let Ok(event) = EventFd::new() {
            self.event = Arc::new(event);
        }
    }
}

/// Something that may happen besides a client's commands.
pub(super) struct Event {
    pub(super) source: Source,
    pub(super) fd: Arc<EventFd>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The doorbell of this number rang.
    Doorbell(usize),
    /// The client masks or unmasks an interrupt.
    Mask(IrqIndex, u32),
    Unmask(IrqIndex, u32),
}

/// A doorbell as it is offered to a client.
#[derive(Debug)]
pub struct OfferedDoorbell<'a> {
    /// The register.
    pub at: Access,
    /// Only writes of this value ring, if set.
    pub datamatch: Option<u64>,
    /// What to signal.
    pub event: BorrowedFd<'a>,
}

impl Endpoint {
    /// The doorbells of a region. From now on they are among the
    /// [`Endpoint::event_fds`].
    pub fn offer_doorbells(&mut self, region: u32) -> Vec<OfferedDoorbell<'_>> {
        for (number, doorbell) in self.doorbells.iter_mut().enumerate() {
            if u32::from(doorbell.at.bar) == region && !doorbell.offered {
                doorbell.offered = true;
                self.events.push(Event {
                    source: Source::Doorbell(number),
                    fd: doorbell.event.clone(),
                });
            }
        }
        let of_region = self
            .doorbells
            .iter()
            .filter(|doorbell| u32::from(doorbell.at.bar) == region);
        of_region
            .map(|doorbell| OfferedDoorbell {
                at: doorbell.at,
                datamatch: doorbell.datamatch,
                event: doorbell.event.as_fd(),
            })
            .collect()
    }

    /// Whether anything but the client's commands must be waited for.
    #[inline]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// What to wait for besides the client's commands: whenever one of these
    /// is readable, [`Endpoint::handle_events`] is due.
    pub fn event_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.events.iter().map(|event| event.fd.as_fd())
    }

    /// Deals with all events that were signalled.
    pub fn handle_events(&mut self) {
        for event in &self.events {
            let times = event.fd.take();
            if times == 0 {
                continue;
            }
            match event.source {
                Source::Doorbell(number) => {
                    let doorbell = &self.doorbells[number];
                    let value = doorbell.datamatch.unwrap_or(0);
                    self.device.rung(doorbell.at, value, times);
                }
                Source::Mask(index, number) => self.irqs.mask(index, number),
                Source::Unmask(index, number) => self.irqs.unmask(index, number),
            }
        }
    }
}

pub(super) fn make_doorbells(number: usize, bar: &Bar) -> io::Result<Vec<Doorbell>> {
    let make = |doorbell: &crate::device::Doorbell| {
        Ok(Doorbell {
            at: Access {
                // Six BARs.
                bar: u8::try_from(number).unwrap_or(u8::MAX),
                ..doorbell.at
            },
            datamatch: doorbell.datamatch,
            event: Arc::new(EventFd::new()?),
            offered: false,
        })
    };
    bar.doorbells.iter().map(make).collect()
}
