//! What the server's CPU does.

use super::machine::*;

/// One instruction of the server: `None` if it waits, or what it finds wrong.
pub(super) fn step(mut s: State, mutant: Mutant) -> Result<Option<State>, String> {
    let cpu = s.cpus[0];
    let (possible, next) = match cpu.at {
        At::Start => {
            s.cpus[0].tail = s.load(0, TAIL);
            (true, At::Ring(Next::Request(0)))
        }
        At::Ring(next) if s.head == cpu.tail => {
            // Not needed any more: the states that differ in it are one.
            s.cpus[0].tail = 0;
            match next {
                Next::Request(slot) => (true, At::Request(slot)),
                Next::Serve(slot) => (true, At::Serve(slot)),
            }
        }
        At::Ring(_) if cpu.tail.wrapping_sub(s.head) > RING => {
            return Err("more in the ring than it has".to_owned());
        }
        At::Ring(next) => match mutant {
            Mutant::HeadBeforeCopy => (true, At::Head(next)),
            _ => (true, At::Entry(next)),
        },
        At::Entry(next) if mutant == Mutant::HeadBeforeCopy => {
            s.cpus[0].item = s.load(0, entry(s.head - 1));
            (true, At::CarryOut(next))
        }
        At::Entry(next) => {
            s.cpus[0].item = s.load(0, entry(s.head));
            (true, At::Head(next))
        }
        At::Head(next) => {
            s.head += 1;
            let possible = s.store(0, HEAD, s.head);
            match mutant {
                Mutant::HeadBeforeCopy => (possible, At::Entry(next)),
                _ => (possible, At::CarryOut(next)),
            }
        }
        At::CarryOut(next) => {
            s.carry_out(cpu.item)?;
            s.cpus[0].item = 0;
            (true, At::Ring(next))
        }
        At::Request(slot) if usize::from(slot) == CLIENTS => match mutant {
            Mutant::ServerLooksFirst => (true, At::LookTail),
            _ => (true, At::SetServerFlag),
        },
        At::Request(slot) => {
            let request = s.load(0, REQUEST + slot);
            let last = &mut s.taken[usize::from(slot)];
            if request == *last {
                (true, At::Request(slot + 1))
            } else {
                *last = request;
                (true, At::Value(slot))
            }
        }
        At::Value(slot) => {
            s.value = s.load(0, VALUE + slot);
            match mutant {
                Mutant::PushBeforeRequest => (true, At::Serve(slot)),
                _ => (true, At::Tail(slot)),
            }
        }
        At::Tail(slot) => {
            s.cpus[0].tail = s.load(0, TAIL);
            (true, At::Ring(Next::Serve(slot)))
        }
        At::Serve(slot) => {
            if s.head < s.posted[usize::from(slot)] {
                return Err(format!("an access of {slot} overtakes what was posted"));
            }
            s.carry_out(s.value)?;
            s.value = NOTHING;
            s.posted[usize::from(slot)] = 0;
            (true, At::Answer(slot))
        }
        At::Answer(slot) => {
            let sequence = s.taken[usize::from(slot)];
            (s.store(0, ANSWER + slot, sequence), At::AnswerFence(slot))
        }
        At::AnswerFence(slot) => {
            let broken = mutant == Mutant::NoFenceAfterAnswer;
            (broken || s.fence(0), At::LookClient(slot))
        }
        At::LookClient(slot) => match s.load(0, CLIENT_SLEEPS + slot) {
            0 => (true, At::Request(slot + 1)),
            _ => (true, At::WakeClient(slot)),
        },
        At::WakeClient(slot) => {
            s.signals[1 + usize::from(slot)] = true;
            (true, At::Request(slot + 1))
        }
        _ => server_sleeps(&mut s, mutant),
    };
    s.cpus[0].at = next;
    Ok(possible.then_some(s))
}

/// The server falls asleep, unless there is work, and wakes up.
fn server_sleeps(s: &mut State, mutant: Mutant) -> (bool, At) {
    match s.cpus[0].at {
        At::SetServerFlag => {
            let next = match mutant {
                Mutant::ServerLooksFirst => At::ServerSleeps,
                _ => At::ServerFence,
            };
            (s.store(0, SERVER_SLEEPS, 1), next)
        }
        At::ServerFence => {
            let broken = mutant == Mutant::NoFenceInServerSleep;
            (broken || s.fence(0), At::LookTail)
        }
        At::LookTail if s.load(0, TAIL) != s.head => (true, At::ServerWakesUp),
        At::LookTail => (true, At::LookRequest(0)),
        At::LookRequest(slot) if usize::from(slot) == CLIENTS => match mutant {
            Mutant::ServerLooksFirst => (true, At::SetServerFlag),
            Mutant::ServerDrainsLate => (true, At::ServerThrowsAway),
            _ => (true, At::ServerSleeps),
        },
        At::LookRequest(slot) => {
            let is_new = s.load(0, REQUEST + slot) != s.taken[usize::from(slot)];
            let next = if is_new {
                At::ServerWakesUp
            } else {
                At::LookRequest(slot + 1)
            };
            (true, next)
        }
        At::ServerThrowsAway => {
            s.signals[0] = false;
            (true, At::ServerSleeps)
        }
        At::ServerSleeps => {
            let signalled = s.signals[0];
            s.signals[0] = false;
            (signalled, At::ServerWakesUp)
        }
        At::ServerWakesUp => (s.store(0, SERVER_SLEEPS, 0), At::Start),
        at => unreachable!("the server at {at:?}"),
    }
}
