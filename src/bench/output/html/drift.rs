//! How the machine's pace changed while the rows were measured: the reason
//! for which only ratios of one run are claimed.

use std::collections::BTreeMap;

use super::super::super::{Row, Section, median};
use super::svg::{Anchor, Log, Svg, WIDTH};

const HEIGHT: f64 = 170.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = WIDTH - 12.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 140.0;

/// How far the axis may reach, up and down.
const REACHES: [f64; 6] = [1.1, 1.25, 1.5, 2.0, 4.0, 8.0];

/// The medians of slices, each divided by its row's.
struct Slice {
    floor: bool,
    /// Slices of a round were taken one after the other.
    round: (u32, usize),
    at: f64,
    pace: f64,
}

pub(super) fn write(page: &mut String, section: &Section) {
    let slices: Vec<Slice> = section.rows.iter().flat_map(slices_of).collect();
    // One point is no series.
    let (Some(first), Some(last)) = (time(&slices, f64::min), time(&slices, f64::max)) else {
        return;
    };
    if last <= first {
        return;
    }
    let reach = reach(&slices);
    let paces = Log::between(1.0 / reach, reach, BOTTOM, TOP);
    let x = |at: f64| LEFT + (at - first) / (last - first) * (RIGHT - LEFT);
    let title = format!("{}: drift of the slices' medians", section.title);
    let mut svg = Svg::new(WIDTH, HEIGHT, &title);
    for pace in [1.0 / reach, 1.0 / reach.sqrt(), 1.0, reach.sqrt(), reach] {
        let y = paces.at(pace);
        svg.line("grid", (LEFT, y), (RIGHT, y));
        svg.text(
            "tick",
            Anchor::End,
            (LEFT - 6.0, y + 4.0),
            &format!("{pace:.2}×"),
        );
    }
    for second in seconds(first, last) {
        svg.line("grid", (x(second), TOP), (x(second), BOTTOM));
        svg.text(
            "tick",
            Anchor::Middle,
            (x(second), BOTTOM + 18.0),
            &format!("{second} s"),
        );
    }
    let (floors, others): (Vec<_>, Vec<_>) = slices.iter().partition(|slice| slice.floor);
    for slice in others.into_iter().chain(floors) {
        let class = if slice.floor {
            "slice floor"
        } else {
            "slice c0"
        };
        svg.dot(class, (x(slice.at), paces.at(slice.pace)), 2.2);
    }
    for line in rounds(&slices).values() {
        let points: Vec<_> = line
            .iter()
            .map(|&(at, pace)| (x(at), paces.at(pace)))
            .collect();
        svg.path("curve round", &points, "median of all rows, in one run");
    }
    page.push_str("<h3>Drift</h3>\n<figure>\n");
    page.push_str(&svg.finish());
    page.push_str(
        "<figcaption>Medians of slices, each divided by its row's, over the seconds since the \
         start; grey: floors; line: the median of all rows, run by run. What moves the line moves \
         row and floor alike, and leaves the ratio alone.</figcaption>\n</figure>\n",
    );
}

fn slices_of(row: &Row) -> Vec<Slice> {
    let all = row.runs.iter().flat_map(|run| &run.slices);
    let whole = median(&mut all.map(|slice| slice[1]).collect::<Vec<_>>());
    if whole <= 0.0 {
        return Vec::new();
    }
    let slices = row.runs.iter().flat_map(|run| {
        let numbered = run.slices.iter().enumerate();
        numbered.map(|(number, &[at, median])| Slice {
            floor: row.floor.is_none(),
            round: (run.number, number),
            at,
            pace: median / whole,
        })
    });
    slices.collect()
}

fn time(slices: &[Slice], choose: fn(f64, f64) -> f64) -> Option<f64> {
    slices.iter().map(|slice| slice.at).reduce(choose)
}

/// The least reach that holds all but a few slices.
fn reach(slices: &[Slice]) -> f64 {
    let outside = |reach: f64| {
        let far = slices
            .iter()
            .filter(|slice| slice.pace.max(1.0 / slice.pace) > reach);
        far.count() * 50 > slices.len()
    };
    let last = REACHES[REACHES.len() - 1];
    REACHES
        .into_iter()
        .find(|&reach| !outside(reach))
        .unwrap_or(last)
}

/// Whole seconds between two times, about ten.
fn seconds(first: f64, last: f64) -> Vec<f64> {
    let steps = [
        0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 300.0, 1800.0,
    ];
    let fits = |step: &f64| (last - first) / step <= 12.0;
    let step = steps.into_iter().find(fits).unwrap_or(7200.0);
    let mut seconds = Vec::new();
    let mut second = (first / step).ceil() * step;
    while second <= last && seconds.len() < 20 {
        // What floats add to a tenth is not shown.
        seconds.push((second * 10.0).round() / 10.0);
        second += step;
    }
    seconds
}

/// For each run, the median pace of each round.
fn rounds(slices: &[Slice]) -> BTreeMap<u32, Vec<(f64, f64)>> {
    let mut rounds: BTreeMap<_, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
    for slice in slices {
        let (times, paces) = rounds.entry(slice.round).or_default();
        times.push(slice.at);
        paces.push(slice.pace);
    }
    let mut lines: BTreeMap<u32, Vec<(f64, f64)>> = BTreeMap::new();
    for ((run, _), (mut times, mut paces)) in rounds {
        let point = (median(&mut times), median(&mut paces));
        lines.entry(run).or_default().push(point);
    }
    lines
}
