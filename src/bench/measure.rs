//! Takes rows side by side: warm-up, doubling to the goal time, then slices in
//! turn, run after run.

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
    instead: Option<Instead<'a>>,
}

/// What is done with a row instead of measuring it.
type Instead<'a> = &'a dyn Fn(&mut Candidate<'_>);

/// A row that is being measured, over all runs.
struct Column {
    tally: Tally,
    /// How many samples a slice has.
    samples: usize,
    /// Whether that was found: in the first run.
    sized: bool,
    /// How many accesses, and how many context switches they took.
    accesses: f64,
    switches: f64,
}

impl Column {
    fn new(candidate: &Candidate<'_>) -> Self {
        Column {
            tally: Tally::new(candidate),
            samples: 1,
            sized: false,
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

    /// The time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Measures the rows that `set_up` makes, anew for each run, in the same
    /// order. A row that fails is kept as far as it came; if a set-up fails,
    /// what was measured before is kept. Adds rows and gaps to `section`.
    pub fn measure<'s>(
        &self,
        section: &mut Section,
        mut set_up: impl FnMut() -> Result<Vec<Candidate<'s>>, Trouble>,
    ) {
        if let Some(instead) = self.instead {
            let handed = self.plan.in_place().and_then(|_in_place| {
                set_up()?.iter_mut().for_each(instead);
                Ok(())
            });
            if let Err(trouble) = handed {
                section.gap(section.title.clone(), trouble);
            }
            return;
        }
        let mut columns: Vec<Column> = Vec::new();
        let mut failed = None;
        for run in 0..self.plan.runs {
            self.progress.step(&section.title, run, self.plan.runs);
            if self.plan.interrupt.raised() {
                break;
            }
            let in_place = self.plan.in_place();
            match in_place.and_then(|in_place| Ok((in_place, set_up()?))) {
                Ok((_in_place, candidates)) => self.run(run, candidates, &mut columns),
                Err(trouble) => {
                    failed = Some(trouble);
                    break;
                }
            }
        }
        self.progress
            .step(&section.title, self.plan.runs, self.plan.runs);
        if let Some(trouble) = failed {
            section.gap(section.title.clone(), trouble);
        }
        for column in columns {
            let (name, partial) = (column.tally.name().to_owned(), column.tally.partial());
            match (column.finish(), partial) {
                (Some(row), _) => section.rows.push(row),
                (None, Some(why)) => section.gap(name, why),
                // It was ended before this row's turn.
                (None, None) => {}
            }
        }
        section.relate();
    }

    /// Measures each candidate in one run.
    fn run(&self, run: u32, mut candidates: Vec<Candidate<'_>>, columns: &mut Vec<Column>) {
        if columns.is_empty() {
            columns.extend(candidates.iter().map(Column::new));
        }
        let mut ticks = vec![0; MOST];
        for (candidate, column) in candidates.iter_mut().zip(&mut *columns) {
            if !column.tally.is_partial() {
                self.warm_up(candidate.subject.as_mut(), column, &mut ticks);
                column.tally.begin(run, self.elapsed());
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
    /// a row: once may be an interruption. In later runs one slice is enough
    /// to be warm.
    fn warm_up(&self, subject: &mut dyn Subject, column: &mut Column, ticks: &mut [u64]) {
        let mut reached = false;
        loop {
            let before = Instant::now();
            let taken = subject.sample(&self.clock, &mut ticks[..column.samples]);
            if let Err(trouble) = taken {
                return self.ended_early(column, &trouble);
            }
            if column.sized || self.plan.interrupt.raised() {
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
        column.sized = true;
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
    let tasks = peer.map(|peer| fs::read_dir(format!("/proc/{peer}/task")));
    let tasks = tasks.into_iter().flatten().flatten().flatten();
    own + tasks
        .map(|task| switches_of(&task.path().join("status")))
        .sum::<f64>()
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

    #[test]
    fn rows_come_with_their_runs_slices_and_ratio() {
        let bench = Bench::new(plan(), &Quiet);
        let mut section = Section::new(1, "test");
        bench.measure(&mut section, || {
            Ok(vec![
                candidate("floor", None, None),
                candidate("above", Some("floor"), None),
            ])
        });
        assert!(section.gaps.is_empty(), "{:?}", section.gaps);
        let above = &section.rows[1];
        assert_eq!(above.runs.len(), 3);
        assert!(above.runs.iter().all(|run| run.slices.len() == 2));
        // Nothing waits less than it was told.
        assert!(above.summary.min >= 9_990.0, "{:?}", above.summary);
        assert!(above.ratio.is_some());
        assert_eq!(section.rows[0].ratio, None);
    }

    #[test]
    fn a_row_that_fails_is_kept_and_marked() {
        let bench = Bench::new(plan(), &Quiet);
        let mut section = Section::new(1, "test");
        let mut left = Some(600);
        bench.measure(&mut section, || {
            Ok(vec![
                candidate("fine", None, None),
                // In its second run, or its third.
                candidate("weak", None, left.take().or(Some(0))),
                candidate("broken", None, Some(0)),
            ])
        });
        let [fine, weak] = &section.rows[..] else {
            panic!("{section:?}");
        };
        assert_eq!(fine.partial, None);
        assert_eq!(weak.partial.as_deref(), Some("tired"));
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
