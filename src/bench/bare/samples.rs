//! What a guest left becomes rows.

use std::time::Duration;

use super::guest::Record;
use super::rows::Entry;
use crate::bench::{Bench, Section, Tally, Trouble};

/// How far the guest's counter may be off ours before its own word is taken.
const SAME_TICK: f64 = 0.1;

/// What a guest left.
#[derive(Debug)]
pub(in crate::bench) struct Measured {
    pub(in crate::bench) records: Vec<Record>,
    /// What the guest says a tick of its counter is, in nanoseconds.
    pub(in crate::bench) tick: Option<f64>,
}

/// The rows of a section while they are measured.
#[derive(Debug)]
pub(in crate::bench) struct Samples<'a> {
    entries: &'a [Entry],
    pub(in crate::bench) tallies: Vec<Tally>,
}

impl<'a> Samples<'a> {
    /// No samples yet, of rows whose names begin with this.
    pub(in crate::bench) fn of(entries: &'a [Entry], prefix: &str) -> Self {
        let named = |entry: &Entry| {
            let name = |row: &str| format!("{prefix}{row}");
            let floor = entry.floor.as_deref().map(name);
            let batch = entry.operation.batch();
            Tally::named(&name(&entry.name), &entry.what, floor.as_deref(), batch)
        };
        Samples {
            entries,
            tallies: entries.iter().map(named).collect(),
        }
    }

    /// Takes a run's samples.
    pub(in crate::bench) fn take(
        &mut self,
        bench: &Bench<'_>,
        measured: Measured,
        section: &mut Section,
    ) {
        let (now, run) = (bench.elapsed(), bench.run());
        let tick = tick(bench, &measured, section);
        let nanoseconds = |ticks: u64| {
            #[allow(clippy::cast_precision_loss)] // Weeks fit.
            let ticks = ticks as f64;
            ticks * tick
        };
        let last = measured.records.last().map_or(0, |record| record.counter);
        let when = |counter: u64| {
            let before = nanoseconds(last.saturating_sub(counter)) / 1e9;
            now.saturating_sub(Duration::try_from_secs_f64(before).unwrap_or_default())
        };
        let first = measured.records.first().map_or(0, |record| record.counter);
        for tally in &mut self.tallies {
            tally.begin(run, when(first));
        }
        for record in measured.records {
            // The number of the row was checked when the record was read.
            let (tally, entry) = (&mut self.tallies[record.row], &self.entries[record.row]);
            if let Some(expected) = entry.expected
                && record.value != expected
                && !tally.is_partial()
            {
                let value = record.value;
                let wrong = format!("the guest read {value:#x} where {expected:#x} should be");
                tally.ended_early(&Trouble(wrong));
            }
            if !tally.is_partial() {
                let batch = f64::from(entry.operation.batch());
                let samples = record.samples.iter();
                let samples = samples.map(|&ticks| nanoseconds(ticks.into()) / batch);
                tally.slice_of(when(record.counter), samples.collect());
            }
        }
    }

    /// The rows that have samples; of others the reason, if it is their own.
    pub(in crate::bench) fn finish(self, section: &mut Section) {
        for tally in self.tallies {
            let (name, partial) = (tally.name().to_owned(), tally.partial());
            match (tally.finish(), partial) {
                (Some(row), _) => section.rows.push(row),
                (None, Some(why)) => section.gap(name, why),
                // The section's gap says why.
                (None, None) => {}
            }
        }
    }
}

/// What a tick of the guest's counter is, in nanoseconds. The host's figure is
/// the better one, if both count the same.
fn tick(bench: &Bench<'_>, measured: &Measured, section: &mut Section) -> f64 {
    let host = bench.clock.tick();
    let Some(guest) = measured.tick else {
        return host;
    };
    if (guest / host - 1.0).abs() < SAME_TICK {
        return host;
    }
    if bench.run() == 0 {
        section.notes.push(format!(
            "A tick of the guest's counter is {guest:.4} ns by its PM timer and {host:.4} ns by \
             the host's clock: the guest's word is taken."
        ));
    }
    guest
}
