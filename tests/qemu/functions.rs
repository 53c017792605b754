//! All that the device does, on each machine, memory and accelerator.

use serde_json::json;
use vgpu_stub::protocol::Command;

use crate::rig::require;
use crate::rig::{Accelerator, Machine, Memory, Qemu, RigError, Server, kvm_works};
use crate::stage::{Stage, finish};

const ALL: &str = "identity registers random posted-writes wide rep irq-intx irq-msix dma-copy \
    dma-fill dma-fence dma-bad-address dma-nonram ring ring-error bar-games flr";

/// Runs all tests and returns what went over the socket.
fn everything(
    accelerator: Accelerator,
    machine: Machine,
    memory: Memory,
) -> Result<Stage, RigError> {
    let stage = Stage::new("stub")?;
    // Where KVM interprets each instruction, as on many hosts that are
    // guests themselves, it is slower than TCG.
    let tests = match accelerator {
        Accelerator::Tcg => format!("{ALL} irq-ioapic load"),
        Accelerator::Kvm => format!("count=1000 {ALL}"),
    };
    let guest = stage.guest_on(accelerator, &tests, &json!({}))?;
    finish(guest.machine(machine).memory(memory).start()?, &tests)?;
    Ok(stage)
}

/// The device moved data by itself: maps had descriptors, and no message
/// asked QEMU for memory.
fn used_shared_memory(stage: &Stage) {
    let count = |command: Command| stage.recorder.count(|seen| seen.is(command));
    let mapped = |seen: &_| is_map_with_descriptor(seen);
    assert!(stage.recorder.count(mapped) > 0);
    assert_eq!(count(Command::DmaRead) + count(Command::DmaWrite), 0);
}

/// The device asked QEMU for each transfer.
fn used_messages(stage: &Stage) {
    let count = |command: Command| stage.recorder.count(|seen| seen.is(command));
    assert!(count(Command::DmaMap) > 0);
    assert_eq!(stage.recorder.count(is_map_with_descriptor), 0);
    assert!(count(Command::DmaRead) > 10 && count(Command::DmaWrite) > 10);
}

fn is_map_with_descriptor(seen: &crate::rig::recorder::Seen) -> bool {
    seen.is(Command::DmaMap) && seen.descriptors == 1
}

/// INTx and MSI-X went through eventfds that QEMU sent.
fn used_eventfds(stage: &Stage) {
    let index = |seen: &crate::rig::recorder::Seen| seen.body.get(8).copied();
    let sent = stage
        .recorder
        .all(|seen| seen.is(Command::DeviceSetIrqs) && seen.descriptors > 0);
    for wanted in [0, 2] {
        assert!(
            sent.iter().any(|seen| index(seen) == Some(wanted)),
            "{wanted}"
        );
    }
}

#[test]
fn all_tests_pass_on_pc_with_shared_memory() {
    let stage = require!(everything(Accelerator::Tcg, Machine::Pc, Memory::Shared));
    used_shared_memory(&stage);
    used_eventfds(&stage);
    stage.end().unwrap();
}

#[test]
fn all_tests_pass_on_pc_with_private_memory() {
    let stage = require!(everything(Accelerator::Tcg, Machine::Pc, Memory::Private));
    used_messages(&stage);
    stage.end().unwrap();
}

#[test]
fn all_tests_pass_on_q35_with_shared_memory() {
    let stage = require!(everything(Accelerator::Tcg, Machine::Q35, Memory::Shared));
    used_shared_memory(&stage);
    used_eventfds(&stage);
    stage.end().unwrap();
}

#[test]
fn all_tests_pass_on_q35_with_private_memory() {
    let stage = require!(everything(Accelerator::Tcg, Machine::Q35, Memory::Private));
    used_messages(&stage);
    stage.end().unwrap();
}

#[test]
fn all_tests_pass_under_kvm_with_shared_memory() {
    require!(Qemu::new(Accelerator::Kvm));
    if kvm_works() {
        let stage = require!(everything(Accelerator::Kvm, Machine::Q35, Memory::Shared));
        used_shared_memory(&stage);
        used_eventfds(&stage);
        stage.end().unwrap();
    }
}

#[test]
fn all_tests_pass_under_kvm_with_private_memory() {
    require!(Qemu::new(Accelerator::Kvm));
    if kvm_works() {
        let stage = require!(everything(Accelerator::Kvm, Machine::Pc, Memory::Private));
        used_messages(&stage);
        stage.end().unwrap();
    }
}

#[test]
fn two_devices_of_one_server_work_in_a_machine_with_two_processors() {
    let tests = "registers device=0x1112 bell irq-msi device=0x1111 irq-msix dma-fence \
        device=0x1112 bell device=0x1111 ring pair smp bar-race cpus=2 load";
    let server = require!(Server::start(&["stub", "doorbell"]));
    let stage = Stage::before(server).unwrap();
    let guest = require!(stage.guest(tests, &json!({})))
        .arg("-smp")
        .arg("2");
    let guest = guest.vfio_user(&stage.server.socket(1), &json!({}));
    finish(guest.start().unwrap(), tests).unwrap();
    let log = stage.end().unwrap();
    let connected = |name: &str| {
        let line = format!("{name}: a client connected");
        log.iter().filter(|said| said.ends_with(&line)).count()
    };
    assert_eq!((connected("stub#0"), connected("doorbell#1")), (1, 1));
}
