//! What building QEMU needs of this machine.

use std::process::{Command, Stdio};

use super::super::RigError;

/// A command that succeeds where the package is installed.
const PROGRAMS: [(&str, &[&str], &str); 7] = [
    ("cc", &["--version"], "gcc"),
    ("dpkg-source", &["--version"], "dpkg-dev"),
    ("make", &["--version"], "make"),
    ("meson", &["--version"], "meson"),
    ("ninja", &["--version"], "ninja-build"),
    ("pkg-config", &["--version"], "pkg-config"),
    ("python3", &["-c", "import ensurepip"], "python3-venv"),
];

/// A library by the name that pkg-config knows, and the package that has it.
pub(super) const LIBRARIES: [(&str, &str); 4] = [
    ("glib-2.0", "libglib2.0-dev"),
    ("libseccomp", "libseccomp-dev"),
    ("pixman-1", "libpixman-1-dev"),
    ("zlib", "zlib1g-dev"),
];

/// Missing, with everything to install, if anything is absent.
pub(crate) fn check(libraries: &[(&str, &str)]) -> Result<(), RigError> {
    let works = |command: &mut Command| {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        let status = command.stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    let programs = PROGRAMS
        .iter()
        .filter(|(program, arguments, _)| !works(Command::new(program).args(*arguments)))
        .map(|(_, _, package)| *package);
    let libraries = libraries
        .iter()
        .filter(|(library, _)| !works(Command::new("pkg-config").args(["--exists", library])))
        .map(|(_, package)| *package);
    let packages: Vec<&str> = programs.chain(libraries).collect();
    if packages.is_empty() {
        return Ok(());
    }
    Err(RigError::missing(
        "cannot build QEMU",
        format!("this machine lacks {}", packages.join(", ")),
        format!("apt-get install {}", packages.join(" ")),
    ))
}
