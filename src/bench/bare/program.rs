//! Which QEMU is measured, and what it can.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::bench::{Bench, Trouble};
use crate::debian::process::{self, Stop};
use crate::debian::qemu::{OLDEST, Qemu, Version, parse_version};
use crate::debian::{Error, cache};

/// The name in the user's PATH.
const NAME: &str = "qemu-system-x86_64";

/// How long QEMU may take to say what it is: more than a second only on a
/// machine that is busy or interpreted.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// A QEMU that can be started.
#[derive(Debug)]
pub(in crate::bench) struct Program {
    from: From,
    pub(in crate::bench) version: Version,
    /// What `-device help` says.
    devices: String,
}

/// Where it comes from.
#[derive(Debug)]
enum From {
    /// A path, or a name that is looked up in PATH.
    Path(PathBuf),
    Debian(Qemu),
}

impl From {
    fn command(&self) -> Command {
        match self {
            From::Path(path) => Command::new(path),
            From::Debian(qemu) => {
                let mut command = qemu.command();
                command.args(qemu.data_arguments());
                command
            }
        }
    }
}

impl Program {
    /// The one that the user gave; else one in PATH that is new enough; else
    /// Debian's, fetched if it is not there; else an old one in PATH, for
    /// what can be measured with it.
    pub(in crate::bench) fn find(bench: &Bench<'_>, given: Option<&Path>) -> Result<Self, Trouble> {
        let interrupt = &bench.plan.interrupt;
        let stop: Stop<'_> = &|| interrupt.raised();
        if let Some(path) = given {
            return Program::at(bench, path);
        }
        let in_path = Program::ask(From::Path(NAME.into()), stop);
        if let Ok(program) = &in_path
            && program.why_not_vfio_user().is_none()
        {
            return in_path.map_err(|error| Trouble(error.to_string()));
        }
        announce(bench);
        let fetched = Qemu::obtain(stop).and_then(|qemu| Program::ask(From::Debian(qemu), stop));
        fetched.or_else(|error| {
            log::debug!("{error}");
            in_path.map_err(|_| Trouble(format!("{error}; or give one with --qemu")))
        })
    }

    /// The one that is there.
    pub(in crate::bench) fn at(bench: &Bench<'_>, path: &Path) -> Result<Self, Trouble> {
        let interrupt = &bench.plan.interrupt;
        let stop: Stop<'_> = &|| interrupt.raised();
        Program::ask(From::Path(path.to_owned()), stop).map_err(|error| Trouble(error.to_string()))
    }

    fn ask(from: From, stop: Stop<'_>) -> Result<Self, Error> {
        let remedy = format!("give the path of a {NAME}");
        let ask = |arguments: &[&str]| {
            let mut command = from.command();
            process::run_unless(stop, command.args(arguments), ANSWER_LIMIT, &remedy)
        };
        let text = ask(&["--version"])?;
        let version = parse_version(&text).filter(|_| text.contains("QEMU"));
        let version = version.ok_or_else(|| {
            let says = text.lines().next().unwrap_or("nothing");
            let what = format!("{} is not a QEMU", from.command().get_program().display());
            Error::missing(what, format!("its --version says {says:?}"), &remedy)
        })?;
        let devices = ask(&["-nodefaults", "-device", "help"])?;
        Ok(Program {
            from,
            version,
            devices,
        })
    }

    /// A command that starts it.
    pub(in crate::bench) fn command(&self) -> Command {
        self.from.command()
    }

    /// Whether it has this device.
    pub(in crate::bench) fn has(&self, device: &str) -> bool {
        self.devices.contains(&format!("name \"{device}\""))
    }

    /// Why it cannot be a client of ours, if it cannot.
    pub(in crate::bench) fn why_not_vfio_user(&self) -> Option<String> {
        let needed = Number(OLDEST);
        if !self.has("vfio-user-pci") {
            return Some(format!(
                "{self} has no vfio-user-pci; {needed} or newer is needed"
            ));
        }
        (self.version < OLDEST).then(|| {
            format!("the vfio-user-pci of {self} does not work; {needed} or newer is needed")
        })
    }

    /// Why it has no device of qemu-patches/, if it has none.
    pub(in crate::bench) fn why_no_shim(&self) -> Option<String> {
        let why = || format!("{self} has no vgpu-stub; build one with qemu-patches/");
        (!self.has("vgpu-stub")).then(why)
    }

    /// Where it is, for people.
    pub(in crate::bench) fn place(&self) -> String {
        match &self.from {
            From::Path(path) => path.display().to_string(),
            From::Debian(_) => "from Debian's backports".to_owned(),
        }
    }
}

impl Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QEMU {}", Number(self.version))
    }
}

struct Number(Version);

impl Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor, micro) = self.0;
        write!(f, "{major}.{minor}.{micro}")
    }
}

/// Says that something is fetched, and into which directory.
fn announce(bench: &Bench<'_>) {
    if Qemu::is_kept() {
        return;
    }
    let Ok(directory) = cache::directory() else {
        return;
    };
    let what = format!(
        "fetching QEMU from Debian into {} (60 MB)",
        directory.display()
    );
    bench.progress.step(&what, 0, 1);
}
