//! QEMU with the shim, built from source and kept.
//!
//! A tree of QEMU's source is unpacked, gets the glue for one more device
//! ([`glue`]) and is configured and built once, with an empty device. It stays
//! in the cache as it is; when the shim changes, `ninja` or `make` builds the
//! one file and links ([`base`]). The program that comes out is kept under a
//! name made of everything that went into it.
//!
//! `QEMU_SRC=DIR` gives a tree of one's own, such as XCP-ng's 4.2.1 with all
//! its patches: it is copied, never changed.

mod base;
pub(crate) mod glue;
mod libraries;
pub(crate) mod needs;
mod plan;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use vgpu_stub::debian::qemu::{self as debian, parse_version};

use super::cache::{self, Kept, Lock, io_failed};
use super::{RigError, process};
use base::Base;
use libraries::Libraries;
use plan::Plan;

/// The variable that names a tree of one's own.
pub(crate) const OWN_TREE: &str = "QEMU_SRC";

/// How long QEMU may take to say something about itself.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Which QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// Debian 11's: TCG, KVM, qtest; `pc` and `q35`; `x86_64`.
    Debian5_2,
    /// Debian 13's, as a device model for Xen and nothing else; i386. Built
    /// with Debian 13's libraries, so it runs on a Debian 13 as it is.
    Debian10_0Xen,
    /// The tree that `QEMU_SRC` names: TCG, qtest; i386.
    Own,
}

impl Version {
    /// The one that the tests of the shim run on: [`Own`](Self::Own) where
    /// there is one, else [`Debian5_2`](Self::Debian5_2).
    pub(crate) fn under_test() -> Self {
        if std::env::var_os(OWN_TREE).is_some() {
            Self::Own
        } else {
            Self::Debian5_2
        }
    }
}

/// The shim's files, as they are in this repository.
pub(crate) struct Shim {
    /// `hw/misc/vgpu-stub.c`
    pub(crate) code: String,
    /// `hw/misc/vgpu-stub-shm.h`
    pub(crate) header: String,
    /// Its lines of `hw/misc/trace-events`.
    pub(crate) trace_events: String,
}

impl Shim {
    /// Reads them.
    pub(crate) fn read() -> Result<Self, RigError> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("qemu-patches/hw/misc");
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read_to_string(&path).map_err(io_failed("cannot read", &path))
        };
        Ok(Self {
            code: read("vgpu-stub.c")?,
            header: read("vgpu-stub-shm.h")?,
            trace_events: read("trace-events")?,
        })
    }

    /// What a tree is built with before there is a shim.
    fn empty() -> Self {
        Self {
            code: "#include \"qemu/osdep.h\"\n".to_owned(),
            header: String::new(),
            trace_events: String::new(),
        }
    }
}

/// A QEMU that knows `-device vgpu-stub`; it is not replaced while this lives.
#[derive(Debug)]
pub(crate) struct ShimQemu {
    program: PathBuf,
    version: debian::Version,
    /// Has the firmware: Debian's source packages come without.
    data: &'static debian::Qemu,
    /// How to start it on this machine, if not just so.
    loader: Option<Libraries>,
    _lock: Lock,
}

impl ShimQemu {
    /// A command that starts it; [`data_arguments`](Self::data_arguments) must
    /// be among the arguments if there is to be a machine.
    pub(crate) fn command(&self) -> Command {
        match &self.loader {
            Some(libraries) => libraries.command(&self.program),
            None => Command::new(&self.program),
        }
    }

    /// Where QEMU finds its firmware.
    pub(crate) fn data_arguments(&self) -> Vec<OsString> {
        self.data.data_arguments()
    }

    /// The program, to be copied elsewhere.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Its version.
    pub(crate) fn version(&self) -> debian::Version {
        self.version
    }

    /// Whether it has a type of machine, such as `q35`.
    pub(crate) fn has_machine(&self, name: &str) -> Result<bool, RigError> {
        self.lists(&["-machine", "help"], name)
    }

    /// Whether it has a device, such as `edu`.
    pub(crate) fn has_device(&self, name: &str) -> Result<bool, RigError> {
        self.lists(&["-device", "help"], &format!("name \"{name}\","))
    }

    /// Whether it has an accelerator; XCP-ng's has no `kvm`.
    pub(crate) fn has_accelerator(&self, name: &str) -> Result<bool, RigError> {
        let text = self.answer(&["-accel", "help"])?;
        Ok(text.lines().any(|line| line == name))
    }

    fn lists(&self, question: &[&str], start: &str) -> Result<bool, RigError> {
        let start = format!("{start} ");
        let text = self.answer(question)?;
        Ok(text.lines().any(|line| line.starts_with(&start)))
    }

    fn answer(&self, question: &[&str]) -> Result<String, RigError> {
        process::run(self.command().args(question), ANSWER_LIMIT, "")
    }
}

/// Finds it in the cache or builds it, which takes minutes the first time.
///
/// # Errors
///
/// Missing if the source, a compiler or a library is not to be had; failed if
/// the compiler has anything to say about the shim.
pub(crate) fn obtain(version: Version) -> Result<ShimQemu, RigError> {
    // Tests of one process would all wait for one lock file anyway, and would
    // each read the whole tree of QEMU_SRC.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let data = firmware()?;
    let shim = Shim::read()?;
    let plan = Plan::of(version)?;
    let base = Base::of(&plan)?;
    let made_of = [base.recipe(), &shim.code, &shim.header, &shim.trace_events].join("\n");
    let path = base
        .home()
        .join(format!("{}-{}", plan.name, cache::key(&made_of)));
    let program = |path: &Path| path.join(plan.program);
    let lock = Kept {
        path: path.clone(),
        recipe: &made_of,
        lifetime: None,
        check: &|path| plan.version_of(&program(path)).map(drop),
        make: &|path| base.build(&plan, &shim, &program(path)),
    }
    .obtain()?;
    let program = program(&path);
    Ok(ShimQemu {
        version: plan.version_of(&program)?,
        program,
        data,
        loader: plan.libraries,
        _lock: lock,
    })
}

fn firmware() -> Result<&'static debian::Qemu, RigError> {
    static FIRMWARE: OnceLock<Result<debian::Qemu, RigError>> = OnceLock::new();
    let result = FIRMWARE.get_or_init(|| debian::Qemu::obtain(process::NEVER));
    result.as_ref().map_err(Clone::clone)
}

impl Plan {
    fn version_of(&self, program: &Path) -> Result<debian::Version, RigError> {
        let mut ask = match &self.libraries {
            Some(libraries) => libraries.command(program),
            None => Command::new(program),
        };
        let text = process::run(ask.arg("--version"), ANSWER_LIMIT, "")?;
        parse_version(&text).ok_or_else(|| RigError::failed("cannot read QEMU's version", text))
    }
}
