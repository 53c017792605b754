//! Xen in software: QEMU's translator runs Xen, Xen runs a Linux with `xl`
//! (dom0), and `xl` makes HVM guests with a device model each.
//!
//! All of it is Debian's. Once dom0's daemons are up the machine is saved, and
//! every test goes on from there, in about a second, each in a machine of its
//! own. What is kept is the hypervisor, dom0's memory disk ([`contents`]) and
//! the saved machine; it is made anew when any part of it has changed, or when
//! it does not come to life.
//!
//! ```ignore
//! let Some(xen) = or_skip(xen::Rig::ready()) else { return };
//! let mut dom0 = xen.dom0()?;
//! fs::write(dom0.share().join("guest.cfg"), ...)?;
//! let answer = dom0.run("xl create /share/guest.cfg", LIMIT)?;
//! ```
//!
//! Everything in there is interpreted twice. Times taken in it mean nothing.

mod contents;
mod dom0;
mod domain;
mod machine;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use vgpu_stub::debian::Tree;
use vgpu_stub::debian::qemu::Qemu;

pub(crate) use dom0::{Answer, Dom0};
pub(crate) use domain::{Domain, Kind};

use super::cache::{self, Kept, Lock, io_failed};
use super::guest::compile;
use super::{RigError, process};
use contents::Contents;
use machine::Machine;

/// Increase when what an earlier version has kept is of no use.
const VERSION: u32 = 1;

/// How long a restored dom0 may take to do nothing.
const CHECK_LIMIT: Duration = Duration::from_secs(60);

/// A Xen with a dom0 that can be started any number of times.
#[derive(Debug)]
pub(crate) struct Rig {
    machine: Machine,
    kept: PathBuf,
    _tree: Tree,
    _lock: Lock,
}

impl Rig {
    /// Finds or makes all that is needed.
    pub(crate) fn ready() -> Result<&'static Self, RigError> {
        static READY: OnceLock<Result<Rig, RigError>> = OnceLock::new();
        READY
            .get_or_init(|| Self::with_processors(1))
            .as_ref()
            .map_err(Clone::clone)
    }

    /// The same on a machine with so many processors, all but the first for
    /// guests alone. Much slower, for what is measured and not for tests.
    pub(crate) fn with_processors(processors: u32) -> Result<Self, RigError> {
        let qemu = Qemu::obtain(process::NEVER)?;
        let tree = Tree::obtain(&contents::RECIPE, process::NEVER)?;
        let contents = Contents::of(&tree)?;
        let machine = Machine::new(qemu, contents.kernel.clone(), processors);
        let recipe = format!(
            "{VERSION}\n{}\n{}\n{}",
            machine.made_of()?,
            contents.made_of()?,
            processor(),
        );
        let home = cache::directory()?.join("xen");
        fs::create_dir_all(&home).map_err(io_failed("cannot make", &home))?;
        // One place for all: it has no use for what it was made of before.
        let kept = home.join(match processors {
            1 => "rig".to_owned(),
            more => format!("rig-{more}"),
        });
        let lock = Kept {
            path: kept.clone(),
            recipe: &recipe,
            lifetime: None,
            check: &|kept| Dom0::restored(&machine, kept)?.run_well("true", CHECK_LIMIT),
            make: &|kept| {
                contents.write(kept)?;
                Dom0::booted(&machine, kept)?.save(kept)
            },
        }
        .obtain()?;
        Ok(Self {
            machine,
            kept,
            _tree: tree,
            _lock: lock,
        })
    }

    /// A dom0 of one's own, with Xen's daemons running and nothing else.
    pub(crate) fn dom0(&self) -> Result<Dom0, RigError> {
        Dom0::restored(&self.machine, &self.kept)
    }
}

/// Compiles the kernel of a domain that is made and never runs; see
/// [`Domain::idle`].
pub(crate) fn idle() -> Result<PathBuf, RigError> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rig/xen/idle.S");
    let arguments = [
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,-Ttext=0x200000,--build-id=none,-z,noexecstack",
        &source.display().to_string(),
    ];
    compile("idle", &arguments.map(str::to_owned), &[source])
}

/// This machine's processor, whose clock is Xen's: a machine that was saved
/// with another would run too fast or too slowly.
fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut lines = text.lines();
    let name = lines.find(|line| line.starts_with("model name"));
    name.unwrap_or_default().to_owned()
}

/// What tells a file of Debian's from its other versions: the size, and when
/// it was built.
fn identity(path: &Path) -> Result<String, RigError> {
    let metadata = fs::metadata(path).map_err(io_failed("cannot look at", path))?;
    let built = metadata
        .modified()
        .map_err(io_failed("cannot look at", path))?;
    let name = path.file_name().unwrap_or_default().display();
    Ok(format!("{name} {} {built:?}", metadata.len()))
}
