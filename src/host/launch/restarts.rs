//! When a server that has died is started again, and when no more.

use std::time::Duration;

/// A server that served for this long was a good one.
const GOOD: Duration = Duration::from_secs(1);
/// How long the second successor in a row waits; each further one twice as
/// long.
const FIRST: Duration = Duration::from_millis(10);
/// But no longer than this.
const LONGEST: Duration = Duration::from_secs(5);
/// More successors than this do not follow each other: about a minute.
const MOST: u32 = 20;

/// The successors since the last good server.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    in_a_row: u32,
}

impl Restarts {
    /// How long to wait after a server that was ready for this long; `None`:
    /// there is to be no other.
    pub(super) fn after(&mut self, ready: Duration) -> Option<Duration> {
        if ready >= GOOD {
            self.in_a_row = 0;
        }
        let before = self.in_a_row;
        self.in_a_row += 1;
        match before {
            0 => Some(Duration::ZERO),
            MOST.. => None,
            doubled => Some(LONGEST.min(FIRST * (1 << (doubled - 1)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_dies_at_once_waits_longer_each_time_and_then_for_good() {
        let mut restarts = Restarts::default();
        let mut waits = Vec::new();
        while let Some(wait) = restarts.after(Duration::ZERO) {
            waits.push(wait);
        }
        assert_eq!(waits.len(), 20);
        let ms = |wait: &Duration| wait.as_millis();
        let first: Vec<u128> = waits.iter().take(5).map(ms).collect();
        assert_eq!(first, [0, 10, 20, 40, 80]);
        assert_eq!(waits.last(), Some(&LONGEST));
        assert!(waits.is_sorted());
        assert_eq!(restarts.after(Duration::ZERO), None);
    }

    #[test]
    fn who_has_served_is_followed_at_once_however_often() {
        let mut restarts = Restarts::default();
        for _ in 0..1000 {
            assert_eq!(restarts.after(GOOD), Some(Duration::ZERO));
        }
        assert_eq!(restarts.after(Duration::ZERO), Some(FIRST));
    }
}
