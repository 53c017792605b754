//! What both packages must do once they are installed.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use vfio_user::Client;

use crate::program::inherit;
use crate::rig::{or_skip, process};
use crate::root::Root;

const LIMIT: Duration = Duration::from_secs(20);

/// Everything below; `settings` is where the wrapper's settings are.
pub(crate) fn works(root: &Root, settings: &str) {
    says_its_version(root);
    wrapper_is_the_program_and_passes_on(root);
    is_found_by_its_discovery_file(root);
    serves_as_its_unit_says(root);
    man_pages_are_clean(root);
    assert!(root.path(settings).is_file(), "{settings}");
}

fn run(command: &mut Command) -> String {
    process::run(command, LIMIT, "").unwrap()
}

fn says_its_version(root: &Root) {
    let said = run(Command::new(root.path("usr/bin/vgpu-stub")).arg("--version"));
    assert_eq!(said, format!("vgpu-stub {}", env!("CARGO_PKG_VERSION")));
}

fn wrapper_is_the_program_and_passes_on(root: &Root) {
    let wrapper = root.path("usr/libexec/vgpu-stub/qemu-wrapper");
    let program = root.path("usr/bin/vgpu-stub").canonicalize().unwrap();
    assert_eq!(wrapper.canonicalize().unwrap(), program);

    // Without a xenstore no VM asks for anything.
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let stock = "#!/bin/sh\nprintf '<%s>' \"$@\"\n";
    fs::write(path("stock"), stock).unwrap();
    fs::set_permissions(path("stock"), fs::Permissions::from_mode(0o755)).unwrap();
    let settings = format!(
        "QEMU_WRAPPER={}\nLOG={}\nXENSTORE={}\n",
        path("stock").display(),
        path("log").display(),
        path("xenstore").display()
    );
    fs::write(path("settings"), settings).unwrap();
    let mut command = Command::new(&wrapper);
    command
        .args(["7", "-name", "two words", "", "$(reboot)"])
        .env("VGPU_STUB_CONFIG", path("settings"));
    let said = run(&mut command);
    assert_eq!(said, "<7><-name><two words><><$(reboot)>");
}

fn is_found_by_its_discovery_file(root: &Root) {
    let file = root.path("usr/share/vfio-user/50-vgpu-stub.json");
    let found: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(found["type"], "pci");
    assert!(found["description"].is_string(), "{found}");
    let binary = found["binary"].as_str().unwrap().trim_start_matches('/');
    let mut ask = Command::new(root.path(binary));
    let capabilities = run(ask.arg("--print-capabilities"));
    let capabilities: Value = serde_json::from_str(&capabilities).unwrap();
    assert_eq!(capabilities["type"], found["type"]);
}

/// The words of the unit's `ExecStart`, the program first.
pub(crate) fn exec_start(root: &Root) -> Vec<String> {
    let unit = root.path("usr/lib/systemd/system/vgpu-stub@.service");
    let unit = fs::read_to_string(unit).unwrap();
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="));
    let words = line.unwrap().split_whitespace();
    words.map(str::to_owned).collect()
}

/// As systemd starts it: the socket is descriptor 3, and `LISTEN_PID` the
/// process itself, which a shell can arrange.
fn serves_as_its_unit_says(root: &Root) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let listener = OwnedFd::from(UnixListener::bind(&socket).unwrap());
    let exec = exec_start(root);
    let program: PathBuf = root.path(exec[0].trim_start_matches('/'));
    let mut command = Command::new("sh");
    let number = inherit(&mut command, listener);
    let script = format!("exec 3<&{number}; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\" \"$@\"");
    let server = command
        .args(["-c", &script])
        .arg(program)
        .args(&exec[1..])
        .env_remove("NOTIFY_SOCKET")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _server = process::Process::new(server);
    let mut id = [0; 4];
    Client::new(&socket)
        .unwrap()
        .region_read(0, 0, &mut id)
        .unwrap();
    assert_eq!(&id, b"VGPU");
}

fn man_pages_are_clean(root: &Root) {
    let mut ask = Command::new("groff");
    let ask = process::run(
        ask.arg("--version"),
        LIMIT,
        "install groff (apt-get install groff-base)",
    );
    if or_skip(ask).is_none() {
        return;
    }
    let mut pages = 0;
    for page in fs::read_dir(root.path("usr/share/man/man1")).unwrap() {
        let page = page.unwrap().path();
        assert_eq!(page.extension().unwrap(), "gz", "{}", page.display());
        // groff reports on standard error, and ends well all the same.
        let script = "gzip -dc \"$0\" | groff -ww -man -Tutf8 -z 2>&1";
        let said = run(Command::new("bash")
            .args(["-o", "pipefail", "-c", script])
            .arg(&page));
        assert_eq!(said, "", "{}", page.display());
        pages += 1;
    }
    assert!(pages > 4, "{pages}");
}

/// Completions of bash load, and complete this program.
pub(crate) fn bash_completes(root: &Root) {
    let file = root.path("usr/share/bash-completion/completions/vgpu-stub");
    let script = "source \"$0\" && complete -p vgpu-stub";
    let said = run(Command::new("bash")
        .args(["--norc", "-c", script])
        .arg(file));
    assert!(
        said.starts_with("complete ") && said.ends_with(" vgpu-stub"),
        "{said}"
    );
}
