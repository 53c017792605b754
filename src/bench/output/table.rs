//! The report on a terminal, and as Markdown.

use std::fmt::{self, Display, Formatter, Write as _};

use anstyle::{AnsiColor, Style};

use super::super::{Breakdown, Report, Row, Section, Whose};
use super::words::{self, count, fit, floor_of, percent, plain, short_time};

const HEADING: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const CLAIM: Style = AnsiColor::Cyan.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// What the columns beside `what` take.
const FIGURES: usize = 2 + 7 * 7 + 6 + 16 + 6;

/// The narrowest `what`.
const NARROWEST: usize = 24;

/// How long the longest bar of a breakdown is.
const BAR: f64 = 40.0;

/// The report as a table, with colours: print it through something that takes
/// them away where there is no terminal.
#[derive(Debug)]
pub struct Table<'a> {
    report: &'a Report,
    width: usize,
}

impl<'a> Table<'a> {
    /// A table that is `width` characters wide, or as wide as it must be if
    /// that is less than about 105.
    pub fn new(report: &'a Report, width: usize) -> Self {
        let width = width.clamp(FIGURES + NARROWEST, 140);
        Table { report, width }
    }
}

impl Display for Table<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (name, text) in words::facts(self.report) {
            writeln!(f, "{DIM}{name:<11}{DIM:#}{}", fit(&text, self.width - 11))?;
        }
        if self.report.interrupted {
            writeln!(f, "\n{BAD}{}{BAD:#}", words::INTERRUPTED)?;
        }
        for section in &self.report.sections {
            self.section(f, section)?;
        }
        let rows = self
            .report
            .sections
            .iter()
            .any(|section| !section.rows.is_empty());
        if rows {
            writeln!(f)?;
            wrap(f, "", LEGEND, self.width, DIM)?;
        }
        Ok(())
    }
}

const LEGEND: &str = "Times are of one access. x floor: how many times the floor's median, slice \
by slice beside it, +- what holds it with 95 % confidence. csw: context switches of an \
access, on both sides. n: accesses.";

impl Table<'_> {
    fn section(&self, f: &mut Formatter<'_>, section: &Section) -> fmt::Result {
        let title = fit(&section.title, self.width - 4);
        writeln!(f, "\n{HEADING}{}. {title}{HEADING:#}", section.rung)?;
        if words::is_empty(section) {
            return writeln!(f, "  {DIM}nothing was measured{DIM:#}");
        }
        if !section.rows.is_empty() {
            self.head(f)?;
        }
        for row in &section.rows {
            self.row(f, section, row)?;
        }
        for gap in &section.gaps {
            let text = format!("not measured: {}: {}", gap.what, gap.why);
            wrap(f, "  ", &text, self.width, BAD)?;
        }
        if let Some(breakdown) = &section.breakdown {
            self.breakdown(f, breakdown)?;
        }
        for note in &section.notes {
            wrap(f, "  ", note, self.width, DIM)?;
        }
        Ok(())
    }

    /// The width of the column `what`.
    fn what(&self) -> usize {
        self.width - FIGURES
    }

    fn head(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "  {DIM}{:<width$}", "", width = self.what())?;
        for name in ["min", "p50", "p90", "p99", "p99.9", "max", "mean"] {
            write!(f, " {name:>6}")?;
        }
        writeln!(f, " {:>5} {:>15} {:>5}{DIM:#}", "n", "x floor", "csw")
    }

    fn row(&self, f: &mut Formatter<'_>, section: &Section, row: &Row) -> fmt::Result {
        // What is longer has lines of its own, and the figures on its last.
        let mut lines = words::lines(&row.what, self.what());
        let last = lines.pop().unwrap_or_default();
        for line in lines {
            writeln!(f, "  {line}")?;
        }
        write!(f, "  {last:<width$}", width = self.what())?;
        for (at, time) in times(row).into_iter().enumerate() {
            let style = if at == 1 { HEADING } else { Style::new() };
            write!(f, " {style}{:>6}{style:#}", short_time(time))?;
        }
        let (n, ratio) = (count(row.summary.n), ratio(section, row));
        let switches = switches(row);
        writeln!(f, " {n:>5} {CLAIM}{ratio:>15}{CLAIM:#} {switches:>5}")?;
        match &row.partial {
            Some(why) => wrap(f, "    ", &format!("ended early: {why}"), self.width, BAD),
            None => Ok(()),
        }
    }

    fn breakdown(&self, f: &mut Formatter<'_>, breakdown: &Breakdown) -> fmt::Result {
        let title = format!("Where the time goes: {}", breakdown.title);
        writeln!(f, "\n  {HEADING}{}{HEADING:#}", fit(&title, self.width - 2))?;
        let head = format!("{:<34} {:>7} {:>7} {:>5}", "", "p50", "p99", "");
        writeln!(f, "  {DIM}{head}{DIM:#}")?;
        let sum: f64 = breakdown.parts.iter().map(|part| part.p50).sum();
        for part in &breakdown.parts {
            let share = percent(part.p50, sum);
            let (what, whose) = (fit(&part.what, 34), whose(part.whose));
            let (p50, p99) = (short_time(part.p50), short_time(part.p99));
            let bar = bar(share);
            writeln!(
                f,
                "  {what:<34} {p50:>7} {p99:>7} {share:>3.0} % {DIM}{whose:<10}{DIM:#} {bar}"
            )?;
        }
        writeln!(f, "  {:<34} {:>7}", "sum of the medians", short_time(sum))
    }
}

/// A bar of text; a part that is there at all has one.
fn bar(percent: f64) -> String {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    // From 0 to BAR.
    let length = (percent.clamp(0.0, 100.0) / 100.0 * BAR).round().max(1.0) as usize;
    "#".repeat(length)
}

pub(super) fn whose(whose: Whose) -> &'static str {
    match whose {
        Whose::Ours => "ours",
        Whose::Kernel => "kernel",
        Whose::Hypervisor => "hypervisor",
    }
}

/// In the order of the columns.
pub(super) fn times(row: &Row) -> [f64; 7] {
    let all = &row.summary;
    [
        all.min, all.p50, all.p90, all.p99, all.p999, all.max, all.mean,
    ]
}

fn ratio(section: &Section, row: &Row) -> String {
    match &row.ratio {
        Some(ratio) => {
            let (value, margin) = words::ratio(ratio);
            format!("{value} +-{}", margin.as_deref().unwrap_or("?"))
        }
        // Of one run, or without its floor: no ratio, which is no zero.
        None if floor_of(section, row).is_some() => "?".to_owned(),
        None => String::new(),
    }
}

pub(super) fn switches(row: &Row) -> String {
    row.context_switches
        .map(|switches| format!("{switches:.2}"))
        .unwrap_or_default()
}

/// Writes words, in lines of at most `width` characters.
fn wrap(
    f: &mut Formatter<'_>,
    indent: &str,
    text: &str,
    width: usize,
    style: Style,
) -> fmt::Result {
    for line in words::lines(text, width - indent.len()) {
        writeln!(f, "{indent}{style}{line}{style:#}")?;
    }
    Ok(())
}

/// The report as Markdown, with the columns that a page has room for.
pub fn markdown(report: &Report) -> String {
    let mut text = String::new();
    for (name, value) in words::facts(report) {
        let _ = writeln!(text, "- {name}: {}", cell(&value));
    }
    if report.interrupted {
        let _ = writeln!(text, "\n**{}**", words::INTERRUPTED);
    }
    for section in &report.sections {
        let _ = writeln!(text, "\n**{}. {}**\n", section.rung, cell(&section.title));
        if !section.rows.is_empty() {
            text += "| | p50 | p99 | p99.9 | n | x floor |\n|---|--:|--:|--:|--:|--:|\n";
        }
        for row in &section.rows {
            let all = &row.summary;
            let [p50, p99, p999] = [all.p50, all.p99, all.p999].map(short_time);
            let early = if row.partial.is_some() {
                " (ended early)"
            } else {
                ""
            };
            let (what, n, ratio) = (cell(&row.what), count(all.n), ratio(section, row));
            let _ = writeln!(
                text,
                "| {what}{early} | {p50} | {p99} | {p999} | {n} | {ratio} |"
            );
        }
        for gap in &section.gaps {
            let _ = writeln!(
                text,
                "\nNot measured: {}: {}",
                cell(&gap.what),
                cell(&gap.why)
            );
        }
    }
    text
}

/// A text that does not end a cell, and is no HTML.
fn cell(text: &str) -> String {
    plain(text).replace('|', "\\|").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn shown(report: &Report, width: usize) -> String {
        let table = Table::new(report, width).to_string();
        anstream::adapter::strip_str(&table).to_string()
    }

    #[test]
    fn a_row_stands_beside_its_floor() {
        let table = shown(&sample::small(), 106);
        let lines: Vec<&str> = table.lines().map(str::trim_end).collect();
        let at = lines.iter().position(|line| *line == "2. socket").unwrap();
        let expected = [
            "                                 min    p50    p90    p99  p99.9    max   mean     n         x floor   csw",
            "  floor: ping-pong            7.20us 8.00us 8.81us 8.81us 8.81us 8.81us 8.00us   306",
            "  read, stub                  8.99us 10.0us 11.0us 11.0us 11.0us 11.0us 10.0us   306     1.25 +-0.01  2.00",
        ];
        assert_eq!(lines[at + 1..at + 4], expected);
    }

    #[test]
    fn no_line_is_longer_than_the_width() {
        let report = sample::large();
        for width in [0, 104, 120, 4000] {
            let table = shown(&report, width);
            let longest = table.lines().map(|line| line.chars().count()).max();
            assert!(longest <= Some(width.clamp(103, 140)), "{table}");
        }
    }

    #[test]
    fn what_is_missing_is_said_where_it_would_be() {
        let table = shown(&sample::large(), 120);
        for expected in [
            "This report was interrupted",
            "  not measured: all rows: no --socket-path given",
            "    ended early: no answer within 1 s",
            "  nothing was measured",
            "  sendmsg and wake-up of the server   3.90us  6.24us  36 % kernel     ##############",
        ] {
            assert!(table.contains(expected), "{expected}\n{table}");
        }
    }

    #[test]
    fn markdown_has_the_rows_and_no_html() {
        let markdown = markdown(&sample::large());
        assert!(markdown.contains("| read, 4 bytes | "));
        assert!(!markdown.contains('<'));
    }
}
