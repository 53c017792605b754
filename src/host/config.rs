//! What a host's administrator chose: `KEY=VALUE` lines, never given to a
//! shell.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

pub use super::face::Wanted;
pub use super::setting::{Address, OnFailure};
use super::setting::{Setting, show};
pub use crate::xen::DEVICE_MODELS;

/// Names another configuration file.
pub const VARIABLE: &str = "VGPU_STUB_CONFIG";

/// Where the file is, the first that exists: of an RPM, of a .deb.
pub const FILES: [&str; 2] = ["/etc/sysconfig/vgpu-stub", "/etc/default/vgpu-stub"];

/// Where a stock wrapper of xenopsd may be.
pub const QEMU_WRAPPERS: [&str; 4] = [
    "/usr/lib64/xen/bin/qemu-wrapper",
    "/usr/libexec/xen/bin/qemu-wrapper",
    "/usr/libexec/xenopsd/qemu-wrapper",
    "/usr/lib/xenopsd/qemu-wrapper",
];

/// More than any file that a person writes.
const MAX_FILE: u64 = 64 * 1024;

/// All of it, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `QEMU_WRAPPER`: what xenopsd would start without us. Without it, the
    /// first of [`QEMU_WRAPPERS`] that exists.
    pub qemu_wrapper: Option<PathBuf>,
    /// `DEVICE_MODEL`: the QEMU that the stock wrapper starts, and that xl
    /// would. Without it, the first of [`DEVICE_MODELS`] that exists.
    pub device_model: Option<PathBuf>,
    /// `SERVER`: the program that serves the device; our own without it.
    pub server: Option<PathBuf>,
    /// `START_TIMEOUT`: until the server is ready, 1 to 60 seconds.
    pub start_timeout: Duration,
    /// `CONNECT_TIMEOUT`: from then until QEMU connects, 1 to 3600 seconds.
    pub connect_timeout: Duration,
    /// `ON_FAILURE`: what becomes of a VM whose server does not start.
    pub on_failure: OnFailure,
    /// `FACE`: how guests come to the device, if the VM does not say.
    pub face: Wanted,
    /// `ADDR`: the device's place on the guest's first PCI bus.
    pub addr: Address,
    /// `SERVER_UID_BASE`: plus the domain's id, it is the user and the group
    /// of the domain's server; 1 to 2147450879.
    pub server_uid_base: u32,
    /// `MEMORY_MAX`: what a server may use, in bytes; 16 MiB to 64 GiB.
    pub memory_max: u64,
    /// `RUN_DIRECTORY`: has a directory for each domain with the device.
    pub run_directory: PathBuf,
    /// `LOG`: the wrapper's lines.
    pub log: PathBuf,
    /// `XENSTORE`: xenstored's socket or the kernel's device. Without it,
    /// the first that exists.
    pub xenstore: Option<PathBuf>,
    /// `XEN_DEVICES`: the directory of `privcmd` and `evtchn`.
    pub xen_devices: PathBuf,
    /// `SYSTEMD_RUN`: what makes a server a unit of its own. Without it,
    /// `/usr/bin/systemd-run` if systemd runs the host, else nothing.
    pub systemd_run: Option<PathBuf>,
    /// `SETTING`: what a VM gets that has no setting of its own.
    pub setting: String,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            qemu_wrapper: None,
            device_model: None,
            server: None,
            start_timeout: Duration::from_secs(4),
            connect_timeout: Duration::from_secs(120),
            on_failure: OnFailure::Fail,
            face: Wanted::Best,
            addr: Address::DEFAULT,
            // Nobody else's: see systemd's table of user ids.
            server_uid_base: 1_900_000_000,
            memory_max: 64 << 20,
            run_directory: "/run/vgpu-stub".into(),
            log: "/var/log/vgpu-stub/wrapper.log".into(),
            xenstore: None,
            xen_devices: "/dev/xen".into(),
            systemd_run: None,
            setting: "false".to_owned(),
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: cannot read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is not a text file of at most 64 KiB.
    #[error("{path}: is not a text file of at most 64 KiB")]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// A line of it is wrong.
    #[error("{path}:{line}: {why}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// What is wrong, with the key.
        why: String,
    },
}

/// The file that holds: the one that [`VARIABLE`] names, else the first of
/// [`FILES`] that exists.
pub fn file() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(VARIABLE) {
        return Some(path.into());
    }
    first_existing(&FILES)
}

/// The first of some paths that exists.
pub fn first_existing(paths: &[&str]) -> Option<PathBuf> {
    let found = paths.iter().find(|path| Path::new(path).exists());
    found.map(PathBuf::from)
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// See [`ConfigError`].
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        Config::parse(&read(path)?, path)
    }

    /// Reads what is right in a file, and the first thing that is wrong.
    pub fn read_partly(path: &Path) -> (Config, Option<ConfigError>) {
        match read(path) {
            Ok(text) => {
                let (config, mut wrong) = Config::parse_partly(&text, path);
                let first = (!wrong.is_empty()).then(|| wrong.swap_remove(0));
                (config, first)
            }
            Err(error) => (Config::default(), Some(error)),
        }
    }

    /// Parses a file's text; `path` is for messages.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Line`].
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let (config, wrong) = Config::parse_partly(text, path);
        match wrong.into_iter().next() {
            None => Ok(config),
            Some(error) => Err(error),
        }
    }

    /// Parses a file's text, and leaves out the lines that are wrong.
    pub fn parse_partly(text: &str, path: &Path) -> (Config, Vec<ConfigError>) {
        let (mut config, mut wrong) = (Config::default(), Vec::new());
        let mut seen = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let set = match line.split_once('=') {
                None => Err(format!("'{}' is not KEY=VALUE", show(line))),
                Some((key, _)) if seen.contains(&key) => Err(format!("{key} is set twice")),
                Some((key, value)) => {
                    // A key that is not known is not one that is set.
                    let set = config.set(key, value);
                    if set.is_ok() {
                        seen.push(key);
                    }
                    set
                }
            };
            if let Err(why) = set {
                wrong.push(ConfigError::Line {
                    path: path.to_owned(),
                    line: index + 1,
                    why,
                });
            }
        }
        (config, wrong)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let wrong = |why: &str| format!("{}={} {why}", show(key), show(value));
        if !value.bytes().all(plain) {
            return Err(wrong(
                "has a character other than letters, digits and . , _ + = : / -; write the value without quotes",
            ));
        }
        // As it was: the default.
        if value.is_empty() {
            return Ok(());
        }
        let result = match key {
            "QEMU_WRAPPER" => path(value).map(|path| self.qemu_wrapper = Some(path)),
            "DEVICE_MODEL" => path(value).map(|path| self.device_model = Some(path)),
            "SERVER" => path(value).map(|path| self.server = Some(path)),
            "START_TIMEOUT" => seconds(value, 60).map(|time| self.start_timeout = time),
            "CONNECT_TIMEOUT" => seconds(value, 3600).map(|time| self.connect_timeout = time),
            "ON_FAILURE" => value.parse().map(|what| self.on_failure = what),
            "FACE" => value.parse().map(|face| self.face = face),
            "ADDR" => value.parse().map(|addr| self.addr = addr),
            "SERVER_UID_BASE" => uid_base(value).map(|base| self.server_uid_base = base),
            "MEMORY_MAX" => bytes(value).map(|bytes| self.memory_max = bytes),
            "RUN_DIRECTORY" => path(value).map(|path| self.run_directory = path),
            "LOG" => path(value).map(|path| self.log = path),
            "XENSTORE" => path(value).map(|path| self.xenstore = Some(path)),
            "XEN_DEVICES" => path(value).map(|path| self.xen_devices = path),
            "SYSTEMD_RUN" => path(value).map(|path| self.systemd_run = Some(path)),
            "SETTING" => setting(value).map(|()| value.clone_into(&mut self.setting)),
            _ => return Err(format!("there is no key '{}'", show(key))),
        };
        result.map_err(|why| wrong(&why))
    }

    /// What xenopsd would start without us.
    pub fn stock_wrapper(&self) -> Option<PathBuf> {
        let chosen = self.qemu_wrapper.clone();
        chosen.or_else(|| first_existing(&QEMU_WRAPPERS))
    }

    /// The QEMU that runs in the end.
    pub fn stock_device_model(&self) -> Option<PathBuf> {
        let chosen = self.device_model.clone();
        chosen.or_else(|| first_existing(&DEVICE_MODELS))
    }

    /// A domain's directory.
    pub fn domain_directory(&self, domain: u16) -> PathBuf {
        self.run_directory.join(domain.to_string())
    }
}

/// A file's text.
fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let not_text = || ConfigError::NotText {
        path: path.to_owned(),
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(not_text());
    }
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(not_text());
    }
    String::from_utf8(bytes).map_err(|_| not_text())
}

/// What no shell, systemd or QEMU gives a meaning to.
fn plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".,_+=:/-".contains(&byte)
}

fn path(value: &str) -> Result<PathBuf, String> {
    // QEMU's options and a socket's address have no room for more.
    if value.starts_with('/') && value.len() <= 80 && !value.contains([',', '=', ':']) {
        Ok(value.into())
    } else {
        Err("is not an absolute path of at most 80 characters without , = :".to_owned())
    }
}

fn setting(value: &str) -> Result<(), String> {
    let parsed = Setting::parse(value.as_bytes());
    parsed.map(drop).map_err(|why| format!(": {why}"))
}

fn seconds(value: &str, most: u64) -> Result<Duration, String> {
    let number = value.parse().ok().filter(|n| (1..=most).contains(n));
    number
        .map(Duration::from_secs)
        .ok_or_else(|| format!("is not a number of seconds from 1 to {most}"))
}

fn uid_base(value: &str) -> Result<u32, String> {
    // Any domain's id added to it stays below 2^31.
    let most = 0x7fff_ffff - 0x8000;
    let number = value.parse().ok().filter(|n| (1..=most).contains(n));
    number.ok_or_else(|| format!("is not a user id from 1 to {most}"))
}

fn bytes(value: &str) -> Result<u64, String> {
    let unit = |letter| match letter {
        'K' => Some(10),
        'M' => Some(20),
        'G' => Some(30),
        _ => None,
    };
    let shift = value.chars().next_back().and_then(unit);
    let digits = match shift {
        Some(_) => &value[..value.len() - 1],
        None => value,
    };
    let number = digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift.unwrap_or(0)))
        .filter(|bytes| (16 << 20..=64 << 30).contains(bytes));
    number.ok_or_else(|| "is not a size from 16M to 64G".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::face::Face;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("f")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_shipped_file_says_the_defaults() {
        let shipped = include_str!("../../packaging/vgpu-stub.sysconfig");
        assert_eq!(parse(shipped).unwrap(), Config::default());
        // Its commented settings are the defaults, and all keys are there.
        let settings: Vec<&str> = shipped
            .lines()
            .filter_map(|line| line.strip_prefix('#'))
            .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
            .collect();
        assert_eq!(settings.len(), 16);
        assert_eq!(parse(&settings.join("\n")).unwrap(), Config::default());
    }

    #[test]
    fn every_key_is_taken() {
        let text = "QEMU_WRAPPER=/a\nDEVICE_MODEL=/b\nSERVER=/c\nSTART_TIMEOUT=9\n\
            CONNECT_TIMEOUT=8\nON_FAILURE=continue\nADDR=0x1f.7\nSERVER_UID_BASE=7\n\
            MEMORY_MAX=2G\nRUN_DIRECTORY=/d\nLOG=/e\nXENSTORE=/f\nSYSTEMD_RUN=/g\nSETTING=stub,vectors=2\n\
            FACE=vfio-user\nXEN_DEVICES=/h\n";
        let config = parse(text).unwrap();
        assert_eq!(config.qemu_wrapper, Some("/a".into()));
        assert_eq!(config.device_model, Some("/b".into()));
        assert_eq!(config.server, Some("/c".into()));
        assert_eq!(config.start_timeout, Duration::from_secs(9));
        assert_eq!(config.connect_timeout, Duration::from_secs(8));
        assert_eq!(config.on_failure, OnFailure::Continue);
        assert_eq!(config.addr.to_string(), "0x1f.7");
        assert_eq!(config.server_uid_base, 7);
        assert_eq!(config.memory_max, 2 << 30);
        assert_eq!(config.domain_directory(3), Path::new("/d/3"));
        assert_eq!(config.log, Path::new("/e"));
        assert_eq!(config.xenstore, Some("/f".into()));
        assert_eq!(config.systemd_run, Some("/g".into()));
        assert_eq!(config.setting, "stub,vectors=2");
        assert_eq!(config.face, Wanted::Only(Face::VfioUser));
        assert_eq!(config.xen_devices, Path::new("/h"));
    }

    #[test]
    fn what_is_wrong_is_named_on_one_line() {
        let wrong = [
            ("COLOUR=red", "there is no key 'COLOUR'"),
            ("ADDR", "'ADDR' is not KEY=VALUE"),
            ("\n# x\nADDR=0xc\nADDR=0xd", "f:4: ADDR is set twice"),
            ("ADDR=\"0xc\"", "without quotes"),
            ("ADDR=0xc; reboot", "without quotes"),
            ("ADDR=0x1", "is not a PCI slot"),
            ("ADDR=0x20", "is not a PCI slot"),
            ("ADDR=12", "is not a PCI slot"),
            ("ADDR=0x+5", "is not a PCI slot"),
            ("ADDR=0xc.8", "is not a PCI slot"),
            ("START_TIMEOUT=0", "from 1 to 60"),
            ("START_TIMEOUT=99999999999999999999", "from 1 to 60"),
            ("CONNECT_TIMEOUT=3601", "from 1 to 3600"),
            ("ON_FAILURE=maybe", "fail or continue"),
            ("FACE=best", "not auto, ioreq, shim or vfio-user"),
            ("SERVER=vgpu-stub", "not an absolute path"),
            ("SERVER=/a,b", "not an absolute path"),
            ("SERVER=$(reboot)", "without quotes"),
            ("MEMORY_MAX=1M", "from 16M to 64G"),
            ("MEMORY_MAX=M", "from 16M to 64G"),
            ("MEMORY_MAX=99999999999999999G", "from 16M to 64G"),
            ("SERVER_UID_BASE=0", "is not a user id"),
            ("SERVER_UID_BASE=2147483647", "is not a user id"),
            ("SETTING=gpu", "there is no device 'gpu'"),
            ("KEY\0=a\u{7}", "without quotes"),
        ];
        for (text, why) in wrong {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
            assert!(!error.contains(['\n', '\0', '\u{7}']), "{error:?}");
        }
        let long = format!("ADDR={}", "9".repeat(5000));
        assert!(parse(&long).unwrap_err().len() < 200);
    }

    #[test]
    fn what_is_right_holds_beside_what_is_wrong() {
        let text = "ADDR=0xd\nCOLOUR=red\nADDR=0xe\nSERVER=/x\n";
        let (config, wrong) = Config::parse_partly(text, Path::new("f"));
        assert_eq!(config.addr.to_string(), "0xd");
        assert_eq!(config.server, Some("/x".into()));
        let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
        assert_eq!(
            wrong,
            ["f:2: there is no key 'COLOUR'", "f:3: ADDR is set twice"]
        );
    }

    #[test]
    fn a_file_that_is_none_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        let error = |path: &Path| Config::read(path).unwrap_err().to_string();
        assert!(error(&path).contains("cannot read"));
        assert!(error(directory.path()).contains("is not a text file"));
        std::fs::write(&path, vec![b'#'; 70_000]).unwrap();
        assert!(error(&path).contains("is not a text file"));
        std::fs::write(&path, b"SERVER=/\xff").unwrap();
        assert!(error(&path).contains("is not a text file"));
        std::fs::write(&path, "ADDR=0xd\r\n").unwrap();
        assert_eq!(Config::read(&path).unwrap().addr.to_string(), "0xd");
    }
}
