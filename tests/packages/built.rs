//! The packages, built once for all tests of this process.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::rig::{RigError, process};

const TRIPLE: &str = "x86_64-unknown-linux-gnu";
const COMPILE_LIMIT: Duration = Duration::from_secs(1200);
const PACK_LIMIT: Duration = Duration::from_secs(120);
const ASK_LIMIT: Duration = Duration::from_secs(20);

/// The two RPMs.
#[derive(Clone, Debug)]
pub(crate) struct Rpms {
    pub(crate) main: PathBuf,
    /// The drop-in for xenopsd.
    pub(crate) xenopsd: PathBuf,
}

/// Where the packages are; nobody else builds there meanwhile.
struct Place {
    directory: PathBuf,
    _lock: File,
}

fn place() -> Result<&'static Place, RigError> {
    static PLACE: OnceLock<Result<Place, RigError>> = OnceLock::new();
    PLACE
        .get_or_init(|| {
            let failed = |error| RigError::failed("cannot make a place for packages", error);
            let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages");
            fs::create_dir_all(&directory).map_err(failed)?;
            let lock = File::create(directory.join("lock")).map_err(failed)?;
            lock.lock().map_err(failed)?;
            Ok(Place {
                directory,
                _lock: lock,
            })
        })
        .as_ref()
        .map_err(Clone::clone)
}

/// The program that is packed, as a host gets it: optimised, without the
/// bench.
pub(crate) fn program() -> Result<&'static Path, RigError> {
    static PROGRAM: OnceLock<Result<PathBuf, RigError>> = OnceLock::new();
    PROGRAM
        .get_or_init(|| {
            let place = place()?;
            // Where the budget builds as well: what both need is built once.
            let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("alone");
            let mut cargo = Command::new(env!("CARGO"));
            cargo
                .args(["build", "--quiet", "--release", "--locked"])
                .args(["--no-default-features", "--features", "host"])
                .args(["--bin", "vgpu-stub", "--target", TRIPLE, "--target-dir"])
                .arg(&target)
                .current_dir(env!("CARGO_MANIFEST_DIR"));
            process::run(&mut cargo, COMPILE_LIMIT, "install Rust")?;
            let program = place.directory.join("vgpu-stub");
            fs::copy(target.join(TRIPLE).join("release/vgpu-stub"), &program)
                .map_err(|error| RigError::failed("cannot copy the program", error))?;
            Ok(program)
        })
        .as_deref()
        .map_err(Clone::clone)
}

/// Runs packaging/build and returns the directory with what it made.
fn build(kind: &str) -> Result<PathBuf, RigError> {
    let output = place()?.directory.join(kind);
    let _ = fs::remove_dir_all(&output);
    let mut build = Command::new("packaging/build");
    build
        .args([kind, "--binary"])
        .arg(program()?)
        .arg(&output)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    process::run(&mut build, PACK_LIMIT, "install bash")?;
    Ok(output)
}

/// The RPMs.
pub(crate) fn rpms() -> Result<Rpms, RigError> {
    static RPMS: OnceLock<Result<Rpms, RigError>> = OnceLock::new();
    RPMS.get_or_init(|| {
        let mut ask = Command::new("rpmbuild");
        let remedy = "install rpmbuild (apt-get install rpm)";
        process::run(ask.arg("--version"), ASK_LIMIT, remedy)?;
        let output = build("rpm")?;
        let version = env!("CARGO_PKG_VERSION");
        Ok(Rpms {
            main: output.join(format!("vgpu-stub-{version}-1.x86_64.rpm")),
            xenopsd: output.join(format!("vgpu-stub-xenopsd-{version}-1.x86_64.rpm")),
        })
    })
    .clone()
}

/// The .deb.
pub(crate) fn deb() -> Result<PathBuf, RigError> {
    static DEB: OnceLock<Result<PathBuf, RigError>> = OnceLock::new();
    DEB.get_or_init(|| {
        let mut ask = Command::new("dpkg-deb");
        process::run(ask.arg("--version"), ASK_LIMIT, "install dpkg")?;
        let version = env!("CARGO_PKG_VERSION");
        Ok(build("deb")?.join(format!("vgpu-stub_{version}-1_amd64.deb")))
    })
    .clone()
}

/// What a helper says about a package.
pub(crate) fn ask(program: &str, arguments: &[&str], file: &Path) -> String {
    let mut command = Command::new(program);
    command.args(arguments).arg(file);
    process::run(&mut command, ASK_LIMIT, "").unwrap()
}
