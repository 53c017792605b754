//! The result as data: what `--json` writes and `bench compare` reads.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::{Machine, Method, Spread, median};

/// The version of this format. It grows when a field changes its meaning.
pub const FORMAT: u32 = 1;

/// All that was measured in one go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// When it began, in seconds since 1970.
    pub started: u64,
    /// Whether it was ended early, so that rows or runs are missing.
    pub interrupted: bool,
    /// What it was measured on.
    pub machine: Machine,
    /// How it was measured.
    pub method: Method,
    /// The rungs, from the bottom.
    pub sections: Vec<Section>,
}

impl Report {
    /// The row of this name.
    pub fn row(&self, name: &str) -> Option<&Row> {
        let mut rows = self.sections.iter().flat_map(|section| &section.rows);
        rows.find(|row| row.name == name)
    }
}

/// A rung, or a part of one whose rows are measured side by side.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Section {
    /// The rung of the ladder, from 1.
    pub rung: u8,
    /// What it is, for people.
    pub title: String,
    /// What a reader must know to read its figures, each a sentence or two.
    pub notes: Vec<String>,
    /// What was measured, floors before what stands on them.
    pub rows: Vec<Row>,
    /// What could not be, and why.
    pub gaps: Vec<Gap>,
    /// Where the time of an access goes.
    pub breakdown: Option<Breakdown>,
    /// That of each run.
    #[serde(skip)]
    pub(super) breakdowns: Vec<Breakdown>,
}

impl Section {
    /// An empty rung.
    pub fn new(rung: u8, title: impl Into<String>) -> Self {
        Section {
            rung,
            title: title.into(),
            ..Section::default()
        }
    }

    /// Says what could not be measured.
    pub fn gap(&mut self, what: impl Into<String>, why: impl std::fmt::Display) {
        self.gaps.push(Gap {
            what: what.into(),
            why: why.to_string(),
        });
    }

    /// Says where the time of an access goes, in one run.
    pub fn break_down(&mut self, breakdown: Breakdown) {
        self.breakdown = Some(breakdown.clone());
        self.breakdowns = vec![breakdown];
    }

    /// Gives each row its ratio to its floor, from the runs that both have.
    pub fn relate(&mut self) {
        let ratios: Vec<_> = self.rows.iter().map(|row| self.ratio(row)).collect();
        for (row, ratio) in self.rows.iter_mut().zip(ratios) {
            row.ratio = ratio;
        }
    }

    fn ratio(&self, row: &Row) -> Option<Spread> {
        let name = row.floor.as_ref()?;
        let floor = self.rows.iter().find(|other| other.name == *name)?;
        Spread::of_logarithms(&row.above(floor))
    }
}

/// What could not be measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Gap {
    /// The rows, for people.
    pub what: String,
    /// Why, in one line.
    pub why: String,
}

/// One line of the table: one kind of access to one thing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Unique in a report, and the same in the next: `socket.same.read.stub`.
    pub name: String,
    /// What it is, for people.
    pub what: String,
    /// The name of the row that this one is compared with, in its section.
    pub floor: Option<String>,
    /// How many accesses a sample is. Percentiles are of samples, divided by
    /// this.
    pub batch: u32,
    /// All runs together.
    pub summary: Summary,
    /// The median of the runs' medians and how far these spread, in
    /// nanoseconds.
    pub median: Option<Spread>,
    /// How many times the floor: see [`Row::above`].
    pub ratio: Option<Spread>,
    /// Context switches of an access, of all threads that take part, if they
    /// were counted.
    pub context_switches: Option<f64>,
    /// Set if it ended early: why.
    pub partial: Option<String>,
    /// Percentiles in rising order: `[percent, nanoseconds]`.
    pub curve: Vec<[f64; 2]>,
    /// Its runs.
    pub runs: Vec<Run>,
}

impl Row {
    /// How many times the floor this row is, as a natural logarithm for each
    /// run that both have.
    ///
    /// In a run, slices that were taken one after the other are compared, and
    /// the median of that counts: a machine that changes its pace between
    /// slices changes it for both.
    pub fn above(&self, floor: &Row) -> Vec<f64> {
        let runs = self.runs.iter().filter_map(|run| {
            let same = floor.runs.iter().find(|other| other.number == run.number)?;
            run.above(same)
        });
        runs.collect()
    }
}

impl Run {
    fn above(&self, floor: &Run) -> Option<f64> {
        let pairs = self.slices.iter().zip(&floor.slices);
        let ratios = pairs.map(|(row, floor)| (row[1] / floor[1]).ln());
        // Not of a slice that took no time at all.
        let mut ratios: Vec<f64> = ratios.filter(|ratio| ratio.is_finite()).collect();
        (!ratios.is_empty()).then(|| median(&mut ratios))
    }
}

/// The distribution of a row's samples, in nanoseconds for one access.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Summary {
    /// How many accesses.
    pub n: u64,
    /// The least.
    pub min: f64,
    /// The median.
    pub p50: f64,
    /// 90 in 100 are at most this.
    pub p90: f64,
    /// 99 in 100.
    pub p99: f64,
    /// 999 in 1000.
    pub p999: f64,
    /// The most.
    pub max: f64,
    /// The mean.
    pub mean: f64,
}

/// What one set-up gave for a row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Its number, from 0.
    pub number: u32,
    /// When it began, in seconds since the report's beginning.
    pub started: f64,
    /// How long it took, in seconds, the other rows' slices included.
    pub length: f64,
    /// How many accesses.
    pub n: u64,
    /// The median of the samples, in nanoseconds for one access.
    pub median: f64,
    /// The slices: `[seconds since the report's beginning, median in ns]`.
    pub slices: Vec<[f64; 2]>,
    /// The samples, in nanoseconds for one access: an `HdrHistogram` in V2
    /// encoding, compressed, in base64.
    pub histogram: String,
    /// The same in picoseconds; not in a report from a file.
    #[serde(skip)]
    pub(super) samples: Option<Histogram<u64>>,
}

/// Where the time of an access goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Breakdown {
    /// Of what, for people.
    pub title: String,
    /// One after the other.
    pub parts: Vec<Part>,
}

/// A part of an access.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    /// What it is, for people.
    pub what: String,
    /// Who spends it.
    pub whose: Whose,
    /// Its median, in nanoseconds.
    pub p50: f64,
    /// 99 in 100 are at most this.
    pub p99: f64,
}

/// Who spends the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whose {
    /// This project's code.
    Ours,
    /// The kernel: system calls, wake-ups, scheduling.
    Kernel,
    /// The processor and the hypervisor: exit and entry.
    Hypervisor,
}
