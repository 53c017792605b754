//! Resets: by the client, by function level reset, by a lost connection.

mod wire;

use std::os::fd::{AsFd, OwnedFd};

use vgpu_stub::devices::StubRegister as Stub;
use wire::device::{ID, Reg, result};
use wire::messages::{INTX, MSIX, TRIGGER, UNMASK, access, irqs, unmap, write};
use wire::{Client, Cmd, PATIENT, Served, bytes, eventfd, memory, rung};

const EVENTFD: u32 = 4;
const NONE: u32 = 1;

/// Where the device's PCI Express capability has its control register.
fn device_control(client: &mut Client) -> u64 {
    let config = client.read(7, 0, 256);
    let mut at = usize::from(config[0x34]);
    while config[at] != 0x10 {
        at = usize::from(config[at + 1]);
    }
    at as u64 + 8
}

/// Asks for a function level reset (PCIe 4.0 6.6.2).
fn function_level_reset(client: &mut Client) {
    let control = device_control(client);
    let value = client.read(7, control, 2);
    client.write(7, control, &[value[0], value[1] | 0x80]);
    // The bit reads as 0.
    assert_eq!(client.read(7, control, 2)[1] & 0x80, 0);
}

fn listen(client: &mut Client, index: u32) -> OwnedFd {
    let event = eventfd();
    let body = irqs(EVENTFD | TRIGGER, index, 0, 1);
    client.done_with(Cmd::SetIrqs, &body, &[event.as_fd()]);
    event
}

/// Changes all that a reset puts back.
fn use_it(client: &mut Client) {
    client.set(Reg::SCRATCH, 1);
    client.set(Reg::LEVEL, 1);
    client.write(0, 0x800, &[1; 16]);
    client.write(7, 4, &[6, 4]);
    client.write(7, 0x10, &[0, 0, 0, 0xfe]);
}

/// Asserts that all is as after power-on.
fn as_new(client: &mut Client) {
    assert_eq!(client.get(Reg::SCRATCH), 0x1234_5678);
    assert_eq!(client.get(Reg::LEVEL), 0);
    let entry = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    assert_eq!(client.read(0, 0x800, 16), entry);
    assert_eq!(client.read(7, 4, 4), [0, 0, 0x10, 0]);
    assert_eq!(client.read(7, 0x10, 4), [0; 4]);
}

#[test]
fn a_device_reset_puts_the_function_back_and_keeps_what_the_client_set_up() {
    let served = Served::new();
    let resets: [fn(&mut Client); 2] = [
        |client| assert!(client.done(Cmd::Reset, &[]).is_empty()),
        function_level_reset,
    ];
    for (reset, count) in resets.into_iter().zip(1..) {
        let mut client = served.client();
        let file = memory(0x1000, &[5; 8]);
        client.map(&file, 0, 0x1000);
        let event = listen(&mut client, MSIX);
        use_it(&mut client);
        reset(&mut client);
        as_new(&mut client);
        assert_eq!(client.get(Reg::RESETS), count);
        client.set(Reg::GO, 1);
        assert_eq!(client.get(Reg::VALUE), u64::from_le_bytes([5; 8]));
        client.set(Reg::RAISE, 0);
        assert_eq!(rung(&event), 1);
    }
}

#[test]
fn a_reset_forgets_what_was_pending() {
    let served = Served::new();
    let mut client = served.client();
    let event = listen(&mut client, MSIX);
    client.done(Cmd::SetIrqs, &irqs(NONE | 8, MSIX, 0, 1));
    client.set(Reg::RAISE, 0);
    assert_eq!(client.read(0, 0xc00, 1), [1]);
    client.done(Cmd::Reset, &[]);
    assert_eq!(client.read(0, 0xc00, 1), [0]);
    client.done(Cmd::SetIrqs, &irqs(NONE | UNMASK, MSIX, 0, 1));
    assert_eq!(rung(&event), 0);
}

#[test]
fn a_reset_enables_intx_again_as_the_command_register_says() {
    let served = Served::new();
    let mut client = served.client();
    let event = listen(&mut client, INTX);
    client.write(7, 4, &[0, 4]);
    client.done(Cmd::Reset, &[]);
    assert_eq!(client.read(7, 4, 2), [0, 0]);
    client.set(Reg::LEVEL, 1);
    assert_eq!(rung(&event), 1);
    // The level goes with the reset, and so does its status bit.
    client.done(Cmd::Reset, &[]);
    assert_eq!(client.read(7, 6, 1)[0] & 8, 0);
    client.done(Cmd::SetIrqs, &irqs(NONE | UNMASK, INTX, 0, 1));
    assert_eq!(rung(&event), 0);
}

#[test]
fn a_reset_with_a_payload_or_descriptor_is_refused() {
    let served = Served::new();
    let mut client = served.client();
    client.set(Reg::SCRATCH, 9);
    client.refused(Cmd::Reset, &[0; 4], libc::EINVAL);
    let file = memory(0x1000, &[]);
    client.refused_with(Cmd::Reset, &[], &[file.as_fd()], libc::EINVAL);
    assert_eq!(client.get(Reg::SCRATCH), 9);
}

#[test]
fn a_lost_connection_keeps_the_device_and_drops_what_was_the_clients() {
    let served = Served::new();
    let mut client = served.client();
    let file = memory(0x1000, &[5; 8]);
    client.map(&file, 0, 0x1000);
    let event = listen(&mut client, MSIX);
    use_it(&mut client);
    client.write(2, 0x100, &[1, 2, 3]);
    drop(client);

    let mut client = served.client();
    // The state of the device and of its config space is as it was.
    assert_eq!((client.get(Reg::SCRATCH), client.get(Reg::LEVEL)), (1, 1));
    assert_eq!((client.get(Reg::LEFT), client.get(Reg::RESETS)), (1, 0));
    assert_eq!(client.read(7, 4, 2), [6, 4]);
    assert_eq!(client.read(7, 0x10, 4), [0, 0, 0, 0xfe]);
    assert_eq!(client.read(0, 0x800, 4), [1; 4]);
    assert_eq!(client.read(2, 0x100, 3), [1, 2, 3]);
    // Maps and events are gone.
    client.set(Reg::GO, 1);
    assert_eq!(client.get(Reg::RESULT), result::UNMAPPED);
    client.refused(Cmd::DmaUnmap, &unmap(0, 0x1000), libc::ENOENT);
    client.set(Reg::RAISE, 0);
    client.done(Cmd::SetIrqs, &irqs(NONE | TRIGGER, MSIX, 0, 1));
    assert_eq!(rung(&event), 0);
    // Its own are served.
    client.map(&file, 0, 0x1000);
    client.set(Reg::GO, 1);
    assert_eq!(client.get(Reg::VALUE), u64::from_le_bytes([5; 8]));
    let event = listen(&mut client, MSIX);
    client.set(Reg::RAISE, 0);
    assert!(rung(&event) > 0);
}

#[test]
fn a_level_that_outlives_its_client_is_told_to_the_next() {
    let served = Served::new();
    let mut client = served.client();
    client.set(Reg::LEVEL, 1);
    drop(client);
    let mut client = served.client();
    let event = listen(&mut client, INTX);
    assert_eq!(rung(&event), 1);
}

#[test]
fn the_stubs_engine_is_drained_by_a_reset() {
    let served = Served::with(PATIENT, &["stub"]);
    let mut client = served.client();
    assert_eq!(client.get(Stub::ID), u64::from(ID));
    client.map_without(0, 0x10_0000);
    // 32 commands, of which the first waits for the client.
    client.set(Stub::DMA_LENGTH, 0x1000);
    for _ in 0..32 {
        client.post(Stub::DMA_COMMAND, 2);
    }
    let (_, _, count, _) = client.question(Cmd::DmaWrite);
    assert_eq!(count, 0);
    client.done(Cmd::Reset, &[]);
    for register in [
        Stub::DMA_PENDING,
        Stub::STATUS,
        Stub::ERRORS,
        Stub::DMA_LENGTH,
    ] {
        assert_eq!(client.get(register), 0, "{register:?}");
    }
    // Nothing of before goes on: the next message is this command's.
    client.set(Stub::DMA_LENGTH, 4);
    client.set(Stub::DMA_PATTERN, 0x55);
    client.set(Stub::DMA_DESTINATION, 0x2000);
    client.post(Stub::DMA_COMMAND, 2);
    client.prove_sound();
    assert_eq!(client.accept(), (0x2000, vec![0x55, 0, 0, 0]));
}

#[test]
fn the_stubs_engine_is_drained_by_a_lost_connection() {
    let served = Served::with(PATIENT, &["stub"]);
    let mut client = served.client();
    client.map_without(0, 0x10_0000);
    client.set(Stub::DMA_LENGTH, 0x1000);
    for _ in 0..32 {
        client.post(Stub::DMA_COMMAND, 2);
    }
    client.question(Cmd::DmaWrite);
    drop(client);
    let mut client = served.client();
    assert_eq!(client.get(Stub::DMA_PENDING), 0);
    assert_eq!(client.get(Stub::DMA_LENGTH), 0x1000);
}

#[test]
fn a_function_level_reset_ends_messages_that_are_outstanding() {
    let served = Served::with(PATIENT, &["stub"]);
    let mut client = served.client();
    client.map_without(0, 0x10_0000);
    client.set(Stub::DMA_LENGTH, 0x1000);
    client.post(Stub::DMA_COMMAND, 2);
    client.question(Cmd::DmaWrite);
    function_level_reset(&mut client);
    assert_eq!(client.get(Stub::DMA_PENDING), 0);
}

#[test]
fn a_reset_among_pipelined_accesses_keeps_their_order() {
    let served = Served::new();
    let mut client = served.client();
    client.command(Cmd::RegionWrite, &write(0, 4, &[1; 4]), &[]);
    client.command(Cmd::RegionRead, &access(0, 4, 4), &[]);
    client.command(Cmd::Reset, &[], &[]);
    client.command(Cmd::RegionRead, &access(0, 4, 4), &[]);
    client.receive();
    assert_eq!(client.receive().body()[16..], [1; 4]);
    client.receive();
    assert_eq!(client.receive().body()[16..], bytes![0x1234_5678u32]);
}
