//! In front of xenopsd's `qemu-wrapper` and of xl's device model.

use std::ffi::OsString;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::call::{Call, Caller, event_socket};
use super::directory::InUse;
use super::exec;
use super::face::Face;
use super::keeper::{Job, socket};
use super::report::Report;
use super::server::{self, Runner};
use crate::host::config::{self, Config, DEVICE_MODELS, OnFailure, QEMU_WRAPPERS};
use crate::host::setting::Setting;
use crate::host::xenstore::{Xenstore, wait};

/// Where systemd runs the host, this exists.
const SYSTEMD: &str = "/run/systemd/system";
const SYSTEMD_RUN: &str = "/usr/bin/systemd-run";

/// How long xenstore may take for an answer, of the time to start.
const XENSTORE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long to wait for xenopsd to look for QEMU; it looks 20 times a second.
const XENOPSD_TIMEOUT: Duration = Duration::from_secs(2);

/// The VM does not start. It has been said why.
#[derive(Clone, Copy, Debug)]
pub struct Failed;

/// Becomes what would have run without the wrapper, after it has started a
/// server if the VM asks for the device. `arguments` are without the
/// program's name. Returns only if the VM must not start.
pub fn wrapper(mut arguments: Vec<OsString>) -> Failed {
    let began = Instant::now();
    let call = Call::of(&arguments);
    // What is wrong with it shall matter to nobody without the device.
    let (config, trouble) = match config::file() {
        Some(file) => Config::read_partly(&file),
        None => (Config::default(), None),
    };
    let trouble = trouble.map(|error| error.to_string());
    let about = match call.domain {
        Some(domain) => format!("domain {domain}"),
        None => "no domain".to_owned(),
    };
    let report = Report::new(&config.log, about);
    let added = match call.domain {
        Some(domain) => device(&config, trouble, domain, began, &report),
        None => Ok(None),
    };
    let why = match added {
        Ok(added) => {
            arguments.extend(added.into_iter().flatten());
            match stock(&config, call.caller) {
                Ok(stock) => exec(&stock, &arguments),
                Err(why) => why,
            }
        }
        Err(why) => why,
    };
    report.error(&why);
    if let (Caller::Xenopsd, Some(domain)) = (call.caller, call.domain) {
        end_xenopsds_wait(&arguments, domain);
    }
    Failed
}

/// What to add to QEMU's arguments, if anything. An error is the reason why
/// the VM must not start.
fn device(
    config: &Config,
    trouble: Option<String>,
    domain: u16,
    began: Instant,
    report: &Report,
) -> Result<Option<[OsString; 2]>, String> {
    let asked = match asked(config, domain) {
        Ok(asked) => asked,
        Err(why) => {
            report.warning(&format!("{why}; starting without the device"));
            None
        }
    };
    let Some((from, value)) = asked else {
        return Ok(None);
    };
    let setting = Setting::parse(&value).map_err(|why| format!("{from}: {why}"));
    let on_failure = match &setting {
        Ok(Some(setting)) => setting.on_failure.unwrap_or(config.on_failure),
        Ok(None) => return Ok(None),
        Err(_) => config.on_failure,
    };
    let started = match (setting, trouble) {
        (_, Some(trouble)) => Err(trouble),
        (Err(why), None) => Err(why),
        (Ok(None), None) => return Ok(None),
        (Ok(Some(setting)), None) => start(config, &setting, domain, began),
    };
    match started {
        Ok((face, added)) => {
            let ms = began.elapsed().as_millis();
            report.info(&format!(
                "server ready after {ms} ms; device {}",
                face.name()
            ));
            Ok(Some(added))
        }
        Err(why) if on_failure == OnFailure::Continue => {
            report.warning(&format!("{why}; starting without the device"));
            Ok(None)
        }
        Err(why) => Err(why),
    }
}

/// The VM's setting, with where it is from.
fn asked(config: &Config, domain: u16) -> Result<Option<(String, Vec<u8>)>, String> {
    let store = Xenstore::connect(config.xenstore.as_deref(), XENSTORE_TIMEOUT);
    let Some(mut store) = store.map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    for key in ["platform/vgpu-stub", "vm-data/vgpu-stub"] {
        let key = format!("/local/domain/{domain}/{key}");
        let value = store.read(&key).map_err(|error| error.to_string())?;
        if let Some(value) = value {
            return Ok(Some((key, value)));
        }
    }
    let own = config.setting.clone().into_bytes();
    Ok(Some(("SETTING".to_owned(), own)))
}

/// Starts the server.
fn start(
    config: &Config,
    setting: &Setting,
    domain: u16,
    began: Instant,
) -> Result<(Face, [OsString; 2]), String> {
    let until = began + config.start_timeout;
    let run = &config.run_directory;
    let failed = |error| format!("{}: {error}", run.join(domain.to_string()).display());
    let model = device_model(config)?;
    let face = Face::of(&model, &run.join("face"), until)?;
    let directory = InUse::make(run, &domain.to_string()).map_err(failed)?;
    let server = config.server.clone();
    let root = rustix::process::geteuid().is_root();
    let seconds = u32::try_from(config.connect_timeout.as_secs()).unwrap_or(u32::MAX);
    let job = Job {
        directory: directory.path().to_owned(),
        server: server
            .map_or_else(std::env::current_exe, Ok)
            .map_err(failed)?,
        device: setting.device.to_string(),
        // Who is not root has no other user to give.
        uid: root.then_some(config.server_uid_base + u32::from(domain)),
        memory: config.memory_max,
        connect_timeout: seconds,
    };
    server::start(directory, &job, &runner(config, domain), until)?;
    let addr = setting.addr.unwrap_or(config.addr);
    Ok((face, face.arguments(&socket(&job.directory), Some(addr))))
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

fn stock(config: &Config, caller: Caller) -> Result<PathBuf, String> {
    let stock = match caller {
        Caller::Xenopsd => config
            .stock_wrapper()
            .ok_or_else(|| none("QEMU_WRAPPER", &QEMU_WRAPPERS)),
        Caller::Libxl => device_model(config),
    }?;
    let own = std::env::current_exe().and_then(fs::canonicalize).ok();
    match fs::canonicalize(&stock) {
        Ok(path) if Some(&path) == own.as_ref() => Err(format!(
            "{}: is this wrapper itself; set QEMU_WRAPPER to the stock one",
            stock.display()
        )),
        _ => Ok(stock),
    }
}

fn device_model(config: &Config) -> Result<PathBuf, String> {
    let model = config.stock_device_model();
    model.ok_or_else(|| none("DEVICE_MODEL", &DEVICE_MODELS))
}

fn none(key: &str, paths: &[&str]) -> String {
    format!("none of {} exists; set {key}", paths.join(", "))
}

/// xenopsd waits 300 s for QEMU's socket, whatever becomes of the process. A
/// socket there that closes ends the wait at once, and the start with it.
fn end_xenopsds_wait(arguments: &[OsString], domain: u16) {
    let Some(path) = event_socket(arguments, domain) else {
        return;
    };
    if let Ok(listener) = UnixListener::bind(&path) {
        wait(&listener, PollFlags::IN, Instant::now() + XENOPSD_TIMEOUT);
        let _ = fs::remove_file(&path);
    }
}
