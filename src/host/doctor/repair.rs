//! What `--fix` does: only what cannot make it worse, and each thing said.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::backups::REPLACED;
use super::findings::Findings;
use super::host::{Host, RUN};
use super::server;

/// Something that can be put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fix {
    /// Makes a file executable: mode 0755.
    Chmod {
        /// The file.
        path: PathBuf,
    },
    /// Puts a backup in a program's place, and keeps what was there.
    Restore {
        /// The program.
        path: PathBuf,
        /// The backup, which stays.
        backup: PathBuf,
    },
    /// Makes a symbolic link; what was there is kept under another name.
    Link {
        /// Where.
        at: PathBuf,
        /// What it says.
        to: PathBuf,
    },
    /// Writes a small file; what was there is kept under another name.
    Write {
        /// The file.
        path: PathBuf,
        /// What is in it then.
        text: &'static str,
    },
    /// Removes the directory of a domain that is gone.
    RemoveStale {
        /// The domain's id.
        domain: u32,
    },
}

/// Does all that `findings` name, each once, and says what was done, or why
/// not.
pub fn mend(host: &Host, findings: &Findings) -> Vec<Result<String, String>> {
    let mut done: Vec<&Fix> = Vec::new();
    let mut said = Vec::new();
    let fixes = findings
        .found()
        .filter_map(|(_, finding)| finding.fix.as_ref());
    for fix in fixes {
        if !done.contains(&fix) {
            done.push(fix);
            said.push(fix.apply(host));
        }
    }
    said
}

impl Fix {
    fn apply(&self, host: &Host) -> Result<String, String> {
        match self {
            Fix::Chmod { path } => {
                named(path, chmod(host, path))?;
                Ok(format!("chmod 0755 {}", path.display()))
            }
            Fix::Restore { path, backup } => {
                let kept = named(path, restore(host, path, backup))?;
                Ok(format!(
                    "put {} in the place of {}{kept}",
                    backup.display(),
                    path.display()
                ))
            }
            Fix::Link { at, to } => {
                let kept = named(at, link(host, at, to))?;
                Ok(format!(
                    "made the link {} to {}{kept}",
                    at.display(),
                    to.display()
                ))
            }
            Fix::Write { path, text } => {
                let kept = named(path, write(host, path, text))?;
                Ok(format!("wrote {}{kept}", path.display()))
            }
            Fix::RemoveStale { domain } => {
                let directory = PathBuf::from(format!("{RUN}/{domain}"));
                named(&directory, remove(host, *domain, &directory))?;
                Ok(format!("removed {}", directory.display()))
            }
        }
    }
}

fn named<T>(path: &Path, result: io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{}: {error}", path.display()))
}

fn chmod(host: &Host, path: &Path) -> io::Result<()> {
    let file = host.view.open(path)?;
    file.set_permissions(Permissions::from_mode(0o755))
}

fn restore(host: &Host, path: &Path, backup: &Path) -> io::Result<String> {
    let target = host.view.real_entry(path)?;
    let new = beside(&target, "new");
    let copy = || {
        let mut from = host.view.open(backup)?;
        let mut to = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o700)
            .open(&new)?;
        io::copy(&mut from, &mut to)?;
        to.set_permissions(Permissions::from_mode(0o755))?;
        to.sync_all()?;
        let kept = keep(&target)?;
        fs::rename(&new, &target)?;
        Ok(kept)
    };
    let result = copy();
    if result.is_err() {
        let _ = fs::remove_file(&new);
    }
    result
}

fn link(host: &Host, at: &Path, to: &Path) -> io::Result<String> {
    make_parent(host, at)?;
    let target = host.view.real_entry(at)?;
    let new = beside(&target, "new");
    symlink(to, &new)?;
    let kept = keep(&target)?;
    fs::rename(&new, &target)?;
    Ok(kept)
}

fn write(host: &Host, path: &Path, text: &str) -> io::Result<String> {
    make_parent(host, path)?;
    let target = host.view.real_entry(path)?;
    // xenopsd reads every file of that directory, so none is left there.
    let kept = match fs::symlink_metadata(&target) {
        Ok(metadata) if metadata.is_file() => {
            format!("; it said: {:?}", host.view.text(path)?.trim_end())
        }
        Ok(_) => return Err(io::Error::other("is there, and is not a file")),
        Err(_) => String::new(),
    };
    fs::write(&target, text)?;
    Ok(kept)
}

fn remove(host: &Host, domain: u32, directory: &Path) -> io::Result<()> {
    // A domain of this id may be there by now.
    let now = host.again();
    let gone = now
        .store()
        .is_some_and(|store| !store.domains().contains(&domain));
    if !gone || server::running(&now, &directory.to_string_lossy()) {
        return Err(io::Error::other("is in use by now"));
    }
    let real = host.view.real_entry(directory)?;
    // It does not follow links.
    fs::remove_dir_all(real)
}

fn make_parent(host: &Host, path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    if host.view.exists(parent) {
        return Ok(());
    }
    make_parent(host, parent)?;
    fs::create_dir(host.view.real_entry(parent)?)
}

/// Gives what is at `target` a second name, which stays when the first goes.
fn keep(target: &Path) -> io::Result<String> {
    if fs::symlink_metadata(target).is_err() {
        return Ok(String::new());
    }
    let kept = beside(target, REPLACED);
    match fs::hard_link(target, &kept) {
        Ok(()) => {}
        // A file system without, or a link that may not be linked to.
        Err(_) => fs::rename(target, &kept)?,
    }
    let name = kept.file_name().unwrap_or_default().to_string_lossy();
    Ok(format!("; what was there is {name} now"))
}

/// `NAME.word-SECONDS`, which is not there yet.
fn beside(path: &Path, word: &str) -> PathBuf {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut number = since.as_secs();
    loop {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{word}-{number}"));
        let path = PathBuf::from(name);
        if fs::symlink_metadata(&path).is_err() {
            return path;
        }
        number += 1;
    }
}
