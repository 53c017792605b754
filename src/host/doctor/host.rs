//! A host as the checks see it: its files, whom to ask, which VM is meant.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::host::config::{Config, ConfigError, DEVICE_MODELS, FILES, QEMU_WRAPPERS};
use crate::host::setting::Setting;

use super::ask::{Ask, Live, Nobody};
use super::drop_in::Xenopsd;
use super::log_lines::Logs;
use super::store::Store;
use super::view::View;
use super::xapi::{Database, Vm};

/// The file name that makes the program the wrapper.
const WRAPPER_NAME: &str = "qemu-wrapper";
/// Where the wrapper is put in front of the stock one.
pub(super) const WRAPPER: &str = "/usr/libexec/vgpu-stub/qemu-wrapper";
/// The program.
pub(super) const PROGRAM: &str = "/usr/bin/vgpu-stub";
/// Where the servers of the domains live.
pub(super) const RUN: &str = "/run/vgpu-stub";

/// Which VM is meant. Neither: the host, and all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The VM's UUID.
    pub vm: Option<String>,
    /// A domain's id.
    pub domain: Option<u32>,
}

/// A host, or a copy of its files.
#[derive(Debug)]
pub struct Host {
    pub(super) view: View,
    pub(super) ask: Rc<dyn Ask>,
    target: Target,
    config: OnceCell<Result<Config, ConfigError>>,
    store: OnceCell<Option<Store>>,
    xenopsd: OnceCell<Xenopsd>,
    logs: OnceCell<Logs>,
    database: OnceCell<Option<Database>>,
}

impl Host {
    /// This machine.
    pub fn live(target: Target) -> Self {
        Host::new(Path::new("/"), Rc::new(Live), target)
    }

    /// A tree of files copied from a host. Nothing in it is executed.
    pub fn copied(root: &Path, target: Target) -> Self {
        Host::new(root, Rc::new(Nobody), target)
    }

    /// Files below `root`, and somebody to ask.
    pub fn new(root: &Path, ask: Rc<dyn Ask>, target: Target) -> Self {
        Host::of(View::new(root), ask, target)
    }

    /// The same host, of which nothing is known yet.
    pub(super) fn again(&self) -> Self {
        Host::of(self.view.clone(), Rc::clone(&self.ask), self.target.clone())
    }

    fn of(view: View, ask: Rc<dyn Ask>, target: Target) -> Self {
        Host {
            view,
            ask,
            target,
            config: OnceCell::new(),
            store: OnceCell::new(),
            xenopsd: OnceCell::new(),
            logs: OnceCell::new(),
            database: OnceCell::new(),
        }
    }

    /// What was asked for.
    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// xenstore, if it can be read.
    pub(super) fn store(&self) -> Option<&Store> {
        let read = || Store::read(&self.view, self.ask.as_ref());
        self.store.get_or_init(read).as_ref()
    }

    /// What xenopsd's configuration says.
    pub(super) fn xenopsd(&self) -> &Xenopsd {
        self.xenopsd.get_or_init(|| Xenopsd::read(&self.view))
    }

    /// The logs.
    pub(super) fn logs(&self) -> &Logs {
        let read = || Logs::read(&self.view, self.ask.as_ref());
        self.logs.get_or_init(read)
    }

    /// xapi's database, if it is here.
    pub(super) fn database(&self) -> Option<&Database> {
        let read = || Database::read(&self.view);
        self.database.get_or_init(read).as_ref()
    }

    /// The domain that is meant: as asked, or the VM's by xenstore, or by the
    /// logs, where the last one counts.
    pub(super) fn domain(&self) -> Option<u32> {
        if self.target.domain.is_some() {
            return self.target.domain;
        }
        let vm = self.target.vm.as_deref()?;
        match self.store() {
            Some(store) => store.domain_of(vm),
            None => self.logs().domain_of(vm),
        }
    }

    /// The VM that is meant: as asked, or the domain's.
    pub(super) fn vm(&self) -> Option<String> {
        if self.target.vm.is_some() {
            return self.target.vm.clone();
        }
        let domain = self.target.domain?;
        let known = self.store().and_then(|store| store.vm_of(domain));
        known.or_else(|| self.logs().vm_of(domain))
    }

    /// It has xapi: XCP-ng or `XenServer`.
    pub(super) fn has_xapi(&self) -> bool {
        ["/etc/xensource-inventory", "/etc/xenopsd.conf"]
            .iter()
            .any(|path| self.view.exists(path))
    }

    /// It is a host at all, and not only its logs.
    pub(super) fn is_whole(&self) -> bool {
        ["/usr", "/etc"].iter().any(|path| self.view.exists(path))
    }

    /// The file of the wrapper's configuration, where it is or would be.
    pub(super) fn configuration(&self) -> &'static str {
        let there = |path: &&str| self.view.exists(path);
        FILES.into_iter().find(there).unwrap_or(FILES[0])
    }

    /// The wrapper's configuration, or what is wrong with it.
    pub(super) fn config(&self) -> Result<&Config, &ConfigError> {
        let read = || match self.view.text(self.configuration()) {
            Ok(text) => Config::parse(&text, Path::new(self.configuration())),
            Err(_) => Ok(Config::default()),
        };
        self.config.get_or_init(read).as_ref()
    }

    /// What our wrapper executes: as configured, or the first that is there.
    pub(super) fn stock(&self) -> PathBuf {
        let named = self
            .config()
            .ok()
            .and_then(|config| config.qemu_wrapper.clone());
        named
            .or_else(|| self.first(&QEMU_WRAPPERS))
            .unwrap_or_else(|| self.first_device_model())
    }

    /// The device model that is started in the end. The stock wrapper has its
    /// path in it.
    pub(super) fn device_model(&self) -> PathBuf {
        let stock = self.stock();
        if stock.file_name().is_some_and(|name| name != WRAPPER_NAME) {
            return stock;
        }
        let script = self.view.text(&stock).unwrap_or_default();
        let named = script.lines().find_map(|line| {
            let value = line.trim().strip_prefix("qemu_dm")?.trim_start();
            let value = value.strip_prefix('=')?.trim();
            let path = value.trim_matches(['\'', '"']);
            path.starts_with('/').then(|| PathBuf::from(path))
        });
        named.unwrap_or_else(|| self.first_device_model())
    }

    fn first_device_model(&self) -> PathBuf {
        let named = self
            .config()
            .ok()
            .and_then(|config| config.device_model.clone());
        named
            .or_else(|| self.first(&DEVICE_MODELS))
            .unwrap_or_else(|| PathBuf::from(DEVICE_MODELS[0]))
    }

    fn first(&self, paths: &[&str]) -> Option<PathBuf> {
        let found = paths.iter().find(|path| self.view.exists(path));
        found.map(PathBuf::from)
    }

    /// The VM's setting for us: xenstore's `platform` before `vm-data`, before
    /// what the configuration has for all.
    pub(super) fn setting(&self, domain: u32) -> Option<&str> {
        let store = self.store()?;
        let own = ["platform", "vm-data"]
            .iter()
            .find_map(|place| store.get(&format!("/local/domain/{domain}/{place}/vgpu-stub")));
        own.or_else(|| {
            // With xl it is for those that have the override, which we cannot see.
            let all = domain != 0 && self.has_xapi();
            Some(self.config().ok()?.setting.as_str()).filter(|_| all)
        })
    }

    /// The domains that are to have the device, as far as is known.
    pub(super) fn wanting(&self) -> Vec<u32> {
        let domains = self.store().map(Store::domains).unwrap_or_default();
        let wants = |domain: &u32| self.setting(*domain).is_some_and(is_on);
        domains.into_iter().filter(wants).collect()
    }

    /// Some VM is to have the device, running or not.
    pub(super) fn is_wanted(&self) -> bool {
        let set = |vm: &Vm| {
            vm.platform
                .get("vgpu-stub")
                .is_some_and(|value| is_on(value))
        };
        !self.wanting().is_empty()
            || self
                .database()
                .is_some_and(|database| database.vms().iter().any(set))
    }
}

/// The setting asks for a device, if only in a wrong way.
pub(super) fn is_on(setting: &str) -> bool {
    !matches!(Setting::parse(setting.as_bytes()), Ok(None))
}
