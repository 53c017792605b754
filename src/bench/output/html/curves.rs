//! Percentile curves. Twenty in one plot say nothing: rows that belong
//! together share a small one, and all have the same axes.

use std::fmt::{self, Write as _};

use super::super::super::{Row, Section};
use super::super::words::{fit, floor_of};
use super::svg::{Anchor, Log, Svg, tick};
use super::{COLOURS, Colours, Escaped, time};

const SIZE: (f64, f64) = (340.0, 230.0);
const LEFT: f64 = 52.0;
const RIGHT: f64 = 330.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 206.0;

/// The most rows of a plot, their floor not among them.
const MOST: usize = 5;

/// 99.9999 %: further out there is next to nothing.
const LAST: f64 = 6.0;

pub(super) fn write(
    page: &mut String,
    section: &Section,
    plots: &[Vec<usize>],
    colours: &Colours,
) -> fmt::Result {
    let axes = Axes::of(section);
    page.push_str("<h3>Percentiles</h3>\n<div class=\"plots\">\n");
    for rows in plots {
        plot(page, section, rows, &axes, colours)?;
    }
    page.push_str("</div>\n");
    Ok(())
}

/// The axes of all plots of a section.
struct Axes {
    /// From the number of nines to a place: linear.
    nines: f64,
    time: Log,
}

impl Axes {
    fn of(section: &Section) -> Self {
        let most = section.rows.iter().map(samples).fold(100.0, f64::max);
        let values = section.rows.iter().flat_map(|row| &row.curve);
        Axes {
            nines: most.log10().min(LAST),
            time: Log::over(values.map(|point| point[1]), BOTTOM, TOP),
        }
    }

    /// The place of 1/(1-p).
    fn at(&self, inverse: f64) -> f64 {
        let nines = inverse.log10().clamp(0.0, self.nines);
        LEFT + nines / self.nines * (RIGHT - LEFT)
    }
}

/// How many samples a row has.
fn samples(row: &Row) -> f64 {
    #[allow(clippy::cast_precision_loss)] // Only to plot it.
    let accesses = row.summary.n as f64;
    accesses / f64::from(row.batch.max(1))
}

/// The rows of each plot: neighbours whose names differ in the last word
/// only, and few neighbours with the same floor. Floors that rows are
/// compared with come with these, others like rows.
pub(super) fn plots(section: &Section) -> Vec<Vec<usize>> {
    let stem = |row: &Row| row.name.rsplit_once('.').map(|(stem, _)| stem.to_owned());
    let is_floor = |row: &Row| {
        let mut floors = section.rows.iter().filter_map(|row| row.floor.as_ref());
        row.floor.is_none() && floors.any(|floor| *floor == row.name)
    };
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (number, row) in section.rows.iter().enumerate() {
        if is_floor(row) {
            continue;
        }
        let last = groups.last_mut().filter(|group| {
            let before = &section.rows[group[0]];
            group.len() < COLOURS && before.floor == row.floor && stem(before) == stem(row)
        });
        match last {
            Some(group) => group.push(number),
            None => groups.push(vec![number]),
        }
    }
    // A plot for one row is a waste.
    let mut merged: Vec<Vec<usize>> = Vec::new();
    for group in groups {
        let fits = |last: &&mut Vec<usize>| {
            let floor = |group: &[usize]| section.rows[group[0]].floor.clone();
            let lonely = last.len() == 1 || group.len() == 1;
            lonely && last.len() + group.len() <= MOST && floor(last) == floor(&group)
        };
        match merged.last_mut().filter(fits) {
            Some(last) => last.extend(group),
            None => merged.push(group),
        }
    }
    merged
}

fn plot(
    page: &mut String,
    section: &Section,
    rows: &[usize],
    axes: &Axes,
    colours: &Colours,
) -> fmt::Result {
    let first = &section.rows[rows[0]];
    let mut svg = Svg::new(SIZE.0, SIZE.1, &format!("Percentiles of {}", first.what));
    draw_axes(&mut svg, axes);
    let floor = floor_of(section, first);
    if let Some(floor) = floor {
        curve(&mut svg, axes, floor, "curve floor");
    }
    let mut legend = String::new();
    for &number in rows {
        let row = &section.rows[number];
        let colour = colours.at(number);
        curve(&mut svg, axes, row, &format!("curve {colour}"));
        let what = fit(&row.what, 60);
        writeln!(legend, "<li class=\"{colour}\">{}</li>", Escaped(&what))?;
    }
    if let Some(floor) = floor {
        let what = fit(&floor.what, 60);
        writeln!(legend, "<li class=\"floor\">{}</li>", Escaped(&what))?;
    }
    let svg = svg.finish();
    writeln!(
        page,
        "<figure>\n{svg}<figcaption><ul class=\"legend\">\n{legend}</ul></figcaption>\n</figure>"
    )
}

fn curve(svg: &mut Svg, axes: &Axes, row: &Row, class: &str) {
    let samples = samples(row).max(1.0);
    let points: Vec<_> = row
        .curve
        .iter()
        .map(|&[percent, value]| {
            // The longest of n samples is 1 - 1/n.
            let rest = (1.0 - percent / 100.0).max(1.0 / samples);
            (axes.at(1.0 / rest), axes.time.at(value))
        })
        .collect();
    let all = &row.summary;
    let say = format!(
        "{}: 50 % {}, 99 % {}, 99.9 % {}",
        row.name,
        time(all.p50),
        time(all.p99),
        time(all.p999)
    );
    svg.path(class, &points, &say);
}

fn draw_axes(svg: &mut Svg, axes: &Axes) {
    for value in axes.time.ticks() {
        let y = axes.time.at(value);
        svg.line("grid", (LEFT, y), (RIGHT, y));
        svg.text("tick", Anchor::End, (LEFT - 6.0, y + 4.0), &tick(value));
    }
    let all: [(f64, &str); 7] = [
        (2.0, "50"),
        (1e1, "90"),
        (1e2, "99"),
        (1e3, "99.9"),
        (1e4, "99.99"),
        (1e5, "99.999"),
        (1e6, "99.9999"),
    ];
    // A label needs the room of about half a nine, and the last ones more.
    let few = axes.nines > 4.5;
    for (inverse, label) in all
        .into_iter()
        .filter(|(inverse, _)| inverse.log10() <= axes.nines)
    {
        let x = axes.at(inverse);
        svg.line("grid", (x, TOP), (x, BOTTOM));
        let skipped = few && (label == "50" || label == "99.9999");
        if !skipped {
            svg.text(
                "tick",
                Anchor::Middle,
                (x, BOTTOM + 16.0),
                &format!("{label}%"),
            );
        }
    }
}
