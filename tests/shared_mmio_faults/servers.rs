//! Hostile servers of our client.

use std::path::Path;

use super::random::Random;

/// Plays a hostile server.
pub(crate) fn play(role: &str, _socket: &Path, _random: Random) {
    panic!("no peer is called {role}");
}
