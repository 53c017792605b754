//! Samples of a row become histograms, medians, and at last a [`Row`].

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2DeflateSerializer};

use super::report::{Row, Run, Summary};
use super::statistics::median;
use super::{Candidate, Clock, Spread, Trouble};

/// Histograms count picoseconds: a register is read in tens of nanoseconds,
/// and a batch's share of a tick is less than one.
const PER_NANOSECOND: f64 = 1e3;

/// The longest sample that is told from longer ones: 100 s.
const LONGEST: u64 = 100_000_000_000_000;

/// Three decimal digits, as all of `HdrHistogram`'s defaults.
const DIGITS: u8 = 3;

/// A row while it is being measured.
#[derive(Debug)]
pub struct Tally {
    name: String,
    what: String,
    floor: Option<String>,
    batch: u32,
    runs: Vec<Taken>,
    switches: Option<f64>,
    partial: Option<String>,
}

/// A run while it is being measured.
#[derive(Debug)]
struct Taken {
    number: u32,
    started: Duration,
    ended: Duration,
    histogram: Histogram<u64>,
    slices: Vec<[f64; 2]>,
}

impl Tally {
    /// For the row of this candidate.
    pub fn new(candidate: &Candidate<'_>) -> Self {
        Tally::named(
            &candidate.name,
            &candidate.what,
            candidate.floor.as_deref(),
            candidate.batch,
        )
    }

    /// For a row whose samples come from elsewhere, a guest.
    pub fn named(name: &str, what: &str, floor: Option<&str>, batch: u32) -> Self {
        Tally {
            name: name.to_owned(),
            what: what.to_owned(),
            floor: floor.map(str::to_owned),
            batch: batch.max(1),
            runs: Vec::new(),
            switches: None,
            partial: None,
        }
    }

    /// The row's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Begins a run.
    pub fn begin(&mut self, number: u32, at: Duration) {
        self.runs.push(Taken {
            number,
            started: at,
            ended: at,
            histogram: empty(),
            slices: Vec::new(),
        });
    }

    /// Takes the samples of a slice, in ticks of `clock`.
    pub fn slice(&mut self, at: Duration, clock: &Clock, ticks: &[u64]) {
        let batch = f64::from(self.batch);
        let samples = ticks.iter().map(|&ticks| clock.nanoseconds(ticks) / batch);
        self.slice_of(at, samples.collect());
    }

    /// Takes the samples of a slice, in nanoseconds for one access.
    pub fn slice_of(&mut self, at: Duration, mut samples: Vec<f64>) {
        let Some(run) = self.runs.last_mut() else {
            return;
        };
        for &sample in &samples {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            // A float becomes the nearest value of the range.
            let picoseconds = (sample * PER_NANOSECOND).round() as u64;
            // It grows as far as that: this cannot fail.
            let _ = run.histogram.record(picoseconds.min(LONGEST));
        }
        run.ended = at;
        run.slices.push([at.as_secs_f64(), median(&mut samples)]);
    }

    /// Notes how many context switches an access takes.
    pub fn switches(&mut self, per_access: f64) {
        self.switches = Some(per_access);
    }

    /// Notes why there will be no more.
    pub fn ended_early(&mut self, why: &Trouble) {
        self.partial = Some(why.to_string());
    }

    /// Whether it ended early.
    pub fn is_partial(&self) -> bool {
        self.partial.is_some()
    }

    /// Why it ended early.
    pub fn partial(&self) -> Option<String> {
        self.partial.clone()
    }

    /// How many accesses so many samples are.
    pub fn accesses(&self, samples: usize) -> f64 {
        // At most 2^32 samples.
        f64::from(u32::try_from(samples).unwrap_or(u32::MAX)) * f64::from(self.batch)
    }

    /// The row; `None` if it has no samples.
    pub fn finish(self) -> Option<Row> {
        let batch = self.batch;
        let runs = self.runs.into_iter();
        let runs = runs.filter(|run| !run.histogram.is_empty());
        let mut row = Row {
            summary: Summary::default(),
            median: None,
            ratio: None,
            context_switches: self.switches,
            partial: self.partial,
            curve: Vec::new(),
            name: self.name,
            what: self.what,
            floor: self.floor,
            batch,
            runs: runs.map(|run| run.finish(batch)).collect(),
        };
        row.summarize();
        (!row.runs.is_empty()).then_some(row)
    }
}

impl Row {
    /// Says of all runs together what is said of them.
    pub(super) fn summarize(&mut self) {
        let mut all = empty();
        for samples in self.runs.iter().filter_map(|run| run.samples.as_ref()) {
            // It grows as it must: this cannot fail.
            let _ = all.add(samples);
        }
        self.summary = summary(&all, self.batch);
        self.curve = curve(&all);
        let medians = self.runs.iter().map(|run| run.median.max(1e-3).ln());
        self.median = Spread::of_logarithms(&medians.collect::<Vec<f64>>());
    }
}

impl Taken {
    fn finish(self, batch: u32) -> Run {
        let mut medians: Vec<f64> = self.slices.iter().map(|slice| slice[1]).collect();
        Run {
            number: self.number,
            started: self.started.as_secs_f64(),
            length: self.ended.saturating_sub(self.started).as_secs_f64(),
            n: self.histogram.len() * u64::from(batch),
            // Of the slices, so that one that was disturbed does not count.
            median: median(&mut medians),
            slices: self.slices,
            histogram: encode(&self.histogram),
            samples: Some(self.histogram),
        }
    }
}

/// A histogram that grows with what it counts.
fn empty() -> Histogram<u64> {
    Histogram::new(DIGITS).expect("the digits are a constant that the crate takes")
}

/// In nanoseconds, as others expect it.
fn encode(histogram: &Histogram<u64>) -> String {
    let mut nanoseconds = empty();
    for value in histogram.iter_recorded() {
        let rounded = (value.value_iterated_to() + 500) / 1000;
        // Below LONGEST, as it is: this cannot fail.
        let _ = nanoseconds.record_n(rounded, value.count_at_value());
    }
    let mut bytes = Vec::new();
    // Into memory: this cannot fail.
    let _ = V2DeflateSerializer::new().serialize(&nanoseconds, &mut bytes);
    BASE64_STANDARD.encode(bytes)
}

fn nanoseconds(picoseconds: u64) -> f64 {
    #[allow(clippy::cast_precision_loss)] // At most 10^14.
    let picoseconds = picoseconds as f64;
    picoseconds / PER_NANOSECOND
}

fn summary(histogram: &Histogram<u64>, batch: u32) -> Summary {
    let at = |quantile| nanoseconds(histogram.value_at_quantile(quantile));
    Summary {
        n: histogram.len() * u64::from(batch),
        min: nanoseconds(histogram.min()),
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: nanoseconds(histogram.max()),
        mean: histogram.mean() / PER_NANOSECOND,
    }
}

/// Percentiles that get denser towards 100, as `HdrHistogram` prints them, as
/// far as there are samples.
fn curve(histogram: &Histogram<u64>) -> Vec<[f64; 2]> {
    let values = histogram.iter_quantiles(4);
    values
        .map(|value| {
            [
                100.0 * value.quantile_iterated_to(),
                nanoseconds(value.value_iterated_to()),
            ]
        })
        .collect()
}
