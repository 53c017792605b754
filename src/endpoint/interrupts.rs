//! A client's setup of interrupts: which eventfd is signalled for which
//! vector, and what is masked; or where they go without a client's help.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use thiserror::Error;

use super::Endpoint;
use super::eventfd::EventFd;
use super::events::{Event, Source};
use super::irqs::IrqIndex;
use super::messages::InterruptBus;

/// Which way an interrupt's mask is moved by an eventfd of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskEvent {
    /// A signal masks.
    Mask,
    /// A signal unmasks.
    Unmask,
}

/// A client named an interrupt that the function lacks, or gave a descriptor
/// that is no eventfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IrqError {
    /// There are fewer interrupts.
    #[error("there is no interrupt {number} of {index:?}")]
    Absent {
        /// The kind.
        index: IrqIndex,
        /// The first that is absent.
        number: u32,
    },
    /// A descriptor is not an eventfd, or one that counts down where we wait.
    #[error("a descriptor for {index:?} is not an eventfd")]
    NotAnEventFd {
        /// The kind.
        index: IrqIndex,
    },
}

/// What a client may know of a kind of interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IrqDescription {
    /// How many there are.
    pub count: u32,
    /// Whether each masks itself when it is signalled.
    pub automasked: bool,
}

impl Endpoint {
    /// For a face whose client keeps no interrupts: from now on the function's
    /// go to `bus`, as the guest sets them up in config space and in the
    /// MSI-X table.
    pub fn own_interrupts(&mut self, bus: Arc<dyn InterruptBus>) {
        self.irqs.own(bus);
        self.follow_interrupts();
    }

    /// Takes over all that the guest has set up.
    fn follow_interrupts(&self) {
        for bar in self.bars.iter().flatten() {
            bar.program(&self.irqs);
        }
        self.irqs.follow(self.config.interrupts());
    }

    /// What there is of a kind of interrupt.
    pub fn irq(&self, index: IrqIndex) -> IrqDescription {
        IrqDescription {
            count: self.irqs.count(index),
            automasked: index == IrqIndex::Intx,
        }
    }

    /// Takes all eventfds of a kind of interrupt away.
    pub fn irq_disable(&mut self, index: IrqIndex) {
        self.irqs.disable(index);
        self.events.retain(|event| {
            !matches!(event.source,
            Source::Mask(of, _) | Source::Unmask(of, _) if of == index)
        });
        self.events_changed();
    }

    /// Gives a range of interrupts the eventfds to signal, or takes theirs
    /// away if `fds` is empty. There are as many as the range is long.
    ///
    /// # Errors
    ///
    /// See [`IrqError`]; then nothing has changed.
    pub fn irq_assign(
        &mut self,
        index: IrqIndex,
        range: Range<u32>,
        fds: Vec<OwnedFd>,
    ) -> Result<(), IrqError> {
        self.check_irqs(index, &range)?;
        let mut events = client_events(index, fds)?.into_iter();
        self.irqs.assign(index, range, || events.next());
        Ok(())
    }

    /// Gives a range of interrupts eventfds with which the client masks or
    /// unmasks them, or takes theirs away if `fds` is empty.
    ///
    /// # Errors
    ///
    /// See [`IrqError`]; then nothing has changed.
    pub fn irq_assign_mask_events(
        &mut self,
        index: IrqIndex,
        range: Range<u32>,
        event: MaskEvent,
        fds: Vec<OwnedFd>,
    ) -> Result<(), IrqError> {
        self.check_irqs(index, &range)?;
        let events = client_events(index, fds)?;
        if events.iter().any(EventFd::is_semaphore) {
            return Err(IrqError::NotAnEventFd { index });
        }
        let source = |number| match event {
            MaskEvent::Mask => Source::Mask(index, number),
            MaskEvent::Unmask => Source::Unmask(index, number),
        };
        let replaced: Vec<Source> = range.clone().map(source).collect();
        self.events
            .retain(|event| !replaced.contains(&event.source));
        self.events
            .extend(replaced.into_iter().zip(events).map(|(source, fd)| Event {
                source,
                fd: Arc::new(fd),
            }));
        self.events_changed();
        Ok(())
    }

    /// Masks an interrupt: it stays pending instead of being signalled.
    ///
    /// # Errors
    ///
    /// [`IrqError::Absent`].
    pub fn irq_mask(&mut self, index: IrqIndex, number: u32) -> Result<(), IrqError> {
        self.check_irqs(index, &(number..number.saturating_add(1)))?;
        self.irqs.mask(index, number);
        Ok(())
    }

    /// Unmasks an interrupt; a pending one is signalled.
    ///
    /// # Errors
    ///
    /// [`IrqError::Absent`].
    pub fn irq_unmask(&mut self, index: IrqIndex, number: u32) -> Result<(), IrqError> {
        self.check_irqs(index, &(number..number.saturating_add(1)))?;
        self.irqs.unmask(index, number);
        Ok(())
    }

    /// Signals an interrupt on behalf of the client.
    ///
    /// # Errors
    ///
    /// [`IrqError::Absent`].
    pub fn irq_trigger(&mut self, index: IrqIndex, number: u32) -> Result<(), IrqError> {
        self.check_irqs(index, &(number..number.saturating_add(1)))?;
        self.irqs.trigger(index, number);
        Ok(())
    }

    /// Checks that a range of interrupts exists.
    ///
    /// # Errors
    ///
    /// [`IrqError::Absent`].
    pub fn check_irqs(&self, index: IrqIndex, range: &Range<u32>) -> Result<(), IrqError> {
        let count = self.irqs.count(index);
        if range.end <= count {
            return Ok(());
        }
        let number = range.start.max(count);
        Err(IrqError::Absent { index, number })
    }
}

fn client_events(index: IrqIndex, fds: Vec<OwnedFd>) -> Result<Vec<EventFd>, IrqError> {
    let events: Option<Vec<EventFd>> = fds.into_iter().map(EventFd::from_client).collect();
    events.ok_or(IrqError::NotAnEventFd { index })
}
