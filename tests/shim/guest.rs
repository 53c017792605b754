//! The repository's bare-metal guest with the shim, as `tests/qemu` runs it
//! with QEMU's own client.

use std::time::Duration;

use serde_json::json;
use vgpu_stub::protocol::Command;

use crate::rig::recorder::Seen;
use crate::rig::require;
use crate::rig::{
    Accelerator, Guest, Machine, Memory, Qemu, Recorder, RigError, Running, Server, kvm_works,
};
use crate::stage::{device, program};

/// How long one guest may run: some tens of times what it takes.
const LIMIT: Duration = Duration::from_secs(150);

const ALL: &str = "identity registers random posted-writes irq-intx irq-msix dma-copy dma-fill \
    dma-fence dma-bad-address ring ring-error";

/// A guest with the device on this recorder.
fn guest(
    accelerator: Accelerator,
    recorder: &Recorder,
    tests: &str,
    properties: &str,
) -> Result<Qemu, RigError> {
    let image = Guest::build("tests/guest")?;
    Ok(Qemu::with_shim(program()?, accelerator)?
        .kernel(image.image())
        .append(tests)
        .device(device(&recorder.socket(), properties)))
}

fn recorder(server: &Server) -> Result<Recorder, RigError> {
    Recorder::start(&server.socket(0))
        .map_err(|error| RigError::failed("cannot start the recorder", error))
}

fn finish(running: Running, tests: &str) -> Result<(), RigError> {
    running.wait(LIMIT)?.passed(tests)
}

/// The stub's DOORBELL, of which a guest writes as many as it has accesses.
const DOORBELL: u64 = 0x24;

/// Runs all tests; returns the messages that moved guest memory.
fn everything(
    accelerator: Accelerator,
    machine: Machine,
    memory: Memory,
    properties: &str,
) -> Result<usize, RigError> {
    let server = Server::start(&["stub"])?;
    let recorder = recorder(&server)?;
    // Where KVM interprets each instruction it is slower than TCG.
    let tests = match accelerator {
        Accelerator::Tcg => ALL.to_owned(),
        Accelerator::Kvm => format!("count=200 {ALL}"),
    };
    let guest = guest(accelerator, &recorder, &tests, properties)?;
    finish(guest.machine(machine).memory(memory).start()?, &tests)?;
    let by_socket = recorder.count(|seen| seen.accesses(0, Some(DOORBELL)));
    let is_shared = !properties.contains("shared-mmio=off");
    assert_eq!(by_socket == 0, is_shared, "{by_socket} by the socket");
    let moved =
        recorder.count(|seen| seen.answers(Command::DmaRead) || seen.answers(Command::DmaWrite));
    drop(recorder);
    server.stop()?;
    Ok(moved)
}

#[test]
fn all_tests_pass_with_shared_memory() {
    let moved = require!(everything(
        Accelerator::Tcg,
        Machine::Pc,
        Memory::Shared,
        ""
    ));
    assert_eq!(moved, 0);
}

#[test]
fn all_tests_pass_by_the_socket() {
    let properties = ",shared-mmio=off";
    let (tcg, memory) = (Accelerator::Tcg, Memory::Private);
    let moved = require!(everything(tcg, Machine::Pc, memory, properties));
    assert!(moved > 10, "{moved}");
}

#[test]
fn all_tests_pass_with_private_memory() {
    let moved = require!(everything(
        Accelerator::Tcg,
        Machine::Pc,
        Memory::Private,
        ""
    ));
    assert!(moved > 10, "{moved}");
}

#[test]
fn all_tests_pass_on_q35() {
    if !require!(require!(program()).has_machine("q35")) {
        return;
    }
    require!(everything(
        Accelerator::Tcg,
        Machine::Q35,
        Memory::Shared,
        ""
    ));
}

#[test]
fn all_tests_pass_under_kvm() {
    // With the memory that moves by messages: the harder half.
    if require!(require!(program()).has_accelerator("kvm")) && kvm_works() {
        let moved = require!(everything(
            Accelerator::Kvm,
            Machine::Pc,
            Memory::Private,
            ""
        ));
        assert!(moved > 10, "{moved}");
    }
}

/// Reads of shown and mapped pages, and a doorbell on a shown page.
fn bells(accelerator: Accelerator) -> Result<(), RigError> {
    let tests = "device=0x1112 count=50 bell";
    let server = Server::start(&["doorbell"])?;
    let recorder = recorder(&server)?;
    // Where a recorder would see them.
    let guest = guest(accelerator, &recorder, tests, ",shared-mmio=off")?;
    finish(guest.start()?, tests)?;
    let reads = |seen: &Seen| seen.is(Command::RegionRead) && seen.accesses(0, None);
    assert_eq!(recorder.count(reads), 0, "reads that left the guest");
    drop(recorder);
    server.stop().map(drop)
}

#[test]
fn a_device_whose_registers_are_shown_passes() {
    require!(bells(Accelerator::Tcg));
}

#[test]
fn a_device_whose_registers_are_shown_passes_under_kvm() {
    if require!(require!(program()).has_accelerator("kvm")) && kvm_works() {
        require!(bells(Accelerator::Kvm));
    }
}

#[test]
fn a_reset_from_the_monitor_reaches_the_device() {
    let tests = "wait-reset irq-msix";
    let server = require!(Server::start(&["stub"]));
    let recorder = require!(recorder(&server));
    let guest = require!(guest(Accelerator::Tcg, &recorder, tests, ""));
    let mut running = guest.start().unwrap();
    running.wait_line("waiting=reset", LIMIT).unwrap();
    recorder.clear();
    let qmp = running.qmp().unwrap();
    qmp.execute("system_reset", &json!({})).unwrap();
    finish(running, tests).unwrap();
    assert!(recorder.count(|seen| seen.is(Command::DeviceReset)) > 0);
}

#[test]
fn a_reset_by_the_guest_reaches_the_device() {
    let tests = "leave-mark reset dma-copy irq-intx";
    let server = require!(Server::start(&["stub"]));
    let recorder = require!(recorder(&server));
    let guest = require!(guest(Accelerator::Tcg, &recorder, tests, ""));
    finish(guest.start().unwrap(), tests).unwrap();
    assert!(recorder.count(|seen| seen.is(Command::DeviceReset)) >= 2);
}

#[test]
fn a_guest_goes_on_when_the_server_is_killed() {
    let tests = "registers wait-loss";
    let mut server = require!(Server::start(&["stub"]));
    let recorder = require!(recorder(&server));
    let guest = require!(guest(
        Accelerator::Tcg,
        &recorder,
        tests,
        ",msg-timeout=500"
    ));
    let mut running = guest.start().unwrap();
    running.wait_line("waiting=loss", LIMIT).unwrap();
    server.kill();
    finish(running, tests).unwrap();
}
