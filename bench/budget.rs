//! `cargo bench --bench budget`: what an access costs and what the program
//! costs, beside the goals, as a Markdown table. The program is the server
//! alone, without what features add.
//!
//! Ends with a failure if a count or the program's size is above its goal, or,
//! under `CI=true`, if a tool is missing. Times and resident memory are printed
//! and never fail: they say as much of the machine as of the program.
//!
//! `cargo bench --bench budget -- --explain` lists instead where the
//! instructions of a read go, function by function.

#[path = "budget/alone.rs"]
mod alone;
#[path = "budget/explain.rs"]
mod explain;
#[path = "measure/mod.rs"]
mod measure;
#[path = "../tests/rig/mod.rs"]
mod rig;
#[path = "budget/table.rs"]
mod table;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use measure::allocations::{self, Counting};
use measure::client::Access;
use measure::served::{Resident, Served, Terms, Tool};
use measure::switches;
use measure::{Runs, instructions, system_calls};
use rig::RigError;
use table::{Figure, Row, Table};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The program as cargo built it for a bench: optimised and stripped.
const PROGRAM: &str = env!("CARGO_BIN_EXE_vgpu-stub");

/// Enough accesses to make the odd call of another thread vanish.
const RUNS: Runs = Runs {
    short: 100,
    long: 2_100,
};

/// How many accesses come in one send, and how many sends.
const BURST: usize = 100;
const BURSTS: Runs = Runs {
    short: 20,
    long: 220,
};

/// How often the program is started to learn how long that takes.
const STARTS: usize = 20;

/// How many clients come one after the other to learn what they leave behind.
const CLIENTS: usize = 5;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let asked = |name: &str| arguments.iter().any(|argument| argument == name);
    if !asked("--bench") {
        eprintln!("budget: only means something optimised; run cargo bench --bench budget");
        return ExitCode::SUCCESS;
    }
    if asked("--explain") {
        return explain::run();
    }
    let program = match alone::build() {
        Ok(program) => program,
        Err(error) => {
            eprintln!("budget: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut table = Table::default();
    access_rows(&program, &mut table);
    program_rows(&program, &mut table);
    table.add(Row {
        what: "with all features: release binary, stripped".to_owned(),
        goal: "-".to_owned(),
        how: "its length",
        figure: length(Path::new(PROGRAM)).map(|bytes| Figure::told(megabytes(bytes), true)),
    });
    print!("{table}");
    let ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    table.verdict(ci)
}

fn access_rows(program: &Path, table: &mut Table) {
    for (access, goal) in Access::ALL.into_iter().zip([2.0, 2.0, 1.0]) {
        let calls = system_calls::per_access(program, access, RUNS);
        table.add(Row {
            what: format!("system calls per {access}"),
            goal: format!("{goal}"),
            how: "strace -f -c of the server, one access at a time",
            // A hundredth is a stray call in a run, not one of the access.
            figure: calls.map(|calls| Figure::count(calls, calls < goal + 0.01)),
        });
    }
    burst_rows(program, table);
    for access in Access::ALL.into_iter().chain([Access::ConfigRead]) {
        let taken = allocations::per_access(access, RUNS);
        table.add(Row {
            what: format!("heap allocations per {access}"),
            goal: "0".to_owned(),
            how: "counting allocator, on the server's thread",
            figure: taken.map(|taken| Figure::count(taken, taken <= 0.0)),
        });
    }
    switch_rows(program, table);
    let executed = instructions::per_access(program, Access::Read, RUNS);
    table.add(Row {
        what: "user instructions per read".to_owned(),
        goal: "< 220, 200 wanted".to_owned(),
        how: "callgrind of the server, libc included",
        figure: executed.map(|executed| Figure::count(executed, executed < 220.0)),
    });
}

/// What came in one send is received at once and answered with one send.
fn burst_rows(program: &Path, table: &mut Table) {
    let count = |access, call| system_calls::per_burst(program, access, BURST, BURSTS, call);
    let received = count(Access::PostedWrite, "recvmsg");
    let received = received.map(|received| received / 100.0);
    table.add(Row {
        what: "receives per No_reply write, 100 in a send".to_owned(),
        goal: "< 0.1".to_owned(),
        how: "strace -f -c of the server",
        figure: received.map(|received| Figure::count(received, received < 0.1)),
    });
    table.add(Row {
        what: "sends per 100 reads in a send".to_owned(),
        goal: "1".to_owned(),
        how: "strace -f -c of the server",
        figure: count(Access::Read, "sendto").map(|sent| Figure::count(sent, sent < 1.1)),
    });
}

/// Each side waits once; a posted write waits for nobody.
fn switch_rows(program: &Path, table: &mut Table) {
    for access in [Access::Read, Access::Write] {
        let switches = switches::per_access(program, access, RUNS);
        table.add(Row {
            what: format!("voluntary context switches per {access}"),
            goal: "2".to_owned(),
            how: "/proc/PID/status of client and server, both blocking, on one CPU",
            // A tenth is one in a round.
            figure: switches.map(|count| Figure::count(count, count < 2.15)),
        });
    }
}

fn program_rows(program: &Path, table: &mut Table) {
    table.add(Row {
        what: "exec to listening".to_owned(),
        goal: "< 10 ms".to_owned(),
        how: "spawn to --ready-fd, median of 20",
        figure: median_start(program).map(|start| {
            let text = format!("{:.2} ms", start.as_secs_f64() * 1e3);
            Figure::told(text, start < Duration::from_millis(10))
        }),
    });
    let resident = |what: &str, memory: Result<Resident, RigError>| Row {
        what: format!("resident memory, {what}"),
        goal: "< 3 MB".to_owned(),
        how: "VmRSS and RssAnon of the server with one stub",
        figure: memory.map(|Resident { all, own }| {
            let text = format!("{}, {} of it its own", megabytes(all), megabytes(own));
            // How much of a file is mapped at once is the kernel's choice.
            Figure::told(text, all < 3_000_000)
        }),
    };
    match resident_memory(program) {
        Ok([idle, connected, after]) => {
            table.add(resident("idle", Ok(idle)));
            table.add(resident("with a client", Ok(connected)));
            table.add(resident("after five clients", Ok(after)));
        }
        Err(error) => table.add(resident("idle", Err(error))),
    }
    for (what, arguments) in [
        ("a thread each", "--threads=0"),
        ("two threads", "--threads=2"),
    ] {
        table.add(Row {
            what: format!("resident memory of a further device with a client, {what}"),
            goal: "< 64 KiB".to_owned(),
            how: "VmRSS of the server with 256 stubs and with one",
            figure: further_device(program, arguments).map(|bytes| {
                let text = format!("{} KiB", bytes.div_ceil(1024));
                Figure::binding(text, bytes < 64 * 1024)
            }),
        });
    }
    table.add(Row {
        what: "release binary, stripped".to_owned(),
        goal: "< 2.5 MB".to_owned(),
        how: "its length",
        figure: length(program).map(|bytes| Figure::binding(megabytes(bytes), bytes < 2_500_000)),
    });
}

/// What a device more takes, in bytes.
fn further_device(program: &Path, arguments: &str) -> Result<u64, RigError> {
    const MANY: usize = 256;
    let resident = |devices| {
        let terms = Terms {
            devices,
            burst: 1,
            once: false,
            arguments: &[arguments],
        };
        let served = Served::start_on(program, &Tool::default(), terms)?;
        let mut clients = Vec::with_capacity(devices);
        for number in 0..devices {
            let mut client = served.client_of(number)?;
            for access in Access::ALL {
                client
                    .repeat(access, RUNS.short)
                    .map_err(|error| RigError::failed("cannot access a device", error))?;
            }
            clients.push(client);
        }
        let resident = served.resident()?.all;
        drop(clients);
        served.stop()?;
        Ok(resident)
    };
    let (one, many) = (resident(1)?, resident(MANY)?);
    Ok(many.saturating_sub(one) / (MANY as u64 - 1))
}

fn length(program: &Path) -> Result<u64, RigError> {
    let metadata = program.metadata();
    metadata
        .map(|metadata| metadata.len())
        .map_err(|error| RigError::failed(program.display(), error))
}

fn megabytes(bytes: u64) -> String {
    let hundredths = bytes.div_ceil(10_000);
    format!("{}.{:02} MB", hundredths / 100, hundredths % 100)
}

fn median_start(program: &Path) -> Result<Duration, RigError> {
    let mut starts = Vec::with_capacity(STARTS);
    for _ in 0..STARTS {
        let served = Served::start(program, &Tool::default(), false)?;
        starts.push(served.ready_after);
        served.stop()?;
    }
    starts.sort();
    Ok((starts[STARTS / 2 - 1] + starts[STARTS / 2]) / 2)
}

/// Before the first client, with it, and after the last.
fn resident_memory(program: &Path) -> Result<[Resident; 3], RigError> {
    let served = Served::start(program, &Tool::default(), false)?;
    let idle = served.resident()?;
    let mut client = served.client()?;
    let failed = |error| RigError::failed("cannot access the device", error);
    for access in Access::ALL {
        client.repeat(access, RUNS.short).map_err(failed)?;
    }
    let connected = served.resident()?;
    drop(client);
    // Each is answered when the session of the one before is over. What a
    // session leaves behind may show only when its memory is used again.
    for _ in 1..CLIENTS {
        drop(served.client()?);
    }
    let after = served.resident()?;
    served.stop()?;
    Ok([idle, connected, after])
}
