//! What a client's CPU does.

use super::machine::*;

/// One instruction of client `client`. `None`: it waits.
pub(super) fn step(mut s: State, client: usize, script: &[Item], mutant: Mutant) -> Option<State> {
    let cpu = s.cpus[1 + client];
    // Whether it can be carried out now, and what comes then.
    let (possible, next) = match cpu.at {
        At::Start => match script.get(usize::from(cpu.item))? {
            Access => (true, At::WriteValue),
            Post => posts(&mut s, client, mutant),
        },
        At::LookFull | At::WriteEntry | At::WriteTail | At::UnlockFull | At::Unlock => {
            posts(&mut s, client, mutant)
        }
        At::WriteValue | At::WriteRequest => asks(&mut s, client, mutant),
        At::Fence(_) | At::LookFlag(_) | At::Swap(_) | At::Signal(_) | At::ClearFlag(_) => {
            wakes_the_server(&mut s, client, mutant)
        }
        _ => waits(&mut s, client, mutant),
    };
    s.cpus[1 + client].at = next;
    possible.then_some(s)
}

/// A client puts a write into the ring, under the clients' lock.
fn posts(s: &mut State, client: usize, mutant: Mutant) -> (bool, At) {
    let me = 1 + client;
    let cpu = s.cpus[me];
    let number = SLOTS[client] << 4 | cpu.item;
    match cpu.at {
        At::Start => {
            let is_free = s.memory[usize::from(LOCK)] == 0;
            s.memory[usize::from(LOCK)] = 1;
            (is_free && s.fence(me), At::LookFull)
        }
        At::LookFull => {
            s.cpus[me].tail = s.load(me, TAIL);
            let used = s.cpus[me].tail.wrapping_sub(s.load(me, HEAD));
            let most = RING + u8::from(mutant == Mutant::FullLater);
            let first = match mutant {
                Mutant::TailBeforeEntry => At::WriteTail,
                _ => At::WriteEntry,
            };
            (true, if used < most { first } else { At::UnlockFull })
        }
        At::WriteEntry => (
            s.store(me, entry(cpu.tail), number),
            match mutant {
                Mutant::TailBeforeEntry => At::Fence(true),
                _ => At::WriteTail,
            },
        ),
        At::WriteTail => (
            s.store(me, TAIL, cpu.tail + 1),
            match mutant {
                Mutant::TailBeforeEntry => At::WriteEntry,
                _ => At::Fence(true),
            },
        ),
        At::UnlockFull => {
            s.cpus[me].tail = 0;
            (s.store(me, LOCK, 0), At::WriteValue)
        }
        At::Unlock => {
            s.cpus[me].item += 1;
            s.cpus[me].tail = 0;
            (s.store(me, LOCK, 0), At::Start)
        }
        at => unreachable!("a client posts at {at:?}"),
    }
}

/// A client fills its slot.
fn asks(s: &mut State, client: usize, mutant: Mutant) -> (bool, At) {
    let me = 1 + client;
    let cpu = s.cpus[me];
    let slot = SLOTS[client];
    let number = slot << 4 | cpu.item;
    match cpu.at {
        At::WriteValue | At::WriteRequest => {
            let is_value = cpu.at == At::WriteValue;
            let is_first = is_value != (mutant == Mutant::RequestBeforeValue);
            let next = match (is_first, is_value) {
                (true, true) => At::WriteRequest,
                (true, false) => At::WriteValue,
                (false, _) => At::Fence(false),
            };
            if is_value {
                (s.store(me, VALUE + slot, number), next)
            } else {
                s.cpus[me].sequence += 1;
                s.posted[client] = s.load(me, TAIL);
                (s.store(me, REQUEST + slot, cpu.sequence + 1), next)
            }
        }
        at => unreachable!("a client asks at {at:?}"),
    }
}

/// A client looks whether the server sleeps.
fn wakes_the_server(s: &mut State, client: usize, mutant: Mutant) -> (bool, At) {
    let me = 1 + client;
    let cpu = s.cpus[me];
    match cpu.at {
        At::Fence(post) => {
            let broken = mutant == Mutant::NoFenceAfterRequest;
            (broken || s.fence(me), At::LookFlag(post))
        }
        At::LookFlag(post) => match (s.load(me, SERVER_SLEEPS), mutant) {
            (0, _) => (true, woken(post)),
            (_, Mutant::ClearsAfterSignal) => (true, At::Signal(post)),
            _ => (true, At::Swap(post)),
        },
        At::Swap(post) => {
            let flag = &mut s.memory[usize::from(SERVER_SLEEPS)];
            let next = if *flag == 0 {
                woken(post)
            } else {
                At::Signal(post)
            };
            *flag = 0;
            (s.fence(me), next)
        }
        At::Signal(post) => {
            s.signals[0] = true;
            let next = match mutant {
                Mutant::ClearsAfterSignal => At::ClearFlag(post),
                _ => woken(post),
            };
            (true, next)
        }
        At::ClearFlag(post) => (s.store(me, SERVER_SLEEPS, 0), woken(post)),
        at => unreachable!("a client wakes at {at:?}"),
    }
}

/// A client waits for its answer.
fn waits(s: &mut State, client: usize, mutant: Mutant) -> (bool, At) {
    let me = 1 + client;
    let cpu = s.cpus[me];
    let slot = SLOTS[client];
    let is_answered = s.load(me, ANSWER + slot) == cpu.sequence;
    match cpu.at {
        At::LookAnswer if is_answered => {
            s.cpus[me].item += 1;
            (true, At::Start)
        }
        At::LookAnswer => match mutant {
            Mutant::ClientLooksFirst => (true, At::LookAnswerAgain),
            _ => (true, At::SetFlag),
        },
        At::SetFlag => (
            s.store(me, CLIENT_SLEEPS + slot, 1),
            match mutant {
                Mutant::ClientLooksFirst => At::Sleep,
                _ => At::FlagFence,
            },
        ),
        At::FlagFence => {
            let broken = mutant == Mutant::NoFenceInClientSleep;
            (broken || s.fence(me), At::LookAnswerAgain)
        }
        At::LookAnswerAgain => match mutant {
            _ if is_answered => (true, At::WakeUp(false)),
            Mutant::ClientLooksFirst => (true, At::SetFlag),
            Mutant::ClientDrainsLate => (true, At::ThrowAway),
            _ => (true, At::Sleep),
        },
        At::ThrowAway => {
            s.signals[me] = false;
            (true, At::Sleep)
        }
        At::Sleep => (s.signals[me], At::WakeUp(true)),
        At::WakeUp(slept) => {
            let possible = s.store(me, CLIENT_SLEEPS + slot, 0);
            if slept {
                s.signals[me] = false;
            }
            (possible, At::LookAnswer)
        }
        at => unreachable!("a client waits at {at:?}"),
    }
}

/// Where a client goes on that woke the server, or need not.
fn woken(post: bool) -> At {
    if post { At::Unlock } else { At::LookAnswer }
}
