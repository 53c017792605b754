//! What a host's administrator chose: `KEY=VALUE` lines, never given to a
//! shell.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

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

/// Where a device model of Xen may be.
pub const DEVICE_MODELS: [&str; 5] = [
    "/usr/lib64/xen/bin/qemu-system-i386",
    "/usr/libexec/xen-qemu-system-i386",
    "/usr/libexec/xen/bin/qemu-system-i386",
    "/usr/lib/xen/bin/qemu-system-i386",
    "/usr/local/lib/xen/bin/qemu-system-i386",
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
    /// `SYSTEMD_RUN`: used where systemd runs the host.
    pub systemd_run: PathBuf,
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
            addr: Address {
                slot: 0xc,
                function: 0,
            },
            // Nobody else's: see systemd's table of user ids.
            server_uid_base: 1_900_000_000,
            memory_max: 64 << 20,
            run_directory: "/run/vgpu-stub".into(),
            log: "/var/log/vgpu-stub/wrapper.log".into(),
            xenstore: None,
            systemd_run: "/usr/bin/systemd-run".into(),
        }
    }
}

/// What becomes of a VM whose server does not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// It does not start either.
    Fail,
    /// It starts without the device.
    Continue,
}

impl FromStr for OnFailure {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "fail" => Ok(OnFailure::Fail),
            "continue" => Ok(OnFailure::Continue),
            _ => Err("is not fail or continue".to_owned()),
        }
    }
}

/// A place on a PCI bus, as QEMU's `addr=` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    slot: u8,
    function: u8,
}

impl FromStr for Address {
    type Err = String;

    /// `0xSLOT` or `0xSLOT.FUNCTION`; slots 0 and 1 are the machine's own.
    fn from_str(text: &str) -> Result<Self, String> {
        let (slot, function) = text.split_once('.').unwrap_or((text, "0"));
        let digits = slot.strip_prefix("0x").filter(|digits| {
            (1..=2).contains(&digits.len()) && digits.bytes().all(|c| c.is_ascii_hexdigit())
        });
        let slot = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let function = match function.as_bytes() {
            [digit @ b'0'..=b'7'] => Some(digit - b'0'),
            _ => None,
        };
        match (slot, function) {
            (Some(slot @ 2..=0x1f), Some(function)) => Ok(Address { slot, function }),
            _ => Err("is not a PCI slot from 0x2 to 0x1f".to_owned()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.function {
            0 => write!(f, "{:#x}", self.slot),
            function => write!(f, "{:#x}.{function}", self.slot),
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
        let text = String::from_utf8(bytes).map_err(|_| not_text())?;
        Config::parse(&text, path)
    }

    /// Parses a file's text; `path` is for messages.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Line`].
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let mut config = Config::default();
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
                    seen.push(key);
                    config.set(key, value)
                }
            };
            set.map_err(|why| ConfigError::Line {
                path: path.to_owned(),
                line: index + 1,
                why,
            })?;
        }
        Ok(config)
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
            "ADDR" => value.parse().map(|addr| self.addr = addr),
            "SERVER_UID_BASE" => uid_base(value).map(|base| self.server_uid_base = base),
            "MEMORY_MAX" => bytes(value).map(|bytes| self.memory_max = bytes),
            "RUN_DIRECTORY" => path(value).map(|path| self.run_directory = path),
            "LOG" => path(value).map(|path| self.log = path),
            "XENSTORE" => path(value).map(|path| self.xenstore = Some(path)),
            "SYSTEMD_RUN" => path(value).map(|path| self.systemd_run = path),
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

/// What no shell, systemd or QEMU gives a meaning to.
fn plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".,_+=:/-".contains(&byte)
}

/// Untrusted text for a message: on one line and short.
pub(super) fn show(text: &str) -> String {
    let mut shown: String = text.chars().take(40).flat_map(char::escape_debug).collect();
    if text.chars().nth(40).is_some() {
        shown.push_str("...");
    }
    shown
}

fn path(value: &str) -> Result<PathBuf, String> {
    // QEMU's options and a socket's address have no room for more.
    if value.starts_with('/') && value.len() <= 80 && !value.contains([',', '=', ':']) {
        Ok(value.into())
    } else {
        Err("is not an absolute path of at most 80 characters without , = :".to_owned())
    }
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
        assert_eq!(settings.len(), 13);
        assert_eq!(parse(&settings.join("\n")).unwrap(), Config::default());
    }

    #[test]
    fn every_key_is_taken() {
        let text = "QEMU_WRAPPER=/a\nDEVICE_MODEL=/b\nSERVER=/c\nSTART_TIMEOUT=9\n\
            CONNECT_TIMEOUT=8\nON_FAILURE=continue\nADDR=0x1f.7\nSERVER_UID_BASE=7\n\
            MEMORY_MAX=2G\nRUN_DIRECTORY=/d\nLOG=/e\nXENSTORE=/f\nSYSTEMD_RUN=/g\n";
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
        assert_eq!(config.systemd_run, Path::new("/g"));
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
            ("SERVER=vgpu-stub", "not an absolute path"),
            ("SERVER=/a,b", "not an absolute path"),
            ("SERVER=$(reboot)", "without quotes"),
            ("MEMORY_MAX=1M", "from 16M to 64G"),
            ("MEMORY_MAX=M", "from 16M to 64G"),
            ("MEMORY_MAX=99999999999999999G", "from 16M to 64G"),
            ("SERVER_UID_BASE=0", "is not a user id"),
            ("SERVER_UID_BASE=2147483647", "is not a user id"),
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
