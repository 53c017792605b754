//! Starts a server for a VM and gives QEMU the device: in front of xenopsd's
//! `qemu-wrapper`, of xl's device model, or of a plain QEMU.
//!
//! The launcher is a process that looks, starts what is needed and becomes
//! what would have run without it. Its arguments are looked at, added to and
//! passed on; no shell is in between, and nothing waits without an end.

mod apart;
mod bounded;
mod call;
mod child;
mod client;
mod directory;
mod faces;
mod keeper;
mod report;
mod restarts;
mod server;
mod slots;
mod wrapper;
mod xen;

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

pub(super) use faces::FACE;
pub(super) use keeper::RESTARTS;
pub use keeper::{Job, Way, keep};
pub use wrapper::{Failed, wrapper};
pub(super) use xen::{MAX_SERVERS, servers};

use super::config::Address;
use crate::devices::Choice;
use client::Client;
use directory::InUse;
use server::Runner;

/// The memory of a server that a person starts, in bytes.
const MEMORY: u64 = 1 << 30;
/// How long such a server waits for its QEMU, in seconds.
const CONNECT_TIMEOUT: u32 = 120;

/// A device for a plain QEMU.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Which one.
    pub device: Choice,
    /// Its place; QEMU's choice without.
    pub addr: Option<Address>,
    /// How long its server may take to start.
    pub start_timeout: Duration,
}

impl Launch {
    /// Starts a server and becomes `qemu` with the device, or only becomes
    /// it, if its arguments are questions about what it can do: libvirt asks
    /// before it starts a VM.
    ///
    /// # Errors
    ///
    /// One line: why there is no server or no QEMU.
    pub fn exec(&self, qemu: &OsStr, arguments: &[OsString]) -> Result<Infallible, String> {
        let mut arguments = arguments.to_vec();
        if !call::asks_only(&arguments) {
            arguments.extend(self.device(Path::new(qemu))?);
        }
        Err(exec(Path::new(qemu), &arguments))
    }

    fn device(&self, qemu: &Path) -> Result<[OsString; 2], String> {
        let until = Instant::now() + self.start_timeout;
        let run = own_directory()?;
        let name = std::process::id().to_string();
        let failed = |error| format!("{}: {error}", run.join(&name).display());
        let client = Client::of(qemu, &run.join("face"), None, until)?;
        let directory = InUse::make(&run, &name).map_err(failed)?;
        let job = Job {
            directory: directory.path().to_owned(),
            server: std::env::current_exe().map_err(failed)?,
            device: self.device.to_string(),
            uid: None,
            memory: MEMORY,
            way: Way::Socket {
                connect_timeout: CONNECT_TIMEOUT,
            },
        };
        server::start(directory, &job, &Runner::Process { log: None }, until)?;
        Ok(client.arguments(&keeper::socket(&job.directory), self.addr))
    }
}

/// Becomes another program; returns why not.
fn exec(program: &Path, arguments: &[OsString]) -> String {
    let error = Command::new(program).args(arguments).exec();
    format!("{}: cannot execute: {error}", program.display())
}

/// A directory of the user's own for servers.
fn own_directory() -> Result<PathBuf, String> {
    let user = rustix::process::geteuid().as_raw();
    let session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let directory = match session.filter(|path| path.is_absolute() && path.is_dir()) {
        Some(session) => session.join("vgpu-stub"),
        None => std::env::temp_dir().join(format!("vgpu-stub-{user}")),
    };
    let shown = directory.display();
    if let Some(',') = shown.to_string().chars().find(|c| *c == ',') {
        return Err(format!(
            "{shown}: QEMU takes no commas; set XDG_RUNTIME_DIR"
        ));
    }
    fs::create_dir_all(&directory).map_err(|error| format!("{shown}: {error}"))?;
    let metadata = fs::symlink_metadata(&directory).map_err(|error| format!("{shown}: {error}"))?;
    // In a directory of everyone's another may have made it first.
    let safe = metadata.is_dir() && metadata.uid() == user && metadata.mode() & 0o022 == 0;
    safe.then(|| directory.clone())
        .ok_or_else(|| format!("{shown}: is not yours alone; remove it or set XDG_RUNTIME_DIR"))
}
