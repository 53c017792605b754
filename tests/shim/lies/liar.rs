//! Servers that tell one lie, and what QEMU makes of them.

use crate::fake::{Fake, Then, is};
use crate::rig::RigError;
use crate::stage::{Card, SLOT, board, device, reason};
use crate::wire::{Cmd, Received};

const TIMEOUT: &str = ",connect-timeout=300,msg-timeout=300";

/// Where a reply's fields are.
pub(super) mod at {
    pub(in crate::lies) const ID: usize = 0;
    pub(in crate::lies) const COMMAND: usize = 2;
    pub(in crate::lies) const SIZE: usize = 4;
    pub(in crate::lies) const FLAGS: usize = 8;
    pub(in crate::lies) const ERRNO: usize = 12;
    pub(in crate::lies) const BODY: usize = 16;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Refused,
    Taken,
}

/// What QEMU makes of a server. If it takes the device, it must stay alive.
#[track_caller]
pub(super) fn verdict(name: &str, fake: &Fake) -> Result<Verdict, RigError> {
    let mut qemu = board(&fake.socket(), TIMEOUT)?.start();
    if !qemu.is_up() {
        let ended = qemu.ended();
        let code = ended.status.code();
        assert_eq!(code, Some(1), "{name}: {ended:?}");
        println!(
            "{name}: {}",
            reason(&ended, &device(&fake.socket(), TIMEOUT))
        );
        return Ok(Verdict::Refused);
    }
    let mut card = Card::at(qemu, SLOT);
    for bar in card.bars.into_iter().flatten() {
        for offset in [0, 0x800, bar.size - 8] {
            card.qemu.read(bar.address + offset, 4);
            card.qemu.write(bar.address + offset, 4, 0);
            card.qemu.read(bar.address + offset, 8);
        }
    }
    card.slot.config(&mut card.qemu);
    card.qemu.reset();
    card.qemu.alive();
    card.qemu.quit();
    println!("{name}: taken");
    Ok(Verdict::Taken)
}

pub(super) type Lie = Box<dyn Fn(&mut Received) + Send>;

/// A server that lies in each reply to a command for which `when` holds.
pub(super) fn liar(
    command: Cmd,
    when: impl Fn(&Received) -> bool + Send + 'static,
    lie: Lie,
) -> Fake {
    Fake::start(move |peer, message| {
        if is(message, command) && when(message) {
            peer.lie(message, |answer| lie(answer))
        } else {
            Then::Honest
        }
    })
}

pub(super) fn put(answer: &mut Received, at: usize, bytes: &[u8]) {
    if let Some(place) = answer.bytes.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// A field is this.
pub(super) fn field(at: usize, value: impl Into<u64>, width: usize) -> Lie {
    let bytes = value.into().to_ne_bytes();
    Box::new(move |answer| put(answer, at, &bytes[..width]))
}

pub(super) fn u32_is(at: usize, value: u32) -> Lie {
    field(at, value, 4)
}

pub(super) fn u64_is(at: usize, value: u64) -> Lie {
    field(at, value, 8)
}

/// The message has this size, and says so.
pub(super) fn resized(change: fn(usize) -> usize) -> Lie {
    Box::new(move |answer| {
        let size = change(answer.bytes.len());
        answer.bytes.resize(size, 0);
        let size = u32::try_from(size).unwrap();
        put(answer, at::SIZE, &size.to_ne_bytes());
    })
}

/// All are survived; those of which it is said must be refused.
pub(super) fn check(lies: Vec<(&str, bool, Fake)>) -> Result<(), RigError> {
    let mut taken = Vec::new();
    for (name, must_refuse, fake) in lies {
        if verdict(name, &fake)? == Verdict::Taken && must_refuse {
            taken.push(name);
        }
    }
    assert!(taken.is_empty(), "taken: {taken:?}");
    Ok(())
}
