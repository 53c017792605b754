//! What can go wrong in the rig, and the one policy for what is missing.

use std::fmt::Display;

/// A failure of the rig, in one line.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum RigError {
    /// The machine lacks something that the rig cannot get by itself.
    #[error("{what}: {why}; {remedy}")]
    Missing {
        what: String,
        why: String,
        remedy: String,
    },
    /// It is there and did not do what it should.
    #[error("{what}: {why}")]
    Failed { what: String, why: String },
}

impl RigError {
    /// Something is not to be had here: the test may be skipped.
    pub(crate) fn missing(what: impl Display, why: impl Display, remedy: impl Display) -> Self {
        Self::Missing {
            what: what.to_string(),
            why: one_line(&why.to_string()),
            remedy: remedy.to_string(),
        }
    }

    /// Something went wrong: the test fails.
    pub(crate) fn failed(what: impl Display, why: impl Display) -> Self {
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

/// The value, or `None` after saying why the test is skipped.
///
/// Under `CI=true` nothing may be missing, so the test fails there. A
/// failure that is not about something missing fails the test everywhere.
#[track_caller]
#[must_use]
pub(crate) fn or_skip<T>(result: Result<T, RigError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(reason @ RigError::Missing { .. })
            if std::env::var_os("CI").is_none_or(|ci| ci != "true") =>
        {
            eprintln!("skipped: {reason}");
            None
        }
        Err(reason) => panic!("{reason}"),
    }
}
