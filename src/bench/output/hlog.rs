//! The samples for the public tools of `HdrHistogram`.

use std::fmt::Write as _;
use std::io::Cursor;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;

use super::super::{Report, Row, Run};
use super::words;

/// An `HdrHistogram` V2 interval log: an interval for each run of each row,
/// with the row's name as its tag. Values are nanoseconds for one access.
pub fn hlog(report: &Report) -> String {
    let started = report.started;
    let date = words::date(started);
    let mut log = format!(
        "#[Nanoseconds for one access, by vgpu-stub bench {}]\n\
         #[Histogram log format version 1.3]\n\
         #[StartTime: {started}.000 (seconds since epoch), {date}]\n\
         #[BaseTime: {started}.000 (seconds since epoch)]\n\
         \"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\
         \"Interval_Compressed_Histogram\"\n",
        report.machine.version
    );
    for (row, run) in in_order(report) {
        // Ours can be read.
        let Some(samples) = decode(&run.histogram) else {
            continue;
        };
        let _ = writeln!(
            log,
            "Tag={},{:.3},{:.3},{}.000,{}",
            tag(&row.name),
            run.started,
            run.length,
            samples.max(),
            run.histogram
        );
    }
    log
}

/// Readers expect the intervals in the order in which they began.
fn in_order(report: &Report) -> Vec<(&Row, &Run)> {
    let rows = report.sections.iter().flat_map(|section| &section.rows);
    let mut runs: Vec<_> = rows
        .flat_map(|row| row.runs.iter().map(move |run| (row, run)))
        .collect();
    runs.sort_by(|(_, one), (_, other)| one.started.total_cmp(&other.started));
    runs
}

fn decode(histogram: &str) -> Option<Histogram<u64>> {
    let bytes = BASE64_STANDARD.decode(histogram).ok()?;
    Deserializer::new()
        .deserialize(&mut Cursor::new(bytes))
        .ok()
}

/// A tag ends at a comma, and holds no space.
fn tag(name: &str) -> String {
    name.replace(|c: char| c == ',' || c.is_whitespace(), "_")
}

/// For each row, a file's name and its percentiles in the `.hgrm` format,
/// which <https://hdrhistogram.github.io/HdrHistogram/plotFiles.html> takes:
/// several at once become one plot. Values are nanoseconds for one access.
pub fn percentiles(report: &Report) -> Vec<(String, String)> {
    let rows = report.sections.iter().flat_map(|section| &section.rows);
    let name = |row: &Row| tag(&row.name).replace('/', "_") + ".hgrm";
    rows.map(|row| (name(row), hgrm(row))).collect()
}

/// As `HdrHistogram` prints percentiles.
fn hgrm(row: &Row) -> String {
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    // The plotter counts a count as a float, too.
    #[allow(clippy::cast_precision_loss)]
    let all = row.summary.n as f64;
    for &[percent, value] in &row.curve {
        let part = percent / 100.0;
        let count = (part * all).ceil().max(1.0);
        let _ = write!(text, "{value:12.3} {part:14.12} {count:10.0}");
        // The last has no such number, and is a line of three.
        if part < 1.0 {
            let _ = write!(text, " {:14.2}", 1.0 / (1.0 - part));
        }
        text.push('\n');
    }
    let (mean, max) = (row.summary.mean, row.summary.max);
    let _ = writeln!(text, "#[Mean    = {mean:12.3}]");
    let _ = writeln!(text, "#[Max     = {max:12.3}, Total count    = {all:12.0}]");
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::super::sample;
    use super::*;

    #[test]
    fn the_log_is_read_by_the_crates_reader() {
        let report = sample::large();
        let log = hlog(&report);
        let entries: Vec<_> = IntervalLogIterator::new(log.as_bytes())
            .map(Result::unwrap)
            .collect();
        let started = Duration::from_secs(report.started);
        assert_eq!(entries[0], LogEntry::StartTime(started));
        assert_eq!(entries[1], LogEntry::BaseTime(started));
        let mut before = Duration::ZERO;
        let mut counted = 0;
        for entry in &entries[2..] {
            let LogEntry::Interval(interval) = entry else {
                panic!("{entry:?}");
            };
            assert!(interval.start_timestamp() >= before);
            before = interval.start_timestamp();
            let row = report.row(interval.tag().unwrap().as_str()).unwrap();
            let samples = decode(interval.encoded_histogram()).unwrap();
            assert!(
                row.runs
                    .iter()
                    .any(|run| run.n == samples.len() * u64::from(row.batch))
            );
            counted += 1;
        }
        let rows = report.sections.iter().flat_map(|section| &section.rows);
        assert_eq!(counted, rows.map(|row| row.runs.len()).sum::<usize>());
    }

    #[test]
    fn percentiles_are_lines_of_four_as_the_plotter_reads_them() {
        let files = percentiles(&sample::small());
        let (name, text) = &files[1];
        assert_eq!(name, "socket.read.stub.hgrm");
        let lines: Vec<Vec<&str>> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[0][3], "1/(1-Percentile)");
        let points: Vec<_> = lines[2..].iter().filter(|line| line.len() == 4).collect();
        assert!(points.len() > 4, "{text}");
        for point in points {
            let [value, part, _, inverse] =
                [0, 1, 2, 3].map(|at| point[at].parse::<f64>().unwrap());
            assert!((9_000.0..11_010.0).contains(&value), "{text}");
            assert!((1.0 / (1.0 - part) - inverse).abs() < 0.01);
        }
        // 100 % is the last line, and of three.
        assert_eq!(lines.last().unwrap().len(), 3);
    }
}
