//! Everything is measured several times, from the beginning, and what came
//! out is joined.
//!
//! A run is a climb of the whole ladder, so that the runs of a row are as far
//! apart in time as the report allows: a shared machine changes its pace for
//! many seconds at a time, and runs one after the other would agree with each
//! other and not with the next report.

use super::statistics::median;
use super::{Bench, Breakdown, Gap, Row, Section};

impl Bench<'_> {
    /// Carries out `climb` once for each run of the plan and joins its
    /// sections. What was measured before an interrupt is kept.
    pub fn in_runs(&self, climb: impl Fn(&Self) -> Vec<Section>) -> Vec<Section> {
        let mut joined: Vec<Section> = Vec::new();
        for run in 0..self.runs() {
            if self.plan.interrupt.raised() {
                break;
            }
            self.begin_run(run);
            for section in climb(self) {
                let same = |earlier: &&mut Section| earlier.title == section.title;
                match joined.iter_mut().find(same) {
                    Some(earlier) => earlier.join(section),
                    None => joined.push(section),
                }
            }
        }
        for section in &mut joined {
            section.relate();
        }
        joined
    }
}

impl Section {
    /// Adds what a later run gave.
    fn join(&mut self, later: Section) {
        // A gap that was there before is not why a row is missing now.
        let known = |gap: &&Gap| self.gaps.iter().any(|other| other.why == gap.why);
        let new = later.gaps.iter().find(|gap| !known(gap));
        for row in &mut self.rows {
            let missing = !later.rows.iter().any(|other| other.name == row.name);
            if missing && row.partial.is_none() {
                let names = |gap: &&Gap| gap.what.split(", ").any(|name| name == row.name);
                let gap = later.gaps.iter().find(names).or(new);
                // Without a gap it was only not its turn.
                row.partial = gap.map(|gap| gap.why.clone());
            }
        }
        for row in later.rows {
            match self.rows.iter_mut().find(|other| other.name == row.name) {
                Some(earlier) => earlier.join(row),
                None => self.rows.push(row),
            }
        }
        for gap in later.gaps {
            if !self.gaps.iter().any(|other| other.why == gap.why) {
                self.gaps.push(gap);
            }
        }
        for note in later.notes {
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
        self.breakdowns.extend(later.breakdowns);
        self.breakdown = Breakdown::middle(&self.breakdowns);
    }
}

impl Row {
    fn join(&mut self, later: Row) {
        let (before, added) = (self.summary.n, later.summary.n);
        self.context_switches = match (self.context_switches, later.context_switches) {
            (Some(earlier), Some(later)) => Some(weighed((earlier, before), (later, added))),
            (earlier, later) => earlier.or(later),
        };
        self.partial = self.partial.take().or(later.partial);
        self.runs.extend(later.runs);
        self.summarize();
    }
}

/// The mean of two means of so many.
fn weighed((a, of_a): (f64, u64), (b, of_b): (f64, u64)) -> f64 {
    #[allow(clippy::cast_precision_loss)] // Counts of minutes.
    let (of_a, of_b) = (of_a as f64, of_b as f64);
    (a * of_a + b * of_b) / (of_a + of_b).max(1.0)
}

impl Breakdown {
    /// Of several of the same access: of each part the median.
    fn middle(all: &[Breakdown]) -> Option<Breakdown> {
        let mut middle = all.first()?.clone();
        for (number, part) in middle.parts.iter_mut().enumerate() {
            let same = all.iter().filter_map(|other| other.parts.get(number));
            let (mut p50, mut p99): (Vec<f64>, Vec<f64>) =
                same.map(|part| (part.p50, part.p99)).unzip();
            part.p50 = median(&mut p50);
            part.p99 = median(&mut p99);
        }
        Some(middle)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::Tally;

    /// A section of these rows, each with a sample.
    fn section(rows: &[&str], gaps: &[(&str, &str)]) -> Section {
        let mut section = Section::new(1, "test");
        for name in rows {
            let mut tally = Tally::named(name, name, None, 1);
            tally.begin(0, Duration::ZERO);
            tally.slice_of(Duration::ZERO, vec![1.0]);
            section.rows.extend(tally.finish());
        }
        for (what, why) in gaps {
            section.gap(*what, why);
        }
        section
    }

    #[test]
    fn a_row_is_marked_with_its_own_reason_only() {
        let one_cpu = ("two", "one CPU");
        let early = |later: &Section| {
            let mut first = section(&["a", "b"], &[one_cpu]);
            first.join(later.clone());
            let partial = first.rows.iter().map(|row| row.partial.clone());
            partial.collect::<Vec<Option<String>>>()
        };
        // It was only not its turn.
        assert_eq!(early(&section(&["a"], &[one_cpu])), [None, None]);
        let gone = || Some("gone".to_owned());
        let named = section(&[], &[one_cpu, ("b, a", "gone")]);
        assert_eq!(early(&named), [gone(), gone()]);
        let whole = section(&[], &[("test", "gone")]);
        assert_eq!(early(&whole), [gone(), gone()]);
    }
}
