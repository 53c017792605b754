//! Lies in an offer to share memory: each of these servers is refused.

use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::SealFlags;
use serde_json::{Value, json};

use super::liar::check;
use crate::fake::{Fake, Then};
use crate::pages::{Offer, Sharing};
use crate::rig::require;
use crate::wire::{eventfd, memory, wrong_kinds};

type Case = (&'static str, bool, Fake);

fn shares(name: &'static str, sharing: Sharing) -> Case {
    (name, true, Fake::sharing(sharing, |_, _| Then::Honest))
}

fn offers(name: &'static str, change: impl FnMut(&mut Offer) + Send + 'static) -> Case {
    let offer = Box::new(change);
    let sharing = Sharing {
        offer,
        ..Sharing::default()
    };
    shares(name, sharing)
}

fn says(name: &'static str, key: &'static str, value: Value) -> Case {
    offers(name, move |offer| offer.said[key] = value.clone())
}

fn passes(name: &'static str, at: usize, fd: OwnedFd) -> Case {
    offers(name, move |offer| {
        offer.fds[at] = fd.try_clone().unwrap();
    })
}

#[test]
fn what_is_said_about_the_memory_is_checked() {
    require!(check(vec![
        says("version 0", "version", json!(0)),
        says("version 2", "version", json!(2)),
        says("no number of a version", "version", json!("1")),
        says("no slots", "slots", json!(0)),
        says("two slots", "slots", json!(2)),
        says("-1 slots", "slots", json!(-1)),
        says("no ring", "ring", json!(0)),
        says("a ring of 3", "ring", json!(3)),
        says("a ring of 2^17", "ring", json!(1 << 17)),
        says("a ring of 2^32 + 256", "ring", json!((1u64 << 32) + 256)),
        says("a ring of -1", "ring", json!(-1)),
        says("a ring of 2^63", "ring", json!(1u64 << 63)),
        says("a descriptor too far", "fd_index", json!(1)),
        says("the last descriptor", "fd_index", json!(15)),
        says("the descriptor 2^32", "fd_index", json!(1u64 << 32)),
        says("the descriptor -1", "fd_index", json!(-1)),
        says("the descriptor -3", "fd_index", json!(-3)),
        offers("a number", |offer| offer.said = json!(7)),
        offers("null", |offer| offer.said = Value::Null),
        offers("a list", |offer| offer.said = json!([1, 2, 3])),
        offers("nothing", |offer| offer.said = json!({})),
    ]));
}

#[test]
fn what_is_passed_as_the_memory_is_checked() {
    let mut cases = vec![
        shares(
            "memory that may shrink",
            Sharing {
                seals: SealFlags::GROW,
                ..Sharing::default()
            },
        ),
        shares(
            "memory that is too small",
            Sharing {
                grown_by: -4096,
                ..Sharing::default()
            },
        ),
        says("a ring that is larger", "ring", json!(512)),
        offers("no descriptors", |offer| offer.fds.clear()),
        offers("one descriptor too few", |offer| {
            offer.fds.pop();
        }),
        passes("an eventfd as memory", 0, eventfd()),
        passes("a file", 0, tempfile::tempfile().unwrap().into()),
        passes("memory without seals", 0, memory(1 << 20, &[]).into()),
    ];
    for (name, fd) in wrong_kinds() {
        cases.push(passes(name, 0, fd));
    }
    require!(check(cases));
}

/// A call on anything but such a socket might wait.
#[test]
fn what_is_passed_to_wake_by_is_checked() {
    let datagrams = || OwnedFd::from(std::os::unix::net::UnixDatagram::pair().unwrap().0);
    let internet = || OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    let mut cases = Vec::new();
    for at in [1, 2] {
        cases.push(passes("an eventfd", at, eventfd()));
        cases.push(passes("datagrams", at, datagrams()));
        cases.push(passes("the internet", at, internet()));
        let null = File::open("/dev/null").unwrap();
        cases.push(passes("/dev/null", at, null.into()));
    }
    require!(check(cases));
}

/// More than it says is no lie.
#[test]
fn memory_that_is_larger_is_taken() {
    let sharing = Sharing {
        grown_by: 1 << 20,
        ..Sharing::default()
    };
    let (name, _, fake) = shares("memory that is larger", sharing);
    let verdict = require!(super::liar::verdict(name, &fake));
    assert_eq!(verdict, super::liar::Verdict::Taken);
    assert!(fake.count(|heard| heard.by_memory) > 0);
}
