//! A VM without the setting starts as without us.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{PipeReader, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::host::{Host, Recorded};
use super::store::Manner;

const INHERITED: i32 = 200;

const ODD: [&[u8]; 9] = [
    b"with space",
    b"",
    b"two\nlines",
    b"'single' \"double\" \\back",
    b"$(reboot) `reboot` ; reboot & | > *",
    b"\xff\xfe not UTF-8",
    b"-device",
    b"--",
    b"",
];

/// Runs a command with odd arguments, an environment and descriptors of its
/// own, and returns what the recorder saw.
fn recorded(host: &Host, mut command: Command, inherited: &File) -> Recorded {
    command.args(ODD.map(OsStr::from_bytes));
    command.env("ODD", OsStr::from_bytes(b"a=b \xff\n$HOME"));
    command.env("VGPU_STUB_CONFIG", host.path("config"));
    command
        .stdin(Stdio::null())
        .stdout(inherited.try_clone().unwrap());
    assert!(command.status().unwrap().success());
    host.recorded()
}

/// A command that inherits a pipe as number 200, as QEMU does its tap devices.
fn inheriting(program: &Path, pipe: &PipeReader) -> Command {
    let pipe = pipe.as_raw_fd();
    let mut command = Command::new(program);
    // SAFETY: between fork and exec it makes one system call and does not
    // allocate; the pipe is open as long as the command is used.
    #[allow(unsafe_code, reason = "the only way to choose a descriptor's number")]
    unsafe {
        command.pre_exec(move || match libc::dup2(pipe, INHERITED) {
            INHERITED => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    command
}

/// What the stock wrapper sees through ours is what it sees without.
fn is_the_same(host: &Host, first: &[&str]) {
    let (reader, _writer) = pipe().unwrap();
    let output = File::create(host.path("output")).unwrap();
    let mut direct = inheriting(&host.path("stock"), &reader);
    direct.args(first);
    let direct = recorded(host, direct, &output);
    let mut wrapped = inheriting(&host.path("qemu-wrapper"), &reader);
    wrapped.args(first);
    let wrapped = recorded(host, wrapped, &output);
    assert_eq!(direct.argv, wrapped.argv);
    assert_eq!(direct.fds, wrapped.fds);
    assert!(direct.environ == wrapped.environ);
    assert_eq!(wrapped.argv.len(), first.len() + ODD.len());
    let pipe = |fd: &String| fd.starts_with("200 pipe:");
    assert!(wrapped.fds.iter().any(pipe), "{:?}", wrapped.fds);
    assert!(!host.path("run").exists());
}

#[test]
fn without_a_setting_arguments_environment_and_descriptors_are_the_same() {
    let host = Host::new();
    is_the_same(&host, &["7", "--syslog"]);
    let asked = ["platform", "vm-data"].map(|key| format!("/local/domain/7/{key}/vgpu-stub"));
    assert_eq!(host.store.asked(), asked);
    assert_eq!(host.log(), "");
}

#[test]
fn with_the_setting_off_they_are_the_same() {
    for value in ["false", "0", "off", ""] {
        let host = Host::new();
        host.ask(7, value);
        is_the_same(&host, &["7"]);
        assert_eq!(host.log(), "");
    }
}

#[test]
fn without_xenstore_they_are_the_same() {
    let mut host = Host::new();
    let nowhere = host.path("nowhere");
    host.set("XENSTORE", nowhere.to_str().unwrap());
    is_the_same(&host, &["7"]);
    assert_eq!(host.log(), "");
}

#[test]
fn without_a_domain_xenstore_is_not_asked() {
    let mut host = Host::new();
    // As for xl, where the device model is what runs.
    let stock = host.path("stock");
    host.set("DEVICE_MODEL", stock.to_str().unwrap());
    is_the_same(&host, &["-xen-domid", "7", "-machine", "none"]);
    is_the_same(&host, &["-machine", "none,accel=xen", "-qmp", "unix:/x"]);
    is_the_same(&host, &["-version"]);
    is_the_same(&host, &[]);
    is_the_same(&host, &["0"]);
    is_the_same(&host, &["4294967303"]);
    assert!(host.store.asked().is_empty());
}

#[test]
fn a_broken_configuration_does_not_stop_a_vm_without_the_device() {
    let mut host = Host::new();
    host.set("COLOUR", "red");
    is_the_same(&host, &["7"]);
    assert_eq!(host.log(), "");
}

#[test]
fn a_xenstore_that_does_not_answer_costs_a_second_and_a_warning() {
    for (manner, why) in [
        (Manner::Never, "no answer in time"),
        (Manner::Closes, "has closed the connection"),
        (Manner::Huge, "an answer of more than 4096 bytes"),
        (Manner::Other, "an answer to another question"),
        (
            Manner::Refuses,
            "xenstored says EACCES to reading /local/domain/7/",
        ),
    ] {
        let host = Host::with(manner);
        let output = host.start(7);
        assert!(output.status.success());
        assert_eq!(host.recorded().argv.len(), 4);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(why), "{manner:?}: {said}");
        assert!(said.contains("starting without the device"), "{said}");
        assert_eq!(said.lines().count(), 1);
    }
}
