//! What happens to a function besides the client's accesses: doorbells that
//! ring, and eventfds with which the client masks and unmasks interrupts.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::Endpoint;
use super::eventfd::EventFd;
use super::irqs::IrqIndex;
use crate::device::{Access, Bar, SharedMemory};

/// A register whose whole writes may come as a counted event.
struct Doorbell {
    at: Access,
    datamatch: Option<u64>,
    event: Arc<EventFd>,
    offered: bool,
    /// Where the shadow memory has the value, if it matters.
    shadow: Option<u32>,
}

/// Between two values in the shadow memory: a cache line, for CPUs that ring
/// at the same time.
const SHADOW: u32 = 64;

/// The doorbells of all BARs.
pub(super) struct Doorbells {
    bells: Vec<Doorbell>,
    /// Where clients keep values, if one of them matters.
    shadow: Option<SharedMemory>,
}

impl Doorbells {
    pub(super) fn new(bars: &[Option<Bar>; 6]) -> io::Result<Doorbells> {
        let mut bells = Vec::new();
        let mut shadows = (0..).step_by(SHADOW as usize);
        for (bar, number) in bars.iter().zip(0..) {
            for doorbell in bar.iter().flat_map(|bar| &bar.doorbells) {
                bells.push(Doorbell {
                    at: Access {
                        bar: number,
                        ..doorbell.at
                    },
                    datamatch: doorbell.datamatch,
                    event: Arc::new(EventFd::new()?),
                    offered: false,
                    shadow: doorbell.with_value.then(|| shadows.next()).flatten(),
                });
            }
        }
        let shadow = shadow_size(&bells).map(SharedMemory::new).transpose()?;
        Ok(Doorbells { bells, shadow })
    }

    /// For the next client. The one that left may go on ringing its own.
    pub(super) fn renew(&mut self) {
        for bell in &mut self.bells {
            bell.offered = false;
            // Without a new one, that is all that it can do.
            if let Ok(event) = EventFd::new() {
                bell.event = Arc::new(event);
            }
        }
        let new = shadow_size(&self.bells).map(SharedMemory::new);
        if let Some(Ok(memory)) = new {
            self.shadow = Some(memory);
        }
    }

    /// The value that counts for a doorbell that rang.
    fn value(&self, bell: &Doorbell) -> u64 {
        match (bell.shadow, &self.shadow) {
            (Some(offset), Some(memory)) => memory.load(offset, bell.at.width),
            _ => bell.datamatch.unwrap_or(0),
        }
    }
}

/// The size of the shadow memory, in whole pages.
fn shadow_size(bells: &[Doorbell]) -> Option<usize> {
    let last = bells.iter().filter_map(|bell| bell.shadow).max()?;
    Some((last + SHADOW).next_multiple_of(4096) as usize)
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
    /// Where the client keeps the value before it signals: the memory, which
    /// all doorbells share, and the offset there.
    pub shadow: Option<(BorrowedFd<'a>, u64)>,
}

impl Endpoint {
    /// The doorbells of a region; those whose value matters only with
    /// `shadows`. From now on they are among the [`Endpoint::event_fds`].
    pub fn offer_doorbells(&mut self, region: u32, shadows: bool) -> Vec<OfferedDoorbell<'_>> {
        let wanted = |bell: &Doorbell| {
            u32::from(bell.at.bar) == region && (shadows || bell.shadow.is_none())
        };
        for (number, bell) in self.doorbells.bells.iter_mut().enumerate() {
            if wanted(bell) && !bell.offered {
                bell.offered = true;
                self.events.push(Event {
                    source: Source::Doorbell(number),
                    fd: bell.event.clone(),
                });
                self.event_changes = self.event_changes.wrapping_add(1);
            }
        }
        let Doorbells { bells, shadow } = &self.doorbells;
        let shadow = shadow.as_ref().and_then(SharedMemory::as_fd);
        let of_region = bells.iter().filter(|bell| wanted(bell));
        of_region
            .map(|bell| OfferedDoorbell {
                at: bell.at,
                datamatch: bell.datamatch,
                event: bell.event.as_fd(),
                shadow: shadow.zip(bell.shadow.map(u64::from)),
            })
            .collect()
    }

    /// Whether anything but the client's commands must be waited for.
    #[inline]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// What to wait for besides the client's commands: whenever one of these
    /// is readable, [`Endpoint::handle_event`] with its place here is due.
    pub fn event_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.events.iter().map(|event| event.fd.as_fd())
    }

    /// A number that changes whenever [`Endpoint::event_fds`] do.
    #[inline]
    pub fn event_changes(&self) -> u32 {
        self.event_changes
    }

    pub(super) fn events_changed(&mut self) {
        self.event_changes = self.event_changes.wrapping_add(1);
    }

    /// Deals with all events that were signalled.
    pub fn handle_events(&mut self) {
        for number in 0..self.events.len() {
            self.handle_event(number);
        }
    }

    /// Deals with the event of this number among [`Endpoint::event_fds`], if
    /// it was signalled.
    pub fn handle_event(&mut self, number: usize) {
        let Some(event) = self.events.get(number) else {
            return;
        };
        let times = event.fd.take();
        if times == 0 {
            return;
        }
        match event.source {
            Source::Doorbell(number) => {
                let bell = &self.doorbells.bells[number];
                // After the count: what was stored before a ring is seen.
                let value = self.doorbells.value(bell);
                self.device.rung(bell.at, value, times);
            }
            Source::Mask(index, number) => self.irqs.mask(index, number),
            Source::Unmask(index, number) => self.irqs.unmask(index, number),
        }
    }
}
