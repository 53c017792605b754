//! The packed program on a host as old as XCP-ng 8.3: glibc 2.17, which must
//! not matter, and Linux 4.19.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, pipe};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::tempdir;

use crate::built::program;
use crate::program::inherit;
use crate::rig::{RigError, or_skip, process};
use crate::units;

const LIMIT: Duration = Duration::from_secs(120);
const REMEDY: &str = "install strace (apt-get install strace)";

/// What Linux gained after 4.19, up to 6.15. A mark before a name lets a
/// strace pass that does not know it.
const NEWER: [&str; 46] = [
    "pidfd_send_signal",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "open_tree",
    "move_mount",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "pidfd_open",
    "clone3",
    "close_range",
    "openat2",
    "pidfd_getfd",
    "faccessat2",
    "process_madvise",
    "epoll_pwait2",
    "mount_setattr",
    "quotactl_fd",
    "landlock_create_ruleset",
    "landlock_add_rule",
    "landlock_restrict_self",
    "memfd_secret",
    "process_mrelease",
    "futex_waitv",
    "set_mempolicy_home_node",
    "cachestat",
    "fchmodat2",
    "map_shadow_stack",
    "futex_wake",
    "futex_wait",
    "futex_requeue",
    "statmount",
    "listmount",
    "lsm_get_self_attr",
    "lsm_set_self_attr",
    "lsm_list_modules",
    "mseal",
    "setxattrat",
    "getxattrat",
    "listxattrat",
    "removexattrat",
    "open_tree_attr",
    "file_getattr",
    "file_setattr",
];

/// Flags of older calls that came later.
const NEWER_FLAGS: [&str; 5] = [
    "F_SEAL_FUTURE_WRITE",
    "F_SEAL_EXEC",
    "MFD_NOEXEC_SEAL",
    "MFD_EXEC",
    "CLONE_PIDFD",
];

/// A command that runs the program as on Linux 4.19, and notes its calls.
fn on_an_old_kernel(program: &Path, log: &Path) -> Command {
    let names: Vec<String> = NEWER.iter().map(|name| format!("?{name}")).collect();
    let mut command = Command::new("strace");
    command
        .args(["-f", "-s", "0", "-e"])
        .arg(format!("inject={}:error=ENOSYS", names.join(",")))
        .arg("-o")
        .arg(log)
        .arg(program);
    command
}

/// Which calls a log has, and no others than Linux 4.19 knows.
fn calls(log: &Path) -> BTreeSet<String> {
    let log = fs::read_to_string(log).unwrap();
    for flag in NEWER_FLAGS {
        assert!(!log.contains(flag), "{flag}");
    }
    let mut calls = BTreeSet::new();
    for line in log.lines() {
        let call = line.split_once(' ').unwrap().1.trim_start();
        let Some((name, rest)) = call.split_once('(') else {
            continue;
        };
        if !name
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        {
            continue;
        }
        if NEWER.contains(&name) {
            assert!(!rest.contains(" = 0"), "{line}");
        }
        // What strace has no name for.
        assert!(!name.starts_with("syscall_0x"), "{line}");
        calls.insert(name.to_owned());
    }
    assert!(calls.contains("recvmsg"), "{calls:?}");
    calls
}

fn strace_is_there() -> Result<String, RigError> {
    process::run(Command::new("strace").arg("--version"), LIMIT, REMEDY)
}

#[test]
fn a_server_and_its_client_do_without_what_linux_4_19_lacks() {
    let Some(program) = or_skip(program()) else {
        return;
    };
    if or_skip(strace_is_there()).is_none() {
        return;
    }
    let dir = tempdir().unwrap();
    let (theirs, ours) = (dir.path().join("server"), dir.path().join("client"));
    let socket = dir.path().join("socket");
    let (ready, inherited) = pipe().unwrap();
    let mut command = on_an_old_kernel(program, &theirs);
    let number = inherit(&mut command, inherited.into());
    let server = command
        .args(["serve", "--once", "--ready-fd", &number.to_string()])
        .arg("--socket-path")
        .arg(&socket)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut server = process::Process::new(server);
    drop(command);
    let mut line = String::new();
    BufReader::new(ready).read_line(&mut line).unwrap();
    assert_eq!(line, "\n");

    let mut probe = on_an_old_kernel(program, &ours);
    probe.arg("probe").arg("--socket-path").arg(&socket);
    let said = process::run(&mut probe, LIMIT, REMEDY).unwrap();
    assert!(said.contains("1af4:1111"), "{said}");
    let status = server.wait(Instant::now() + LIMIT).unwrap().unwrap();
    assert!(status.success(), "{status}");

    let used = calls(&theirs);
    calls(&ours);
    let refused = units::refused_calls();
    let both: Vec<_> = used.intersection(&refused).collect();
    assert_eq!(both, [""; 0], "the unit refuses what the server calls");
}

#[test]
fn interrupts_and_dma_do_without_what_linux_4_19_lacks() {
    let Some(program) = or_skip(program()) else {
        return;
    };
    if or_skip(strace_is_there()).is_none() {
        return;
    }
    let dir = tempdir().unwrap();
    let log = dir.path().join("log");
    let mut demo = on_an_old_kernel(program, &log);
    let said = process::run(demo.arg("demo"), LIMIT, REMEDY).unwrap();
    assert!(said.contains("All of it works"), "{said}");
    let used = calls(&log);
    let refused = units::refused_calls();
    assert_eq!(used.intersection(&refused).count(), 0);
}

#[test]
fn a_launcher_and_its_server_do_without_what_linux_4_19_lacks() {
    // A QEMU that knows the shim, and looks at the device once.
    const QEMU: &str = "#!/bin/sh\n\
        case $* in *help) echo 'name \"vgpu-stub\", bus PCI'; exit ;; esac\n\
        for socket; do :; done\n\
        socket=${socket#vgpu-stub,socket=}\n\
        exec \"$PROGRAM\" probe --socket-path \"${socket%%,*}\"\n";
    let Some(program) = or_skip(program()) else {
        return;
    };
    if or_skip(strace_is_there()).is_none() {
        return;
    }
    let dir = tempdir().unwrap();
    let (qemu, log) = (dir.path().join("qemu"), dir.path().join("log"));
    fs::write(&qemu, QEMU).unwrap();
    fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).unwrap();
    let mut launch = on_an_old_kernel(program, &log);
    launch
        .args(["launch", "--"])
        .arg(&qemu)
        .args(["-m", "512"])
        .env("PROGRAM", program)
        .env("XDG_RUNTIME_DIR", dir.path());
    let said = process::run(&mut launch, LIMIT, REMEDY).unwrap();
    assert!(said.contains("1af4:1111"), "{said}");
    calls(&log);
}

/// A little-endian number of an ELF file.
fn number(bytes: &[u8], at: usize, width: usize) -> usize {
    let bytes = &bytes[at..at + width];
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// The contents of the segments of a type.
fn segments(elf: &[u8], kind: usize) -> Vec<&[u8]> {
    let (table, size, count) = (
        number(elf, 0x20, 8),
        number(elf, 0x36, 2),
        number(elf, 0x38, 2),
    );
    let headers = (0..count).map(|index| &elf[table + index * size..][..size]);
    headers
        .filter(|header| number(header, 0, 4) == kind)
        .map(|header| &elf[number(header, 8, 8)..][..number(header, 0x20, 8)])
        .collect()
}

#[test]
fn the_program_needs_no_library_no_loader_and_no_newer_kernel() {
    const DYNAMIC: usize = 2;
    const INTERPRETER: usize = 3;
    const NOTE: usize = 4;
    const NEEDED: usize = 1;
    let Some(program) = or_skip(program()) else {
        return;
    };
    let elf = fs::read(program).unwrap();
    assert_eq!(elf[..6], *b"\x7fELF\x02\x01");
    assert!(segments(&elf, INTERPRETER).is_empty());
    for dynamic in segments(&elf, DYNAMIC) {
        let mut entries = dynamic.chunks_exact(16).map(|entry| number(entry, 0, 8));
        assert!(entries.all(|tag| tag != NEEDED));
    }
    // The oldest Linux that its C library starts on (ELF note GNU, type 1).
    let abi = segments(&elf, NOTE).into_iter().find_map(|notes| {
        let at = notes
            .windows(8)
            .position(|word| word == b"\x01\0\0\0GNU\0")?;
        Some((number(notes, at + 12, 4), number(notes, at + 16, 4)))
    });
    assert!(abi.is_some_and(|version| version <= (4, 19)), "{abi:?}");
}
