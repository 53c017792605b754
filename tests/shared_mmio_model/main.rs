//! The protocol of docs/shared-mmio.md as a small machine, every state of
//! which is visited: a server, two clients' slots, a ring of one entry, and
//! a store buffer for each CPU (x86-TSO: a store is seen by others later, in
//! order; a fence or an exchange waits until all are).
//!
//! `tests/loom.rs` tries the code itself, with fewer interleavings; this the
//! protocol, with all. What is taken out of the protocol must be missed.

mod client;
mod machine;
mod server;

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use machine::{ACCESSES, CLIENTS, Mutant, POSTS, PUSH, Scripts, State};

/// A hash that is quick without optimisation: the test visits many states.
#[derive(Default)]
struct Quick(u64);

impl Hasher for Quick {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(byte.into());
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_isize(&mut self, word: isize) {
        self.write(&word.to_ne_bytes());
    }
}

/// Visits all states: how many there are, or what is wrong with one.
fn explore(scripts: Scripts, mutant: Mutant) -> Result<usize, String> {
    let start = State::start();
    let mut states = HashSet::<State, BuildHasherDefault<Quick>>::default();
    states.insert(start);
    let mut open = vec![start];
    while let Some(state) = open.pop() {
        let mut is_stuck = true;
        for cpu in 0..=CLIENTS {
            let mut flushed = state;
            let flushed = flushed.flush(cpu).then_some(flushed);
            let stepped = match cpu.checked_sub(1) {
                Some(client) => client::step(state, client, scripts[client], mutant),
                None => server::step(state, mutant)?,
            };
            for next in flushed.into_iter().chain(stepped) {
                is_stuck = false;
                if states.insert(next) {
                    open.push(next);
                }
            }
        }
        if is_stuck && !state.is_done(scripts) {
            let places = state.cpus.map(|cpu| cpu.at);
            return Err(format!("all wait for ever: {places:?}, {:?}", state.done));
        }
    }
    Ok(states.len())
}

#[test]
fn nothing_is_lost_doubled_or_out_of_order_and_nobody_sleeps_for_ever() {
    for (name, scripts) in [("posts", POSTS), ("accesses", ACCESSES), ("push", PUSH)] {
        let states = explore(scripts, Mutant::None).unwrap();
        println!("{name}: {states} states");
        assert!(states > 10_000, "{states} states are too few");
    }
}

#[test]
fn whatever_is_taken_out_is_missed() {
    let mutants = [
        Mutant::NoFenceAfterRequest,
        Mutant::NoFenceInServerSleep,
        Mutant::NoFenceAfterAnswer,
        Mutant::NoFenceInClientSleep,
        Mutant::ServerLooksFirst,
        Mutant::ClientLooksFirst,
        Mutant::ClearsAfterSignal,
        Mutant::ServerDrainsLate,
        Mutant::ClientDrainsLate,
        Mutant::HeadBeforeCopy,
        Mutant::TailBeforeEntry,
        Mutant::FullLater,
        Mutant::RequestBeforeValue,
        Mutant::PushBeforeRequest,
    ];
    for mutant in mutants {
        let found = [PUSH, POSTS, ACCESSES]
            .into_iter()
            .find_map(|scripts| explore(scripts, mutant).err());
        match found {
            Some(fault) => println!("{mutant:?}: {fault}"),
            None => panic!("nothing is wrong with {mutant:?}"),
        }
    }
}
