//! A bar for each row: its median, how far it spreads, and its floor.

use super::super::super::{Row, Section};
use super::super::words::{fit, floor_of};
use super::svg::{Anchor, Log, Svg, WIDTH, room, tick};
use super::{Colours, ratio, time};

const LABELS: f64 = 330.0;
const BARS: f64 = 800.0;
const MEDIANS: f64 = 890.0;
const ROW: f64 = 24.0;
const HEAD: f64 = 30.0;

pub(super) fn write(page: &mut String, section: &Section, colours: &Colours) {
    let bottom = section.rows.iter().fold(HEAD, |y, _| y + ROW);
    let title = format!("{}: medians, 99th percentiles and floors", section.title);
    let mut svg = Svg::new(WIDTH, bottom + 22.0, &title);
    let axis = axis(section);
    draw_axis(&mut svg, &axis, bottom);
    let mut top = HEAD;
    for (number, row) in section.rows.iter().enumerate() {
        bar(&mut svg, &axis, row, colours.at(number), top);
        if let Some(floor) = floor_of(section, row) {
            let x = axis.at(floor.summary.p50);
            svg.line("floor-line", (x, top), (x, top + ROW));
        }
        texts(&mut svg, row, top + ROW / 2.0 + 4.0);
        top += ROW;
    }
    page.push_str("<figure>\n");
    page.push_str(&svg.finish());
    page.push_str(
        "<figcaption>Bar: median. Whisker: to the 99th percentile; dot: 99.9th. Dashed: the \
         median of the row's floor (grey). Logarithmic.",
    );
    if section.rows.iter().any(|row| row.partial.is_some()) {
        page.push_str(" *: ended early.");
    }
    page.push_str("</figcaption>\n</figure>\n");
}

fn bar(svg: &mut Svg, axis: &Log, row: &Row, colour: &str, top: f64) {
    let (all, middle) = (&row.summary, top + ROW / 2.0);
    let (start, median, far) = (axis.at(0.0), axis.at(all.p50), axis.at(all.p99));
    let say = format!(
        "{}: median {}, 99 % {}",
        row.name,
        time(all.p50),
        time(all.p99)
    );
    let (bar, whisker) = (format!("bar {colour}"), format!("whisker {colour}"));
    svg.rect(&bar, (start, top + 4.0), (median - start, ROW - 8.0), &say);
    svg.line(&whisker, (median, middle), (far, middle));
    svg.line(&whisker, (far, middle - 4.0), (far, middle + 4.0));
    svg.dot(&format!("dot {colour}"), (axis.at(all.p999), middle), 2.0);
}

fn texts(svg: &mut Svg, row: &Row, base: f64) {
    let what = fit(&row.what, room(LABELS - 14.0));
    svg.text("label", Anchor::End, (LABELS - 10.0, base), &what);
    svg.text(
        "value",
        Anchor::End,
        (MEDIANS, base),
        &time(row.summary.p50),
    );
    let marked = if row.partial.is_some() { "*" } else { "" };
    svg.text(
        "ratio",
        Anchor::End,
        (WIDTH - 6.0, base),
        &(ratio(row) + marked),
    );
}

fn axis(section: &Section) -> Log {
    let values = section.rows.iter().flat_map(|row| {
        let all = &row.summary;
        [all.min / 1.5, all.p50, all.p99, all.p999]
    });
    Log::over(values, LABELS, BARS)
}

fn draw_axis(svg: &mut Svg, axis: &Log, bottom: f64) {
    for value in axis.ticks() {
        let x = axis.at(value);
        svg.line("grid", (x, HEAD - 4.0), (x, bottom));
        svg.text("tick", Anchor::Middle, (x, bottom + 16.0), &tick(value));
    }
    svg.text("head", Anchor::End, (MEDIANS, HEAD - 12.0), "median");
    svg.text(
        "head",
        Anchor::End,
        (WIDTH - 6.0, HEAD - 12.0),
        "× floor, 95 %",
    );
}
