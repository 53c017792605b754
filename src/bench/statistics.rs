//! Medians, and what can be said of a mean from few values.

use serde::{Deserialize, Serialize};

/// A value and the interval that holds it with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The estimate.
    pub value: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
}

impl Spread {
    /// The geometric mean of values given as natural logarithms, with
    /// Student's t interval. `None` for less than two.
    pub fn of_logarithms(logs: &[f64]) -> Option<Self> {
        let (mean, error) = mean_and_error(logs)?;
        let margin = t_quantile(logs.len() - 1, 0.975) * error;
        Some(Spread {
            value: mean.exp(),
            low: (mean - margin).exp(),
            high: (mean + margin).exp(),
        })
    }
}

/// The mean and its standard error.
fn mean_and_error(values: &[f64]) -> Option<(f64, f64)> {
    let n = f64::from(u32::try_from(values.len()).ok()?);
    if values.len() < 2 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((mean, (squares / (n - 1.0) / n).sqrt()))
}

/// By how much the mean of `new` is above that of `old`, and the half width
/// of the interval that holds this with the confidence `p`: Welch's, which
/// does not take the two to spread alike. `None` for less than two values of
/// either.
pub fn welch(old: &[f64], new: &[f64], p: f64) -> Option<(f64, f64)> {
    let ((old_mean, old_error), (new_mean, new_error)) =
        (mean_and_error(old)?, mean_and_error(new)?);
    let (old_square, new_square) = (old_error.powi(2), new_error.powi(2));
    let square = old_square + new_square;
    let less_one =
        |values: &[f64]| f64::from(u32::try_from(values.len()).unwrap_or(u32::MAX)) - 1.0;
    // Welch and Satterthwaite; without any spread it does not matter.
    let freedom =
        square.powi(2) / (old_square.powi(2) / less_one(old) + new_square.powi(2) / less_one(new));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    // A float becomes the nearest value of the range, and NaN 0. Less freedom
    // is the wider interval.
    let freedom = freedom.min(999.0) as usize;
    let margin = t_quantile(freedom.max(1), f64::midpoint(p, 1.0)) * square.sqrt();
    Some((new_mean - old_mean, margin))
}

/// The median; sorts the values. 0 if there are none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values {
        [] => 0.0,
        values if values.len() % 2 == 1 => values[half],
        values => f64::midpoint(values[half - 1], values[half]),
    }
}

/// The value below which Student's t distribution has the part `p`, for `p`
/// of at least one half and fewer than 1000 degrees of freedom.
pub fn t_quantile(freedom: usize, p: f64) -> f64 {
    let inside = (2.0 * p - 1.0).clamp(0.0, 1.0 - 1e-9);
    let (mut low, mut high) = (0.0_f64, 1e10_f64);
    // Halving the exponent's range, then the value's: more than enough.
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        if t_inside(freedom, middle) < inside {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// The part of Student's t distribution between -t and t (Abramowitz and
/// Stegun, 26.7.3 and 26.7.4).
fn t_inside(freedom: usize, t: f64) -> f64 {
    let v = u32::try_from(freedom.clamp(1, 1000)).unwrap_or(1000);
    let angle = (t / f64::from(v).sqrt()).atan();
    let (sine, cosine) = angle.sin_cos();
    let odd = v % 2 == 1;
    let mut term = if odd { cosine } else { 1.0 };
    let mut sum = if v > 1 { term } else { 0.0 };
    let mut k = if odd { 2 } else { 1 };
    while k + 1 < v {
        term *= f64::from(k) / f64::from(k + 1) * cosine * cosine;
        sum += term;
        k += 2;
    }
    if odd {
        std::f64::consts::FRAC_2_PI * (angle + sine * sum)
    } else {
        sine * sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t_quantiles_are_those_of_the_tables() {
        for (freedom, p, expected) in [
            (1, 0.975, 12.706),
            (2, 0.975, 4.303),
            (3, 0.975, 3.182),
            (4, 0.975, 2.776),
            (10, 0.975, 2.228),
            (4, 0.995, 4.604),
            (29, 0.995, 2.756),
        ] {
            let found = t_quantile(freedom, p);
            assert!((found - expected).abs() < 1e-3, "{freedom} {p}: {found}");
        }
    }

    #[test]
    fn a_spread_holds_what_it_is_made_of() {
        let logs = [1.9_f64, 2.0, 2.1].map(f64::ln);
        let spread = Spread::of_logarithms(&logs).unwrap();
        assert!((spread.value - 1.998).abs() < 1e-3);
        assert!(spread.low < 1.9 && spread.high > 2.1, "{spread:?}");
        assert_eq!(Spread::of_logarithms(&[1.0]), None);
    }

    #[test]
    fn welchs_interval_is_that_of_the_textbook() {
        // Means 2 and 5, variances 1 and 4, of 3 and 5 values: an error of
        // sqrt(1/3 + 4/5) and 5.9 degrees of freedom, so 5.
        let spread = 2.0_f64.sqrt() * 2.0;
        let new = [5.0 - spread, 5.0, 5.0, 5.0, 5.0 + spread];
        let (difference, margin) = welch(&[1.0, 2.0, 3.0], &new, 0.95).unwrap();
        assert!((difference - 3.0).abs() < 1e-12);
        let expected = 2.571 * (1.0_f64 / 3.0 + 4.0 / 5.0).sqrt();
        assert!((margin - expected).abs() < 1e-3, "{margin}");
        // Two of each that spread alike: two degrees of freedom.
        let (_, margin) = welch(&[0.0, 2.0], &[0.0, 2.0], 0.95).unwrap();
        assert!((margin - 4.303 * 2.0_f64.sqrt()).abs() < 1e-2, "{margin}");
        assert_eq!(welch(&[1.0], &[1.0, 2.0], 0.95), None);
        assert_eq!(welch(&[1.0, 1.0], &[2.0, 2.0], 0.95), Some((1.0, 0.0)));
    }

    #[test]
    fn the_median_is_the_middle_one_or_between_two() {
        let doubled = |values: &[f64]| (2.0 * median(&mut values.to_vec())).to_string();
        assert_eq!(doubled(&[]), "0");
        assert_eq!(doubled(&[3.0, 1.0, 2.0]), "4");
        assert_eq!(doubled(&[4.0, 1.0, 2.0, 3.0]), "5");
    }
}
