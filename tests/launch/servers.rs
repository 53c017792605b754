//! A VM with the setting gets a server, which ends with it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use vfio_user::Client;

use super::host::{Host, kill, reads_id};
use super::program::inherit;

fn status(pid: rustix::process::Pid) -> String {
    fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap()
}

#[test]
fn qemu_gets_a_device_whose_server_is_ready() {
    let host = Host::new();
    host.ask(7, "true");
    let began = Instant::now();
    let recorded = host.started(7);
    eprintln!("the whole start took {:?}", began.elapsed());
    let device = format!(
        "vgpu-stub,socket={}/socket,addr=0xc",
        host.domain(7).display()
    );
    let added = ["7", "--syslog", "-xen-domid", "7", "-device", &device];
    assert_eq!(recorded.argv, added);
    // Nothing of ours but the streams is open in QEMU's wrapper.
    let socket = |fd: &String| fd.contains("socket:");
    assert!(!recorded.fds.iter().any(socket), "{:?}", recorded.fds);
    let watched = host.watch(7);
    let mut client = Client::new(&watched.socket()).unwrap();
    assert_eq!(&reads_id(&mut client), b"VGPU");
    assert!(watched.runs());
    let mode = fs::metadata(watched.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    drop(client);
    watched.wait();
    assert!(!watched.path.exists());
    assert!(
        host.log().contains("domain 7: server ready after"),
        "{}",
        host.log()
    );
}

#[test]
fn the_time_that_it_adds_is_small() {
    let host = Host::new();
    host.ask(8, "true");
    host.ask(9, "true");
    let time = |domain| {
        let began = Instant::now();
        host.started(domain);
        began.elapsed()
    };
    // The first also asks the device model, which is done once.
    let (first, without, with) = (time(8), time(7), time(9));
    let added = with.saturating_sub(without);
    eprintln!(
        "added: {added:?}; the first time {:?}",
        first.saturating_sub(without)
    );
    // 0.15 s on a quiet machine; this one may be busy.
    assert!(added.as_secs() < 2, "{added:?}");
}

#[test]
fn a_vms_choices_reach_the_server_and_qemu() {
    let mut host = Host::new();
    host.set("ADDR", "0x10");
    host.ask(7, "stub,vectors=4,addr=0x1f");
    let recorded = host.started(7);
    let device = recorded.argv.last().unwrap().to_str().unwrap();
    assert!(device.ends_with("/7/socket,addr=0x1f"), "{device}");
    let mut client = Client::new(&host.watch(7).socket()).unwrap();
    assert_eq!(client.get_irq_info(2).unwrap().count, 4);

    let data = "/local/domain/8/vm-data/vgpu-stub";
    host.store.set(data, b"doorbell");
    let recorded = host.started(8);
    let device = recorded.argv.last().unwrap().to_str().unwrap();
    assert!(device.ends_with("/8/socket,addr=0x10"), "{device}");
    let mut client = Client::new(&host.watch(8).socket()).unwrap();
    assert_eq!(&reads_id(&mut client), b"BELL");

    // platform comes first.
    host.ask(8, "false");
    assert_eq!(host.started(8).argv.len(), 4);
}

#[test]
fn xl_gets_the_device_as_xenopsd_does() {
    let mut host = Host::new();
    // libxl executes the device model itself, which also lists its devices.
    let recorder = fs::read_to_string(host.path("stock")).unwrap();
    let asked = "[ \"$2\" = help ] && { echo 'name \"vfio-user-pci\", bus PCI'; exit; }\n";
    let both = recorder.replacen('\n', &format!("\n{asked}"), 1);
    let model = host.script("stock", &both);
    host.set("DEVICE_MODEL", model.to_str().unwrap());
    host.set("SETTING", "true");
    let status = host
        .wrapper(["-xen-domid", "7", "-machine", "xenfv"])
        .status();
    assert!(status.unwrap().success());
    let argv = host.recorded().argv;
    let socket = host.domain(7).join("socket");
    let json: serde_json::Value =
        serde_json::from_str(argv.last().unwrap().to_str().unwrap()).unwrap();
    let wanted = serde_json::json!({
        "driver": "vfio-user-pci",
        "addr": "0xc",
        "socket": { "type": "unix", "path": socket.to_str().unwrap() },
    });
    assert_eq!(json, wanted);
    assert_eq!(argv[argv.len() - 2], "-device");
}

#[test]
fn a_server_has_its_own_user_and_limits() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root gives a server a user of its own");
        return;
    }
    let mut host = Host::new();
    host.set("SERVER_UID_BASE", "1234567");
    host.set("MEMORY_MAX", "100M");
    host.ask(7, "true");
    host.started(7);
    let watched = host.watch(7);
    let server = watched.server();
    let status = status(server);
    for line in [
        "Uid:\t1234574\t1234574\t1234574\t1234574",
        "Gid:\t1234574\t1234574\t1234574\t1234574",
        "Groups:\t \n",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "{line}: {status}");
    }
    let server = server.as_raw_nonzero();
    let limits = fs::read_to_string(format!("/proc/{server}/limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..]
            .split_whitespace()
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(limit("Max data size"), "104857600");
    assert_eq!(limit("Max processes"), "64");
    assert_eq!(limit("Max open files"), "4096");
    assert_eq!(limit("Max core file size"), "0");
    let environment = fs::read(format!("/proc/{server}/environ")).unwrap();
    assert_eq!(environment, b"");
}

#[test]
fn a_server_has_no_descriptor_of_who_started_it() {
    let host = Host::new();
    host.ask(7, "true");
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = host.wrapper(["7"]);
    inherit(&mut command, writer.into());
    assert!(command.status().unwrap().success());
    drop(command);
    // Nobody has it but us: its end is seen while the server runs.
    assert_eq!(std::io::read_to_string(reader).unwrap(), "");
    assert!(host.watch(7).runs());
}

#[test]
fn a_server_that_nobody_connects_to_ends() {
    let mut host = Host::new();
    host.set("CONNECT_TIMEOUT", "1");
    host.ask(7, "true");
    host.started(7);
    let watched = host.watch(7);
    watched.wait();
    assert!(!watched.path.exists());
    assert!(
        host.log().contains("no client has connected"),
        "{}",
        host.log()
    );
}

#[test]
fn a_server_that_was_killed_leaves_nothing() {
    let host = Host::new();
    host.ask(7, "true");
    host.started(7);
    let watched = host.watch(7);
    let _client = Client::new(&watched.socket()).unwrap();
    kill(watched.server());
    watched.wait();
    assert!(!watched.path.exists());
}

#[test]
fn a_keeper_that_is_told_to_stop_stops_its_server() {
    let host = Host::new();
    host.ask(7, "true");
    host.started(7);
    let watched = host.watch(7);
    rustix::process::kill_process(watched.keeper, rustix::process::Signal::TERM).unwrap();
    watched.wait();
    assert!(!watched.path.exists());
}

#[test]
fn what_a_killed_keeper_leaves_goes_with_the_next_start() {
    let host = Host::new();
    host.ask(7, "true");
    host.ask(8, "true");
    host.started(7);
    let watched = host.watch(7);
    let server = watched.server();
    kill(watched.keeper);
    // The server runs on, and keeps its directory.
    host.started(8);
    assert!(watched.path.exists() && watched.runs());
    kill(server);
    watched.wait();
    host.started(8);
    assert!(!watched.path.exists());
}

#[test]
fn a_leftover_of_the_same_domain_is_replaced() {
    let host = Host::new();
    host.ask(7, "true");
    host.started(7);
    let first = host.watch(7);
    host.started(7);
    let second = host.watch(7);
    first.wait();
    assert!(second.runs());
    let mut client = Client::new(&second.socket()).unwrap();
    assert_eq!(&reads_id(&mut client), b"VGPU");
}
