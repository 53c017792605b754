//! A healthy host as a directory tree, to be broken in one place.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tempfile::TempDir;

use crate::elf::Program;
use crate::program::{output, text};

pub(crate) const DEVICE_MODEL: &str = "/usr/lib64/xen/bin/qemu-system-i386";
pub(crate) const STOCK: &str = "/usr/lib64/xen/bin/qemu-wrapper";
pub(crate) const WRAPPER: &str = "/usr/libexec/vgpu-stub/qemu-wrapper";
pub(crate) const DROP_IN: &str = "/etc/xenopsd.conf.d/vgpu-stub.conf";
pub(crate) const LINE: &str =
    "upstream-compat-qemu-dm-wrapper=/usr/libexec/vgpu-stub/qemu-wrapper\n";
pub(crate) const XENSOURCE: &str = "/var/log/xensource.log";
pub(crate) const DAEMON: &str = "/var/log/daemon.log";
/// The VM of domain 7, which has the device.
pub(crate) const VM: &str = "8f6a1d2c-0b5e-4c3f-9a77-1e2d3c4b5a69";

/// When the host was booted and its files were written.
const BOOTED: u64 = 1_795_200_000;

/// A file with all of it that can change: mode, time in seconds and
/// nanoseconds, contents.
pub(crate) type Contents = BTreeMap<PathBuf, (u32, i64, i64, Vec<u8>)>;

/// A host.
pub(crate) struct Tree(TempDir);

impl Tree {
    /// A host on which all is well, with one VM that has the device.
    pub(crate) fn healthy() -> Self {
        let tree = Tree::empty();
        let inventory = "PRODUCT_BRAND='XCP-ng'\nPRODUCT_VERSION='8.3.0'\n";
        tree.write("/etc/xensource-inventory", inventory);
        tree.write("/etc/xenopsd.conf", "# as it comes\nlog=syslog:xenopsd\n");
        tree.write(DROP_IN, LINE);
        tree.write("/etc/sysconfig/vgpu-stub", "# ours\nSTART_TIMEOUT=4\n");
        tree.program("/usr/bin/vgpu-stub", &Program::library());
        tree.link(WRAPPER, "/usr/bin/vgpu-stub");
        let stock = format!("#! /usr/bin/python3\n    qemu_dm = '{DEVICE_MODEL}'\n");
        tree.script(STOCK, &stock);
        tree.program(DEVICE_MODEL, &Program::device_model());
        for library in [
            "/lib64/ld-linux-x86-64.so.2",
            "/usr/lib64/libc.so.6",
            "/usr/lib64/libxenctrl.so.4.17",
        ] {
            tree.program(library, &Program::library());
        }
        tree.processes();
        tree.store(&[("/local/domain/7/platform/vgpu-stub", "true")]);
        tree.database(("true", ""), ("CD", "3"));
        tree.domain();
        tree.log(XENSOURCE, &start(7));
        let daemon = "Nov 21 11:00:02 host qemu-dm-7[4711]: Moving to cgroup slice 'vm.slice'\n";
        tree.log(DAEMON, daemon);
        tree
    }

    /// Nothing.
    pub(crate) fn empty() -> Self {
        Tree(TempDir::new().unwrap())
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Where one of its files is, or will be.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        let path = self.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    /// Writes a file, as old as the host.
    pub(crate) fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.at(path), bytes).unwrap();
        self.age(path, 0);
    }

    /// A file was written so many seconds after the boot.
    pub(crate) fn age(&self, path: &str, after: u64) {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(BOOTED + after);
        let file = File::open(self.at(path)).unwrap();
        file.set_modified(time).unwrap();
    }

    pub(crate) fn mode(&self, path: &str, mode: u32) {
        fs::set_permissions(self.at(path), Permissions::from_mode(mode)).unwrap();
    }

    pub(crate) fn script(&self, path: &str, text: &str) {
        self.write(path, text);
        self.mode(path, 0o755);
    }

    pub(crate) fn program(&self, path: &str, program: &Program) {
        self.write(path, program.bytes());
        self.mode(path, 0o755);
    }

    pub(crate) fn link(&self, path: &str, target: &str) {
        let _ = fs::remove_file(self.at(path));
        symlink(target, self.at(path)).unwrap();
    }

    pub(crate) fn remove(&self, path: &str) {
        fs::remove_file(self.at(path)).unwrap();
    }

    /// Adds lines to a log.
    pub(crate) fn log(&self, path: &str, lines: &str) {
        let before = fs::read(self.at(path)).unwrap_or_default();
        self.write(path, [&before, lines.as_bytes()].concat());
    }

    /// xenstore's keys: what every host has, and these.
    pub(crate) fn store(&self, keys: &[(&str, &str)]) {
        let vm = format!("/vm/{VM}");
        let base = [
            ("/local/domain/0/name", "Domain-0"),
            ("/local/domain/7/vm", vm.as_str()),
        ];
        let all = base.iter().chain(keys);
        let lines: Vec<String> = all
            .map(|(key, value)| format!("{key} = \"{value}\"\n"))
            .collect();
        self.write("/xenstore-ls.out", lines.concat());
    }

    /// xapi's database: the VM's `platform:vgpu-stub`, its other-config as it
    /// is written there, and a drive's type and userdevice.
    pub(crate) fn database(
        &self,
        (setting, other): (&str, &str),
        (kind, userdevice): (&str, &str),
    ) {
        let platform = match setting {
            "" => "()".to_owned(),
            setting => format!("(('vgpu-stub'%.'{setting}'))"),
        };
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<database>\
             <table name=\"VBD\"><row ref=\"OpaqueRef:d\" uuid=\"d0\" VM=\"OpaqueRef:v\" \
             type=\"{kind}\" userdevice=\"{userdevice}\"/></table>\
             <table name=\"VM\"><row ref=\"OpaqueRef:v\" uuid=\"{VM}\" name__label=\"my%.VM\" \
             platform=\"{platform}\" other_config=\"({other})\"/></table></database>"
        );
        self.write("/var/lib/xcp/state.db", text);
    }

    /// The toolstack runs since soon after the boot, and so does the server.
    fn processes(&self) {
        self.write("/proc/stat", format!("cpu 1 2 3\nbtime {BOOTED}\n"));
        for (id, name) in [(900, "xenopsd-xc"), (5000, "vgpu-stub")] {
            self.write(&format!("/proc/{id}/comm"), format!("{name}\n"));
            // 10 seconds after the boot.
            let zeros = "0 ".repeat(18);
            let stat = format!("{id} ({name}) S {zeros}1000 0\n");
            self.write(&format!("/proc/{id}/stat"), stat);
        }
        self.write(
            "/proc/net/unix",
            "Num       RefCount Protocol Flags    Type St Inode Path\n\
             0000000000000000: 00000002 00000000 00010000 0001 01 22222 /run/vgpu-stub/7/socket\n\
             0000000000000000: 00000003 00000000 00000000 0001 03 22223 /run/vgpu-stub/7/socket\n",
        );
    }

    /// The directory of domain 7's server.
    fn domain(&self) {
        self.write("/run/vgpu-stub/7/pid", "5000\n");
        self.socket("/run/vgpu-stub/7/socket");
        // As the keeper makes it.
        self.mode("/run/vgpu-stub/7/socket", 0o755);
        self.mode("/run/vgpu-stub/7", 0o700);
        self.write("/run/systemd/system/x.service", "");
        self.mode("/run/vgpu-stub", 0o755);
    }

    /// A socket's file, which nobody listens on any more.
    pub(crate) fn socket(&self, path: &str) {
        drop(UnixListener::bind(self.at(path)).unwrap());
        self.mode(path, 0o600);
    }

    /// What the doctor says of it, with these arguments, too.
    pub(crate) fn examine(&self, arguments: &[&str]) -> Report {
        let mut all = vec!["doctor", "--json", "--root", text(self.path())];
        all.extend(arguments);
        let output = output(&all);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let json = serde_json::from_slice(&output.stdout);
        Report {
            json: json.unwrap_or_else(|error| panic!("{error}: {said}")),
            status: output.status.code().unwrap(),
        }
    }

    /// Every file of it.
    pub(crate) fn contents(&self) -> Contents {
        let mut all = Contents::new();
        let mut ahead = vec![self.path().to_owned()];
        while let Some(path) = ahead.pop() {
            let metadata = fs::symlink_metadata(&path).unwrap();
            let kind = metadata.file_type();
            let mut bytes = Vec::new();
            if kind.is_dir() {
                let entries = fs::read_dir(&path).unwrap();
                ahead.extend(entries.map(|entry| entry.unwrap().path()));
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).unwrap();
                bytes = target.into_os_string().into_encoded_bytes();
            } else if kind.is_file() {
                bytes = fs::read(&path).unwrap();
            }
            let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
            all.insert(path, (metadata.mode(), seconds, nanoseconds, bytes));
        }
        all
    }
}

/// The lines of a start that goes well, at eleven.
pub(crate) fn start(domain: u32) -> String {
    start_at("11:00", domain)
}

/// The same, at another time.
pub(crate) fn start_at(minute: &str, domain: u32) -> String {
    let head = "host xenopsd-xc";
    let task = "12 |Async.VM.start R:9f3c";
    format!(
        "Nov 21 {minute}:00 {head}: [ info||{task}|xenops] VM = {VM}; domid = {domain}\n\
         Nov 21 {minute}:01 {head}: [debug||{task}|xenops] Device.Dm.start domid={domain} \
         action=Start qemu args: [-xen-domid {domain} -x Could not open]\n\
         Nov 21 {minute}:01 {head}: [debug||{task}|xenops] Daemon started: qemu-dm-{domain}\n"
    )
}

/// What xenopsd says when it gives a start up, five minutes after eleven.
pub(crate) fn timeout() -> String {
    format!(
        "Nov 21 11:05:01 host xenopsd-xc: [error||12 |Async.VM.start R:9f3c|xenops_server] \
         Caught Xenops_interface.Xenopsd_error([S(Failed_to_start_emulator);[S({VM});S(qemu-dm);\
         S(Timeout reached while starting daemon)]]) executing VM_create_device_model\n"
    )
}

/// What the doctor said.
pub(crate) struct Report {
    pub(crate) json: Value,
    pub(crate) status: i32,
}

impl Report {
    /// A check's row.
    #[track_caller]
    pub(crate) fn row(&self, id: &str) -> &Value {
        let rows = self.json["checks"].as_array().unwrap();
        let row = rows.iter().find(|row| row["id"] == id);
        row.unwrap_or_else(|| panic!("there is no check {id}"))
    }

    /// All that was found: id and severity.
    pub(crate) fn found(&self) -> Vec<(&str, &str)> {
        let mut found = Vec::new();
        for row in self.json["checks"].as_array().unwrap() {
            let findings = row["findings"].as_array();
            for finding in findings.map_or(&[][..], Vec::as_slice) {
                let severity = finding["severity"].as_str().unwrap();
                found.push((row["id"].as_str().unwrap(), severity));
            }
        }
        found
    }

    /// Exactly this was found, with these words in what is wrong and in what
    /// to do about it; the exit status is as the severity says.
    #[track_caller]
    pub(crate) fn is_only(&self, id: &str, severity: &str, what: &str, remedy: &str) {
        assert_eq!(self.found(), [(id, severity)], "{:#}", self.json);
        self.has(id, severity, what, remedy);
        let status = match severity {
            "broken" => 6,
            "warning" => 5,
            _ => 0,
        };
        assert_eq!(self.status, status);
    }

    /// This was found among others.
    #[track_caller]
    pub(crate) fn has(&self, id: &str, severity: &str, what: &str, remedy: &str) {
        let findings = self.row(id)["findings"].as_array();
        let findings = findings.unwrap_or_else(|| panic!("{id}: {:#}", self.row(id)));
        let fits = findings.iter().any(|finding| {
            let steps = finding["remedy"].as_array().unwrap();
            let steps = steps
                .iter()
                .flat_map(|step| step.as_object().unwrap().values());
            let typed = |step: &Value| step.as_str().unwrap().contains(remedy);
            finding["severity"] == severity
                && finding["what"].as_str().unwrap().contains(what)
                && steps.clone().any(typed)
        });
        assert!(fits, "{id} {severity}: {what}: {remedy}\n{findings:#?}");
    }

    /// All is well.
    #[track_caller]
    pub(crate) fn is_well(&self) {
        assert_eq!(self.found(), [], "{:#}", self.json);
        assert_eq!(self.status, 0);
    }
}
