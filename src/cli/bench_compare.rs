//! `vgpu-stub bench compare`: what became faster or slower.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use vgpu_stub::bench::{Compared, Comparison, Report};

use super::failure::Failure;
use super::screen::Screen;

/// Say what became faster or slower from one report to another.
///
/// Both are what `bench --json` wrote, best on the same machine. Compared are
/// the rows' ratios to their floors, with the interval that holds the change
/// with 99 % confidence. Fails (exit status 1) if a ratio is surely higher,
/// and by more than the threshold. Rows without a floor are shown only: their
/// times depend on the machine.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The report to compare with.
    #[arg(value_name = "OLD")]
    old: PathBuf,

    /// The report to judge.
    #[arg(value_name = "NEW")]
    new: PathBuf,

    /// Fail if a row became slower by more than this.
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0)]
    #[arg(value_parser = percent)]
    threshold: f64,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A thorough report has less than a hundredth of this.
const LARGEST: u64 = 256 << 20;

/// How many rows the last line names.
const NAMED: usize = 5;

fn percent(text: &str) -> Result<f64, String> {
    let percent: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=1e6).contains(&percent) {
        Ok(percent)
    } else {
        Err("not between 0 and 1000000".to_owned())
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let (old, new) = (read(&args.old)?, read(&args.new)?);
    let paths = [&args.old, &args.new].map(|path| path.display());
    let comparison = Comparison::of(&old, &new)
        .map_err(|trouble| Failure::failed(format!("{} and {}: {trouble}", paths[0], paths[1])))?;
    let slower: Vec<&Compared> = comparison.slower_than(args.threshold).collect();
    let mut screen = Screen::new();
    if args.json {
        let output = Output {
            threshold: args.threshold,
            too_slow: slower.iter().map(|row| row.name.as_str()).collect(),
            comparison: &comparison,
        };
        screen.line(serde_json::to_string_pretty(&output).map_err(Failure::failed)?);
    } else {
        let [old, new] = paths;
        screen.title(format_args!("{old}, now {new}"));
        screen.line(&comparison);
        let unknown = comparison.unknown(args.threshold).count();
        if unknown > 0 {
            screen.line(format_args!(
                "{unknown} may be slower by more than {} %: more runs would tell",
                args.threshold
            ));
        }
    }
    if slower.is_empty() {
        return Ok(());
    }
    Err(too_slow(args.threshold, &slower))
}

#[derive(Serialize)]
struct Output<'a> {
    threshold: f64,
    /// The names of the rows for which this fails.
    too_slow: Vec<&'a str>,
    #[serde(flatten)]
    comparison: &'a Comparison,
}

fn read(path: &Path) -> Result<Report, Failure> {
    let failed =
        |error: &dyn std::fmt::Display| Failure::failed(format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(|error| failed(&error))?;
    let mut bytes = Vec::new();
    // One more, to know that there is more.
    let read = file.take(LARGEST + 1).read_to_end(&mut bytes);
    read.map_err(|error| failed(&error))?;
    if bytes.len() as u64 > LARGEST {
        return Err(failed(&"larger than any report"));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| failed(&"not a report of vgpu-stub bench: not a text"))?;
    Report::parse(&text).map_err(|trouble| failed(&trouble))
}

fn too_slow(threshold: f64, rows: &[&Compared]) -> Failure {
    let say = |row: &&Compared| match &row.change {
        Some(change) => format!("{} ({})", row.name, change.interval()),
        None => row.name.clone(),
    };
    let mut named: Vec<String> = rows.iter().take(NAMED).map(say).collect();
    if rows.len() > NAMED {
        named.push(format!("and {} more", rows.len() - NAMED));
    }
    let rows = named.join(", ");
    Failure::failed(format!("slower by more than {threshold} %: {rows}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_a_number_that_makes_sense() {
        assert_eq!(percent("7.5"), Ok(7.5));
        for wrong in ["", "10%", "-1", "nan", "inf", "1e9"] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_file_that_is_no_report_fails_in_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.json");
        let refusal = |path: &Path| read(path).unwrap_err().to_string();
        assert!(refusal(&path).ends_with("report.json: No such file or directory (os error 2)"));
        assert!(refusal(directory.path()).contains("Is a directory"));
        for (bytes, expected) in [
            (&b"\xff\xfe"[..], "not a text"),
            (b"[]", "not a report"),
            (b"{\"format\":99}", "a report of format 99"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let refusal = refusal(&path);
            assert!(refusal.contains(expected), "{refusal}");
            assert!(!refusal.contains('\n'));
        }
    }
}
