//! The guest really does what is measured, and what goes wrong is told.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use kvm_ioctls::Kvm;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::answer::{Answer, InProcess, VALUE, scratch};
use super::guest::{Access, BAR, BREAKS, DATA, NEVER, Program};
use super::rows::sections;
use super::vm::{self, Exit, Vm};
use super::watchdog::Watchdog;
use crate::bench::dispatch::stub;
use crate::bench::{Bench, Interrupt, Pinning, Plan, Quiet, Trouble};
use crate::device::SharedMemory;

/// KVM, if it works here.
fn kvm() -> Option<Kvm> {
    let works = || {
        let kvm = vm::open("/dev/kvm".as_ref())?;
        let watchdog = Watchdog::start(&Interrupt::default())?;
        let once = Access::Read.batches();
        Vm::new(&kvm, &watchdog, once, DATA, 16, 0)?.run(|_| Ok(()))?;
        Ok(kvm)
    };
    match works() {
        Ok(kvm) => Some(kvm),
        Err(error) => {
            let error: Trouble = error;
            eprintln!("skipped: KVM does not work here: {error}");
            None
        }
    }
}

fn watchdog() -> Watchdog {
    Watchdog::start(&Interrupt::default()).unwrap()
}

/// Why a guest that runs this code does.
fn trouble(program: Program, watchdog: &Watchdog) -> Option<String> {
    let mut vm = Vm::new(&kvm()?, watchdog, program, 0, 0, 0).unwrap();
    Some(vm.run(|_| Ok(())).unwrap_err().to_string())
}

#[test]
fn the_guest_reads_what_it_is_answered() {
    let Some(kvm) = kvm() else { return };
    let watchdog = watchdog();
    let program = Access::Read.endless();
    let mut vm = Vm::new(&kvm, &watchdog, program, BAR + scratch(), 0, 0).unwrap();
    let mut device = InProcess(stub().unwrap());
    device.write(VALUE.to_le_bytes()).unwrap();
    let read = |exit: Exit<'_>| {
        let Exit::Read(offset, data) = exit else {
            panic!("{exit:?}");
        };
        assert_eq!(offset, scratch());
        device.read(data.try_into().unwrap())
    };
    vm.run(read).unwrap();
    // Its second read comes when its first is done.
    vm.run(|_| Ok(())).unwrap();
    assert_eq!(vm.eax().unwrap(), VALUE);
}

#[test]
fn the_device_gets_what_the_guest_writes() {
    let Some(kvm) = kvm() else { return };
    let watchdog = watchdog();
    let program = Access::Write.endless();
    let mut vm = Vm::new(&kvm, &watchdog, program, BAR + scratch(), 0, VALUE).unwrap();
    let mut device = InProcess(stub().unwrap());
    let write = |exit: Exit<'_>| {
        let Exit::Write(offset, data) = exit else {
            panic!("{exit:?}");
        };
        assert_eq!(offset, scratch());
        device.write(data.try_into().unwrap())
    };
    vm.run(write).unwrap();
    let mut value = [0; 4];
    device.read(&mut value).unwrap();
    assert_eq!(u32::from_le_bytes(value), VALUE);
}

#[test]
fn a_batch_makes_its_accesses_and_one_exit() {
    let Some(kvm) = kvm() else { return };
    let watchdog = watchdog();
    let event = EventFd::new(EFD_NONBLOCK).unwrap();
    let program = Access::Write.batches();
    let mut vm = Vm::new(&kvm, &watchdog, program, BAR + scratch(), 80, 0).unwrap();
    vm.ring(scratch(), &event).unwrap();
    for _ in 0..2 {
        let exit = vm.run(|exit| Ok(matches!(exit, Exit::Port)));
        assert!(exit.unwrap());
        assert_eq!(event.read().unwrap(), 80);
    }
}

#[test]
fn a_mapped_page_is_the_one_that_this_process_sees() {
    let Some(kvm) = kvm() else { return };
    let (watchdog, page) = (watchdog(), SharedMemory::new(0x1000).unwrap());
    let run = |access: Access, value| {
        let program = access.batches();
        let mut vm = Vm::new(&kvm, &watchdog, program, BAR + 8, 16, value).unwrap();
        vm.map_bar(&page).unwrap();
        vm.run(|_| Ok(())).unwrap();
        vm.eax().unwrap()
    };
    run(Access::Write, VALUE);
    let mut value = [0; 4];
    page.read(8, &mut value).unwrap();
    assert_eq!(u32::from_le_bytes(value), VALUE);
    assert_eq!(run(Access::Read, 0), VALUE);
}

#[test]
fn a_guest_that_does_not_come_back_is_left() {
    if let Some(text) = trouble(NEVER, &watchdog()) {
        assert_eq!(text, "the guest made no exit for 5s");
    }
}

#[test]
fn an_interrupt_leaves_the_guest_at_once() {
    let interrupt = Interrupt::default();
    let flag = interrupt.flag();
    let watchdog = Watchdog::start(&interrupt).unwrap();
    // Whether it comes before the guest runs or after, it ends that.
    let raise = thread::spawn(move || flag.store(true, Ordering::Relaxed));
    if let Some(text) = trouble(NEVER, &watchdog) {
        assert_eq!(text, "interrupted");
    }
    raise.join().unwrap();
}

#[test]
fn a_guest_that_breaks_is_told() {
    let Some(text) = trouble(BREAKS, &watchdog()) else {
        return;
    };
    assert!(text.starts_with("KVM_RUN: "), "{text}");
}

#[test]
fn a_device_that_is_not_kvm_is_told_with_a_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let text = |path: &Path| vm::open(path).unwrap_err().to_string();

    let missing = directory.path().join("kvm");
    let said = text(&missing);
    assert!(said.starts_with(&missing.display().to_string()), "{said}");
    assert!(
        said.contains(": No such file or directory; load kvm_intel"),
        "{said}"
    );

    assert_eq!(text("/dev/null".as_ref()), "/dev/null: this is not KVM");

    let locked = directory.path().join("locked");
    fs::write(&locked, "").unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
    let said = text(&locked);
    let root = rustix::process::geteuid().is_root();
    let why = if root {
        "this is not KVM"
    } else {
        "Permission denied; join the group kvm"
    };
    assert!(said.contains(why), "{said}");
}

#[test]
fn without_kvm_the_rung_is_one_gap() {
    let plan = Plan {
        slice: Duration::from_micros(100),
        ..Plan::quick(Pinning::choose().unwrap())
    };
    let bench = Bench::new(plan, &Quiet);
    let sections = sections(&bench, "nothing".as_ref(), "/nowhere/kvm".as_ref());
    let [section] = &sections[..] else {
        panic!("{sections:?}");
    };
    assert!(section.rows.is_empty());
    assert_eq!(section.gaps.len(), 1);
    assert!(
        section.gaps[0]
            .why
            .starts_with("/nowhere/kvm: No such file")
    );
}
