//! Interrupts: every index, every kind of data, every action.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod wire;

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::EventfdFlags;
use wire::device::{Reg, VECTORS};
use wire::messages::{
    BOOL, ERR, EVENTFD, INTX, MASK, MSI, MSIX, NONE, REQ, TRIGGER, UNMASK, bools, irqs, query,
};
use wire::{Client, Cmd, Served, bytes, eventfd, memory, rung, wrong_kinds};

const EACH: [u32; 5] = [INTX, MSI, MSIX, ERR, REQ];

/// Gives the client's events to a range of interrupts.
fn listen(client: &mut Client, index: u32, start: u32, count: u32) -> Vec<OwnedFd> {
    let events: Vec<OwnedFd> = (0..count).map(|_| eventfd()).collect();
    let fds: Vec<_> = events.iter().map(AsFd::as_fd).collect();
    let body = irqs(EVENTFD | TRIGGER, index, start, count);
    assert!(client.done_with(Cmd::SetIrqs, &body, &fds).is_empty());
    events
}

fn set(client: &mut Client, flags: u32, index: u32, start: u32, count: u32) {
    client.done(Cmd::SetIrqs, &irqs(flags, index, start, count));
}

fn counts(events: &[OwnedFd]) -> Vec<u64> {
    events.iter().map(rung).collect()
}

/// The pending bits of MSI-X.
fn pending(client: &mut Client) -> u64 {
    u64::from_le_bytes(client.read(0, 0xc00, 8).try_into().unwrap())
}

#[test]
fn each_index_is_described() {
    let served = Served::new();
    let mut client = served.client();
    for (index, flags, count) in [
        (INTX, 7u32, 1u32),
        (MSI, 3, 32),
        (MSIX, 3, 32),
        (ERR, 3, 1),
        (REQ, 3, 1),
    ] {
        let answer = client.done(Cmd::GetIrqInfo, &query(16, index));
        assert_eq!(answer, bytes![16u32, flags, index, count]);
    }
    for index in [5, u32::MAX] {
        client.refused(Cmd::GetIrqInfo, &query(16, index), libc::EINVAL);
    }
}

#[test]
fn a_query_of_the_wrong_length_or_argsz_is_refused() {
    let served = Served::new();
    let mut client = served.client();
    for body in [
        query(15, 0),
        query(0, 0),
        query(16, 0)[..15].to_vec(),
        [&query(16, 0)[..], &[0]].concat(),
        Vec::new(),
    ] {
        client.refused(Cmd::GetIrqInfo, &body, libc::EINVAL);
    }
    let file = memory(4096, &[]);
    let fds = [file.as_fd()];
    client.refused_with(Cmd::GetIrqInfo, &query(16, 0), &fds, libc::EINVAL);
}

#[test]
fn thirty_two_vectors_take_their_events_in_one_message() {
    for index in [MSIX, MSI] {
        let served = Served::new();
        let mut client = served.client();
        let events = listen(&mut client, index, 0, VECTORS.into());
        for vector in [0u8, 15, 16, 31, 31] {
            client.set(Reg::RAISE, vector.into());
        }
        let mut expected = vec![0; VECTORS.into()];
        expected[0] = 1;
        expected[15] = 1;
        expected[16] = 1;
        expected[31] = 2;
        assert_eq!(counts(&events), expected);
    }
}

#[test]
fn sixteen_vectors_may_be_set_up_from_any_start() {
    let served = Served::new();
    let mut client = served.client();
    let events = listen(&mut client, MSIX, 10, 16);
    for vector in [9, 10, 25, 26, 32, 0xffff_ffff] {
        client.set(Reg::RAISE, vector);
    }
    let counted = counts(&events);
    assert_eq!((counted[0], counted[15]), (1, 1));
    assert_eq!(counted.iter().sum::<u64>(), 2);
    // The two without an event stay pending until they have one.
    assert_eq!(pending(&mut client), 1 << 9 | 1 << 26);
    let event = listen(&mut client, MSIX, 9, 1);
    assert_eq!(counts(&event), [1]);
    assert_eq!(pending(&mut client), 1 << 26);
}

#[test]
fn the_client_triggers_with_none_and_with_bools() {
    let served = Served::new();
    for index in [MSI, MSIX] {
        let mut client = served.client();
        let events = listen(&mut client, index, 0, 4);
        set(&mut client, NONE | TRIGGER, index, 1, 2);
        assert_eq!(counts(&events), [0, 1, 1, 0]);
        let body = bools(BOOL | TRIGGER, index, 0, &[1, 0, 0, 0xff]);
        client.done(Cmd::SetIrqs, &body);
        assert_eq!(counts(&events), [1, 0, 0, 1]);
    }
    for index in [INTX, ERR, REQ] {
        let mut client = served.client();
        let events = listen(&mut client, index, 0, 1);
        set(&mut client, NONE | TRIGGER, index, 0, 1);
        assert_eq!(counts(&events), [1]);
        client.done(Cmd::SetIrqs, &bools(BOOL | TRIGGER, index, 0, &[0]));
        assert_eq!(counts(&events), [0]);
        client.done(Cmd::SetIrqs, &bools(BOOL | TRIGGER, index, 0, &[1]));
        assert_eq!(counts(&events), [1]);
    }
}

#[test]
fn a_masked_interrupt_stays_pending_until_it_is_unmasked() {
    let served = Served::new();
    let mut client = served.client();
    let events = listen(&mut client, MSIX, 0, 4);
    set(&mut client, NONE | MASK, MSIX, 0, 2);
    client.done(Cmd::SetIrqs, &bools(BOOL | MASK, MSIX, 2, &[0, 1]));
    for vector in [0, 1, 1, 2, 3] {
        client.set(Reg::RAISE, vector);
    }
    assert_eq!(counts(&events), [0, 0, 1, 0]);
    assert_eq!(pending(&mut client), 0b1011);
    set(&mut client, NONE | UNMASK, MSIX, 0, 1);
    assert_eq!(counts(&events), [1, 0, 0, 0]);
    client.done(Cmd::SetIrqs, &bools(BOOL | UNMASK, MSIX, 0, &[0, 1, 0, 1]));
    assert_eq!(counts(&events), [0, 1, 0, 1]);
    assert_eq!(pending(&mut client), 0);
}

#[test]
fn events_of_the_client_mask_and_unmask() {
    let served = Served::new();
    let mut client = served.client();
    let events = listen(&mut client, MSIX, 0, 2);
    let (mask, unmask) = (eventfd(), eventfd());
    let body = irqs(EVENTFD | MASK, MSIX, 1, 1);
    client.done_with(Cmd::SetIrqs, &body, &[mask.as_fd()]);
    let body = irqs(EVENTFD | UNMASK, MSIX, 1, 1);
    client.done_with(Cmd::SetIrqs, &body, &[unmask.as_fd()]);
    rustix::io::write(&mask, &bytes![1u64]).unwrap();
    // A command that comes after the event sees it done.
    client.in_step();
    client.set(Reg::RAISE, 1);
    assert_eq!((counts(&events), pending(&mut client)), (vec![0, 0], 0b10));
    rustix::io::write(&unmask, &bytes![1u64]).unwrap();
    wire::wait_for(&events[1]);
    assert_eq!(counts(&events), [0, 1]);
    // Taken away, they do nothing.
    set(&mut client, EVENTFD | MASK, MSIX, 1, 1);
    rustix::io::write(&mask, &bytes![1u64]).unwrap();
    client.in_step();
    client.set(Reg::RAISE, 1);
    assert_eq!(counts(&events), [0, 1]);
    assert_eq!(rung(&mask), 1);
}

#[test]
fn intx_masks_itself_and_is_unmasked_by_command_or_event() {
    let served = Served::new();
    let mut client = served.client();
    let events = listen(&mut client, INTX, 0, 1);
    let unmask = eventfd();
    let body = irqs(EVENTFD | UNMASK, INTX, 0, 1);
    client.done_with(Cmd::SetIrqs, &body, &[unmask.as_fd()]);
    client.set(Reg::LEVEL, 1);
    client.set(Reg::LEVEL, 1);
    assert_eq!(counts(&events), [1]);
    set(&mut client, NONE | UNMASK, INTX, 0, 1);
    assert_eq!(counts(&events), [1]);
    rustix::io::write(&unmask, &bytes![1u64]).unwrap();
    wire::wait_for(&events[0]);
    assert_eq!(counts(&events), [1]);
    // The status register shows the level (PCI 3.0 6.2.3).
    assert_eq!(client.read(7, 6, 1)[0] & 8, 8);
    client.set(Reg::LEVEL, 0);
    assert_eq!(client.read(7, 6, 1)[0] & 8, 0);
    set(&mut client, NONE | UNMASK, INTX, 0, 1);
    assert_eq!(counts(&events), [0]);
}

#[test]
fn intx_is_silent_while_the_guest_disables_it_or_uses_msix() {
    let served = Served::new();
    let mut client = served.client();
    let events = listen(&mut client, INTX, 0, 1);
    client.write(7, 4, &[0, 4]);
    client.set(Reg::LEVEL, 1);
    assert_eq!(counts(&events), [0]);
    client.write(7, 4, &[0, 0]);
    assert_eq!(counts(&events), [1]);
    client.set(Reg::LEVEL, 0);
    set(&mut client, NONE | UNMASK, INTX, 0, 1);
    let vectors = listen(&mut client, MSIX, 0, 1);
    client.set(Reg::LEVEL, 1);
    assert_eq!((counts(&events), counts(&vectors)), (vec![0], vec![0]));
    set(&mut client, NONE | TRIGGER, MSIX, 0, 0);
    assert_eq!(counts(&events), [1]);
}

#[test]
fn errors_and_requests_of_the_device_arrive() {
    let served = Served::new();
    let mut client = served.client();
    let error = listen(&mut client, ERR, 0, 1);
    let request = listen(&mut client, REQ, 0, 1);
    client.set(Reg::LINE, 1);
    assert_eq!((counts(&error), counts(&request)), (vec![1], vec![0]));
    client.set(Reg::LINE, 2);
    assert_eq!((counts(&error), counts(&request)), (vec![0], vec![1]));
}

#[test]
fn events_are_replaced_taken_away_and_disabled() {
    let served = Served::new();
    let mut client = served.client();
    let first = listen(&mut client, MSIX, 0, 2);
    let second = listen(&mut client, MSIX, 1, 1);
    client.set(Reg::RAISE, 0);
    client.set(Reg::RAISE, 1);
    assert_eq!((counts(&first), counts(&second)), (vec![1, 0], vec![1]));
    // No descriptors take them away (VFIO's -1 cannot be sent).
    set(&mut client, EVENTFD | TRIGGER, MSIX, 0, 1);
    client.set(Reg::RAISE, 0);
    assert_eq!(counts(&first), [0, 0]);
    assert_eq!(pending(&mut client), 1);
    // A count of 0 disables the index and forgets what was pending.
    set(&mut client, NONE | TRIGGER, MSIX, 0, 0);
    assert_eq!(pending(&mut client), 0);
    client.set(Reg::RAISE, 1);
    assert_eq!((counts(&first), counts(&second)), (vec![0, 0], vec![0]));
    // Every index can be disabled, used or not.
    for index in EACH {
        set(&mut client, NONE | TRIGGER, index, 0, 0);
    }
}

#[test]
fn a_descriptor_that_is_no_eventfd_is_refused_and_changes_nothing() {
    let served = Served::new();
    let mut client = served.client();
    let events = listen(&mut client, MSIX, 0, 2);
    let good = eventfd();
    let mut kinds = wrong_kinds();
    kinds.push(("a file", memory(4096, &[]).into()));
    for (name, fd) in kinds {
        for action in [MASK, UNMASK, TRIGGER] {
            println!("{name}, action {action}");
            let body = irqs(EVENTFD | action, MSIX, 0, 2);
            let fds = [good.as_fd(), fd.as_fd()];
            client.refused_with(Cmd::SetIrqs, &body, &fds, libc::EINVAL);
        }
    }
    client.set(Reg::RAISE, 0);
    client.set(Reg::RAISE, 1);
    assert_eq!((counts(&events), rung(&good)), (vec![1, 1], 0));
}

#[test]
fn descriptors_must_be_as_many_as_the_count() {
    let served = Served::new();
    let mut client = served.client();
    let event = eventfd();
    let fd = event.as_fd();
    for (flags, count, got) in [
        (EVENTFD | TRIGGER, 2, 1),
        (EVENTFD | TRIGGER, 1, 2),
        (EVENTFD | MASK, 2, 3),
        (NONE | TRIGGER, 1, 1),
        (NONE | TRIGGER, 0, 1),
        (NONE | UNMASK, 1, 1),
    ] {
        let body = irqs(flags, MSIX, 0, count);
        client.refused_with(Cmd::SetIrqs, &body, &vec![fd; got], libc::EINVAL);
    }
    let body = bools(BOOL | TRIGGER, MSIX, 0, &[1]);
    client.refused_with(Cmd::SetIrqs, &body, &[fd], libc::EINVAL);
}

#[test]
fn an_interrupt_that_does_not_exist_is_refused() {
    let served = Served::new();
    let mut client = served.client();
    for (index, start, count) in [
        (INTX, 1, 1),
        (INTX, 0, 2),
        (MSI, 32, 1),
        (MSIX, 31, 2),
        (MSIX, 32, 1),
        (MSIX, 0, 33),
        (MSIX, 0, u32::MAX),
        (MSIX, u32::MAX, 1),
        (MSIX, u32::MAX - 1, 1),
        (MSIX, 1, u32::MAX),
        (ERR, 0, 2),
        (REQ, 1, 1),
        (5, 0, 1),
        (u32::MAX, 0, 1),
    ] {
        for action in [MASK, UNMASK, TRIGGER] {
            let body = irqs(NONE | action, index, start, count);
            client.refused(Cmd::SetIrqs, &body, libc::EINVAL);
            let body = irqs(EVENTFD | action, index, start, count);
            client.refused(Cmd::SetIrqs, &body, libc::EINVAL);
        }
    }
    client.refused(Cmd::SetIrqs, &irqs(NONE | TRIGGER, 5, 0, 0), libc::EINVAL);
}

#[test]
fn flags_must_be_one_kind_of_data_and_one_action() {
    let served = Served::new();
    let mut client = served.client();
    for flags in 0..128 {
        let data = flags & 7;
        let action = flags & !7;
        let valid =
            [NONE, BOOL, EVENTFD].contains(&data) && [MASK, UNMASK, TRIGGER].contains(&action);
        if !valid {
            client.refused(Cmd::SetIrqs, &irqs(flags, MSIX, 0, 1), libc::EINVAL);
        }
    }
    let body = irqs(1 << 31 | NONE | TRIGGER, MSIX, 0, 1);
    client.refused(Cmd::SetIrqs, &body, libc::EINVAL);
}

#[test]
fn a_count_of_zero_means_disable_and_nothing_else() {
    let served = Served::new();
    let mut client = served.client();
    for (flags, start) in [
        (NONE | TRIGGER, 1),
        (NONE | MASK, 0),
        (NONE | UNMASK, 0),
        (BOOL | TRIGGER, 0),
        (EVENTFD | TRIGGER, 0),
    ] {
        client.refused(Cmd::SetIrqs, &irqs(flags, MSIX, start, 0), libc::EINVAL);
    }
}

#[test]
fn set_irqs_of_the_wrong_length_or_argsz_is_refused() {
    let served = Served::new();
    let mut client = served.client();
    let none = irqs(NONE | TRIGGER, MSIX, 0, 1);
    for length in 0..20 {
        client.refused(Cmd::SetIrqs, &none[..length], libc::EINVAL);
    }
    let two = bools(BOOL | TRIGGER, MSIX, 0, &[1, 1]);
    for body in [
        [&none[..], &[1]].concat(),
        [&irqs(EVENTFD | TRIGGER, MSIX, 0, 1)[..], &[0; 4]].concat(),
        [&bytes![19u32][..], &none[4..]].concat(),
        two[..21].to_vec(),
        two[..20].to_vec(),
        [&two[..], &[1]].concat(),
    ] {
        client.refused(Cmd::SetIrqs, &body, libc::EINVAL);
    }
}

#[test]
fn an_event_whose_counter_is_full_blocks_nobody() {
    let served = Served::new();
    let mut client = served.client();
    let full = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let body = irqs(EVENTFD | TRIGGER, MSIX, 0, 1);
    client.done_with(Cmd::SetIrqs, &body, &[full.as_fd()]);
    rustix::io::write(&full, &bytes![u64::MAX - 1]).unwrap();
    client.set(Reg::RAISE, 0);
    // Made blocking behind the server's back, and given as blocking.
    rustix::io::ioctl_fionbio(&full, false).unwrap();
    client.set(Reg::RAISE, 0);
    client.done_with(Cmd::SetIrqs, &body, &[full.as_fd()]);
    client.set(Reg::RAISE, 0);
    set(&mut client, NONE | TRIGGER, MSIX, 0, 1);
    client.in_step();
    assert_eq!(rung(&full), u64::MAX - 1);
}

#[test]
fn an_event_that_would_wake_the_server_without_end_is_refused() {
    let served = Served::new();
    let mut client = served.client();
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::SEMAPHORE;
    let event = rustix::event::eventfd(u32::MAX, flags).unwrap();
    for action in [MASK, UNMASK] {
        let body = irqs(EVENTFD | action, MSIX, 0, 1);
        client.refused_with(Cmd::SetIrqs, &body, &[event.as_fd()], libc::EINVAL);
    }
    // One that is only signalled does no harm.
    let body = irqs(EVENTFD | TRIGGER, MSIX, 0, 1);
    client.done_with(Cmd::SetIrqs, &body, &[event.as_fd()]);
}

#[test]
fn a_guest_that_enables_fewer_msi_vectors_shares_them() {
    let served = Served::new();
    let mut client = served.client();
    let events = listen(&mut client, MSI, 0, 4);
    for vector in [1, 5, 31] {
        client.set(Reg::RAISE, vector);
    }
    assert_eq!(counts(&events), [0, 2, 0, 1]);
}
