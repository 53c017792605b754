//! What an access may cost at most, as counts that a build without
//! optimisation has too: no heap allocation, and one system call for each
//! message; and what measuring one takes. `cargo bench --bench budget` measures these and the rest.

#[path = "../bench/measure/mod.rs"]
mod measure;
mod rig;

use std::path::Path;

use measure::allocations::{self, Counting};
use measure::client::Access;
use measure::served::Terms;
use measure::{Runs, system_calls};
use rig::or_skip;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const RUNS: Runs = Runs {
    short: 50,
    long: 550,
};

/// Among many threads more stray calls come from their beginnings and ends: one
/// for each of 256 in one run and not in the other is 0.03 of these.
const MANY_RUNS: Runs = Runs {
    short: 50,
    long: 10_050,
};

#[test]
fn an_access_does_not_allocate() {
    for access in Access::ALL.into_iter().chain([Access::ConfigRead]) {
        let Some(taken) = or_skip(allocations::per_access(access, RUNS)) else {
            return;
        };
        assert!(taken <= 0.0, "{taken} allocations per {access}");
    }
}

#[test]
fn an_access_is_one_receive_and_one_send_at_most() {
    let program = Path::new(env!("CARGO_BIN_EXE_vgpu-stub"));
    for (access, most) in Access::ALL.into_iter().zip([2.0, 2.0, 1.0]) {
        let Some(calls) = or_skip(system_calls::per_access(program, access, RUNS)) else {
            return;
        };
        // A stray call of another thread in 500 accesses is not theirs.
        assert!(calls < most + 0.05, "{calls} system calls per {access}");
    }
}

#[test]
fn an_access_among_256_devices_costs_no_more_system_calls() {
    let program = Path::new(env!("CARGO_BIN_EXE_vgpu-stub"));
    // A pool's thread also waits for a device and arms it again.
    for (arguments, most) in [(["--threads=0"], 2.0), (["--threads=2"], 4.0)] {
        let terms = Terms {
            devices: 256,
            burst: 1,
            once: true,
            arguments: &arguments,
        };
        let calls = system_calls::per_access_on(program, terms, Access::Read, MANY_RUNS);
        let Some(calls) = or_skip(calls) else {
            return;
        };
        assert!(
            calls < most + 0.05,
            "{calls} system calls with {arguments:?}"
        );
    }
}

#[test]
fn what_comes_in_one_send_is_received_at_once_and_answered_with_one_send() {
    const BURST: usize = 100;
    let program = Path::new(env!("CARGO_BIN_EXE_vgpu-stub"));
    let runs = Runs {
        short: 10,
        long: 60,
    };
    let count = |access, call| or_skip(system_calls::per_burst(program, access, BURST, runs, call));
    for (access, call) in [
        (Access::PostedWrite, "recvmsg"),
        (Access::Read, "recvmsg"),
        (Access::Read, "sendto"),
    ] {
        let Some(calls) = count(access, call) else {
            return;
        };
        // The signals' thread may send itself something.
        assert!(calls < 1.1, "{calls} of {call} per {BURST} of {access}");
    }
}

#[test]
fn each_side_of_an_access_waits_once() {
    let program = Path::new(env!("CARGO_BIN_EXE_vgpu-stub"));
    for access in [Access::Read, Access::Write] {
        let Some(switches) = or_skip(measure::switches::per_access(program, access, RUNS)) else {
            return;
        };
        // A switch more in a round of ten accesses is not theirs.
        assert!(
            switches < 2.15,
            "{switches} voluntary context switches per {access}"
        );
    }
}

#[test]
fn nothing_is_allocated_while_samples_are_taken() {
    use std::cell::RefCell;
    use vgpu_stub::bench::{Bench, Candidate, Clock, Ladder, Pinning, Plan};

    let clock = Clock::new();
    let taken = RefCell::new(Vec::new());
    let count = |candidate: &mut Candidate<'_>| {
        let mut ticks = [0; 64];
        let mut sample = |ticks: &mut [u64]| {
            let sampled = candidate.subject.sample(&clock, ticks);
            sampled.unwrap_or_else(|trouble| panic!("{}: {trouble}", candidate.name));
        };
        // As when the bench warms up.
        sample(&mut ticks[..1]);
        let before = allocations::taken();
        sample(&mut ticks);
        let allocations = allocations::taken() - before;
        taken
            .borrow_mut()
            .push((candidate.name.clone(), allocations));
    };
    let ladder = Ladder {
        rungs: vec![1, 2, 4],
        program: env!("CARGO_BIN_EXE_vgpu-stub").into(),
        socket_path: None,
        qemu: None,
    };
    let plan = Plan::quick(Pinning::choose().unwrap());
    ladder.measure(&Bench::handing_over(plan, &count));
    let taken = taken.into_inner();
    assert!(taken.iter().any(|(name, _)| name == "dispatch.read.4"));
    let some: Vec<_> = taken.iter().filter(|(_, taken)| *taken > 0).collect();
    assert!(some.is_empty(), "allocations in 64 samples: {some:?}");
}
