//! The rows, and what each is made of.

use std::path::Path;

use kvm_ioctls::Kvm;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::answer::{Answer, InProcess, ONE_CPU, Place, Shared, Socket, VALUE, Word, scratch};
use super::batched::{Batched, Target};
use super::breakdown::breakdown;
use super::guest::{Access, BAR, DATA, Program, UNROLLED};
use super::trapped::Trapped;
use super::vm::{self, Vm};
use super::watchdog::Watchdog;
use crate::bench::dispatch::stub;
use crate::bench::{Bench, Candidate, Section, Trouble};
use crate::device::SharedMemory;

/// The writes of a doorbell that end in one exit: a multiple of [`UNROLLED`].
const RINGS: u32 = 64;

/// The accesses of mapped memory that do: they cost less.
const MAPPED: u32 = 1024;

/// The size of a BAR that is mapped.
const PAGE: usize = 0x1000;

/// All that VMs are made from.
pub(super) struct Host<'a> {
    pub(super) kvm: Kvm,
    pub(super) watchdog: Watchdog,
    pub(super) bench: &'a Bench<'a>,
    pub(super) program: &'a Path,
}

/// Measures with the KVM at `device`.
pub(super) fn sections(bench: &Bench<'_>, program: &Path, device: &Path) -> Vec<Section> {
    let mut trapped = Section::new(4, "KVM: a guest of our own, its accesses trap");
    let host = Host::new(bench, program, device);
    let host = match host.and_then(|host| host.works().map(|()| host)) {
        Ok(host) => host,
        Err(_) if bench.plan.interrupt.raised() => return Vec::new(),
        Err(trouble) => {
            trapped.gap("kvm", trouble);
            return vec![trapped];
        }
    };
    host.trapped(&mut trapped);
    let mut mapped = Section::new(4, "KVM: a guest of our own, its accesses do not trap");
    host.mapped(&mut mapped);
    host.breakdown(&mut trapped, Place::Same);
    let mut two = Section::new(4, "KVM: the same reads with the server on another CPU");
    host.breakdown(&mut two, Place::Two);
    vec![trapped, two, mapped]
}

impl<'b> Host<'b> {
    pub(super) fn new(
        bench: &'b Bench<'b>,
        program: &'b Path,
        device: &Path,
    ) -> Result<Self, Trouble> {
        Ok(Host {
            kvm: vm::open(device)?,
            watchdog: Watchdog::start(&bench.plan.interrupt)?,
            bench,
            program,
        })
    }

    /// Runs a guest once, so that a KVM that cannot is told once.
    fn works(&self) -> Result<(), Trouble> {
        let mut vm = self.vm(Access::Read, Access::batches, DATA, UNROLLED)?;
        vm.run(|_| Ok(()))
    }

    /// A VM whose guest is about to access `address`. What it reads it has not
    /// in its register yet.
    fn vm(
        &self,
        access: Access,
        program: impl FnOnce(Access) -> Program,
        address: u64,
        batch: u32,
    ) -> Result<Vm<'_>, Trouble> {
        let value = match access {
            Access::Read => !VALUE,
            Access::Write => VALUE,
        };
        let program = program(access);
        Vm::new(&self.kvm, &self.watchdog, program, address, batch, value)
    }

    fn trapped(&self, section: &mut Section) {
        section.notes.push(
            "A sample is from one exit of the guest to the next: the access is answered, the \
             guest entered, its next instruction traps."
                .to_owned(),
        );
        section.notes.push(format!(
            "An ioeventfd is written to by the kernel, without an exit to us. Its sample is \
             {RINGS} writes and one exit after them, that they share. Between two posted writes a \
             read waits until the first is done: its time does not count, its context switches do."
        ));
        if self.bench.plan.pinning.other.is_none() {
            let rows = "kvm.read.socket.two, kvm.read.socket.spin, kvm.*.shared*.spin";
            section.gap(rows, ONE_CPU);
        }
        self.bench.measure(section, || self.trapped_rows());
    }

    fn trapped_rows(&self) -> Result<Vec<Candidate<'_>>, Trouble> {
        use Access::{Read, Write};
        let mut rows = Vec::new();
        for access in [Read, Write] {
            rows.push(self.floor(access)?);
        }
        for access in [Read, Write] {
            let stub = Box::new(InProcess(stub()?));
            rows.push(self.row(access, "device", "the stub in process", stub)?);
        }
        rows.push(self.socket(Read, "socket", "", Place::Same, false)?);
        if self.bench.plan.pinning.other.is_some() {
            rows.push(self.socket(Read, "socket.two", "", Place::Two, false)?);
            rows.push(self.socket(Read, "socket.spin", "", Place::Spin, false)?);
        }
        rows.push(self.socket(Write, "acked", "acknowledged, ", Place::Same, false)?);
        rows.push(self.socket(Write, "posted", "posted, ", Place::Same, true)?);
        rows.push(self.shared(Read, "shared", "", Place::Same, false)?);
        if self.bench.plan.pinning.other.is_some() {
            rows.push(self.shared(Read, "shared.spin", "", Place::Spin, false)?);
            let acked = "acknowledged, ";
            rows.push(self.shared(Write, "shared-acked.spin", acked, Place::Spin, false)?);
            let posted = "posted, ";
            rows.push(self.shared(Write, "shared-posted.spin", posted, Place::Spin, true)?);
        }
        rows.push(self.doorbell()?);
        Ok(rows)
    }

    /// What every row of this access is compared with.
    fn floor(&self, access: Access) -> Result<Candidate<'_>, Trouble> {
        let word = Box::new(Word(VALUE.to_le_bytes()));
        let row = self.row(access, "exit", "", word)?;
        Ok(Candidate {
            what: format!("floor: {}, exit and re-entry", access.name()),
            floor: None,
            ..row
        })
    }

    /// A row whose accesses our server answers.
    fn socket(
        &self,
        access: Access,
        name: &str,
        how: &str,
        place: Place,
        posts: bool,
    ) -> Result<Candidate<'_>, Trouble> {
        let what = format!("{how}socket, {}", place.what());
        let socket = Socket::start(self.bench, self.program, place, posts, false)?;
        self.row(access, name, &what, Box::new(socket))
    }

    /// A row whose accesses our server answers by shared memory.
    fn shared(
        &self,
        access: Access,
        name: &str,
        how: &str,
        place: Place,
        posts: bool,
    ) -> Result<Candidate<'_>, Trouble> {
        let what = format!("{how}shared memory, {}", place.what());
        let shared = Shared::start(self.bench, self.program, place, posts)?;
        self.row(access, name, &what, Box::new(shared))
    }

    /// A row whose accesses `answer` answers.
    fn row<'s>(
        &'s self,
        access: Access,
        name: &str,
        what: &str,
        answer: Box<dyn Answer + 's>,
    ) -> Result<Candidate<'s>, Trouble> {
        let vm = self.vm(access, Access::endless, BAR + scratch(), 0)?;
        Ok(Candidate {
            name: format!("kvm.{}.{name}", access.name()),
            what: format!("{}, {what}", access.name()),
            floor: Some(floor_of(access)),
            batch: 1,
            subject: Box::new(Trapped { vm, answer, access }),
        })
    }

    fn doorbell(&self) -> Result<Candidate<'_>, Trouble> {
        let failed = |error| Trouble::new("cannot make an eventfd", error);
        let event = EventFd::new(EFD_NONBLOCK).map_err(failed)?;
        let access = Access::Write;
        let vm = self.vm(access, Access::batches, BAR + scratch(), RINGS)?;
        vm.ring(scratch(), &event)?;
        Ok(Candidate {
            name: "kvm.doorbell".to_owned(),
            what: "write, ioeventfd".to_owned(),
            floor: Some(floor_of(access)),
            batch: RINGS,
            subject: Box::new(Batched {
                vm,
                batch: RINGS,
                target: Target::Doorbell(event),
                access,
            }),
        })
    }

    fn mapped(&self, section: &mut Section) {
        section.notes.push(format!(
            "A sample is {MAPPED} accesses, and one exit after them that they share."
        ));
        self.bench.measure(section, || {
            let both = [Access::Read, Access::Write];
            let floors = both.map(|access| self.ram_row(access));
            let rows = both.map(|access| self.mapped_row(access));
            floors.into_iter().chain(rows).collect()
        });
    }

    fn ram_row(&self, access: Access) -> Result<Candidate<'_>, Trouble> {
        Ok(Candidate {
            name: format!("kvm.ram.{}", access.name()),
            what: format!("floor: {}, guest RAM", access.name()),
            floor: None,
            batch: MAPPED,
            subject: Box::new(Batched {
                vm: self.vm(access, Access::batches, DATA, MAPPED)?,
                batch: MAPPED,
                target: Target::Ram,
                access,
            }),
        })
    }

    fn mapped_row(&self, access: Access) -> Result<Candidate<'_>, Trouble> {
        let page = SharedMemory::new(PAGE).map_err(|error| Trouble::new("a page", error))?;
        let mut vm = self.vm(access, Access::batches, BAR, MAPPED)?;
        vm.map_bar(&page)?;
        Ok(Candidate {
            name: format!("kvm.mapped.{}", access.name()),
            what: format!("{}, mapped BAR", access.name()),
            floor: Some(format!("kvm.ram.{}", access.name())),
            batch: MAPPED,
            subject: Box::new(Batched {
                vm,
                batch: MAPPED,
                target: Target::Page(page),
                access,
            }),
        })
    }

    fn breakdown(&self, section: &mut Section, place: Place) {
        if self.bench.plan.interrupt.raised() {
            return;
        }
        let taken = self
            .vm(Access::Read, Access::endless, BAR + scratch(), 0)
            .and_then(|mut vm| breakdown(self.bench, self.program, place, &mut vm, section));
        if let Err(trouble) = taken {
            section.gap("where the time of a read goes", trouble);
        }
    }
}

fn floor_of(access: Access) -> String {
    format!("kvm.{}.exit", access.name())
}
