//! A domain's server: it is set up, waits for requests, answers them, and ends
//! in one of three ways.
//!
//! While requests come, their ports stay masked: the page says what there is to
//! do, and nobody has to be interrupted for it. Before the server sleeps it
//! unmasks what it had read, looks once more, and reads. An access to a server
//! that sleeps so takes three system calls: a read, the notification, and the
//! write that unmasks, after the guest was told to go on.

mod start;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

use thiserror::Error;

use super::dispatch::{Dispatch, Memory};
use super::function::{PciFunction, Slot};
use super::ioreq::{Request, Slots};
use super::kept::{Kept, KeptError, NotedRanges, Unopened};
use super::ranges::{Refused, Routes};
use super::{
    BusMaster, Domain, EventChannels, GuestMemory, Injector, LocalPort, Range, ResourcePage,
    ServerId, Waker, XenError,
};
use crate::endpoint::{Endpoint, MapError};
use crate::fastpath::{Polling, Spin};

/// How often, and how often at most, to look whether the guest has taken the
/// last answers, before its server goes.
const TAKEN_LOOK: Duration = Duration::from_millis(1);
const TAKEN_LOOKS: u32 = 100;

/// Why a domain is not served.
#[derive(Debug, Error)]
pub enum ServeError {
    /// Xen or the kernel refuses.
    #[error(transparent)]
    Xen(#[from] XenError),
    /// A second device where there is one.
    #[error("{slot}: two devices; give each a bdf= of its own")]
    Taken {
        /// Where.
        slot: Slot,
    },
    /// The state file cannot be used.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// A device's guest memory could not be set up.
    #[error("guest memory: {0}")]
    Memory(#[from] MapError),
    /// Event channels do not work any more.
    #[error("domain {domain}: event channels: {source}")]
    Channels {
        /// The domain.
        domain: super::DomainId,
        /// What the kernel said.
        source: io::Error,
    },
}

/// How a server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is removed: the guest reads all-ones from then on.
    Remove,
    /// It is left as it is, for a successor; the guest's accesses wait.
    Leave,
    /// The domain is gone, and the server with it.
    Gone,
}

/// One domain's devices, until they are served.
pub struct Server {
    domain: Arc<Domain>,
    channels: Arc<EventChannels>,
    memory: Arc<GuestMemory>,
    polling: Polling,
    functions: Vec<PciFunction>,
    state: Option<Unopened>,
}

impl Server {
    /// Of this domain; its event channels are bound to our ends in `channels`.
    pub fn new(domain: Domain, channels: EventChannels) -> Self {
        let domain = Arc::new(domain);
        Server {
            memory: Arc::new(GuestMemory::new(domain.clone())),
            domain,
            channels: Arc::new(channels),
            polling: Polling::default(),
            functions: Vec::new(),
            state: None,
        }
    }

    /// How to wait for requests.
    #[must_use]
    pub fn polling(mut self, polling: Polling) -> Self {
        self.polling = polling;
        self
    }

    /// Adds a device.
    ///
    /// # Errors
    ///
    /// [`ServeError::Taken`].
    pub fn add(&mut self, slot: Slot, mut endpoint: Endpoint) -> Result<(), ServeError> {
        if self.functions.iter().any(|other| other.slot == slot) {
            return Err(ServeError::Taken { slot });
        }
        let memory = Arc::new(BusMaster::new(self.memory.clone()));
        let interrupts = Injector::new(self.domain.clone(), slot.device());
        endpoint.own_interrupts(Arc::new(interrupts));
        self.functions
            .push(PciFunction::new(slot, endpoint, memory)?);
        Ok(())
    }
}

/// No [`End`] was asked for.
const GO_ON: u8 = 0;

/// A server that Xen sends requests to.
pub struct Serving {
    domain: Arc<Domain>,
    id: ServerId,
    page: ResourcePage,
    kept: Option<Kept>,
    channels: Arc<EventChannels>,
    /// Our end of each vCPU's.
    ports: Vec<LocalPort>,
    signalled: Vec<LocalPort>,
    dispatch: Dispatch<XenRoutes, Arc<GuestMemory>>,
    spin: Spin,
    stop: Arc<AtomicU8>,
}

impl Serving {
    /// Answers until it is stopped.
    ///
    /// # Errors
    ///
    /// [`ServeError::Channels`]; the server is then left for a successor.
    pub fn run(mut self) -> Result<End, ServeError> {
        let end = self.answer_until_stopped();
        if matches!(end, Ok(End::Remove)) {
            self.remove();
        }
        match (&end, self.kept.take()) {
            (Ok(End::Remove | End::Gone), Some(kept)) => kept.remove(),
            // It is locked until the process ends: until then the devices'
            // threads go on, and write down what they do.
            (_, kept) => std::mem::forget(kept),
        }
        end.map_err(|source| self.channels_failed(source))
    }

    /// How many vCPUs the domain has.
    pub fn vcpus(&self) -> usize {
        self.ports.len()
    }

    /// What tells of the domain and ends the server from another thread.
    pub fn handle(&self) -> Handle {
        Handle {
            domain: self.domain.clone(),
            id: self.id,
            stop: self.stop.clone(),
            waker: self.channels.waker(),
        }
    }

    fn answer_until_stopped(&mut self) -> io::Result<End> {
        // What the guest asked for before the ports were bound has no event.
        let mut masked = 0;
        loop {
            let any = self.round();
            // Each time: guests need not come to an end.
            if let Some(end) = asked_for(&self.stop) {
                return Ok(end);
            }
            if any {
                continue;
            }
            let slots = Slots::new(self.page.words(), self.ports.len());
            let stop = &self.stop;
            let has_work = || slots.has_request() || stop.load(Ordering::Relaxed) != GO_ON;
            if self.spin.look(|| has_work().then_some(())).is_some() {
                continue;
            }
            if masked > 0 {
                self.channels.unmask(&self.signalled[..masked])?;
                masked = 0;
                if has_work() {
                    continue;
                }
            }
            let (channels, signalled) = (&self.channels, &mut self.signalled);
            masked = self.spin.sleep(|| channels.wait(signalled))?;
        }
    }

    /// Answers what each vCPU asks for now, at most one request of each;
    /// whether there was any.
    #[inline]
    fn round(&mut self) -> bool {
        let slots = Slots::new(self.page.words(), self.ports.len());
        let mut any = false;
        for (vcpu, port) in self.ports.iter().enumerate() {
            if let Some(request) = slots.take(vcpu) {
                let kept = self.kept.as_mut();
                answer(&mut self.dispatch, kept, slots, vcpu, &request);
                // A domain that is dying has no such port any more.
                let _ = self.channels.notify(*port);
                any = true;
            }
        }
        any
    }

    /// Takes the server out of Xen: nobody waits for it any more.
    fn remove(&mut self) {
        // A domain that is gone meanwhile has no server either.
        let _ = self.domain.set_enabled(self.id, false);
        self.round();
        // No interrupt and no access to guest memory outlives the devices.
        for function in &mut self.dispatch.functions {
            function.endpoint.reset();
        }
        let slots = Slots::new(self.page.words(), self.ports.len());
        for _ in 0..TAKEN_LOOKS {
            if !slots.is_busy() {
                break;
            }
            thread::sleep(TAKEN_LOOK);
        }
        let _ = self.domain.destroy_server(self.id);
    }

    fn channels_failed(&self, source: io::Error) -> ServeError {
        ServeError::Channels {
            domain: self.domain.id(),
            source,
        }
    }
}

/// Carries out what a vCPU asks for and gives it the answer, in the order in
/// which a successor could go on from it.
#[inline]
fn answer<R: Routes, M: Memory>(
    dispatch: &mut Dispatch<R, M>,
    kept: Option<&mut Kept>,
    slots: Slots<'_>,
    vcpu: usize,
    request: &Request,
) {
    let outcome = dispatch.carry_out(request);
    if let Some(value) = outcome.value {
        slots.put(vcpu, value);
    }
    let touched = outcome.touched.and_then(|number| {
        let function = dispatch.functions.get(number)?;
        Some((kept?, number, &function.endpoint))
    });
    let Some((kept, number, endpoint)) = touched else {
        return slots.finish(vcpu);
    };
    kept.commit(number, vcpu, endpoint);
    slots.finish(vcpu);
    kept.answered(number);
}

/// Looks after a server from another thread.
#[derive(Clone)]
pub struct Handle {
    domain: Arc<Domain>,
    id: ServerId,
    stop: Arc<AtomicU8>,
    waker: Waker,
}

impl Handle {
    /// Whether Xen still has the server: not once the domain dies, of which no
    /// event tells.
    pub fn is_alive(&self) -> bool {
        self.domain.is_alive(self.id)
    }

    /// Ends the server. The first end that is asked for counts.
    pub fn stop(&self, end: End) {
        let wanted = match end {
            End::Remove => 1,
            End::Leave => 2,
            End::Gone => 3,
        };
        let _ = self
            .stop
            .compare_exchange(GO_ON, wanted, Ordering::Release, Ordering::Relaxed);
        self.waker.wake();
    }
}

fn asked_for(stop: &AtomicU8) -> Option<End> {
    match stop.load(Ordering::Acquire) {
        1 => Some(End::Remove),
        2 => Some(End::Leave),
        3 => Some(End::Gone),
        _ => None,
    }
}

/// A server's ranges in Xen.
#[derive(Debug)]
struct XenRoutes {
    domain: Arc<Domain>,
    id: ServerId,
    /// For a successor.
    notes: Option<NotedRanges>,
}

impl Routes for XenRoutes {
    fn map(&self, first: u64, last: u64) -> Result<(), Refused> {
        if let Some(notes) = &self.notes {
            notes.note(first, last);
        }
        let range = Range::Memory(first..=last);
        let mapped = self.domain.map_range(self.id, &range);
        mapped.map_err(|error| match error {
            XenError::Exists { .. } => Refused::Exists,
            error => {
                self.forget(first, last);
                Refused::Failed(error.into())
            }
        })
    }

    fn unmap(&self, first: u64, last: u64) {
        let range = Range::Memory(first..=last);
        if let Err(error) = self.domain.unmap_range(self.id, &range) {
            log::debug!("{error}");
        }
        self.forget(first, last);
    }
}

impl XenRoutes {
    /// Xen does not have a range, so a successor need not take it back.
    fn forget(&self, first: u64, last: u64) {
        if let Some(notes) = &self.notes {
            notes.forget(first, last);
        }
    }
}
