//! Backups of the device model, and which of them could be put back.

use std::path::{Path, PathBuf};

use super::Group;
use super::device_model::Program;
use super::findings::{Check, Finding, Findings};
use super::host::Host;
use super::repair::Fix;
use super::text::quoted;

const FOUND: Check = Check::note(
    "backup.found",
    "backups of the device model, and whether they could be put back",
);

pub(super) const GROUP: Group = Group {
    name: "backups",
    checks: &[&FOUND],
    look,
};

/// What people and package managers put behind a name.
const SUFFIXES: [&str; 10] = [
    "bak", "backup", "orig", "original", "old", "save", "saved", "stock", "rpmsave", "dpkg-old",
];
/// How many are looked into.
const MOST: usize = 32;

/// What `--fix` puts behind the name of what it replaced. Not a backup.
pub(super) const REPLACED: &str = "replaced";

/// A file beside the device model that may be an earlier one.
struct Backup {
    path: PathBuf,
    program: Program,
}

/// The backups, the newest first.
fn backups(host: &Host, path: &Path) -> Vec<Backup> {
    let (Some(directory), Some(name)) = (
        path.parent(),
        path.file_name().and_then(|name| name.to_str()),
    ) else {
        return Vec::new();
    };
    let names = host.view.list(directory);
    let backups = names.iter().filter(|other| is_backup(name, other));
    let mut backups: Vec<Backup> = backups
        .take(MOST)
        .filter_map(|other| {
            let path = directory.join(other);
            let program = Program::read(host, &path).ok()?;
            Some(Backup { path, program })
        })
        .collect();
    backups.sort_by_key(|backup| std::cmp::Reverse(backup.program.facts.modified));
    backups
}

/// `NAME.bak`, `NAME.orig-20260101`, `NAME-2026-01-01`, `NAME.20260101`.
fn is_backup(name: &str, other: &str) -> bool {
    let Some(rest) = other.strip_prefix(name) else {
        return false;
    };
    let Some(rest) = rest.strip_prefix(['.', '-', '_', '~']) else {
        return false;
    };
    if rest.starts_with(REPLACED) {
        return false;
    }
    let lower = rest.to_ascii_lowercase();
    let known = SUFFIXES
        .iter()
        .any(|suffix| lower.split(['.', '-', '_']).any(|part| part == *suffix));
    let digits = rest.chars().filter(char::is_ascii_digit).count();
    known || digits >= 6 || other.ends_with('~')
}

/// How to get the stock binary back: from its newest good backup, or from the
/// package.
pub(super) fn put_back(host: &Host, path: &Path, finding: &mut Finding) {
    let shown = quoted(&path.to_string_lossy());
    let good = backups(host, path)
        .into_iter()
        .find(|backup| backup.program.is_good());
    if let Some(backup) = good {
        let from = quoted(&backup.path.to_string_lossy());
        if host.view.exists(path) {
            finding.remedy(format!("mv {shown} {shown}.{REPLACED}"));
        }
        finding
            .remedy(format!(
                "cp -p {from} {shown} && chmod 0755 {shown} && xe-toolstack-restart"
            ))
            .fix(Fix::Restore {
                path: path.to_owned(),
                backup: backup.path,
            });
    } else {
        finding
            .advice("no good backup is beside it")
            .remedy("yum reinstall qemu && xe-toolstack-restart");
    }
}

fn look(host: &Host, findings: &mut Findings) {
    let path = host.device_model();
    let backups = backups(host, &path);
    let Some(newest) = backups.first() else {
        findings.skip(&FOUND, format!("none beside {}", path.display()));
        return;
    };
    let good = backups.iter().find(|backup| backup.program.is_good());
    let count = backups.len();
    match good {
        Some(good) => findings.ok(
            &FOUND,
            format!(
                "{count}; the newest good one: {}, {}",
                good.path.display(),
                good.program.described()
            ),
        ),
        None => {
            findings
                .found_in(
                    &FOUND,
                    format!("{count}, but none could be put back; the newest, {}, is not a whole x86-64 program for Xen with its libraries", newest.path.display()),
                )
                .remedy(format!("yum reinstall qemu && cp -p {0} {0}.stock", quoted(&path.to_string_lossy())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_backup;

    #[test]
    fn backups_are_known_by_their_names() {
        let name = "qemu-system-i386";
        let good = [
            ".bak",
            ".orig",
            ".rpmsave",
            "-20260101",
            ".2026-01-01",
            "~",
            ".bak.1",
            ".stock",
            ".orig-2026",
        ];
        for rest in good {
            assert!(is_backup(name, &format!("{name}{rest}")), "{rest}");
        }
        for rest in ["", ".so", "-new", ".replaced-20260101", "x.bak"] {
            assert!(!is_backup(name, &format!("{name}{rest}")), "{rest}");
        }
    }
}
