//! `cargo bench --bench ladder`: the rows of `vgpu-stub bench` under
//! criterion, which keeps its figures under `target/criterion` and compares
//! with the last ones. `-- NAME` takes the rows whose names hold NAME,
//! `-- --save-baseline A` and `-- --baseline A` compare with a kept state.
//!
//! What is measured is the same code, by the same [`Subject::sample`], but one
//! row after the other: a machine's drift is in the comparison. `vgpu-stub
//! bench` takes rows interleaved with their floors and is what claims rest on.
//!
//! Rung 5 times itself inside its guest and is not here. Under `cargo test`,
//! each row runs once.
//!
//! [`Subject::sample`]: vgpu_stub::bench::Subject::sample

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use criterion::{Bencher, Criterion};
use vgpu_stub::bench::{Bench, Candidate, Clock, Ladder, Pinning, Plan, Trouble};

/// The rungs that take samples in this process.
const RUNGS: [u8; 3] = [1, 2, 4];

/// The most samples at once, so that their memory is bounded.
const MOST: u64 = 1 << 12;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            eprintln!("ladder: {trouble}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Trouble> {
    let criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let criterion = RefCell::new(criterion);
    let clock = Clock::new();
    let take = |candidate: &mut Candidate<'_>| {
        let name = candidate.name.clone();
        // A rung is a group, so that criterion's reports keep it together.
        let (group, row) = name.split_once('.').unwrap_or(("ladder", &name));
        let mut criterion = criterion.borrow_mut();
        let mut group = criterion.benchmark_group(group);
        group.bench_function(row, |bencher| iterate(bencher, candidate, &clock));
        group.finish();
    };
    let ladder = Ladder {
        rungs: RUNGS.to_vec(),
        program: PathBuf::from(env!("CARGO_BIN_EXE_vgpu-stub")),
        socket_path: None,
        qemu: None,
    };
    let plan = Plan::quick(Pinning::choose()?);
    let sections = ladder.measure(&Bench::handing_over(plan, &take));
    for gap in sections.iter().flat_map(|section| &section.gaps) {
        eprintln!("not measured: {}: {}", gap.what, gap.why);
    }
    criterion.borrow().final_summary();
    Ok(())
}

/// As many accesses as criterion wants, or rather more: whole batches. It is
/// told their part.
fn iterate(bencher: &mut Bencher<'_>, candidate: &mut Candidate<'_>, clock: &Clock) {
    let batch = u64::from(candidate.batch);
    let mut ticks = vec![0; usize::try_from(MOST).unwrap_or_default()];
    bencher.iter_custom(|wanted| {
        let samples = wanted.div_ceil(batch);
        let (mut left, mut total) = (samples, 0);
        while left > 0 {
            let next = left.min(MOST);
            let ticks = &mut ticks[..usize::try_from(next).unwrap_or_default()];
            if let Err(trouble) = candidate.subject.sample(clock, ticks) {
                panic!("{}: {trouble}", candidate.name);
            }
            total += ticks.iter().sum::<u64>();
            left -= next;
        }
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52 of either")]
        let part = wanted as f64 / (samples * batch) as f64;
        Duration::from_secs_f64(part * clock.nanoseconds(total) / 1e9)
    });
}
