//! Lines, texts and scales for the plots.

use std::fmt::Write as _;

use super::Escaped;

/// The width of a plot that is as wide as the page, in its own units. The
/// page scales it.
pub(super) const WIDTH: f64 = 1040.0;

/// How wide a character of a label is at most, nearly always.
const CHARACTER: f64 = 6.6;

/// A plot on its way.
pub(super) struct Svg(String);

/// Which end of a text is at its place.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Middle,
    End,
}

impl Svg {
    /// An empty one. `title` is what those hear who do not see it.
    pub(super) fn new(width: f64, height: f64, title: &str) -> Self {
        let title = Escaped(title);
        Svg(format!(
            "<svg viewBox=\"0 0 {width} {height}\" role=\"img\"><title>{title}</title>\n"
        ))
    }

    pub(super) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = writeln!(
            self.0,
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        );
    }

    /// A line through points, which says what it is to who points at it.
    pub(super) fn path(&mut self, class: &str, points: &[(f64, f64)], title: &str) {
        let mut path = String::new();
        for (x, y) in points {
            let letter = if path.is_empty() { 'M' } else { 'L' };
            let _ = write!(path, "{letter}{x:.1} {y:.1}");
        }
        let title = Escaped(title);
        let _ = writeln!(
            self.0,
            "<path class=\"{class}\" d=\"{path}\"><title>{title}</title></path>"
        );
    }

    pub(super) fn rect(&mut self, class: &str, corner: (f64, f64), size: (f64, f64), title: &str) {
        let ((x, y), (width, height)) = (corner, size);
        let (width, title) = (width.max(0.5), Escaped(title));
        let _ = writeln!(
            self.0,
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
             height=\"{height:.1}\"><title>{title}</title></rect>"
        );
    }

    pub(super) fn dot(&mut self, class: &str, (x, y): (f64, f64), radius: f64) {
        let _ = writeln!(
            self.0,
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\"/>"
        );
    }

    pub(super) fn text(&mut self, class: &str, anchor: Anchor, (x, y): (f64, f64), text: &str) {
        let anchor = match anchor {
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = Escaped(text);
        let _ = writeln!(
            self.0,
            "<text class=\"{class}\" text-anchor=\"{anchor}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>"
        );
    }

    pub(super) fn finish(self) -> String {
        self.0 + "</svg>\n"
    }
}

/// How many characters of a label have room.
pub(super) fn room(width: f64) -> usize {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    // A plot's width: a small positive number.
    let characters = (width / CHARACTER).max(0.0) as usize;
    characters
}

/// From positive values to places on a logarithmic axis.
#[derive(Clone, Copy)]
pub(super) struct Log {
    from: f64,
    to: f64,
    start: f64,
    end: f64,
}

impl Log {
    /// An axis from the place `start` to `end` that has room for all of
    /// `values`, which may be none.
    pub(super) fn over(values: impl Iterator<Item = f64>, start: f64, end: f64) -> Self {
        let (mut from, mut to) = (f64::MAX, 0.0_f64);
        for value in values.filter(|value| *value > 0.0 && value.is_finite()) {
            from = from.min(value);
            to = to.max(value);
        }
        if to <= 0.0 {
            (from, to) = (1.0, 10.0);
        }
        Log {
            from: from / 1.15,
            to: to.max(from * 1.5) * 1.15,
            start,
            end,
        }
    }

    /// An axis from `from` to `to`, both positive.
    pub(super) fn between(from: f64, to: f64, start: f64, end: f64) -> Self {
        Log {
            from,
            to,
            start,
            end,
        }
    }

    /// The place of a value. What is outside of the axis is at its end.
    pub(super) fn at(&self, value: f64) -> f64 {
        let value = value.clamp(self.from, self.to);
        let part = (value / self.from).ln() / (self.to / self.from).ln();
        self.start + part * (self.end - self.start)
    }

    /// Round values: at most about ten, whatever the range.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let decades = (self.to / self.from).log10();
        let steps: &[f64] = match decades {
            decades if decades < 1.1 => &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0],
            decades if decades < 3.2 => &[1.0, 2.0, 5.0],
            _ => &[1.0],
        };
        #[allow(clippy::cast_possible_truncation)] // Of a double: within +-324.
        let first = self.from.log10().floor() as i32;
        let all = (first..first + 40)
            .flat_map(|decade| steps.iter().map(move |step| step * 10_f64.powi(decade)));
        all.filter(|tick| (self.from..=self.to).contains(tick))
            .collect()
    }
}

/// A tick's time: without digits that say nothing.
pub(super) fn tick(nanoseconds: f64) -> String {
    let (value, unit) = match nanoseconds {
        ns if ns < 0.999e3 => (ns, "ns"),
        ns if ns < 0.999e6 => (ns / 1e3, "µs"),
        ns if ns < 0.999e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    let digits = format!("{value:.3}");
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    format!("{digits}\u{a0}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_room_for_all_and_a_few_round_ticks() {
        for (low, high) in [(1.0, 1.0), (3.0, 5.0), (900.0, 60e3), (0.3, 4e9)] {
            let axis = Log::over([low, high].into_iter(), 100.0, 500.0);
            assert!(axis.at(low) > 100.0 && axis.at(high) < 500.0);
            let ticks = axis.ticks();
            assert!((1..=12).contains(&ticks.len()), "{low} {high}: {ticks:?}");
        }
        let nothing = Log::over([0.0, f64::NAN].into_iter(), 0.0, 1.0);
        assert!(nothing.at(0.0) < 0.01 && nothing.at(1e9) > 0.99);
    }

    #[test]
    fn a_tick_has_no_needless_digits() {
        let said = [0.1, 2.0, 500.0, 1e3, 1.5e4, 2e6, 1e9].map(tick);
        let expected = ["0.1 ns", "2 ns", "500 ns", "1 µs", "15 µs", "2 ms", "1 s"];
        assert_eq!(said, expected.map(|text| text.replace(' ', "\u{a0}")));
    }
}
