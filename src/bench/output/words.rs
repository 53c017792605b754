//! Times, counts, ratios and dates as people say them.

use super::super::{Report, Row, Section, Spread};

/// A time, given in nanoseconds, with three digits, and its unit.
pub(super) fn time(nanoseconds: f64) -> (String, &'static str) {
    // Not above 999, once rounded.
    let (value, unit) = match nanoseconds {
        ns if ns < 999.5 => (ns, "ns"),
        ns if ns < 999.5e3 => (ns / 1e3, "us"),
        ns if ns < 999.5e6 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    (three_digits(value), unit)
}

/// A time for a column of a terminal: `8.39us`.
pub(in super::super) fn short_time(nanoseconds: f64) -> String {
    let (digits, unit) = time(nanoseconds);
    digits + unit
}

/// Three digits, of a value below 999.5.
fn three_digits(value: f64) -> String {
    match value {
        value if value < 9.995 => format!("{value:.2}"),
        value if value < 99.95 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

/// A count with three digits: `1.21M`.
pub(in super::super) fn count(count: u64) -> String {
    // What is lost is not shown.
    #[allow(clippy::cast_precision_loss)]
    let value = count as f64;
    match value {
        value if value < 9_999.5 => count.to_string(),
        value if value < 999.5e3 => three_digits(value / 1e3) + "k",
        value if value < 999.5e6 => three_digits(value / 1e6) + "M",
        value => three_digits(value / 1e9) + "G",
    }
}

/// A ratio, and the half width of its interval with one digit, rounded up.
/// `None` for an interval that is so wide that it says nothing.
pub(super) fn ratio(ratio: &Spread) -> (String, Option<String>) {
    let Spread { value, low, high } = *ratio;
    let margin = (high - value).max(value - low).max(0.0);
    if margin.is_nan() || margin > 10.0 * value {
        return (format!("{value:.1}"), None);
    }
    // Three digits of the value at most, and four decimals.
    let most = match value {
        value if value >= 10.0 => 1,
        value if value >= 1.0 => 2,
        value if value >= 0.1 => 3,
        _ => 4,
    };
    let steps = [1.0, 0.1, 0.01, 0.001, 0.0001];
    let decimals = steps[..most]
        .iter()
        .filter(|&step| margin < 0.95 * step)
        .count();
    let step = steps[decimals];
    // A bit less, for what floats add to a whole number of steps.
    let margin = (margin / step - 1e-6).ceil().max(1.0) * step;
    let digits = |value: f64| format!("{value:.decimals$}");
    (digits(value), Some(digits(margin)))
}

/// A date in UTC (Hinnant, "chrono-compatible low-level date algorithms").
pub(in super::super) fn date(since_1970: u64) -> String {
    let (days, second) = (since_1970 / 86_400, since_1970 % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = 400 * era + year_of_era + u64::from(month <= 2);
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// A text without characters that would do something to a terminal.
pub(in super::super) fn plain(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// A plain text cut to `width` characters.
pub(in super::super) fn fit(text: &str, width: usize) -> String {
    let text = plain(text);
    if text.chars().count() <= width {
        return text;
    }
    let first: String = text.chars().take(width.saturating_sub(3)).collect();
    format!("{}...", first.trim_end())
}

/// The words of a text, without control characters, in lines of at most
/// `width` characters, the second and later ones indented. A word that is
/// longer is cut.
pub(super) fn lines(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in plain(text).split_whitespace() {
        let word = fit(word, width.saturating_sub(2));
        let line = lines.last().map_or(0, |line| line.chars().count());
        if line > 0 && line + 1 + word.chars().count() > width {
            lines.push("  ".to_owned());
        } else if line > 0 {
            lines.last_mut().into_iter().for_each(|line| line.push(' '));
        }
        lines
            .last_mut()
            .into_iter()
            .for_each(|line| line.push_str(&word));
    }
    lines
}

/// What the report was measured on, and how.
pub(super) fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let (machine, method) = (&report.machine, &report.method);
    let nested = |hypervisor| format!("{hypervisor}; a VM in it is nested");
    let unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "not told".to_owned());
    let kind = if method.quick { "quick" } else { "thorough" };
    let other = match method.other_cpu {
        Some(other) => format!("other side on {other}"),
        None => "there is no other".to_owned(),
    };
    let scheduler = if method.fifo {
        "SCHED_FIFO"
    } else {
        "no SCHED_FIFO"
    };
    let pinning = format!("client on CPU {}, {other}; {scheduler}", method.client_cpu);
    let (overhead, unit) = time(method.clock_overhead_ns);
    let facts = vec![
        ("CPU", format!("{} ({} usable)", machine.cpu, machine.cpus)),
        ("kernel", machine.kernel.clone()),
        (
            "hypervisor",
            machine
                .hypervisor
                .as_ref()
                .map_or("none".to_owned(), nested),
        ),
        ("governor", unknown(&machine.governor)),
        ("load", machine.load.clone()),
        ("pinning", pinning),
        (
            "clock",
            format!(
                "{}; a reading adds {overhead} {unit} to a sample; kernel's: {}",
                method.clock, machine.clocksource
            ),
        ),
        (
            "method",
            format!(
                "{kind}: {} runs of {} interleaved slices of {} ms",
                method.runs, method.slices, method.slice_ms
            ),
        ),
        (
            "vgpu-stub",
            format!(
                "{}, revision {}",
                machine.version,
                unknown(&machine.revision)
            ),
        ),
        ("date", date(report.started)),
    ];
    let plain = |(name, text): (_, String)| (name, plain(&text));
    facts.into_iter().map(plain).collect()
}

/// Why a report of these sections has less than was asked for.
pub(super) const INTERRUPTED: &str =
    "This report was interrupted: rows or runs are missing, and intervals are wider.";

/// Whether a section has nothing at all to show.
pub(super) fn is_empty(section: &Section) -> bool {
    section.rows.is_empty() && section.gaps.is_empty() && section.breakdown.is_none()
}

/// The row that this one is compared with.
pub(super) fn floor_of<'a>(section: &'a Section, row: &Row) -> Option<&'a Row> {
    let name = row.floor.as_ref()?;
    section.rows.iter().find(|other| other.name == *name)
}

/// The part of `whole` that `part` is, in percent.
pub(super) fn percent(part: f64, whole: f64) -> f64 {
    if whole > 0.0 {
        100.0 * part / whole
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_three_digits_and_the_unit_that_suits_it() {
        let said = [0.0, 0.456, 9.996, 38.14, 999.4, 999.6, 8_390.0, 2.5e6, 3e9].map(short_time);
        let expected = [
            "0.00ns", "0.46ns", "10.0ns", "38.1ns", "999ns", "1.00us", "8.39us", "2.50ms", "3.00s",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn a_count_has_three_digits_once_it_is_large() {
        let said = [0, 9_999, 10_000, 999_499, 1_210_000, 2_000_000_000].map(count);
        assert_eq!(said, ["0", "9999", "10.0k", "999k", "1.21M", "2.00G"]);
    }

    #[test]
    fn a_ratio_has_as_many_digits_as_its_interval_allows() {
        let said = |value, low, high| {
            let (value, margin) = ratio(&Spread { value, low, high });
            format!("{value} +-{}", margin.as_deref().unwrap_or("?"))
        };
        assert_eq!(said(1.1203, 1.095, 1.147), "1.12 +-0.03");
        assert_eq!(said(0.9712, 0.9711, 0.9713), "0.971 +-0.001");
        assert_eq!(said(0.00134, 0.0013, 0.0014), "0.0013 +-0.0001");
        assert_eq!(said(1.0, 1.0, 1.0), "1.00 +-0.01");
        assert_eq!(said(13.41, 12.6, 14.2), "13.4 +-0.9");
        assert_eq!(said(134.4, 130.0, 139.0), "134 +-5");
        assert_eq!(said(2.0, 0.5, 8.0), "2 +-6");
        assert_eq!(said(2.0, 0.01, 400.0), "2.0 +-?");
        assert_eq!(said(2.0, 0.0, f64::INFINITY), "2.0 +-?");
    }

    #[test]
    fn a_date_is_right_in_leap_years_too() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_827_696), "2000-02-29 12:34 UTC");
        assert_eq!(date(1_795_253_999), "2026-11-21 09:39 UTC");
        assert_eq!(date(4_107_542_400), "2100-03-01 00:00 UTC");
    }

    #[test]
    fn a_text_does_nothing_to_a_terminal() {
        assert_eq!(plain("\x1b[2Jgone\n"), " [2Jgone ");
        assert_eq!(fit("a long text", 8), "a lon...");
        assert_eq!(fit("short", 8), "short");
        assert_eq!(lines("one two  three", 8), ["one two", "  three"]);
        assert_eq!(lines("unbreakable", 8), ["unb..."]);
        assert_eq!(lines("", 8), [""]);
    }
}
