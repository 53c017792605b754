//! What a report was measured on.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The machine, as far as it can tell.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's model.
    pub cpu: String,
    /// How many CPUs this process may use.
    pub cpus: usize,
    /// The kernel's release and architecture.
    pub kernel: String,
    /// The hypervisor under this machine, if there is one: KVM in it is
    /// nested.
    pub hypervisor: Option<String>,
    /// How CPU frequency is governed; `None` if the machine does not say.
    pub governor: Option<String>,
    /// The load averages over 1, 5 and 15 minutes, at the beginning.
    pub load: String,
    /// What the kernel tells time from.
    pub clocksource: String,
    /// This program's version.
    pub version: String,
    /// The git revision it was built from, if it was built in a repository.
    pub revision: Option<String>,
}

impl Machine {
    /// Looks.
    pub fn look() -> Self {
        let info = read("/proc/cpuinfo");
        let uname = rustix::system::uname();
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Machine {
            cpu: field(&info, "model name").unwrap_or_else(|| "unknown".to_owned()),
            cpus,
            kernel: format!(
                "{} {}",
                uname.release().to_string_lossy(),
                uname.machine().to_string_lossy()
            ),
            hypervisor: hypervisor(&info),
            governor: line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            load: read("/proc/loadavg")
                .split(' ')
                .take(3)
                .collect::<Vec<_>>()
                .join(" "),
            clocksource: line("/sys/devices/system/clocksource/clocksource0/current_clocksource")
                .unwrap_or_else(|| "unknown".to_owned()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: option_env!("VGPU_STUB_REVISION").map(str::to_owned),
        }
    }
}

/// What the machine says of the hypervisor it runs on.
fn hypervisor(cpuinfo: &str) -> Option<String> {
    if let Some(xen) = line("/sys/hypervisor/type") {
        return Some(xen);
    }
    let flags = field(cpuinfo, "flags").unwrap_or_default();
    if !flags.split(' ').any(|flag| flag == "hypervisor") {
        return None;
    }
    let product = line("/sys/class/dmi/id/product_name");
    Some(product.unwrap_or_else(|| "of an unknown kind".to_owned()))
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The first line of a file, if it has one.
fn line(path: &str) -> Option<String> {
    let text = read(path);
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

/// The value of the first `name : value` line.
fn field(text: &str, name: &str) -> Option<String> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(key, _)| key.trim() == name)?;
    Some(found.1.trim().to_owned())
}
