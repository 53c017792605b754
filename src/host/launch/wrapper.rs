//! In front of xenopsd's `qemu-wrapper` and of xl's device model.

use std::ffi::OsString;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::call::{Call, Caller, event_socket};
use super::exec;
use super::faces::{Start, device_model, none};
use super::report::Report;
use crate::host::config::{self, Config, OnFailure, QEMU_WRAPPERS};
use crate::host::setting::Setting;
use crate::host::xenstore::{Xenstore, wait};

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
        Some(domain) => device(
            &config,
            trouble,
            domain,
            call.caller,
            &arguments,
            began,
            &report,
        ),
        None => Ok(Vec::new()),
    };
    let why = match added {
        Ok(added) => {
            arguments.extend(added);
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

/// Starts a server, if the VM asks for the device, and returns what to add to
/// QEMU's arguments. An error is the reason why the VM must not start.
fn device(
    config: &Config,
    trouble: Option<String>,
    domain: u16,
    caller: Caller,
    arguments: &[OsString],
    began: Instant,
    report: &Report,
) -> Result<Vec<OsString>, String> {
    let asked = match asked(config, domain) {
        Ok(asked) => asked,
        Err(why) => {
            report.warning(&format!("{why}; starting without the device"));
            None
        }
    };
    let Some((from, value)) = asked else {
        return Ok(Vec::new());
    };
    let setting = Setting::parse(&value).map_err(|why| format!("{from}: {why}"));
    let on_failure = match &setting {
        Ok(Some(setting)) => setting.on_failure.unwrap_or(config.on_failure),
        Ok(None) => return Ok(Vec::new()),
        Err(_) => config.on_failure,
    };
    let started = match (setting, trouble) {
        (_, Some(trouble)) => Err(trouble),
        (Err(why), None) => Err(why),
        (Ok(None), None) => return Ok(Vec::new()),
        (Ok(Some(setting)), None) => Start {
            config,
            setting: &setting,
            domain,
            caller,
            arguments,
            began,
        }
        .start(),
    };
    match started {
        Ok(started) => {
            let (ms, face) = (began.elapsed().as_millis(), started.face);
            let instead = started.instead.map(|why| format!(", not ioreq: {why}"));
            let instead = instead.unwrap_or_default();
            report.info(&format!("server ready after {ms} ms; face {face}{instead}"));
            Ok(started.added)
        }
        Err(why) if on_failure == OnFailure::Continue => {
            report.warning(&format!("{why}; starting without the device"));
            Ok(Vec::new())
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
