//! The one policy for what is missing.

use super::RigError;

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

/// The value, or the end of a test that gives nothing back: as [`or_skip`].
macro_rules! require {
    ($result:expr) => {
        match $crate::rig::or_skip($result) {
            Some(value) => value,
            None => return,
        }
    };
}
pub(crate) use require;
