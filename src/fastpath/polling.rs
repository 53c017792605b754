//! What a device's thread does while it waits for its client.

use std::time::Duration;

use super::Spin;

/// The longest that a thread looks for work before it sleeps.
const LONGEST: Duration = Duration::from_micros(200);

/// What a device's thread does while it waits for its client.
///
/// A thread that sleeps has to be woken, which takes longer than most accesses.
/// One that looks again and again answers sooner, and takes a CPU from whoever
/// else could use it: often the client itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polling {
    /// It sleeps at once.
    Never,
    /// It looks for as long as that was worthwhile lately, 200 us at most, and
    /// then sleeps. A process that may run on one CPU only never looks, even
    /// if its client is on another; while others want its CPU, hardly ever.
    Adaptive {
        /// The most of a CPU's time that it spends looking, 1 to 100 percent,
        /// over some tenths of a second.
        budget: u8,
    },
    /// It looks and never sleeps while it has a client: for measurements.
    Always,
}

impl Polling {
    /// The budget of the default, in percent.
    pub const BUDGET: u8 = 25;

    /// How such a thread looks.
    pub fn spin(self) -> Spin {
        match self {
            Polling::Never => Spin::never(),
            Polling::Adaptive { budget } => Spin::adaptive(LONGEST, budget),
            Polling::Always => Spin::always(),
        }
    }
}

impl Default for Polling {
    fn default() -> Self {
        Polling::Adaptive {
            budget: Self::BUDGET,
        }
    }
}
