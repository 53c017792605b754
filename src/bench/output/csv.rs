//! One line for each row, as RFC 4180 wants it.

use super::super::{Report, Row, Section, Spread};

const HEAD: &str = "rung,section,name,what,floor,batch,n,min_ns,p50_ns,p90_ns,p99_ns,p99.9_ns,\
max_ns,mean_ns,median_ns,median_low_ns,median_high_ns,ratio,ratio_low,ratio_high,\
context_switches,partial";

/// The rows as CSV with a head line. What is not known is an empty field.
/// `p50` is of all samples; `median` is the mean over the runs' medians.
/// Gaps are not rows, and not here.
pub fn csv(report: &Report) -> String {
    let mut text = format!("{HEAD}\r\n");
    for section in &report.sections {
        for row in &section.rows {
            text += &line(section, row).map(quoted).join(",");
            text += "\r\n";
        }
    }
    text
}

fn line(section: &Section, row: &Row) -> [String; 22] {
    let all = &row.summary;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let [median, median_low, median_high] = ends(row.median.as_ref());
    let [ratio, ratio_low, ratio_high] = ends(row.ratio.as_ref());
    [
        section.rung.to_string(),
        section.title.clone(),
        row.name.clone(),
        row.what.clone(),
        text(&row.floor),
        row.batch.to_string(),
        all.n.to_string(),
        number(all.min),
        number(all.p50),
        number(all.p90),
        number(all.p99),
        number(all.p999),
        number(all.max),
        number(all.mean),
        median,
        median_low,
        median_high,
        ratio,
        ratio_low,
        ratio_high,
        row.context_switches.map(number).unwrap_or_default(),
        text(&row.partial),
    ]
}

fn ends(spread: Option<&Spread>) -> [String; 3] {
    spread.map_or_else(Default::default, |spread| {
        [spread.value, spread.low, spread.high].map(number)
    })
}

/// To a picosecond, or a millionth.
fn number(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn quoted(field: String) -> String {
    if field.contains([',', '"', '\r', '\n']) {
        return format!("\"{}\"", field.replace('"', "\"\""));
    }
    field
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn every_row_is_a_line_with_all_fields() {
        let report = sample::small();
        let csv = csv(&report);
        let mut lines = csv.split("\r\n");
        let fields = lines.next().unwrap().split(',').count();
        let floor = lines.next().unwrap();
        assert_eq!(floor.split(',').count(), fields);
        assert!(floor.starts_with("2,socket,socket.floor,floor: ping-pong,,1,"));
        let above = lines.next().unwrap();
        assert!(above.contains(",1.25,1.25,1.25,2,"), "{above}");
    }

    #[test]
    fn a_field_with_commas_quotes_or_lines_is_quoted() {
        let mut report = sample::small();
        report.sections[0].rows[0].what = "a \"b\", c\nd".to_owned();
        assert!(csv(&report).contains(",\"a \"\"b\"\", c\nd\","));
    }

    #[test]
    fn a_number_has_no_digits_that_say_nothing() {
        assert_eq!(
            [8390.0, 0.25, 1.0 / 3.0].map(number),
            ["8390", "0.25", "0.333333"]
        );
    }
}
