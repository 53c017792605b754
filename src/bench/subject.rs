//! What is measured.

use thiserror::Error;

use super::Clock;

/// Why a row cannot be measured, or not any further, in one line.
#[derive(Clone, Debug, Error)]
#[error("{0}")]
pub struct Trouble(pub String);

impl Trouble {
    /// Trouble with its cause.
    pub fn new(what: impl std::fmt::Display, cause: impl std::fmt::Display) -> Self {
        Trouble(format!("{what}: {cause}"))
    }
}

/// One kind of access to one thing.
pub trait Subject {
    /// Takes a sample for each element of `ticks`: how long one batch of
    /// accesses took. Neither allocates nor prints meanwhile.
    ///
    /// # Errors
    ///
    /// [`Trouble`] if an access fails; what was sampled before is dropped.
    fn sample(&mut self, clock: &Clock, ticks: &mut [u64]) -> Result<(), Trouble>;

    /// The process on the other side of the access, whose context switches
    /// count as well.
    fn peer(&self) -> Option<u32> {
        None
    }
}

/// Samples `access`, `batch` times for each element of `ticks`.
///
/// # Errors
///
/// The first that `access` returns.
#[inline]
pub fn timed(
    clock: &Clock,
    ticks: &mut [u64],
    batch: u32,
    mut access: impl FnMut() -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    for ticks in ticks {
        let before = clock.now();
        for _ in 0..batch {
            access()?;
        }
        *ticks = clock.now().wrapping_sub(before);
    }
    Ok(())
}
