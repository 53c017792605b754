//! A report from a file. Whoever wrote it: what is returned has no number
//! that later code would trip over.

use std::collections::HashSet;

use serde::Deserialize;

use super::{Breakdown, FORMAT, Report, Row, Section, Spread, Summary, Trouble};

/// The most rows of a report, and runs of a row: what is compared pairwise
/// ends soon.
const MOST_ROWS: usize = 2000;
const MOST_RUNS: usize = 500;

/// The longest name of a row.
const LONGEST_NAME: usize = 200;

/// Larger than any time in nanoseconds (30 years) or count.
const LARGEST: f64 = 1e18;

/// The end of the year 9999, in seconds since 1970.
const LAST_SECOND: u64 = 253_402_300_799;

/// What all formats have.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

impl Report {
    /// Reads what `serde_json` wrote of a report.
    ///
    /// # Errors
    ///
    /// [`Trouble`] in one line, if the text is not a report, if its format is
    /// another than [`FORMAT`], or if it has names twice or numbers that
    /// nothing can have measured.
    pub fn parse(text: &str) -> Result<Report, Trouble> {
        let wrong = |error| Trouble::new("not a report of vgpu-stub bench", error);
        let head: Head = serde_json::from_str(text).map_err(wrong)?;
        if head.format != FORMAT {
            return Err(Trouble(format!(
                "a report of format {}, but this program knows format {FORMAT}; measure again, or \
                 use the program that wrote it",
                head.format
            )));
        }
        let report: Report = serde_json::from_str(text).map_err(wrong)?;
        report
            .check()
            .map_err(|error| Trouble::new("a damaged report", error))?;
        Ok(report)
    }

    fn check(&self) -> Result<(), String> {
        let method = &self.method;
        let all = all_plausible(&[method.slice_ms, method.clock_overhead_ns]);
        if !all || self.started > LAST_SECOND {
            return Err("its date or method has an impossible number".to_owned());
        }
        let mut names = HashSet::new();
        for section in &self.sections {
            section.check()?;
            for row in &section.rows {
                if !names.insert(&row.name) {
                    return Err(format!("row {} is there twice", row.name));
                }
            }
        }
        if names.len() > MOST_ROWS {
            return Err(format!("more than {MOST_ROWS} rows"));
        }
        Ok(())
    }
}

impl Section {
    fn check(&self) -> Result<(), String> {
        if !self.breakdown.as_ref().is_none_or(Breakdown::is_plausible) {
            return Err("a breakdown has an impossible number".to_owned());
        }
        for row in &self.rows {
            let graphic = row.name.bytes().all(|byte| byte.is_ascii_graphic());
            if !graphic || !(1..=LONGEST_NAME).contains(&row.name.len()) {
                return Err(format!("{:.40?} is no name of a row", row.name));
            }
            if !row.is_plausible() {
                return Err(format!("row {} has an impossible number", row.name));
            }
            let runs: HashSet<_> = row.runs.iter().map(|run| run.number).collect();
            if runs.len() != row.runs.len() || runs.len() > MOST_RUNS {
                return Err(format!(
                    "row {} has a run twice, or more than {MOST_RUNS}",
                    row.name
                ));
            }
        }
        Ok(())
    }
}

impl Row {
    fn is_plausible(&self) -> bool {
        let runs = self.runs.iter().all(|run| {
            all_plausible(&[run.started, run.length, run.median])
                && run.slices.iter().all(|slice| all_plausible(slice))
        });
        let spreads = [self.median, self.ratio].into_iter().flatten();
        runs && self.batch > 0
            && self.summary.is_plausible()
            && spreads.into_iter().all(Spread::is_plausible)
            && self.context_switches.is_none_or(plausible)
            && self
                .curve
                .iter()
                .all(|point| all_plausible(point) && point[0] <= 100.0)
    }
}

impl Summary {
    fn is_plausible(&self) -> bool {
        let Summary {
            n: _,
            min,
            p50,
            p90,
            p99,
            p999,
            max,
            mean,
        } = *self;
        all_plausible(&[min, p50, p90, p99, p999, max, mean])
    }
}

impl Spread {
    /// The upper end may be far: of two runs little is known.
    fn is_plausible(self) -> bool {
        let ordered = self.low <= self.value && self.value <= self.high;
        ordered && plausible(self.low) && plausible(self.value) && self.high.is_finite()
    }
}

impl Breakdown {
    fn is_plausible(&self) -> bool {
        let mut parts = self.parts.iter();
        parts.all(|part| all_plausible(&[part.p50, part.p99]))
    }
}

fn plausible(number: f64) -> bool {
    (0.0..=LARGEST).contains(&number)
}

fn all_plausible(numbers: &[f64]) -> bool {
    numbers.iter().copied().all(plausible)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::output::sample;
    use super::super::output::{Table, csv, hlog, html, percentiles};
    use super::super::{Comparison, Report};

    fn text() -> String {
        serde_json::to_string(&sample::small()).unwrap()
    }

    fn refusal(text: &str) -> String {
        Report::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_report_survives_being_written_and_read() {
        let report = sample::large();
        let text = serde_json::to_string_pretty(&report).unwrap();
        let read = Report::parse(&text).unwrap();
        // Floats may lose their last bit, which none of these shows.
        let shown = |report| {
            (
                Table::new(report, 120).to_string(),
                csv(report),
                hlog(report),
            )
        };
        assert_eq!(shown(&read), shown(&report));
    }

    #[test]
    fn what_is_no_report_is_refused_in_one_line() {
        for (text, expected) in [
            ("", "not a report of vgpu-stub bench: EOF"),
            ("name,what\n", "not a report of vgpu-stub bench: expected"),
            (
                "{}",
                "not a report of vgpu-stub bench: missing field `format`",
            ),
            (
                "{\"format\": 1}",
                "not a report of vgpu-stub bench: missing field",
            ),
            ("{\"format\": 7, \"new\": []}", "a report of format 7, but"),
        ] {
            let refusal = refusal(text);
            assert!(refusal.starts_with(expected), "{refusal}");
            assert!(!refusal.contains('\n'));
        }
    }

    #[test]
    fn impossible_numbers_and_names_are_refused() {
        for (what, with) in [
            ("\"median\":10000.0", "\"median\":-1.0"),
            ("\"median\":10000.0", "\"median\":1e300"),
            ("\"median\":10000.0", "\"median\":1e999"),
            ("\"median\":10000.0", "\"median\":null"),
            ("\"number\":1,", "\"number\":0,"),
            ("\"batch\":1,", "\"batch\":0,"),
            ("socket.read.stub", "socket.floor"),
            ("socket.read.stub", "so\\u001b[2J"),
            ("\"started\":1795253999", "\"started\":18446744073709551615"),
            ("\"context_switches\":2.0", "\"context_switches\":-2.0"),
        ] {
            assert!(text().contains(what), "{what}");
            let text = text().replacen(what, with, 1);
            assert!(!refusal(&text).is_empty(), "{what}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever can be read can be shown as well.
        #[test]
        fn mutated_reports_are_refused_or_can_be_used(
            places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            digits: bool,
        ) {
            let mut bytes = text().into_bytes();
            for (place, byte) in places {
                // Digits for digits mostly leave it a report.
                let at = place.index(bytes.len());
                bytes[at] = if digits { b"0123456789-e."[usize::from(byte) % 13] } else { byte };
            }
            if let Ok(report) = Report::parse(&String::from_utf8_lossy(&bytes)) {
                let _ = Table::new(&report, 100).to_string();
                let _ = (csv(&report), hlog(&report), percentiles(&report), html(&report));
                let _ = Comparison::of(&sample::small(), &report).map(|it| it.to_string());
            }
        }
    }
}
