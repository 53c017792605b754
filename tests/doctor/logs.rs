//! The real error, out of logs in the formats of syslog, xapi, QEMU and the
//! kernel.

use crate::tree::{DAEMON, Report, Tree, VM, XENSOURCE, start, start_at, timeout};

/// A host whose last start ended in the timeout, with a line in a log.
fn failed_with(file: &str, line: &str) -> Report {
    let tree = Tree::healthy();
    tree.log(XENSOURCE, &timeout());
    tree.log(file, &format!("{line}\n"));
    tree.examine(&["--vm", VM])
}

/// What QEMU says, as it comes out of its wrapper's `logger`.
fn from_qemu(line: &str) -> String {
    format!("Nov 21 11:00:03 host qemu-dm-7[4711]: {line}")
}

#[track_caller]
fn is_cause(report: &Report, id: &str, words: &str, remedy: &str) {
    let found = report.found();
    let expected = [("log.failure", "broken"), (id, "broken")];
    assert_eq!(found, expected, "{:#}", report.json);
    report.has(id, "broken", words, remedy);
    report.has(
        "log.failure",
        "broken",
        "Timeout reached",
        "the cause is below",
    );
    assert_eq!(report.status, 6);
}

#[test]
fn what_qemu_said_is_the_cause_of_a_timeout() {
    let said = [
        (
            "qemu-system-i386: ../hw/pci/pci.c:2641: pci_device_class_base_init: Assertion `conventional || pcie' failed.",
            "log.class-interface",
            "INTERFACE_CONVENTIONAL_PCI_DEVICE",
        ),
        (
            "qemu-dm-7: -device vgpu-stub,socket=/run/vgpu-stub/7/socket: 'vgpu-stub' is not a valid device model name",
            "log.unknown-device",
            "rpm -Uvh",
        ),
        (
            "qemu-dm-7: -device vgpu-stub,x=1: Property 'vgpu-stub.x' not found",
            "log.property",
            "rpm -q",
        ),
        (
            "qemu-dm-7: -device vgpu-stub,addr=0xc: PCI: slot 12 function 0 not available for vgpu-stub, in use by rtl8139",
            "log.slot",
            "addr=0xd",
        ),
        (
            "/usr/lib64/xen/bin/qemu-system-i386: error while loading shared libraries: libaio.so.1: cannot open shared object file: No such file or directory",
            "log.library",
            "stock binary",
        ),
        (
            "qemu-dm-7: -machine pc-0.10,accel=xen: unsupported machine type",
            "log.accelerator",
            "stock binary",
        ),
        (
            "qemu-dm-7: ../util/x.c:12: f: Assertion `size' failed.",
            "log.crash",
            "param-key=vgpu-stub",
        ),
        (
            "qemu-dm-7: -device vgpu-stub,socket=/run/vgpu-stub/7/socket: vgpu-stub: connect on /run/vgpu-stub/7/socket: Connection refused",
            "log.server",
            "journalctl",
        ),
        (
            "qemu-dm-7: -drive file=/x.iso: Could not open '/x.iso': No such file or directory",
            "log.file",
            "xe vm-cd-eject",
        ),
        (
            "PermissionError: [Errno 13] Permission denied: '/usr/lib64/xen/bin/qemu-system-i386'",
            "log.permission",
            "ls -lZ",
        ),
    ];
    for (line, id, remedy) in said {
        let report = failed_with(DAEMON, &from_qemu(line));
        let first: String = line.split(": ").last().unwrap().to_owned();
        is_cause(&report, id, &first, remedy);
        let at = &report.row(id)["findings"][0]["at"];
        assert_eq!(
            (at["file"].as_str(), at["line"].as_u64()),
            (Some(DAEMON), Some(2))
        );
    }
}

#[test]
fn what_others_said_is_the_cause_too() {
    let at = "Nov 21 11:00:04 host";
    let said = [
        (
            "/var/log/messages",
            format!("{at} kernel: audit: type=1326 audit(1795258804.1:7): uid=65542 pid=4711 comm=\"qemu-system-i38\" sig=31 arch=c000003e syscall=56"),
            "log.sandbox",
            "syscall=56",
        ),
        (
            "/var/log/audit/audit.log",
            "type=SECCOMP msg=audit(1795258804.1:7): pid=4711 comm=\"qemu-system-i38\" sig=31 syscall=57".to_owned(),
            "log.sandbox",
            "syscall=57",
        ),
        (
            "/var/log/messages",
            format!("{at} kernel: Out of memory: Kill process 4711 (qemu-system-i38) score 5"),
            "log.out-of-memory",
            "Kill process 4711",
        ),
        (
            "/var/log/kern.log",
            format!("{at} kernel: qemu-system-i38[4711]: segfault at 0 ip 0 sp 0 error 4"),
            "log.crash",
            "segfault",
        ),
        (
            "/var/log/vgpu-stub/wrapper.log",
            "2026-11-21T09:00:01Z vgpu-stub[1]: domain 7: too old\n\
             2026-11-21T09:00:02Z vgpu-stub[2]: domain 7: server ready after 9 ms; device vgpu-stub\n\
             2026-11-21T11:00:02Z vgpu-stub[4710]: domain 7: no server within 4 s\n\
             2026-11-21T11:09:02Z vgpu-stub[4711]: domain 8: another".to_owned(),
            "log.server",
            "within 4 s",
        ),
        (
            XENSOURCE,
            format!("{at} xapi: [error||3 |Async.VM.start|xapi] Server_error(INVALID_DEVICE, [ xvdd ])"),
            "log.drive",
            "INVALID_DEVICE",
        ),
        (
            XENSOURCE,
            format!("{at} xenopsd-xc: [error||0 ||xcp_service] Cannot access /opt/gone"),
            "log.toolstack",
            "Cannot access /opt/gone",
        ),
        (
            "/var/log/xen/qemu-dm-7.log",
            "qemu-system-i386: Could not open option rom 'x': No such file".to_owned(),
            "log.file",
            "Could not open option rom",
        ),
        (
            DAEMON,
            from_qemu("Traceback (most recent call last):"),
            "log.wrapper",
            "Traceback",
        ),
    ];
    for (file, line, id, words) in said {
        is_cause(&failed_with(file, &line), id, words, "");
    }
}

#[test]
fn the_first_of_what_was_said_in_time_counts() {
    let tree = Tree::healthy();
    tree.log(XENSOURCE, &timeout());
    let lines = [
        // Before this start; of another domain; what follows from the first.
        "Nov 21 09:00:00 host qemu-dm-7[1]: Could not open '/earlier'",
        "Nov 21 11:00:02 host qemu-dm-6[2]: Could not open '/other'",
        "Nov 21 11:00:03 host qemu-dm-7[3]: Could not open '/first'",
        "Nov 21 11:00:04 host qemu-dm-7[3]: Could not open '/second'",
        "Nov 21 13:00:00 host qemu-dm-7[4]: Could not open '/later'",
    ];
    tree.log(DAEMON, &format!("{}\n", lines.join("\n")));
    is_cause(&tree.examine(&[]), "log.file", "/first", "");
}

#[test]
fn a_timeout_that_nothing_explains_is_told_with_the_next_step() {
    let tree = Tree::healthy();
    tree.log(XENSOURCE, &timeout());
    let report = tree.examine(&["--domid", "7"]);
    let remedy = format!("xe vm-param-remove uuid={VM} param-name=platform");
    report.is_only("log.failure", "broken", "domain 7: ", &remedy);
    let at = &report.row("log.failure")["findings"][0]["at"];
    assert_eq!(at["line"], 4);
}

#[test]
fn another_vms_failure_is_not_this_ones() {
    let tree = Tree::healthy();
    tree.log(
        XENSOURCE,
        &timeout().replace(VM, "00000000-0000-4000-8000-000000000000"),
    );
    tree.examine(&["--vm", VM]).is_well();
}

#[test]
fn what_a_later_start_put_right_is_a_note() {
    let tree = Tree::healthy();
    tree.log(XENSOURCE, &timeout());
    tree.log(DAEMON, &format!("{}\n", from_qemu("Could not open '/x'")));
    tree.log(XENSOURCE, &start_at("12:00", 8));
    let report = tree.examine(&[]);
    let found = report.found();
    assert_eq!(found, [("log.failure", "note"), ("log.file", "note")]);
    assert_eq!(report.status, 0);
}

#[test]
fn a_class_of_24_bits_is_seen_where_it_was_built_or_used() {
    for line in [
        "vgpu.c:12:20: error: unsigned conversion from 'int' to 'uint16_t' changes value from '0x120000' to '0': class_id [-Werror=overflow]",
        "00:0c.0 Non-VGA unclassified device [0000]: Red Hat, Inc. Device [1af4:1111]",
    ] {
        let tree = Tree::healthy();
        tree.log(
            "/var/log/messages",
            &format!("Nov 21 11:00:00 host x: {line}\n"),
        );
        let report = tree.examine(&[]);
        report.is_only("log.class-width", "warning", "16 bits", "0x1200");
    }
}

#[test]
fn rotated_logs_are_named() {
    let tree = Tree::healthy();
    tree.write("/var/log/xensource.log.1.gz", [0x1f, 0x8b]);
    let report = tree.examine(&[]);
    report.is_well();
    let seen = report.row("log.read")["seen"].as_str().unwrap();
    assert!(seen.contains("/var/log/xensource.log.1.gz"), "{seen}");
}

#[test]
fn of_a_file_that_is_no_log_nothing_is_read() {
    let tree = Tree::healthy();
    tree.remove(DAEMON);
    std::fs::create_dir(tree.at(DAEMON)).unwrap();
    let report = tree.examine(&[]);
    report.is_only("log.read", "warning", "not a regular file", "root");
}

#[test]
fn logs_alone_are_enough() {
    let logs = Tree::empty();
    logs.log(XENSOURCE, &(start(7) + &timeout()));
    logs.log(DAEMON, &from_qemu("Could not open '/x'"));
    is_cause(
        &logs.examine(&["--vm", VM]),
        "log.file",
        "'/x'",
        "xe vbd-list",
    );
}
