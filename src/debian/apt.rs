//! apt with a state of its own: configuration, lists, an empty status file.

use std::fs;
use std::iter;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::Error;
use super::cache::{Lock, io_failed};
use super::process::{self, Stop};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(300);
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// What to do when apt or dpkg is absent.
pub(super) const APT_REMEDY: &str = "install apt and dpkg, or use Debian";

/// A private apt state, used by one process at a time.
pub(super) struct Apt {
    home: PathBuf,
    _lock: Lock,
}

impl Apt {
    pub(super) fn new(home: &Path, archives: &Path) -> Result<Self, Error> {
        if !Path::new(KEYRING).exists() {
            return Err(Error::missing(
                "cannot check Debian's signatures",
                format!("{KEYRING} is absent"),
                "install the package debian-archive-keyring",
            ));
        }
        let lock = Lock::alone(&home.with_extension("lock"))?;
        for directory in [
            home.join("etc/apt.conf.d"),
            home.join("etc/preferences.d"),
            home.join("etc/sources.list.d"),
            home.join("state/lists/partial"),
            archives.join("partial"),
        ] {
            fs::create_dir_all(&directory).map_err(io_failed("cannot make", &directory))?;
        }
        let apt = Self {
            home: home.to_owned(),
            _lock: lock,
        };
        apt.write("state/status", "")?;
        apt.write("apt.conf", &configuration(home, archives))?;
        Ok(apt)
    }

    fn write(&self, inside: &str, text: &str) -> Result<(), Error> {
        let path = self.home.join(inside);
        fs::write(&path, text).map_err(io_failed("cannot write", &path))
    }

    /// A program of apt that sees nothing but this state.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // Read before all other configuration, so the host's is never seen.
        command.env("APT_CONFIG", self.home.join("apt.conf"));
        command
    }

    /// Fetches the lists of packages (`deb`) or of source packages
    /// (`deb-src`), from the first mirror that has them.
    pub(super) fn update(
        &self,
        kind: &str,
        suites: &[String],
        mirrors: &[String],
        stop: Stop<'_>,
    ) -> Result<(), Error> {
        let mut result = Ok(());
        for mirror in mirrors {
            let lines = suites
                .iter()
                .map(|suite| format!("{kind} [signed-by={KEYRING}] {mirror} {suite} main\n"));
            self.write("etc/sources.list", &lines.collect::<String>())?;
            // Without --error-on a mirror that is gone is only a warning.
            let mut update = self.command("apt-get");
            result = download(update.args(["update", "--error-on=any"]), stop);
            if result.is_ok() || stop() {
                break;
            }
        }
        result
    }

    /// The package behind an empty one, whatever its version is today.
    pub(super) fn dependency(&self, package: &str, prefix: &str) -> Result<String, Error> {
        let mut depends = self.command("apt-cache");
        depends.args(["depends", "--important", package]);
        process::run(&mut depends, ANSWER_LIMIT, APT_REMEDY)?
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .ok_or_else(|| Error::failed(package, format!("depends on no {prefix}*")))
    }
}

/// apt.conf(5) of the private state. Only how the host reaches the network
/// is taken over from the host.
fn configuration(home: &Path, archives: &Path) -> String {
    let network = Command::new("apt-config").arg("dump").output();
    let network = network.map_or_else(
        |_| String::new(),
        |dump| String::from_utf8_lossy(&dump.stdout).into_owned(),
    );
    let network = network
        .lines()
        .filter(|line| line.starts_with("Acquire::http") && line.contains("Proxy"))
        .map(str::to_owned);
    let (home, archives) = (home.display(), archives.display());
    let own = [
        format!("Dir::Etc \"{home}/etc\";"),
        format!("Dir::State \"{home}/state\";"),
        format!("Dir::State::status \"{home}/state/status\";"),
        format!("Dir::Cache \"{home}\";"),
        format!("Dir::Cache::archives \"{archives}\";"),
        "APT::Architecture \"amd64\";".to_owned(),
        "APT::Architectures { \"amd64\"; };".to_owned(),
        // The user _apt may not read a private cache.
        "APT::Sandbox::User \"\";".to_owned(),
        "Acquire::Languages \"none\";".to_owned(),
        // Kept small: 20 MB instead of 140.
        "Acquire::GzipIndexes \"true\";".to_owned(),
        "Dir::Cache::pkgcache \"\";".to_owned(),
        "Dir::Cache::srcpkgcache \"\";".to_owned(),
        "Acquire::Retries \"2\";".to_owned(),
        "Acquire::http::Timeout \"20\";".to_owned(),
    ];
    let lines: Vec<String> = network
        .chain(own)
        .chain(iter::once(String::new()))
        .collect();
    lines.join("\n")
}

/// Runs something that needs the network: its failure is an absence.
pub(super) fn download(command: &mut Command, stop: Stop<'_>) -> Result<(), Error> {
    match process::run_unless(stop, command, DOWNLOAD_LIMIT, APT_REMEDY) {
        Ok(_) => Ok(()),
        Err(Error::Failed { what, why }) => Err(Error::missing(
            format!("cannot get Debian's packages: {what}"),
            why,
            "check that this machine reaches a Debian mirror",
        )),
        Err(missing) => Err(missing),
    }
}
