//! Accesses by shared memory, and what a server can do wrong there.

use std::os::fd::OwnedFd;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::SealFlags;

use super::pages::{Asked, Pages, SEALS, layout, share, sharing, terms};
use super::*;
use crate::fastpath::{Layout, VERSION};
use crate::protocol::{DmaTransfer, SharedMmio};

fn patient() -> Options {
    Options::default().timeout(PATIENCE)
}

const POLICIES: [Spinning; 3] = [Spinning::Never, Spinning::Adaptive, Spinning::Always];

#[test]
fn reads_and_writes_go_by_the_slot_and_wait() {
    for spinning in POLICIES {
        let mut client = sharing(patient().spinning(spinning), |peer, pages| {
            let read = Asked {
                operation: 1,
                count: 4,
                region: 0,
                offset: 8,
                value: 0,
            };
            assert_eq!(pages.asked(0, 1), read);
            // What is above the count is nobody's.
            pages.answer(0, 1, 0, 0xffff_ffff_5550_4756);
            let write = Asked {
                operation: 2,
                count: 3,
                region: 5,
                offset: 0x1234,
                value: 0x03_0201,
            };
            assert_eq!(pages.asked(0, 2), write);
            pages.answer(0, 2, 0, 0);
            assert!(peer.next().is_none(), "nothing comes by the socket");
        });
        assert_eq!(client.agreement().shared_mmio, Some(layout(2, 4)));
        assert_eq!(&read(&mut client).unwrap(), b"VGPU");
        client.write(5, 0x1234, &[1, 2, 3]).unwrap();
    }
}

#[test]
fn posted_writes_go_by_the_ring_and_a_full_one_is_pushed_by_the_slot() {
    let mut client = sharing(patient(), |_, pages| {
        // It takes nothing out of the ring.
        let fifth = pages.asked(0, 1);
        assert_eq!((fifth.operation, fifth.value), (2, 5));
        assert_eq!(pages.tail(), 4);
        for number in 0..4 {
            let value = number as u64 + 1;
            assert_eq!(pages.entry(number), [0x10, value, 4 << 40 | 2 << 48]);
        }
        pages.answer(0, 1, 0, 0);
    });
    for value in 1..=5u32 {
        client.post(2, 0x10, &value.to_le_bytes()).unwrap();
    }
}

#[test]
fn several_posted_writes_in_one_go_by_the_ring_as_well() {
    let mut client = sharing(patient(), |peer, pages| {
        pages.asked(0, 1);
        assert_eq!(pages.tail(), 2);
        assert_eq!(pages.entry(1), [8, 7, 4 << 40]);
        pages.answer(0, 1, 0, 0);
        assert!(peer.next().is_none());
    });
    let data = 7u64.to_le_bytes();
    client.post_multi(&[(access(4), data); 2]).unwrap();
    read(&mut client).unwrap();
}

#[test]
fn what_is_longer_goes_by_the_socket_and_is_waited_for() {
    let mut client = sharing(patient(), |peer, _| {
        for no_reply in [false, false] {
            let header = peer.next().unwrap();
            assert_eq!(header.no_reply, no_reply);
            let mut access = RegionAccess::parse(&peer.message.body[..16]).unwrap();
            access.count = 9;
            let data: &[u8] = match Command::from_wire(header.command) {
                Some(Command::RegionRead) => &[3; 9],
                _ => &[],
            };
            peer.send(header.reply(), &access_body(access, data));
        }
        let header = peer.next().unwrap();
        peer.send(header.refusal(libc::EINVAL), &[]);
        peer.stay();
    });
    let mut data = [0; 9];
    client.read(0, 8, &mut data).unwrap();
    assert_eq!(data, [3; 9]);
    // Posted on the socket it could come after what is posted in the ring.
    client.post(0, 8, &data).unwrap();
    // Nobody learns of an error.
    client.post(0, 8, &data).unwrap();
}

#[test]
fn a_refusal_in_a_slot_is_told_and_the_connection_goes_on() {
    let mut client = sharing(patient(), |_, pages| {
        pages.asked(0, 1);
        pages.answer(0, 1, 22, 0);
        pages.asked(0, 2);
        pages.answer(0, 2, u32::MAX, 0);
        pages.asked(0, 3);
        pages.answer(0, 3, 0, 0);
    });
    let error = read(&mut client).unwrap_err();
    assert!(matches!(error, ClientError::Refused { errno: 22, .. }));
    let error = read(&mut client).unwrap_err();
    assert!(error.to_string().ends_with("which does not exist"));
    read(&mut client).unwrap();
}

#[test]
fn the_servers_dma_is_served_while_a_slot_is_waited_for() {
    for spinning in POLICIES {
        let mut client = sharing(patient().spinning(spinning), |peer, pages| {
            pages.asked(0, 1);
            let mut body = Vec::new();
            let (address, count) = (0, 1);
            DmaTransfer { address, count }.encode(&mut body);
            peer.send(Header::command(9, Command::DmaRead), &body);
            let reply = peer.next().unwrap();
            assert_eq!((reply.id, reply.kind), (9, Kind::Reply));
            // It has no memory.
            assert_eq!(reply.error, Some(libc::EFAULT.unsigned_abs()));
            pages.answer(0, 1, 0, 0);
        });
        read(&mut client).unwrap();
    }
}

#[test]
fn a_reply_that_nobody_waits_for_ends_the_connection() {
    let mut client = sharing(patient(), |peer, pages| {
        pages.asked(0, 1);
        let header = Header::command(7, Command::DeviceReset);
        peer.send(header.reply(), &[]);
        peer.stay();
    });
    assert_ends!(client, read(&mut client), ClientError::WrongReply { .. });
}

#[test]
fn wake_ups_for_nothing_are_slept_through() {
    let mut client = sharing(patient().spinning(Spinning::Never), |_, pages| {
        pages.asked(0, 1);
        for _ in 0..100 {
            pages.wake(0);
            thread::yield_now();
        }
        pages.answer(0, 1, 0, 1);
    });
    assert_eq!(read(&mut client).unwrap(), [1, 0, 0, 0]);
}

#[test]
fn an_answer_to_another_access_is_none() {
    for spinning in POLICIES {
        let options = Options::default().timeout(Duration::from_millis(50));
        let mut client = sharing(options.spinning(spinning), |peer, pages| {
            // Before it was asked, for the one before, and for one to come.
            for number in [1, 0, 7, u32::MAX] {
                pages.answer(0, number, 0, 0);
            }
            pages.asked(0, 1);
            for number in [0, 2] {
                pages.answer(0, number, 5, 5);
            }
            // To the other slot.
            pages.answer(1, 1, 5, 5);
            peer.stay();
        });
        // It answered before it was asked: a lie that nothing tells from a
        // quick answer, so the first access may have it.
        match read(&mut client) {
            Ok(_) => continue,
            Err(error) => assert!(matches!(error, ClientError::TimedOut { .. })),
        }
        let next = read(&mut client).unwrap_err();
        assert!(matches!(next, ClientError::GivenUp { .. }), "{next:?}");
        let next = client.post(0, 0, &[0]).unwrap_err();
        assert!(matches!(next, ClientError::GivenUp { .. }), "{next:?}");
    }
}

#[test]
fn a_server_that_does_not_answer_in_a_slot_is_given_up_in_time() {
    for spinning in POLICIES {
        let options = Options::default().timeout(Duration::from_millis(50));
        let mut client = sharing(options.spinning(spinning), |peer, _| peer.stay());
        assert_ends!(client, read(&mut client), ClientError::TimedOut { .. });
    }
}

#[test]
fn a_server_that_only_asks_is_given_up_in_time_in_a_slot_too() {
    let options = Options::default().timeout(Duration::from_millis(50));
    let mut client = sharing(options, |peer, pages| {
        pages.asked(0, 1);
        let mut body = Vec::new();
        let (address, count) = (0, 1);
        DmaTransfer { address, count }.encode(&mut body);
        loop {
            peer.send(Header::command(1, Command::DmaRead), &body);
            if peer.next().is_none() {
                return;
            }
        }
    });
    assert_ends!(client, read(&mut client), ClientError::TimedOut { .. });
}

#[test]
fn a_server_that_leaves_in_an_access_is_noticed() {
    for spinning in POLICIES {
        let mut client = sharing(patient().spinning(spinning), |_, pages| {
            pages.asked(0, 1);
        });
        assert_ends!(client, read(&mut client), ClientError::Closed { .. });
    }
}

/// What comes of terms, with those descriptors.
fn offered(terms: SharedMmio, fds: Vec<OwnedFd>) -> Result<Client, ClientError> {
    connect(patient().shared_mmio(4), move |peer| {
        share(peer, terms, &fds);
        peer.stay();
    })
}

/// As above, with an error.
fn refused(terms: SharedMmio, fds: Vec<OwnedFd>) -> ClientError {
    let error = offered(terms, fds).unwrap_err();
    assert!(!error.to_string().contains('\n'));
    error
}

const LAYOUT: fn() -> Layout = || layout(2, 4);

#[test]
fn terms_that_were_not_proposed_are_not_taken() {
    let good = terms(LAYOUT());
    let absurd = [
        SharedMmio { version: 0, ..good },
        SharedMmio {
            version: VERSION + 1,
            ..good
        },
        SharedMmio { slots: 0, ..good },
        SharedMmio { slots: 5, ..good },
        SharedMmio {
            slots: u32::MAX,
            ..good
        },
        SharedMmio { ring: None, ..good },
        SharedMmio {
            ring: Some(0),
            ..good
        },
        SharedMmio {
            ring: Some(3),
            ..good
        },
        SharedMmio {
            ring: Some(1 << 31),
            ..good
        },
    ];
    for terms in absurd {
        let (_pages, fds) = Pages::new(LAYOUT());
        let error = refused(terms, fds);
        let expected = matches!(
            error,
            ClientError::SharedMmio { .. } | ClientError::Malformed(_)
        );
        assert!(expected, "{terms:?}: {error:?}");
    }
}

#[test]
fn descriptors_that_did_not_come_are_an_error() {
    let good = terms(LAYOUT());
    for (fd_index, keep) in [(0, 0), (0, 3), (1, 4), (u32::MAX, 4)] {
        let (_pages, mut fds) = Pages::new(LAYOUT());
        fds.truncate(keep);
        let terms = SharedMmio {
            fd_index: Some(fd_index),
            ..good
        };
        let error = refused(terms, fds);
        assert!(matches!(error, ClientError::Descriptor { .. }), "{error:?}");
    }
}

#[test]
fn memory_that_can_be_taken_away_or_is_short_is_not_mapped() {
    let size = LAYOUT().size() as u64;
    for (seals, size) in [
        (SealFlags::empty(), size),
        (SealFlags::GROW, size),
        (SEALS, size - 4096),
        (SEALS, 0),
    ] {
        let (_pages, fds) = Pages::of(LAYOUT(), seals, size);
        let error = refused(terms(LAYOUT()), fds);
        assert!(matches!(error, ClientError::SharedMmio { .. }), "{error:?}");
    }
}

#[test]
fn descriptors_of_another_kind_are_not_taken() {
    for place in 0..4 {
        let (_pages, mut fds) = Pages::new(LAYOUT());
        fds[place] = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let error = refused(terms(LAYOUT()), fds);
        assert!(matches!(error, ClientError::SharedMmio { .. }), "{error:?}");
    }
}

#[test]
fn memory_that_nobody_asked_for_is_not_used() {
    let mut client = connect(patient(), |peer| {
        let (_pages, fds) = Pages::new(LAYOUT());
        share(peer, terms(LAYOUT()), &fds);
        let header = peer.next().unwrap();
        peer.send(header.reply(), &access_body(access(4), b"VGPU"));
        peer.stay();
    })
    .unwrap();
    assert_eq!(client.agreement().shared_mmio, None);
    assert!(client.requester().is_none());
    assert_eq!(&read(&mut client).unwrap(), b"VGPU");
}

#[test]
fn a_server_that_shares_nothing_is_used_by_the_socket() {
    let mut client = connect(patient().shared_mmio(2), |peer| {
        peer.version(Capabilities::default(), &[]);
        let posted = peer.next().unwrap();
        assert!(posted.no_reply);
        let header = peer.next().unwrap();
        peer.send(header.reply(), &access_body(access(4), b"VGPU"));
        peer.stay();
    })
    .unwrap();
    assert_eq!(client.agreement().shared_mmio, None);
    client.post(0, 8, &[0; 4]).unwrap();
    assert_eq!(&read(&mut client).unwrap(), b"VGPU");
}
