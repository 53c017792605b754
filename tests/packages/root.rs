//! A scratch root to install into: a shell, and programs that only note how
//! scriptlets called them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::rig::{RigError, process};

const LIMIT: Duration = Duration::from_secs(60);

/// What scriptlets call, and where.
const NOTED: [&str; 8] = [
    "usr/bin/getent",
    "usr/bin/systemctl",
    "usr/bin/systemd-tmpfiles",
    "usr/bin/xe-toolstack-restart",
    "usr/sbin/adduser",
    "usr/sbin/groupadd",
    "usr/sbin/useradd",
    "usr/bin/rm",
];

/// Notes its call. It fails if it is `getent`: there is no such user.
const NOTE: &str = "#!/bin/sh\n\
    echo \"${0##*/} $*\" >>/called\n\
    case $0 in */getent) exit 2 ;; esac\n";

/// Where package managers keep their own files.
const DATABASES: [&str; 3] = ["var/lib/rpm", "var/lib/dpkg", "var/log"];

/// The root of a small system.
pub(crate) struct Root {
    directory: TempDir,
}

impl Root {
    pub(crate) fn new() -> Result<Self, RigError> {
        if !rustix::process::geteuid().is_root() {
            return Err(RigError::missing(
                "cannot install into a scratch root",
                "package managers change their root directory for that",
                "run the test as root",
            ));
        }
        let failed = |error| RigError::failed("cannot make a scratch root", error);
        let root = Self {
            directory: tempfile::tempdir().map_err(failed)?,
        };
        root.furnish().map_err(failed)?;
        root.copy_shell()?;
        Ok(root)
    }

    fn furnish(&self) -> io::Result<()> {
        // A unit manager seems to run, and a device is a file.
        for directory in [
            "dev",
            "run/systemd/system",
            "etc",
            "var/lib/rpm",
            "var/lib/dpkg/info",
            "var/lib/dpkg/updates",
            "var/log",
        ] {
            fs::create_dir_all(self.path(directory))?;
        }
        for file in ["dev/null", "called", "var/lib/dpkg/status"] {
            fs::write(self.path(file), "")?;
        }
        for program in NOTED {
            let path = self.path(program);
            fs::create_dir_all(path.parent().unwrap())?;
            fs::write(&path, NOTE)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    fn copy_shell(&self) -> Result<(), RigError> {
        let mut ldd = Command::new("ldd");
        let libraries = process::run(ldd.arg("/bin/sh"), LIMIT, "install libc-bin")?;
        let libraries = libraries
            .split_whitespace()
            .filter(|word| word.starts_with('/'));
        for file in libraries.chain(["/bin/sh"]) {
            let to = self.path(file.trim_start_matches('/'));
            fs::create_dir_all(to.parent().unwrap())
                .and_then(|()| fs::copy(file, &to))
                .map_err(|error| RigError::failed(format!("cannot copy {file}"), error))?;
        }
        Ok(())
    }

    /// A path inside, given without a leading slash.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.directory.path().join(inside)
    }

    /// Runs rpm on it.
    pub(crate) fn rpm(&self, arguments: &[&str], packages: &[&Path]) {
        let mut rpm = Command::new("rpm");
        rpm.arg("--root").arg(self.directory.path());
        // Debian's rpm has it in the user's home otherwise.
        rpm.args(["--dbpath", "/var/lib/rpm"]);
        rpm.args(arguments).args(packages);
        process::run(&mut rpm, LIMIT, "").unwrap();
    }

    /// Runs dpkg on it.
    pub(crate) fn dpkg(&self, arguments: &[&str], packages: &[&Path]) {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg("--root").arg(self.directory.path());
        dpkg.args(["--force-depends", "--force-confdef"]);
        dpkg.args(arguments).args(packages);
        process::run(&mut dpkg, LIMIT, "").unwrap();
    }

    /// All files, without those of the package managers themselves.
    pub(crate) fn files(&self) -> BTreeSet<String> {
        let mut files = BTreeSet::new();
        let mut left = vec![self.directory.path().to_owned()];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let inside = path.strip_prefix(self.directory.path()).unwrap();
                let inside = inside.to_str().unwrap().to_owned();
                if DATABASES.contains(&inside.as_str()) {
                    continue;
                }
                if path.is_dir() && !path.is_symlink() {
                    left.push(path);
                } else {
                    files.insert(inside);
                }
            }
        }
        files
    }

    /// How scriptlets called programs since the last question.
    pub(crate) fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.path("called")).unwrap();
        fs::write(self.path("called"), "").unwrap();
        calls.lines().map(str::to_owned).collect()
    }
}
