//! A host in a directory: configuration, xenstored, a recording stock wrapper
//! and a device model that lists its devices.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::store::{Manner, Store};

/// Writes what it was started with next to itself.
const RECORDER: &str = r#"#!/bin/sh
printf '%s\0' "$0" "$@" > "$0.argv"
cat /proc/$$/environ > "$0.environ"
ls -l /proc/$$/fd > "$0.fds"
"#;

pub(crate) struct Host {
    pub(crate) directory: TempDir,
    pub(crate) store: Store,
    config: String,
}

/// What the recorder was started with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) argv: Vec<OsString>,
    pub(crate) environ: Vec<u8>,
    /// Each with its number.
    pub(crate) fds: Vec<String>,
}

impl Host {
    pub(crate) fn new() -> Host {
        Host::with(Manner::Well)
    }

    pub(crate) fn with(manner: Manner) -> Host {
        let directory = tempfile::tempdir().unwrap();
        // Servers run as users of their own.
        let everyone = fs::Permissions::from_mode(0o755);
        fs::set_permissions(directory.path(), everyone).unwrap();
        let store = Store::start(&directory.path().join("xenstored"), manner);
        let mut host = Host {
            directory,
            store,
            config: String::new(),
        };
        host.script("stock", RECORDER);
        host.script("model", "#!/bin/sh\necho 'name \"vgpu-stub\", bus PCI'\n");
        // The build's directory may be nobody else's.
        let program = Path::new(env!("CARGO_BIN_EXE_vgpu-stub"));
        let server = host.path("server");
        if fs::hard_link(program, &server).is_err() {
            fs::copy(program, &server).unwrap();
        }
        symlink(&server, host.path("qemu-wrapper")).unwrap();
        for (key, name) in [
            ("QEMU_WRAPPER", "stock"),
            ("DEVICE_MODEL", "model"),
            ("SERVER", "server"),
            ("RUN_DIRECTORY", "run"),
            ("LOG", "log/wrapper.log"),
            ("XENSTORE", "xenstored"),
            // Not there, whatever this machine is.
            ("XEN_DEVICES", "xen"),
        ] {
            let path = host.path(name);
            host.set(key, path.to_str().unwrap());
        }
        host
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A domain's directory.
    pub(crate) fn domain(&self, domain: u16) -> PathBuf {
        self.path("run").join(domain.to_string())
    }

    /// Makes an executable file.
    pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
        // Renamed, as one that runs cannot be written.
        let (new, path) = (self.path("new"), self.path(name));
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&new, &path).unwrap();
        path
    }

    /// Sets a key of the configuration.
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        let mut lines: Vec<&str> = self.config.lines().collect();
        let start = format!("{key}=");
        lines.retain(|line| !line.starts_with(&start));
        let line = format!("{start}{value}");
        lines.push(&line);
        self.config = lines.join("\n");
        fs::write(self.path("config"), &self.config).unwrap();
    }

    /// Sets a VM's `platform:vgpu-stub`.
    pub(crate) fn ask(&self, domain: u16, value: &str) {
        let key = format!("/local/domain/{domain}/platform/vgpu-stub");
        self.store.set(&key, value.as_bytes());
    }

    /// The wrapper, as xenopsd and xl start it.
    pub(crate) fn wrapper<I: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = I>,
    ) -> Command {
        let mut command = Command::new(self.path("qemu-wrapper"));
        command
            .args(arguments)
            .env("VGPU_STUB_CONFIG", self.path("config"))
            .stdin(Stdio::null());
        command
    }

    /// Runs the wrapper as xenopsd starts it, to the end of the recorder.
    pub(crate) fn start(&self, domain: u16) -> Output {
        let domain = domain.to_string();
        let arguments = [&domain, "--syslog", "-xen-domid", &domain];
        self.wrapper(arguments).output().unwrap()
    }

    /// The same, where it has to go well; returns what was recorded.
    pub(crate) fn started(&self, domain: u16) -> Recorded {
        let output = self.start(domain);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        self.recorded()
    }

    /// The same, where it has to fail; returns what was said.
    pub(crate) fn fails(&self, domain: u16) -> String {
        let output = self.start(domain);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!self.path("stock.argv").exists());
        said
    }

    pub(crate) fn recorded(&self) -> Recorded {
        let argv = fs::read(self.path("stock.argv")).unwrap();
        let mut argv: Vec<OsString> = argv
            .split(|byte| *byte == 0)
            .map(|argument| OsString::from_vec(argument.to_owned()))
            .collect();
        assert_eq!(argv.pop().unwrap(), "");
        // The recorder reports itself under its own name.
        assert_eq!(argv.remove(0), self.path("stock"));
        let fds = fs::read_to_string(self.path("stock.fds")).unwrap();
        // But for the shell's own of its script.
        let script = self.path("stock");
        let fds = fds
            .lines()
            .filter_map(|line| line.split_once(" -> "))
            .filter(|(_, to)| Path::new(to) != script)
            .map(|(line, to)| format!("{} {to}", line.rsplit(' ').next().unwrap()))
            .collect();
        Recorded {
            argv,
            environ: fs::read(self.path("stock.environ")).unwrap(),
            fds,
        }
    }

    /// The wrapper's log.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log/wrapper.log")).unwrap_or_default()
    }

    /// What of a server must be looked at before it ends.
    pub(crate) fn watch(&self, domain: u16) -> Watched {
        let path = self.domain(domain);
        let lock = fs::File::open(path.join("lock")).unwrap();
        let keeper = fs::read_to_string(path.join("pid")).unwrap();
        let keeper = Pid::from_raw(keeper.parse().unwrap()).unwrap();
        Watched { path, lock, keeper }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Nothing that a failed test has started stays.
        let Ok(entries) = fs::read_dir(self.path("run")) else {
            return;
        };
        for entry in entries.flatten() {
            let pid = fs::read_to_string(entry.path().join("pid"));
            let pid = pid.ok().and_then(|pid| pid.parse().ok());
            if let Some(pid) = pid.and_then(Pid::from_raw) {
                let _ = rustix::process::kill_process_group(pid, Signal::KILL);
            }
        }
    }
}

/// A running server's directory and keeper.
pub(crate) struct Watched {
    pub(crate) path: PathBuf,
    lock: fs::File,
    pub(crate) keeper: Pid,
}

impl Watched {
    pub(crate) fn socket(&self) -> PathBuf {
        self.path.join("socket")
    }

    /// The server, which is its keeper's only child.
    pub(crate) fn server(&self) -> Pid {
        let keeper = self.keeper.as_raw_nonzero();
        let children = format!("/proc/{keeper}/task/{keeper}/children");
        let children = fs::read_to_string(children).unwrap();
        Pid::from_raw(children.trim().parse().unwrap()).unwrap()
    }

    /// Whether the server still runs.
    pub(crate) fn runs(&self) -> bool {
        flock(&self.lock, FlockOperation::NonBlockingLockExclusive).is_err()
    }

    /// Returns when the server and its keeper have ended.
    pub(crate) fn wait(&self) {
        flock(&self.lock, FlockOperation::LockExclusive).unwrap();
        flock(&self.lock, FlockOperation::Unlock).unwrap();
    }
}

/// Kills a process.
pub(crate) fn kill(pid: Pid) {
    kill_process(pid, Signal::KILL).unwrap();
}

/// A child that is killed with the test.
pub(crate) struct Reaped(pub(crate) Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The register ID, as a client of the server reads it.
pub(crate) fn reads_id(client: &mut vfio_user::Client) -> [u8; 4] {
    let mut id = [0; 4];
    client.region_read(0, 0, &mut id).unwrap();
    id
}
