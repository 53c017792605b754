//! Where systemd runs the host, a server is a transient unit. What is called
//! here in systemd's place keeps its arguments, and runs the command.

use std::fs;

use vfio_user::Client;

use super::host::{Host, reads_id};

/// As systemd: a clean environment, a session of its own, no descriptors.
const SYSTEMD_RUN: &str = r#"#!/bin/sh
printf '%s\n' "$@" > "$0.argv"
while [ "$1" != -- ]; do shift; done
shift
setsid env -i "$@" < /dev/null > "$0.log" 2>&1 &
"#;

fn host_with(systemd_run: &str) -> Host {
    let mut host = Host::new();
    let path = host.script("systemd-run", systemd_run);
    host.set("SYSTEMD_RUN", path.to_str().unwrap());
    host.ask(7, "true");
    host
}

#[test]
fn a_server_is_a_unit_of_its_own() {
    let host = host_with(SYSTEMD_RUN);
    host.started(7);
    let watched = host.watch(7);
    let mut client = Client::new(&watched.socket()).unwrap();
    assert_eq!(&reads_id(&mut client), b"VGPU");
    let argv = fs::read_to_string(host.path("systemd-run.argv")).unwrap();
    let argv: Vec<&str> = argv.lines().collect();
    let server = host.path("server");
    let program = fs::canonicalize(&server).unwrap();
    assert_eq!(
        argv[..3],
        [
            "--quiet",
            "--unit=vgpu-stub-dom-7.service",
            "--description=vgpu-stub server of domain 7",
        ]
    );
    // 64 MiB for the server and 16 MiB for its keeper.
    assert!(argv[3].starts_with("--property=Memory"), "{}", argv[3]);
    assert!(argv[3].ends_with("=83886080"), "{}", argv[3]);
    assert_eq!(argv[4..7], ["--", program.to_str().unwrap(), "keep"]);
    // systemd 219 replaces variables and reads nothing else into a word.
    assert!(
        argv.iter()
            .all(|word| !word.contains(['$', '%', '\\', '"', '\'']))
    );
    drop(client);
    watched.wait();
    assert!(!watched.path.exists());
    let log = fs::read_to_string(host.path("systemd-run.log")).unwrap();
    assert!(log.contains("a client connected"), "{log}");
}

#[test]
fn a_unit_that_is_left_over_is_put_out_of_the_way() {
    // The first time it fails, as it does for a name that is taken.
    let taken = r#"[ -e "$0.tried" ] || { touch "$0.tried"; echo 'Unit exists' >&2; exit 1; }"#;
    let script = SYSTEMD_RUN.replacen('\n', &format!("\n{taken}\n"), 1);
    let host = host_with(&script);
    host.script("systemctl", "#!/bin/sh\necho \"$@\" >> \"$0.argv\"\n");
    host.started(7);
    let said = fs::read_to_string(host.path("systemctl.argv")).unwrap();
    assert_eq!(
        said,
        "stop vgpu-stub-dom-7.service\nreset-failed vgpu-stub-dom-7.service\n"
    );
}

#[test]
fn a_systemd_that_refuses_has_its_say() {
    let host = host_with("#!/bin/sh\necho 'Failed to create bus connection' >&2\nexit 1\n");
    let said = host.fails(7);
    assert!(
        said.contains("systemd-run: Failed to create bus connection"),
        "{said}"
    );
    assert!(!host.domain(7).exists());
}

#[test]
fn a_unit_that_never_runs_is_given_up() {
    let mut host = host_with("#!/bin/sh\nexit 0\n");
    host.set("START_TIMEOUT", "1");
    let said = host.fails(7);
    assert!(said.contains("has not started in time"), "{said}");
    assert!(!host.domain(7).exists());
    let host = host_with("#!/bin/sh\nexec sleep 600\n");
    let mut host = host;
    host.set("START_TIMEOUT", "1");
    let said = host.fails(7);
    assert!(said.contains("systemd-run: timed out"), "{said}");
}
