//! Which Debian mirror to ask: the one that this machine already uses.

use std::fs;
use std::path::{Path, PathBuf};

/// Where Debian is when the host's sources name no mirror.
const DEFAULT: &str = "http://deb.debian.org/debian";

/// Where releases go that the mirrors no longer hold.
pub const ARCHIVE: &str = "http://archive.debian.org/debian";

/// Mirrors to try, best first.
pub fn mirrors() -> Vec<String> {
    let host = files(Path::new("/etc/apt"))
        .into_iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .find_map(|text| mirror_in(&text));
    let mut mirrors: Vec<String> = host.into_iter().collect();
    if mirrors.iter().all(|mirror| mirror != DEFAULT) {
        mirrors.push(DEFAULT.to_owned());
    }
    mirrors
}

fn files(etc: &Path) -> Vec<PathBuf> {
    let parts = fs::read_dir(etc.join("sources.list.d"))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|kind| kind == "list" || kind == "sources")
        });
    let mut files: Vec<PathBuf> = parts.collect();
    files.sort();
    files.insert(0, etc.join("sources.list"));
    files
}

/// The first mirror of Debian's main archive in a file of apt sources, in
/// either format (sources.list(5)).
///
/// Only an address whose path is exactly `/debian` will have all suites;
/// dated snapshots and the security archive do not.
pub fn mirror_in(text: &str) -> Option<String> {
    text.lines()
        .map(str::trim)
        .filter(|line| line.starts_with("deb ") || line.to_lowercase().starts_with("uris:"))
        .flat_map(str::split_whitespace)
        .map(|word| word.trim_end_matches('/'))
        .find(|word| {
            word.split_once("://").is_some_and(|(scheme, rest)| {
                matches!(scheme, "http" | "https")
                    && rest
                        .split_once('/')
                        .is_some_and(|(_, path)| path == "debian")
            })
        })
        .map(str::to_owned)
}
