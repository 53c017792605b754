//! The accesses, as rows.

use std::time::Duration;

use super::register::Register;
use super::target::{Site, Target};
use crate::bench::{Bench, Candidate, Clock, Interrupt, Section, Subject, Trouble, timed};
use crate::device::Width;

const TIMER: &str = "guest.timer";

const WIDTHS: [Width; 4] = [Width::U8, Width::U16, Width::U32, Width::U64];

/// No access takes so long: its other side hangs. QEMU gives up after 5 s,
/// each time.
const TOO_LONG: Duration = Duration::from_secs(1);

/// Measures a register, from inside the guest.
pub fn guest(bench: &Bench<'_>, target: &Target) -> Section {
    let mut section = Section::new(6, "guest: a register, from inside Linux");
    section.notes.extend(notes(bench, target));
    section.gaps.extend(target.gaps.iter().cloned());
    let rows = rows(target);
    for row in &rows {
        // An offset that this width cannot be at, for one.
        if let Err(trouble) = row.register() {
            section.gap(&row.name, trouble);
        }
    }
    let writable = target.subject.writable;
    if !writable {
        let why = "what a write does to this register is not known; to write back what was read \
                   from it: --write";
        section.gap("guest.write, guest.write-read", why);
    }
    bench.measure(&mut section, || {
        let rows = rows.iter().filter(|row| row.register().is_ok());
        rows.map(|row| row.candidate(bench)).collect()
    });
    section
}

fn notes(bench: &Bench<'_>, target: &Target) -> Vec<String> {
    let mut notes = vec![
        format!("Measured: {}.", target.subject),
        match &target.floor {
            Some(floor) => format!("The floor: {floor}, 4 bytes; and of its config space."),
            None => "The floor is the clock alone: nothing in this VM was found or named that \
                     its hypervisor emulates itself."
                .to_owned(),
        },
        format!(
            "To read the clock takes {:.0} ns here, which is in every sample.",
            bench.clock.overhead()
        ),
        "A write is timed until the processor is done with it. Whether the device has it by then \
         is the hypervisor's choice (QEMU posts writes); a write with its read-back waits for it."
            .to_owned(),
    ];
    if target.subject.writable {
        notes.push("What is written is what was read from the register before.".to_owned());
    }
    notes
}

/// The kinds of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// None: the clock's own cost.
    None,
    /// Of 4 bytes of config space, through the kernel.
    Config,
    Read(Width),
    Write(Width),
    WriteRead(Width),
}

impl Access {
    fn width(self) -> Option<Width> {
        match self {
            Access::None | Access::Config => None,
            Access::Read(width) | Access::Write(width) | Access::WriteRead(width) => Some(width),
        }
    }
}

/// A row to be.
struct Row<'t> {
    name: String,
    what: String,
    floor: Option<&'static str>,
    access: Access,
    site: &'t Site,
}

fn rows(target: &Target) -> Vec<Row<'_>> {
    let mut rows = vec![Row {
        name: TIMER.to_owned(),
        what: "floor: two readings of the clock".to_owned(),
        floor: None,
        access: Access::None,
        site: &target.subject,
    }];
    // The floors' names, in the order of `floors`.
    let mut floors = [TIMER; 4];
    if let Some(site) = &target.floor {
        let kinds = [
            ("guest.floor.config", "read of config space", Access::Config),
            ("guest.floor.read", "read", Access::Read(Width::U32)),
            ("guest.floor.write", "write", Access::Write(Width::U32)),
            (
                "guest.floor.write-read",
                "write and read-back",
                Access::WriteRead(Width::U32),
            ),
        ];
        let known = if site.writable { 4 } else { 2 };
        for (place, (name, what, access)) in kinds.into_iter().take(known).enumerate() {
            floors[place] = name;
            rows.push(Row {
                name: name.to_owned(),
                what: format!("floor: {what}, 4 bytes, of a function in the hypervisor"),
                floor: None,
                access,
                site,
            });
        }
    }
    let site = &target.subject;
    let mut add = |name: &str, what: &str, floor: usize, access: Access| {
        let bytes = access.width().map_or(4, Width::bytes);
        rows.push(Row {
            name: format!("guest.{name}.{bytes}"),
            what: format!("{what}, {bytes} bytes"),
            floor: Some(floors[floor]),
            access,
            site,
        });
    };
    add("config", "read of config space", 0, Access::Config);
    for width in WIDTHS {
        add("read", "read", 1, Access::Read(width));
    }
    if site.writable {
        for width in WIDTHS {
            add("write", "write", 2, Access::Write(width));
        }
        let access = Access::WriteRead(Width::U32);
        add("write-read", "write and read-back", 3, access);
    }
    rows
}

impl<'t> Row<'t> {
    /// Its register, if it is of one.
    fn register(&self) -> Result<Option<Register>, Trouble> {
        let width = self.access.width();
        width.map(|width| self.site.register(width)).transpose()
    }

    fn candidate(&self, bench: &Bench<'_>) -> Result<Candidate<'t>, Trouble> {
        let register = self.register()?;
        Ok(Candidate {
            name: self.name.clone(),
            what: self.what.clone(),
            floor: self.floor.map(str::to_owned),
            batch: 1,
            subject: Box::new(Measured {
                value: register.as_ref().map_or(0, Register::read),
                register,
                access: self.access,
                site: self.site,
                interrupt: bench.plan.interrupt.clone(),
            }),
        })
    }
}

/// One kind of access to one register.
struct Measured<'t> {
    access: Access,
    register: Option<Register>,
    /// What the register held, and is written.
    value: u64,
    site: &'t Site,
    interrupt: Interrupt,
}

impl Subject for Measured<'_> {
    fn sample(&mut self, clock: &Clock, ticks: &mut [u64]) -> Result<(), Trouble> {
        let (value, function) = (self.value, &self.site.function);
        match (self.access, &self.register) {
            (Access::Config, _) => self.each(clock, ticks, || function.check())?,
            (Access::Read(_), Some(register)) => {
                self.each(clock, ticks, || self.kept(register.read()))?;
            }
            (Access::Write(_), Some(register)) => self.each(clock, ticks, || {
                register.write(value);
                Ok(())
            })?,
            (Access::WriteRead(_), Some(register)) => self.each(clock, ticks, || {
                register.write(value);
                self.kept(register.read())
            })?,
            (_, _) => self.each(clock, ticks, || Ok(()))?,
        }
        // What is not there any more answers as fast as nothing else.
        if self.register.as_ref().is_some_and(Register::is_gone) {
            return Err(Trouble(format!(
                "{}: its memory was taken away (SIGBUS): a driver claimed it, or it was removed",
                self.site
            )));
        }
        function.check()
    }
}

impl Measured<'_> {
    /// Times each access on its own, as long as they come to an end.
    #[inline]
    fn each(
        &self,
        clock: &Clock,
        ticks: &mut [u64],
        mut access: impl FnMut() -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        let too_long = TOO_LONG.as_secs_f64() * 1e9 / clock.tick();
        for ticks in ticks.chunks_mut(1) {
            timed(clock, ticks, 1, &mut access)?;
            #[allow(clippy::cast_precision_loss, reason = "a limit need not be exact")]
            if ticks[0] as f64 > too_long {
                return Err(Trouble(format!(
                    "{}: an access took {:.1} s: its other side hangs, or this VM was stopped",
                    self.site,
                    clock.nanoseconds(ticks[0]) / 1e9
                )));
            }
            if self.interrupt.raised() {
                return Err(Trouble("interrupted".to_owned()));
            }
        }
        Ok(())
    }

    /// A register that keeps what is written holds it still.
    #[inline]
    fn kept(&self, read: u64) -> Result<(), Trouble> {
        if read == self.value || !self.site.keeps() {
            return Ok(());
        }
        Err(Trouble(format!(
            "{}: holds {:#x}, and {read:#x} was read from it",
            self.site, self.value
        )))
    }
}
