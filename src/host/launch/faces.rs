//! A server for a domain, by the face that is wanted or the best one that
//! works.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::call::Caller;
use super::client::Client;
use super::directory::InUse;
use super::keeper::{self, Job, Way};
use super::server::{self, Runner};
use super::{slots, xen};
use crate::host::config::{Config, DEVICE_MODELS};
use crate::host::face::{Face, Wanted};
use crate::host::setting::{Address, Setting};

/// Where systemd runs the host, this exists.
const SYSTEMD: &str = "/run/systemd/system";
const SYSTEMD_RUN: &str = "/usr/bin/systemd-run";

/// The face of a domain's server, in the server's directory.
pub(in crate::host) const FACE: &str = "face";

/// A server that is to be started.
pub(super) struct Start<'a> {
    pub(super) config: &'a Config,
    pub(super) setting: &'a Setting,
    pub(super) domain: u16,
    pub(super) caller: Caller,
    /// QEMU's.
    pub(super) arguments: &'a [OsString],
    pub(super) began: Instant,
}

/// A server that is ready.
pub(super) struct Started {
    pub(super) face: Face,
    /// Why it is not a better one.
    pub(super) instead: Option<String>,
    /// What QEMU is given for it.
    pub(super) added: Vec<OsString>,
}

/// Why there is no server past QEMU.
enum Refused {
    /// Nor would another face do.
    For(String),
    /// QEMU's may do.
    Here(String),
}

impl Start<'_> {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// One line.
    pub(super) fn start(&self) -> Result<Started, String> {
        let timeout = self.config.start_timeout;
        let until = self.began + timeout;
        match self.setting.face.unwrap_or(self.config.face) {
            Wanted::Only(Face::Ioreq) => self.past_qemu(until).map_err(|refused| match refused {
                Refused::For(why) | Refused::Here(why) => why,
            }),
            Wanted::Only(Face::Shim) => self.in_qemu(Some(Client::Shim), None, until),
            Wanted::Only(Face::VfioUser) => self.in_qemu(Some(Client::VfioUser), None, until),
            // Half of the time is left for the other.
            Wanted::Best => match self.past_qemu(self.began + timeout / 2) {
                Ok(started) => Ok(started),
                Err(Refused::For(why)) => Err(why),
                Err(Refused::Here(why)) => self.in_qemu(None, Some(why), until),
            },
        }
    }

    fn addr(&self) -> Address {
        self.setting.addr.unwrap_or(self.config.addr)
    }

    /// By an ioreq server.
    fn past_qemu(&self, until: Instant) -> Result<Started, Refused> {
        let (domain, addr) = (self.domain, self.addr());
        let devices = &self.config.xen_devices;
        xen::look(devices, domain).map_err(Refused::Here)?;
        if addr.function() != 0 {
            let why = format!("addr={addr}: the ioreq face has function 0 of a slot only");
            return Err(Refused::Here(why));
        }
        // With both, one of them would not be there for the guest.
        if let Some(taker) = slots::taken(self.arguments, self.caller, addr.slot()) {
            let why = format!("addr={addr} is taken by QEMU's {taker}; choose another with addr=");
            return Err(Refused::For(why));
        }
        let way = Way::Domain {
            id: domain,
            devices: devices.clone(),
        };
        let device = format!("{},bdf={addr}", self.setting.device);
        self.serve(Face::Ioreq, None, device, way, until)
            .map_err(Refused::Here)?;
        Ok(Started {
            face: Face::Ioreq,
            instead: None,
            added: Vec::new(),
        })
    }

    /// By a device of QEMU's: this one, or the better of those that it has.
    fn in_qemu(
        &self,
        client: Option<Client>,
        instead: Option<String>,
        until: Instant,
    ) -> Result<Started, String> {
        let config = self.config;
        let model = device_model(config)?;
        let client = Client::of(&model, &config.run_directory.join("face"), client, until)?;
        let seconds = u32::try_from(config.connect_timeout.as_secs()).unwrap_or(u32::MAX);
        let way = Way::Socket {
            connect_timeout: seconds,
        };
        let device = self.setting.device.to_string();
        let face = client.face();
        let directory = self.serve(face, instead.as_deref(), device, way, until)?;
        let added = client.arguments(&keeper::socket(&directory), Some(self.addr()));
        Ok(Started {
            face,
            instead,
            added: added.into(),
        })
    }

    /// Starts a server in a directory of its own, which it returns.
    fn serve(
        &self,
        face: Face,
        instead: Option<&str>,
        device: String,
        way: Way,
        until: Instant,
    ) -> Result<PathBuf, String> {
        let (config, domain) = (self.config, self.domain);
        let run = &config.run_directory;
        let failed = |error| format!("{}: {error}", run.join(domain.to_string()).display());
        let directory = InUse::make(run, &domain.to_string()).map_err(failed)?;
        // For the doctor: who starts without it has lost nothing.
        let said = format!("{face}\n{}\n", instead.unwrap_or_default());
        let _ = std::fs::write(directory.path().join(FACE), said);
        let server = config.server.clone();
        let root = rustix::process::geteuid().is_root();
        let job = Job {
            directory: directory.path().to_owned(),
            server: server
                .map_or_else(std::env::current_exe, Ok)
                .map_err(failed)?,
            device,
            // Who is not root has no other user to give.
            uid: root.then_some(config.server_uid_base + u32::from(domain)),
            memory: config.memory_max,
            way,
        };
        server::start(directory, &job, &runner(config, domain), until)?;
        Ok(job.directory)
    }
}

fn runner(config: &Config, domain: u16) -> Runner {
    let booted = Path::new(SYSTEMD).is_dir();
    let installed = booted.then(|| PathBuf::from(SYSTEMD_RUN));
    match config.systemd_run.clone().or(installed) {
        Some(systemd_run) => Runner::Unit {
            systemd_run,
            name: format!("vgpu-stub-dom-{domain}.service"),
            about: format!("vgpu-stub server of domain {domain}"),
        },
        None => Runner::Process {
            log: Some(config.log.clone()),
        },
    }
}

/// The QEMU that runs in the end.
pub(super) fn device_model(config: &Config) -> Result<PathBuf, String> {
    let model = config.stock_device_model();
    model.ok_or_else(|| none("DEVICE_MODEL", &DEVICE_MODELS))
}

/// Nothing is there, and what to set.
pub(super) fn none(key: &str, paths: &[&str]) -> String {
    format!("none of {} exists; set {key}", paths.join(", "))
}
