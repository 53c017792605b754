//! Takes rows side by side: warm-up, doubling to the goal time, then slices in
//! turn.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Clock, Plan, Row, Section, Subject, Tally, Trouble};

/// The most samples in a slice, so that their memory is bounded.
const MOST: usize = 1 << 17;

/// A row to be measured, and what to measure.
pub struct Candidate<'a> {
    /// The row's name, unique in the report: `socket.same.read.stub`.
    pub name: String,
    /// What it is, for people.
    pub what: String,
    /// The name of the row to compare it with.
    pub floor: Option<String>,
    /// How many accesses each sample is.
    pub batch: u32,
    /// What is measured.
    pub subject: Box<dyn Subject + 'a>,
}

/// Hears how far a measurement is.
pub trait Progress {
    /// `done` of `all` runs of what is called `what` are over.
    fn step(&self, what: &str, done: u32, all: u32);
}

/// Hears nothing.
#[derive(Clone, Copy, Debug)]
pub struct Quiet;

impl Progress for Quiet {
    fn step(&self, _: &str, _: u32, _: u32) {}
}

/// Measures under one plan.
pub struct Bench<'a> {
    /// How.
    pub plan: Plan,
    /// What time is read from.
    pub clock: Clock,
    /// Who hears how far it is.
    pub progress: &'a dyn Progress,
    started: Instant,
    run: Cell<u32>,
    instead: Option<Instead<'a>>,
}

/// What is done with a row instead of measuring it.
type Instead<'a> = &'a dyn Fn(&mut Candidate<'_>);

/// A row that is being measured.
struct Column {
    tally: Tally,
    /// How many samples a slice has.
    samples: usize,
    /// How many accesses, and how many context switches they took.
    accesses: f64,
    switches: f64,
}

impl Column {
    fn new(candidate: &Candidate<'_>) -> Self {
        Column {
            tally: Tally::new(candidate),
            samples: 1,
            accesses: 0.0,
            switches: 0.0,
        }
    }

    fn finish(mut self) -> Option<Row> {
        if self.accesses > 0.0 {
            self.tally.switches(self.switches / self.accesses);
        }
        self.tally.finish()
    }
}

impl<'a> Bench<'a> {
    /// Begins: times in the report count from here.
    pub fn new(plan: Plan, progress: &'a dyn Progress) -> Self {
        Bench {
            plan,
            clock: Clock::new(),
            progress,
            started: Instant::now(),
            run: Cell::new(0),
            instead: None,
        }
    }

    /// Hands each row to `instead`, set up once and in its place, and leaves
    /// the sections without rows: for others that measure or count the same.
    pub fn handing_over(plan: Plan, instead: &'a dyn Fn(&mut Candidate<'_>)) -> Self {
        Bench {
            instead: Some(instead),
            ..Bench::new(plan, &Quiet)
        }
    }

    /// How often everything is measured: as the plan says, or handed over.
    pub(super) fn runs(&self) -> u32 {
        match self.instead {
            Some(_) => 1,
            None => self.plan.runs,
        }
    }

    /// Begins a run.
    pub(super) fn begin_run(&self, run: u32) {
        self.run.set(run);
    }

    /// The run that is going on, from 0.
    pub fn run(&self) -> u32 {
        self.run.get()
    }

    /// The time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Measures the rows that `set_up` makes, in one run. A row that fails is
    /// kept as far as it came. Adds rows and gaps to `section`.
    pub fn measure<'s>(
        &self,
        section: &mut Section,
        set_up: impl FnOnce() -> Result<Vec<Candidate<'s>>, Trouble>,
    ) {
        self.progress.step(&section.title, self.run(), self.runs());
        if self.plan.interrupt.raised() {
            return;
        }
        let in_place = self.plan.in_place();
        let (_in_place, mut candidates) = match in_place.and_then(|place| Ok((place, set_up()?))) {
            Ok(ready) => ready,
            Err(trouble) => return section.gap(section.title.clone(), trouble),
        };
        if let Some(instead) = self.instead {
            return candidates.iter_mut().for_each(instead);
        }
        let mut columns: Vec<Column> = candidates.iter().map(Column::new).collect();
        self.slices(&mut candidates, &mut columns);
        for column in columns {
            let (name, partial) = (column.tally.name().to_owned(), column.tally.partial());
            match (column.finish(), partial) {
                (Some(row), _) => section.rows.push(row),
                (None, Some(why)) => section.gap(name, why),
                // It was ended before this row's turn.
                (None, None) => {}
            }
        }
    }

    /// Measures each candidate, in turn.
    fn slices(&self, candidates: &mut [Candidate<'_>], columns: &mut [Column]) {
        let mut ticks = vec![0; MOST];
        for (candidate, column) in candidates.iter_mut().zip(&mut *columns) {
            if !column.tally.is_partial() {
                self.warm_up(candidate.subject.as_mut(), column, &mut ticks);
                column.tally.begin(self.run(), self.elapsed());
            }
        }
        for _ in 0..self.plan.slices {
            for (candidate, column) in candidates.iter_mut().zip(&mut *columns) {
                if self.plan.interrupt.raised() {
                    return;
                }
                if !column.tally.is_partial() {
                    self.slice(candidate.subject.as_mut(), column, &mut ticks);
                }
            }
        }
    }

    /// Doubles the samples of a slice until they take the goal time, twice in
    /// a row: once may be an interruption.
    fn warm_up(&self, subject: &mut dyn Subject, column: &mut Column, ticks: &mut [u64]) {
        let mut reached = false;
        loop {
            let before = Instant::now();
            let taken = subject.sample(&self.clock, &mut ticks[..column.samples]);
            if let Err(trouble) = taken {
                return self.ended_early(column, &trouble);
            }
            if self.plan.interrupt.raised() {
                break;
            }
            let again = std::mem::replace(&mut reached, before.elapsed() >= self.plan.slice);
            if reached && again {
                break;
            }
            if !reached {
                if 2 * column.samples > MOST {
                    break;
                }
                column.samples *= 2;
            }
        }
    }

    fn slice(&self, subject: &mut dyn Subject, column: &mut Column, ticks: &mut [u64]) {
        let ticks = &mut ticks[..column.samples];
        let before = context_switches(subject.peer());
        let taken = subject.sample(&self.clock, ticks);
        let after = context_switches(subject.peer());
        if let Err(trouble) = taken {
            return self.ended_early(column, &trouble);
        }
        column.tally.slice(self.elapsed(), &self.clock, ticks);
        column.switches += after - before;
        column.accesses += column.tally.accesses(ticks.len());
    }

    /// A peer that was interrupted as we were is no trouble.
    fn ended_early(&self, column: &mut Column, trouble: &Trouble) {
        if !self.plan.interrupt.raised() {
            column.tally.ended_early(trouble);
        }
    }
}

/// The context switches so far, of this thread and of all threads of `peer`.
fn context_switches(peer: Option<u32>) -> f64 {
    let own = switches_of("/proc/thread-self/status".as_ref());
    own + peer.map_or(0.0, switches_of_process)
}

/// The same of all threads of a process.
pub(super) fn switches_of_process(process: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{process}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    tasks
        .map(|task| switches_of(&task.path().join("status")))
        .sum()
}

/// Voluntary and other ones of one thread; none if it has ended.
fn switches_of(status: &Path) -> f64 {
    let text = fs::read_to_string(status).unwrap_or_default();
    let counts = text.lines().filter_map(|line| {
        let (name, count) = line.split_once(':')?;
        name.ends_with("voluntary_ctxt_switches").then_some(count)
    });
    counts
        .filter_map(|count| count.trim().parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Pinning, timed};

    /// Waits for a time, and fails at an access if asked to.
    struct Waits(Duration, Option<u32>);

    impl Subject for Waits {
        fn sample(&mut self, clock: &Clock, ticks: &mut [u64]) -> Result<(), Trouble> {
            timed(clock, ticks, 1, || {
                if let Some(left) = &mut self.1 {
                    *left = left.checked_sub(1).ok_or(Trouble("tired".to_owned()))?;
                }
                let before = Instant::now();
                while before.elapsed() < self.0 {}
                Ok(())
            })
        }
    }

    fn plan() -> Plan {
        let slice = Duration::from_millis(1);
        Plan {
            runs: 3,
            slices: 2,
            slice,
            ..Plan::quick(Pinning::choose().unwrap())
        }
    }

    fn candidate(name: &str, floor: Option<&str>, fails_after: Option<u32>) -> Candidate<'static> {
        Candidate {
            name: name.to_owned(),
            what: name.to_owned(),
            floor: floor.map(str::to_owned),
            batch: 1,
            subject: Box::new(Waits(Duration::from_micros(10), fails_after)),
        }
    }

    fn measured(candidates: impl Fn() -> Vec<Candidate<'static>>) -> Section {
        let bench = Bench::new(plan(), &Quiet);
        let mut sections = bench.in_runs(|bench| {
            let mut section = Section::new(1, "test");
            bench.measure(&mut section, || Ok(candidates()));
            vec![section]
        });
        sections.remove(0)
    }

    #[test]
    fn rows_come_with_their_runs_slices_and_ratio() {
        let section = measured(|| {
            vec![
                candidate("floor", None, None),
                candidate("above", Some("floor"), None),
            ]
        });
        assert!(section.gaps.is_empty(), "{:?}", section.gaps);
        let above = &section.rows[1];
        let numbers: Vec<u32> = above.runs.iter().map(|run| run.number).collect();
        assert_eq!(numbers, [0, 1, 2]);
        assert!(above.runs.iter().all(|run| run.slices.len() == 2));
        let all: u64 = above.runs.iter().map(|run| run.n).sum();
        assert_eq!(above.summary.n, all);
        // Nothing waits less than it was told.
        assert!(above.summary.min >= 9_990.0, "{:?}", above.summary);
        assert!(above.ratio.is_some());
        assert_eq!(section.rows[0].ratio, None);
    }

    #[test]
    fn a_row_that_fails_is_kept_and_marked() {
        // In its second run, before it has a sample.
        let first = Cell::new(true);
        let section = measured(|| {
            let weak = if first.take() { None } else { Some(0) };
            vec![
                candidate("fine", None, None),
                candidate("weak", None, weak),
                candidate("broken", None, Some(0)),
            ]
        });
        let [fine, weak] = &section.rows[..] else {
            panic!("{section:?}");
        };
        assert_eq!((fine.runs.len(), &fine.partial), (3, &None));
        assert_eq!(
            (weak.runs.len(), weak.partial.as_deref()),
            (1, Some("tired"))
        );
        assert_eq!(section.gaps[0].what, "broken");
    }

    #[test]
    fn a_set_up_that_fails_leaves_a_gap() {
        let bench = Bench::new(plan(), &Quiet);
        let mut section = Section::new(1, "test");
        bench.measure(&mut section, || Err(Trouble("no such thing".to_owned())));
        assert_eq!(section.gaps[0].why, "no such thing");
    }

    #[test]
    fn rows_are_handed_over_once_and_not_measured() {
        let handed = std::cell::RefCell::new(Vec::new());
        let instead = |candidate: &mut Candidate<'_>| {
            handed.borrow_mut().push(candidate.name.clone());
        };
        let bench = Bench::handing_over(plan(), &instead);
        let mut section = Section::new(1, "test");
        bench.measure(&mut section, || {
            Ok(vec![
                candidate("floor", None, None),
                candidate("above", Some("floor"), None),
            ])
        });
        assert_eq!(*handed.borrow(), ["floor", "above"]);
        assert!(section.rows.is_empty() && section.gaps.is_empty());
    }

    #[test]
    fn nothing_is_measured_after_an_interrupt() {
        let plan = plan();
        plan.interrupt
            .flag()
            .store(true, std::sync::atomic::Ordering::Relaxed);
        let bench = Bench::new(plan, &Quiet);
        let mut section = Section::new(1, "test");
        bench.measure(&mut section, || panic!("set up all the same"));
        assert!(section.rows.is_empty() && section.gaps.is_empty());
    }
}
