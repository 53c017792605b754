//! The rig works, shown with devices that QEMU brings along.

mod rig;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rig::cache::{Kept, Lock};
use rig::process::Process;
use rig::{Accelerator, Guest, Linux, Machine, Memory, Outcome, Qemu, RigError, or_skip};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(20);

fn run_trivial(configure: impl FnOnce(Qemu) -> Qemu) -> Result<Outcome, RigError> {
    let image = rig::guest::trivial()?;
    let qemu = Qemu::new(Accelerator::Tcg)?.kernel(&image).no_reboot();
    configure(qemu).start()?.wait(LIMIT)
}

#[test]
fn a_trivial_guest_runs_on_every_machine_and_memory() {
    for machine in [Machine::Pc, Machine::Q35] {
        for memory in [Memory::Shared, Memory::Private] {
            let run = run_trivial(|qemu| qemu.machine(machine).memory(memory));
            let Some(outcome) = or_skip(run) else { return };
            assert_eq!(
                outcome.guest_code(),
                Some(rig::guest::TRIVIAL_CODE),
                "{machine:?} {memory:?}: {outcome:?}"
            );
            assert_eq!(outcome.console, [rig::guest::TRIVIAL_TEXT]);
        }
    }
}

#[test]
fn a_trivial_guest_runs_under_kvm_where_there_is_kvm() {
    let Some(qemu) = or_skip(Qemu::new(Accelerator::Kvm)) else {
        return;
    };
    if !rig::kvm_works() {
        return;
    }
    let image = rig::guest::trivial().unwrap();
    let outcome = qemu.kernel(&image).start().unwrap().wait(LIMIT).unwrap();
    assert_eq!(outcome.guest_code(), Some(rig::guest::TRIVIAL_CODE));
}

#[test]
fn a_refused_command_line_is_an_outcome_with_qemus_message() {
    let run = run_trivial(|qemu| qemu.device("no-such-device"));
    let Some(outcome) = or_skip(run) else { return };
    assert_eq!(outcome.status.code(), Some(1));
    assert_eq!(outcome.guest_code(), None);
    assert!(
        outcome.errors.join("\n").contains("no-such-device"),
        "{outcome:?}"
    );
}

#[test]
fn an_absent_vfio_user_server_is_refused() {
    let run = run_trivial(|qemu| qemu.vfio_user(Path::new("/nowhere/socket"), &json!({})));
    let Some(outcome) = or_skip(run) else { return };
    assert_eq!(outcome.status.code(), Some(1));
    assert!(
        outcome.errors.join("\n").contains("/nowhere/socket"),
        "{outcome:?}"
    );
}

#[test]
fn the_monitor_runs_commands_and_waits_for_events() {
    let Some(qemu) = or_skip(Qemu::new(Accelerator::Tcg)) else {
        return;
    };
    let version = qemu.version();
    let mut running = qemu.device("edu,id=edu").arg("-S").start().unwrap();
    let qmp = running.qmp().unwrap();

    let said = qmp.execute("query-version", &json!({})).unwrap();
    assert_eq!(said["qemu"]["major"], version.0);
    let status = qmp.execute("query-status", &json!({})).unwrap();
    assert_eq!(status["status"], "prelaunch");
    let refused = qmp.execute("device_del", &json!({"id": "nobody"}));
    assert!(refused.unwrap_err().to_string().contains("nobody"));
    qmp.execute("system_reset", &json!({})).unwrap();
    let event = qmp.wait_event("RESET", LIMIT).unwrap();
    assert_eq!(event["data"]["guest"], false);
    assert!(qmp.wait_event("SHUTDOWN", Duration::ZERO).is_err());
    qmp.execute("quit", &json!({})).unwrap();
    qmp.wait_event("SHUTDOWN", LIMIT).unwrap();

    assert!(running.wait(LIMIT).unwrap().status.success());
}

#[test]
fn console_lines_are_awaited_one_after_the_other() {
    let Some(qemu) = or_skip(Qemu::new(Accelerator::Tcg)) else {
        return;
    };
    let image = rig::guest::trivial().unwrap();
    let mut running = qemu.kernel(&image).arg("-S").start().unwrap();
    running.qmp().unwrap().execute("cont", &json!({})).unwrap();
    running.wait_line("up", LIMIT).unwrap();
    let error = running.wait_line("up", LIMIT).unwrap_err();
    assert!(error.to_string().contains("QEMU ended before"), "{error}");
}

#[test]
fn a_qemu_that_does_not_end_is_reported_and_reaped() {
    let Some(qemu) = or_skip(Qemu::new(Accelerator::Tcg)) else {
        return;
    };
    let qemu = qemu.arg("-S").start().unwrap();
    let process = format!("/proc/{}", qemu.id());
    assert!(Path::new(&process).exists());
    let error = qemu.wait(Duration::from_millis(50)).unwrap_err();
    assert!(error.to_string().contains("still runs"), "{error}");
    assert!(!Path::new(&process).exists());
}

#[test]
fn a_stopped_qemu_is_an_outcome() {
    let Some(qemu) = or_skip(Qemu::new(Accelerator::Tcg)) else {
        return;
    };
    let outcome = qemu.arg("-S").start().unwrap().stop().unwrap();
    assert_eq!(outcome.status.signal(), Some(9));
}

#[test]
fn linux_sees_qemus_own_devices_and_reads_their_registers() {
    let script = "
        lspci -nn
        lspci -vv -s 2.0 | head -n 1
        bar 0000:00:02.0 0 r32 0x0 w32 0x4 0x12345678 r32 0x4 r64 0x80
        bar 0000:00:03.0 0 w8 0x0 0x0 r8 0x1 r32 0x10
        echo r32 0x0 | bar 0000:00:02.0 0
        ! bar 0000:00:02.0 0 r32 0x100000
    ";
    let run = Linux::ready()
        .and_then(|linux| linux.run(script, |qemu| qemu.device("edu").device("pci-testdev")));
    let Some(lines) = or_skip(run) else { return };
    assert_eq!(
        lines,
        [
            "00:00.0 Class [0600]: Device [8086:1237] (rev 02)",
            "00:01.0 Class [0601]: Device [8086:7000]",
            "00:01.1 Class [0101]: Device [8086:7010]",
            "00:01.3 Class [0680]: Device [8086:7113] (rev 03)",
            "00:02.0 Class [00ff]: Device [1234:11e8] (rev 10)",
            "00:03.0 Class [00ff]: Device [1b36:0005]",
            "00:02.0 Class 00ff: Device 1234:11e8 (rev 10)",
            "r32 0x0 = 0x10000ed",
            "w32 0x4 = 0x12345678",
            "r32 0x4 = 0xedcba987",
            "r64 0x80 = 0x0",
            "w8 0x0 = 0x0",
            "r8 0x1 = 0x1",
            "r32 0x10 = 0x6f696d6d", // the test's name begins with "mmio"
            "r32 0x0 = 0x10000ed",
            "bar: offset 0x100000 is beyond the BAR's 0x100000",
        ]
    );
}

#[test]
fn a_linux_script_that_fails_is_a_failure() {
    let run = Linux::ready().and_then(|linux| linux.run("false", |qemu| qemu));
    match run {
        Err(RigError::Failed { what, .. }) => assert!(what.contains("script"), "{what}"),
        other => assert!(or_skip(other).is_none()),
    }
}

#[test]
fn the_guest_of_this_repository_compiles_and_boots() {
    let Some(guest) = or_skip(Guest::build("tests/guest")) else {
        return;
    };
    let again = Guest::build("tests/guest").unwrap();
    assert_eq!(again.image(), guest.image());
    let Some(qemu) = or_skip(Qemu::new(Accelerator::Tcg)) else {
        return;
    };
    let outcome = qemu.kernel(guest.image()).start().unwrap().wait(LIMIT);
    assert!(outcome.unwrap().guest_code().is_some());
}

#[test]
fn a_helper_program_has_a_deadline_and_leaves_no_process() {
    let mut sleep = Command::new("sleep");
    let error = rig::process::run(sleep.arg("1000"), Duration::from_millis(20), "").unwrap_err();
    assert!(error.to_string().contains("not done after 20ms"), "{error}");

    let mut process = Process::new(Command::new("true").spawn().unwrap());
    let status = process.wait(Instant::now() + LIMIT).unwrap();
    assert!(status.unwrap().success());
}

#[test]
fn an_absent_program_is_missing_and_says_what_to_do() {
    let mut absent = Command::new("no-such-program");
    let error = rig::process::run(&mut absent, LIMIT, "install it").unwrap_err();
    assert!(matches!(error, RigError::Missing { .. }));
    assert!(error.to_string().ends_with("install it"), "{error}");
}

/// Obtains something kept that counts how often it was made.
fn obtain(
    home: &Path,
    lifetime: Option<Duration>,
    make: &dyn Fn(&Path) -> Result<(), RigError>,
) -> Result<Lock, RigError> {
    let works = |path: &Path| match fs::read_to_string(path.join("content")) {
        Ok(text) if text == "whole" => Ok(()),
        _ => Err(RigError::failed("content", "broken")),
    };
    let kept = Kept {
        path: home.join("kept"),
        recipe: "recipe",
        lifetime,
        check: &works,
        make,
    };
    kept.obtain()
}

fn make_whole(path: &Path) -> Result<(), RigError> {
    fs::write(path.join("content"), "whole").map_err(|error| RigError::failed("write", error))
}

fn never_made(_: &Path) -> Result<(), RigError> {
    Err(RigError::missing("network", "gone", "wait"))
}

#[test]
fn what_is_kept_is_made_once_and_again_when_broken() {
    let home = tempfile::tempdir().unwrap();
    let kept = home.path().join("kept");
    assert!(obtain(home.path(), None, &never_made).is_err());
    assert!(!kept.exists());
    obtain(home.path(), None, &make_whole).unwrap();
    obtain(home.path(), None, &never_made).unwrap();
    for broken in ["content", "stamp"] {
        fs::write(kept.join(broken), "half").unwrap();
        assert!(obtain(home.path(), None, &never_made).is_err());
        obtain(home.path(), None, &make_whole).unwrap();
        obtain(home.path(), None, &never_made).unwrap();
    }
}

#[test]
fn what_is_old_is_made_anew_but_will_do_without_a_network() {
    let home = tempfile::tempdir().unwrap();
    let trace = home.path().join("kept/trace");
    let old = || {
        fs::write(&trace, "").unwrap();
        let stamp = fs::File::open(home.path().join("kept/stamp")).unwrap();
        let then = SystemTime::now() - Duration::from_secs(3600);
        stamp.set_modified(then).unwrap();
    };
    let lifetime = Some(Duration::from_secs(60));
    obtain(home.path(), lifetime, &make_whole).unwrap();
    old();
    obtain(home.path(), lifetime, &never_made).unwrap();
    assert!(trace.exists());
    let user = obtain(home.path(), None, &never_made).unwrap();
    obtain(home.path(), lifetime, &make_whole).unwrap();
    assert!(trace.exists(), "it was replaced while in use");
    drop(user);
    obtain(home.path(), lifetime, &make_whole).unwrap();
    assert!(!trace.exists());
}

#[test]
fn of_two_that_need_the_same_one_makes_it() {
    let home = tempfile::tempdir().unwrap();
    let count = AtomicU32::new(0);
    let both_wait = Barrier::new(2);
    let take = || {
        both_wait.wait();
        let make = |path: &Path| {
            count.fetch_add(1, Ordering::Relaxed);
            make_whole(path)
        };
        obtain(home.path(), None, &make).unwrap();
    };
    thread::scope(|scope| {
        scope.spawn(take);
        scope.spawn(take);
    });
    assert_eq!(count.into_inner(), 1);
}

#[test]
fn the_hosts_mirror_is_found_in_both_formats() {
    let mirror_in = rig::sources::mirror_in;
    let old = "# deb http://a/debian x main\ndeb [arch=amd64] http://b/debian/ bookworm main\n";
    assert_eq!(mirror_in(old).unwrap(), "http://b/debian");
    let new = "Types: deb\nURIs: https://c/debian\nSuites: trixie\n";
    assert_eq!(mirror_in(new).unwrap(), "https://c/debian");
    for other in [
        "deb http://d/debian-security x main",
        "deb http://snapshot/archive/debian/20250520T000000Z x main",
        "URIs: mirror+file:/etc/apt/mirrors/debian",
    ] {
        assert_eq!(mirror_in(other), None, "{other}");
    }
}
