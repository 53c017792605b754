//! A server that does not start: the VM's start fails at once and says why, or
//! the VM starts without it.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::host::Host;

/// Generous: 5 s is what is promised, and the machine may be busy.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A host whose server is this script.
fn host_with(server: &str) -> Host {
    let mut host = Host::new();
    let path = host.script("broken", server);
    host.set("SERVER", path.to_str().unwrap());
    host.ask(7, "true");
    host
}

/// Starts a VM that has to fail for this reason, with nothing left.
fn fails_with(host: &Host, why: &str) {
    let began = Instant::now();
    let said = host.fails(7);
    let took = began.elapsed();
    assert!(said.contains(why), "{said}");
    assert!(said.starts_with("vgpu-stub: domain 7: "), "{said}");
    assert!(took < AT_ONCE, "{took:?}");
    let log = host.log();
    assert!(
        log.contains(&format!("domain 7: {}", &said[21..])),
        "{log}: {said}"
    );
    assert!(!host.domain(7).exists());
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let mut host = host_with("");
    host.set("SERVER", "/no/such/server");
    fails_with(&host, "/no/such/server: No such file");
}

#[test]
fn a_server_that_ends_at_once_has_the_last_word() {
    let host = host_with("#!/bin/sh\necho first >&2\necho 'the GPU is on fire' >&2\nexit 3\n");
    fails_with(&host, "broken: ended with status 3: the GPU is on fire");
    let host = host_with("#!/bin/sh\nexit 0\n");
    fails_with(&host, "broken: ended with status 0");
}

#[test]
fn a_server_that_is_killed_before_it_is_ready_is_noticed() {
    let host = host_with("#!/bin/sh\nkill -KILL $$\n");
    fails_with(&host, "broken: was killed by signal 9");
}

#[test]
fn a_server_that_is_never_ready_is_given_up_and_killed() {
    let mut host = host_with("#!/bin/sh\necho $$ > \"$0.pid\"; exec sleep 600\n");
    // It has to be able to say so.
    let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(host.directory.path(), everyone).unwrap();
    host.set("START_TIMEOUT", "1");
    let said = host.fails(7);
    assert!(said.contains("the server was not ready in time"), "{said}");
    let pid = std::fs::read_to_string(host.path("broken.pid")).unwrap();
    let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    // Its keeper reaps it when it finds the launcher gone.
    let until = Instant::now() + Duration::from_secs(30);
    while rustix::process::test_kill_process(pid).is_ok() {
        assert!(Instant::now() < until, "it still runs");
        std::thread::yield_now();
    }
}

#[test]
fn what_a_server_says_cannot_forge_a_line() {
    let host =
        host_with("#!/bin/sh\nprintf 'a\\033[2Jb\\rc' >&2; head -c 99999 /dev/zero >&2; exit 1\n");
    let said = host.fails(7);
    assert!(said.len() < 600, "{}", said.len());
    assert!(said.trim_end().chars().all(|c| !c.is_control()), "{said:?}");
}

#[test]
fn if_so_chosen_the_vm_starts_without_the_device() {
    // By the host.
    let mut host = host_with("#!/bin/sh\necho broken >&2; exit 1\n");
    host.set("ON_FAILURE", "continue");
    let output = host.start(7);
    assert!(output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    let wanted = "broken: ended with status 1: broken; starting without the device";
    assert!(said.contains(wanted), "{said}");
    assert_eq!(host.recorded().argv.len(), 4);
    assert!(host.log().contains("warning"), "{}", host.log());
    assert!(!host.domain(7).exists());
    // The VM's own choice comes first.
    std::fs::remove_file(host.path("stock.argv")).unwrap();
    host.ask(7, "stub,on-failure=fail");
    assert!(host.fails(7).contains("ended with status 1"));
    host.set("ON_FAILURE", "fail");
    host.ask(7, "stub,on-failure=continue");
    assert_eq!(host.started(7).argv.len(), 4);
}

#[test]
fn xenopsd_is_not_left_to_wait_for_qemu() {
    let host = host_with("#!/bin/sh\nexit 1\n");
    let socket = host.path("qmp-event-7");
    let qmp = format!("unix:{},server,nowait", socket.display());
    let mut command = host.wrapper(["7", "--syslog", "-qmp", &qmp]);
    let mut wrapper = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    // As xenopsd does: connect once it is there, then expect QEMU's greeting.
    let until = Instant::now() + Duration::from_secs(30);
    let mut first = loop {
        match UnixStream::connect(&socket) {
            Ok(stream) => break stream,
            Err(_) => assert!(Instant::now() < until, "there is no socket"),
        }
        std::thread::yield_now();
    };
    let mut greeting = Vec::new();
    // Closed or reset, but over.
    let _ = first.read_to_end(&mut greeting);
    assert_eq!(greeting, b"");
    assert_eq!(wrapper.wait().unwrap().code(), Some(1));
    assert!(UnixStream::connect(&socket).is_err());
    assert!(!socket.exists());
}

#[test]
fn xenopsd_need_not_look_for_the_wrapper_to_end() {
    let host = host_with("#!/bin/sh\nexit 1\n");
    let qmp = format!("unix:{},server,nowait", host.path("qmp-event-7").display());
    let output = host.wrapper(["7", "-qmp", &qmp]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(!host.path("qmp-event-7").exists());
}
