//! Whether this is a host of Xen's, and what measures there.

use std::fmt::{self, Display};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::bench::bare::program::Program;
use crate::bench::{Bench, Trouble};
use crate::debian::process;
use crate::xen::{DEVICE_MODELS, Domain, DomainId};

/// What Xen says to its domains of what they are.
const CAPABILITIES: &str = "/proc/xen/capabilities";

/// How long `xl` may take to do what it is told.
const XL_LIMIT: Duration = Duration::from_secs(120);

/// A dom0 with `xl`.
#[derive(Debug)]
pub(super) struct Host {
    /// As Xen says it.
    version: String,
    /// What it says that a tick of the processor's counter is, in nanoseconds.
    pub(super) tick: Option<f64>,
    pub(super) qemu: Program,
    /// Where that is.
    pub(super) device_model: PathBuf,
}

impl Host {
    /// This machine, with the device model at `given` or its own.
    pub(super) fn find(bench: &Bench<'_>, given: Option<&Path>) -> Result<Self, Trouble> {
        // Any domain's: opening asks for none.
        if let Some(any) = DomainId::new(1) {
            Domain::open(any).map_err(|error| Trouble(error.to_string()))?;
        }
        let capabilities = fs::read_to_string(CAPABILITIES);
        if capabilities.is_ok_and(|text| !text.contains("control_d")) {
            let why = "this is a guest of Xen's; measure in its dom0";
            return Err(Trouble(why.to_owned()));
        }
        let info = xl(bench, &["info"])?;
        let found = || {
            DEVICE_MODELS
                .iter()
                .map(Path::new)
                .find(|path| path.exists())
        };
        let device_model = given.or_else(found).ok_or_else(|| {
            Trouble("cannot find Xen's device model; give its path with --qemu".to_owned())
        })?;
        Ok(Host {
            version: value(&info, "xen_version").unwrap_or("?").to_owned(),
            tick: value(&info, "cpu_mhz").and_then(|text| Some(1e3 / text.parse::<f64>().ok()?)),
            qemu: Program::at(bench, device_model)?,
            device_model: device_model.to_owned(),
        })
    }
}

impl Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Xen {}, {}", self.version, self.qemu)
    }
}

/// Of lines as `xen_version            : 4.20.3`, what such a name has.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(found, _)| found.trim() == name)?;
    Some(found.1.trim())
}

/// What `xl` says. A Ctrl-C at our terminal does not reach it.
pub(super) fn xl(bench: &Bench<'_>, arguments: &[&str]) -> Result<String, Trouble> {
    use std::os::unix::process::CommandExt;

    let interrupt = &bench.plan.interrupt;
    let mut command = Command::new("xl");
    command.args(arguments).process_group(0);
    let remedy = "install Xen's tools, which have xl";
    process::run_unless(&|| interrupt.raised(), &mut command, XL_LIMIT, remedy)
        .map_err(|error| Trouble(cause(&error.to_string()).to_owned()))
}

/// Of what `xl` says about a failure, the line with its cause: the first that
/// is called an error.
fn cause(text: &str) -> &str {
    let mut lines = text.lines().map(str::trim);
    let first = lines.clone().next().unwrap_or_default();
    lines.find(|line| line.contains("error:")).unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_says_what_it_is_line_by_line() {
        let said = "nr_cpus                : 2\ncpu_mhz                : 2499.998\n\
            xen_version            : 4.20.4-pre\n";
        assert_eq!(value(said, "xen_version"), Some("4.20.4-pre"));
        assert_eq!(value(said, "cpu_mhz"), Some("2499.998"));
        assert_eq!(value(said, "xen_extra"), None);
    }

    #[test]
    fn the_first_error_is_the_cause() {
        let said = "xl create ended with 1: Parsing config from /tmp/a\n\
            xc: error: can't allocate low memory: Out of memory\n\
            libxl: error: cannot (re-)build domain: -3";
        assert_eq!(
            cause(said),
            "xc: error: can't allocate low memory: Out of memory"
        );
        assert_eq!(
            cause("cannot run xl: no such file"),
            "cannot run xl: no such file"
        );
    }
}
