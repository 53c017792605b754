//! Two reports: what became faster or slower.
//!
//! What is compared is the ratio to the floor. Each run of a report gives the
//! logarithm of one, and Welch's interval says how far the means of two
//! reports' logarithms may be apart.
//!
//! The confidence is 99 %, not the 95 % that a report's own intervals have:
//! a ladder has about a hundred rows, and at 95 % two or three of them would
//! be called slower each time without a reason. Being right about all of them
//! together (99.99 % each) would take intervals that the few runs of a report
//! cannot give. The threshold does the rest.
//!
//! A row is too slow if both hold: it is surely slower (the interval is above
//! 0), and the estimate is above the threshold. To ask that the whole
//! interval be above the threshold would let a slowdown of twice the threshold
//! pass on a noisy machine; to ask for the estimate alone would fail on noise.

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Display, Formatter};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::output::words::{fit, plain, short_time};
use super::statistics::welch;
use super::{Report, Row, Section, Trouble};

/// See above.
const CONFIDENCE: f64 = 0.99;

/// What two calibrations of the clock may differ by, as a logarithm: a clock
/// that is compared for 20 ms is off by less.
const ROUNDING: f64 = 1e-3;

/// The difference between two reports.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Why it may mean less than it seems, each in one line.
    pub warnings: Vec<String>,
    /// The rows that both reports have.
    pub rows: Vec<Compared>,
    /// The names of the rows that only the old report has.
    pub only_old: Vec<String>,
    /// The names of the rows that only the new report has.
    pub only_new: Vec<String>,
}

/// A row of both reports.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// Its name.
    pub name: String,
    /// What is compared.
    pub of: Of,
    /// In the old report: the mean over its runs.
    pub old: f64,
    /// In the new report.
    pub new: f64,
    /// `None` if a report has less than two runs of it.
    pub change: Option<Change>,
    /// What that means.
    pub verdict: Verdict,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Of {
    /// How many times the floor's median the row's is.
    Ratio,
    /// The median in nanoseconds, of a row without a floor: it depends on the
    /// machine and its load, and is for information only.
    Time,
}

/// How much more the new report has, in percent, and the interval that holds
/// this with 99 % confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Change {
    /// The estimate.
    pub percent: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
}

/// What can be said of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Surely, by however little.
    Faster,
    /// Surely, by however little.
    Slower,
    /// It may be either.
    CannotTell,
}

impl Comparison {
    /// Compares.
    ///
    /// # Errors
    ///
    /// [`Trouble`] if no row was measured in both.
    pub fn of(old: &Report, new: &Report) -> Result<Self, Trouble> {
        let (old_rows, new_rows) = (rows(old), rows(new));
        let before: HashMap<&str, Measured<'_>> = old_rows
            .iter()
            .map(|&old| (old.1.name.as_str(), old))
            .collect();
        let (mut compared, mut only_new, mut both) = (Vec::new(), Vec::new(), HashSet::new());
        for new in new_rows {
            let name = new.1.name.as_str();
            if let Some(&old) = before.get(name) {
                both.insert(name);
                compared.extend(compare(old, new));
            } else {
                only_new.push(name.to_owned());
            }
        }
        if compared.is_empty() {
            return Err(Trouble("no row was measured in both reports".to_owned()));
        }
        let old_names = old_rows.iter().map(|old| &old.1.name);
        Ok(Comparison {
            warnings: warnings(old, new),
            rows: compared,
            only_old: old_names
                .filter(|name| !both.contains(name.as_str()))
                .cloned()
                .collect(),
            only_new,
        })
    }

    /// The rows whose ratio is surely higher, and by more than `threshold`
    /// percent.
    pub fn slower_than(&self, threshold: f64) -> impl Iterator<Item = &Compared> {
        self.rows.iter().filter(move |row| {
            let above = row.change.is_some_and(|change| change.percent > threshold);
            row.of == Of::Ratio && row.verdict == Verdict::Slower && above
        })
    }

    /// The rows of which it cannot be told whether their ratio is higher by
    /// more than `threshold` percent.
    pub fn unknown(&self, threshold: f64) -> impl Iterator<Item = &Compared> {
        self.rows.iter().filter(move |row| {
            let may = row.change.is_none_or(|change| change.high > threshold);
            row.of == Of::Ratio && row.verdict == Verdict::CannotTell && may
        })
    }
}

/// A row, in the section that has its floor.
type Measured<'a> = (&'a Section, &'a Row);

fn rows(report: &Report) -> Vec<Measured<'_>> {
    let sections = report.sections.iter();
    sections
        .flat_map(|section| section.rows.iter().map(move |row| (section, row)))
        .collect()
}

/// `None` if one of them has no run.
fn compare(old: Measured<'_>, new: Measured<'_>) -> Option<Compared> {
    let ratios = (ratios(old), ratios(new));
    let (of, old_logs, new_logs) = match ratios {
        (Some(old), Some(new)) if !old.is_empty() && !new.is_empty() => (Of::Ratio, old, new),
        _ => (Of::Time, times(old.1), times(new.1)),
    };
    let change = welch(&old_logs, &new_logs, CONFIDENCE).map(|(difference, margin)| {
        let margin = margin.max(ROUNDING);
        let percent = |log: f64| 100.0 * log.exp_m1();
        Change {
            percent: percent(difference),
            low: percent(difference - margin),
            high: percent(difference + margin),
        }
    });
    let verdict = match change {
        Some(change) if change.low > 0.0 => Verdict::Slower,
        Some(change) if change.high < 0.0 => Verdict::Faster,
        _ => Verdict::CannotTell,
    };
    Some(Compared {
        name: new.1.name.clone(),
        of,
        old: geometric_mean(&old_logs)?,
        new: geometric_mean(&new_logs)?,
        change,
        verdict,
    })
}

/// The logarithms of the ratios of the runs; `None` without a floor.
fn ratios((section, row): Measured<'_>) -> Option<Vec<f64>> {
    let name = row.floor.as_ref()?;
    let floor = section.rows.iter().find(|other| other.name == *name)?;
    Some(row.above(floor))
}

fn times(row: &Row) -> Vec<f64> {
    let medians = row.runs.iter().map(|run| run.median);
    medians
        .filter(|median| *median > 0.0)
        .map(f64::ln)
        .collect()
}

fn geometric_mean(logs: &[f64]) -> Option<f64> {
    let n = u32::try_from(logs.len()).ok().filter(|n| *n > 0)?;
    Some((logs.iter().sum::<f64>() / f64::from(n)).exp())
}

/// What makes two reports hard to compare.
fn warnings(old: &Report, new: &Report) -> Vec<String> {
    let unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    let kind = |report: &Report| {
        if report.method.quick {
            "quick"
        } else {
            "thorough"
        }
        .to_owned()
    };
    let cpus = |report: &Report| report.machine.cpus.to_string();
    let scheduling = |report: &Report| {
        let fifo = report.method.fifo;
        if fifo { "SCHED_FIFO" } else { "as usual" }.to_owned()
    };
    let pairs = [
        ("CPU", old.machine.cpu.clone(), new.machine.cpu.clone()),
        ("number of CPUs", cpus(old), cpus(new)),
        (
            "kernel",
            old.machine.kernel.clone(),
            new.machine.kernel.clone(),
        ),
        (
            "hypervisor",
            unknown(&old.machine.hypervisor),
            unknown(&new.machine.hypervisor),
        ),
        ("method", kind(old), kind(new)),
        ("scheduling", scheduling(old), scheduling(new)),
    ];
    let differ = pairs.into_iter().filter(|(_, old, new)| old != new);
    let mut warnings: Vec<String> = differ
        .map(|(what, old, new)| plain(&format!("another {what}: {old}, now {new}")))
        .collect();
    for (report, which) in [(old, "old"), (new, "new")] {
        if report.interrupted {
            warnings.push(format!("the {which} report was interrupted"));
        }
    }
    warnings
}

const HEADING: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default();

/// The width of a row's name.
const NAME: usize = 42;

/// With colours: print it through something that takes them away where there
/// is no terminal.
impl Display for Comparison {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for warning in &self.warnings {
            writeln!(f, "{WARNING}{warning}{WARNING:#}")?;
        }
        let titles = [
            (Of::Ratio, "times the floor"),
            (
                Of::Time,
                "times, which depend on the machine: for information",
            ),
        ];
        for (of, title) in titles {
            let mut rows = self.rows.iter().filter(|row| row.of == of).peekable();
            if rows.peek().is_some() {
                let head = format!(
                    "{:<NAME$} {:>9} {:>9} {:>9}   {:<18}",
                    "", "old", "new", "change", "99 % within"
                );
                writeln!(f, "\n{HEADING}{title}{HEADING:#}\n  {DIM}{head}{DIM:#}")?;
            }
            rows.try_for_each(|row| writeln!(f, "  {row}"))?;
        }
        for (names, which) in [(&self.only_old, "old"), (&self.only_new, "new")] {
            if !names.is_empty() {
                writeln!(
                    f,
                    "\nonly in the {which} report: {}",
                    plain(&names.join(", "))
                )?;
            }
        }
        let count = |verdict| {
            self.rows
                .iter()
                .filter(|row| row.verdict == verdict)
                .count()
        };
        let [slower, faster, cannot_tell] =
            [Verdict::Slower, Verdict::Faster, Verdict::CannotTell].map(count);
        writeln!(
            f,
            "\n{slower} slower, {faster} faster, {cannot_tell} of which this cannot be told"
        )
    }
}

impl Display for Compared {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let value = |value: f64| match self.of {
            Of::Ratio => format!("{value:.3}"),
            Of::Time => short_time(value),
        };
        let (name, old, new) = (fit(&self.name, NAME), value(self.old), value(self.new));
        write!(f, "{name:<NAME$} {old:>9} {new:>9} ")?;
        let Some(change) = self.change else {
            return write!(f, "{DIM}{:>9}   too few runs{DIM:#}", "");
        };
        let (style, verdict) = match self.verdict {
            Verdict::Faster => (GOOD, "faster"),
            Verdict::Slower => (BAD, "slower"),
            Verdict::CannotTell => (DIM, "cannot tell"),
        };
        let (percent, interval) = (signed(change.percent), change.interval());
        write!(f, "{percent:>9}   {interval:<18} {style}{verdict}{style:#}")
    }
}

impl Change {
    /// The interval, for people: `+3.1 to +12 %`.
    pub fn interval(&self) -> String {
        let low = signed(self.low);
        format!("{} to {}", low.trim_end_matches(" %"), signed(self.high))
    }
}

/// A change with its sign and few digits.
fn signed(percent: f64) -> String {
    match percent {
        percent if percent.abs() < 9.95 => format!("{percent:+.1} %"),
        // Of two runs the interval may be absurd.
        percent if percent > 9_999.0 => ">+9999 %".to_owned(),
        percent => format!("{percent:+.0} %"),
    }
}

#[cfg(test)]
mod tests;
