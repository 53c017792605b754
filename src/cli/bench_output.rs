//! Where a report goes: the terminal, and a directory of files.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use vgpu_stub::bench::Report;
use vgpu_stub::bench::output::{Table, csv, hlog, html, markdown, percentiles};

use super::failure::Failure;
use super::screen::Screen;

#[derive(Debug, clap::Args)]
pub(super) struct Output {
    /// Print the report as JSON, instead of the table.
    #[arg(long)]
    json: bool,

    /// Print the rows as CSV, instead of the table.
    #[arg(long, conflicts_with = "json")]
    csv: bool,

    /// Write report.html, report.md, report.json, report.csv, latency.hlog and
    /// percentiles/ into this directory.
    #[arg(
        short = 'o',
        long = "output",
        value_name = "DIR",
        default_value = "vgpu-stub-bench"
    )]
    directory: PathBuf,
}

/// A directory that can be written to.
pub(super) struct Prepared<'a>(&'a Output);

impl Output {
    /// Makes the directory, before anything is measured in vain.
    pub(super) fn prepare(&self) -> Result<Prepared<'_>, Failure> {
        let directory = self.directory.join("percentiles");
        fs::create_dir_all(&directory)
            .and_then(|()| NamedTempFile::new_in(&directory))
            .map(|_| Prepared(self))
            .map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &std::io::Error) -> Failure {
        Failure::failed(format!(
            "cannot write into {}: {error}; choose another directory with --output",
            self.directory.display()
        ))
    }
}

impl Prepared<'_> {
    /// Writes the files, then prints what was asked for.
    pub(super) fn write(self, report: &Report) -> Result<(), Failure> {
        let Prepared(output) = self;
        let json = serde_json::to_string_pretty(report).map_err(Failure::failed)?;
        let rows = csv(report);
        self.files(report, &json, &rows)
            .map_err(|error| output.failed(&error))?;
        if output.json {
            Screen::new().line(json);
        } else if output.csv {
            Screen::new().line(rows.trim_end());
        } else {
            let mut screen = Screen::new();
            screen.line(Table::new(report, WIDTH));
            let html = output.directory.join("report.html");
            screen.line(format_args!("Plots and all figures: {}", html.display()));
        }
        if report.interrupted {
            return Err(Failure::failed(format!(
                "interrupted; what was measured until then is in {}",
                output.directory.display()
            )));
        }
        Ok(())
    }

    fn files(&self, report: &Report, json: &str, rows: &str) -> std::io::Result<()> {
        let directory = &self.0.directory;
        replace(&directory.join("report.json"), json)?;
        replace(&directory.join("report.csv"), rows)?;
        replace(&directory.join("report.html"), &html(report))?;
        replace(&directory.join("report.md"), &markdown(report))?;
        replace(&directory.join("latency.hlog"), &hlog(report))?;
        for (name, text) in percentiles(report) {
            replace(&directory.join("percentiles").join(name), &text)?;
        }
        Ok(())
    }
}

/// What most people's terminals have room for, and a mail.
const WIDTH: usize = 118;

/// Writes a file as a whole: who reads an earlier one meanwhile reads that.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(directory)?;
    file.write_all(text.as_bytes())?;
    let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(everyone)?;
    file.persist(path)?;
    Ok(())
}
