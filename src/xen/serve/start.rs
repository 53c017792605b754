//! How a server begins: anew, or from where the one before it was killed.

use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use super::{GO_ON, ServeError, Server, Serving, XenRoutes, answer};
use crate::xen::dispatch::Dispatch;
use crate::xen::function::PciFunction;
use crate::xen::ioreq::{MAX_VCPUS, Slots, Words};
use crate::xen::kept::{self, Found, Fresh, Kept, Predecessor, Subject, Unopened};
use crate::xen::{Domain, LocalPort, Range, ResourcePage, ServerId, XenError};

impl Server {
    /// Keeps in this file what a successor goes on from, or goes on from what
    /// is in it.
    #[must_use]
    pub fn state(mut self, file: Unopened) -> Self {
        self.state = Some(file);
        self
    }

    /// Makes the server known to Xen, or takes over the one that a predecessor
    /// left. From now on the guest sees the devices, and waits wherever it uses
    /// one, until [`Serving::run`].
    ///
    /// # Errors
    ///
    /// See [`ServeError`]; then nothing of ours is left in Xen, and what a
    /// predecessor left is as it was.
    pub fn start(mut self) -> Result<Serving, ServeError> {
        let Some(file) = self.state.take() else {
            return self.begin(None);
        };
        let predecessor = match file.look(self.domain.id().number())? {
            Found::Nothing(fresh) => return self.begin(Some(fresh)),
            Found::Predecessor(predecessor) => predecessor,
        };
        let id = ServerId::new(predecessor.server().id);
        match self.domain.ioreq_page(id) {
            Ok(page) if predecessor.is_behind(page.words()) => {
                return self.adopt(predecessor, id, page);
            }
            // Another server has that number now, or none.
            Ok(_) => {}
            Err(error) if error.is_absent() => {}
            // A guest that waits for it would wait for ever beside a new one.
            Err(error) => return Err(error.into()),
        }
        let domain = self.domain.id();
        log::warn!("domain {domain}: the server of the state file is gone; a new one is made");
        self.begin(Some(predecessor.forget()))
    }

    /// Makes a server.
    fn begin(self, file: Option<Fresh>) -> Result<Serving, ServeError> {
        let domain = self.domain.clone();
        let id = domain.create_server()?;
        self.enabled(id, file).inspect_err(|_| {
            // The first failure is the one to tell.
            let _ = domain.destroy_server(id);
        })
    }

    /// Enables a new server. Nobody waits for it before it is kept.
    fn enabled(mut self, id: ServerId, file: Option<Fresh>) -> Result<Serving, ServeError> {
        // Before it is enabled: Xen writes its ports into the page then.
        let page = self.domain.ioreq_page(id)?;
        self.domain.set_enabled(id, true)?;
        let server = kept::Server {
            domain: self.domain.id().number(),
            id: id.number(),
            vcpus: remote_ports(page.words()).count(),
        };
        let keep = |file: Fresh| {
            with_subjects(&mut self.functions, |subjects| {
                file.begin(server, page.words(), subjects)
            })
        };
        let kept = file.map(keep).transpose()?;
        let serving = self.bound(id, page, kept)?;
        serving.show()?;
        Ok(serving)
    }

    /// Goes on with a server whose process was killed.
    fn adopt(
        mut self,
        predecessor: Predecessor,
        id: ServerId,
        page: ResourcePage,
    ) -> Result<Serving, ServeError> {
        let kept = with_subjects(&mut self.functions, |subjects| predecessor.adopt(subjects))?;
        for function in &self.functions {
            function.follow_command();
        }
        // The predecessor may have been about to end.
        self.domain.set_enabled(id, true)?;
        let mut serving = self.bound(id, page, Some(kept))?;
        serving.forget_stale_ranges();
        serving.dispatch.follow_all();
        serving.show()?;
        // Older work goes before what a request of now adds to it.
        for function in &mut serving.dispatch.functions {
            function.endpoint.resume();
        }
        serving.finish_what_was_begun();
        let domain = serving.domain.id();
        log::info!("domain {domain}: goes on where the server before it was");
        Ok(serving)
    }

    /// Binds the ports of an enabled server.
    fn bound(
        self,
        id: ServerId,
        page: ResourcePage,
        kept: Option<Kept>,
    ) -> Result<Serving, ServeError> {
        let ports: Result<Vec<LocalPort>, XenError> = remote_ports(page.words())
            .map(|port| self.channels.bind(self.domain.id(), port))
            .collect();
        let ports = ports?;
        let routes = XenRoutes {
            domain: self.domain.clone(),
            id,
            notes: kept.as_ref().map(Kept::ranges),
        };
        let mut dispatch = Dispatch::new(routes, self.memory);
        dispatch.functions = self.functions;
        Ok(Serving {
            id,
            page,
            kept,
            // All of them and what wakes us.
            signalled: vec![LocalPort::default(); ports.len() + 1],
            ports,
            dispatch,
            stop: Arc::new(AtomicU8::new(GO_ON)),
            spin: self.polling.spin(),
            channels: self.channels,
            domain: self.domain,
        })
    }
}

impl Serving {
    /// Shows the functions to the guest, which waits for us from now on.
    fn show(&self) -> Result<(), ServeError> {
        for function in &self.dispatch.functions {
            let range = Range::Function(function.slot.bdf());
            match self.domain.map_range(self.id, &range) {
                // The predecessor came as far.
                Err(XenError::Exists { .. }) if self.kept.is_some() => {}
                mapped => mapped?,
            }
        }
        Ok(())
    }

    /// Takes back what the predecessor had told Xen and the functions do not
    /// want. What they want stays: in between, an access would go elsewhere.
    fn forget_stale_ranges(&self) {
        let Some(notes) = self.kept.as_ref().map(Kept::ranges) else {
            return;
        };
        let functions = self.dispatch.functions.iter().enumerate();
        let wanted: Vec<_> = functions
            .flat_map(|(number, function)| function.places(number))
            .map(|place| place.first..=place.last)
            .collect();
        for range in notes.all() {
            if !wanted.contains(&range) {
                forget(&self.domain, self.id, &range);
                notes.forget(*range.start(), *range.end());
            }
        }
    }

    /// Ends the requests that the predecessor had begun. Those that it carried
    /// out are only answered; the others come again, before any newer one.
    fn finish_what_was_begun(&mut self) {
        let slots = Slots::new(self.page.words(), self.ports.len());
        for vcpu in 0..slots.len() {
            let done = self.kept.as_ref().is_some_and(|kept| kept.was_done(vcpu));
            match slots.begun(vcpu) {
                Some(_) if done => slots.finish(vcpu),
                Some(request) => {
                    let kept = self.kept.as_mut();
                    answer(&mut self.dispatch, kept, slots, vcpu, &request);
                }
                None => {}
            }
        }
        if let Some(kept) = &self.kept {
            kept.settle();
        }
        for port in &self.ports {
            // Also of those that were answered and not told.
            let _ = self.channels.notify(*port);
        }
    }
}

fn forget(domain: &Domain, id: ServerId, range: &std::ops::RangeInclusive<u64>) {
    if let Err(error) = domain.unmap_range(id, &Range::Memory(range.clone())) {
        log::debug!("{error}");
    }
}

/// Xen's event channels of the vCPUs that there are.
fn remote_ports(page: &Words) -> impl Iterator<Item = u32> {
    let all = Slots::new(page, MAX_VCPUS);
    let ports = (0..all.len()).map(move |vcpu| all.remote_port(vcpu));
    ports.take_while(|port| *port != 0)
}

fn with_subjects<T>(
    functions: &mut [PciFunction],
    then: impl FnOnce(&mut [Subject<'_>]) -> T,
) -> T {
    let names: Vec<String> = functions.iter_mut().map(PciFunction::name).collect();
    let functions = functions.iter_mut().zip(&names);
    let mut subjects: Vec<Subject<'_>> = functions
        .map(|(function, name)| Subject {
            name,
            endpoint: &mut function.endpoint,
        })
        .collect();
    then(&mut subjects)
}
