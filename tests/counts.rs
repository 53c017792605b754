//! What an access may cost at most, as counts that a build without
//! optimisation has too: no heap allocation, and one system call for each
//! message. `cargo bench --bench budget` measures these and the rest.

#[path = "../bench/measure/mod.rs"]
mod measure;
mod rig;

use std::path::Path;

use measure::allocations::{self, Counting};
use measure::client::Access;
use measure::{Runs, system_calls};
use rig::or_skip;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const RUNS: Runs = Runs {
    short: 50,
    long: 550,
};

#[test]
fn an_access_does_not_allocate() {
    for access in Access::ALL {
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
