//! What can go wrong with what comes from elsewhere.

use std::fmt::Display;

/// A failure, in one line.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The machine lacks something that cannot be had without its user.
    #[error("{what}: {why}; {remedy}")]
    Missing {
        /// What cannot be done.
        what: String,
        /// Why not.
        why: String,
        /// What to do.
        remedy: String,
    },
    /// It is there and did not do what it should.
    #[error("{what}: {why}")]
    Failed {
        /// What failed.
        what: String,
        /// Why.
        why: String,
    },
}

impl Error {
    /// Something is not to be had here: one can do without.
    pub fn missing(what: impl Display, why: impl Display, remedy: impl Display) -> Self {
        Self::Missing {
            what: what.to_string(),
            why: one_line(&why.to_string()),
            remedy: remedy.to_string(),
        }
    }

    /// Something went wrong.
    pub fn failed(what: impl Display, why: impl Display) -> Self {
        Self::Failed {
            what: what.to_string(),
            why: one_line(&why.to_string()),
        }
    }
}

/// The last lines of a longer text, as one line.
fn one_line(text: &str) -> String {
    const KEPT: usize = 12;
    // apt warns (W:) about much that is not the reason.
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("W: "))
        .collect();
    lines[lines.len().saturating_sub(KEPT)..].join(" | ")
}
