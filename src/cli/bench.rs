//! `vgpu-stub bench`: what a trapped access costs, hop by hop.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use vgpu_stub::bench::{
    Bench, FORMAT, Interrupt, Ladder, Machine, Pinned, Pinning, Plan, Report, Section, Trouble,
    USUAL_RUNGS,
};

use super::bench_compare;
use super::bench_output::Output;
use super::failure::Failure;
use super::progress::Line;

/// Measure what a trapped access costs, hop by hop.
///
/// Climbs a ladder: (1) endpoint and register, in process; (2) our server over
/// a socket; (3) any other server, with --socket-path; (4) a VM of our own;
/// (5) QEMU; (7) Xen, in a dom0. Rows are taken interleaved with their floor, so that their ratios
/// mean something on a busy machine. Ctrl-C keeps what is measured.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    /// Measure these rungs only, 1 to 5 or 7; 3 needs --socket-path, 7 a dom0
    /// of Xen's, where it makes a guest.
    #[arg(long, value_name = "N[,N...]", value_delimiter = ',')]
    #[arg(value_parser = parse_rung)]
    rungs: Vec<u8>,

    /// Measure the vfio-user server that listens here as well. Its BAR is
    /// read, and what was read is written back.
    #[arg(short, long, value_name = "PATH")]
    socket_path: Option<PathBuf>,

    /// Use this QEMU, instead of one that is found or fetched from Debian; with
    /// rung 7, as the device model.
    #[arg(long, value_name = "PATH")]
    qemu: Option<PathBuf>,

    #[command(flatten)]
    how: How,

    #[command(flatten)]
    output: Output,
}

/// How to measure, whatever it is.
#[derive(Debug, clap::Args)]
pub(super) struct How {
    /// Take less than a minute.
    #[arg(long)]
    quick: bool,

    /// Run on these CPUs: the client's, and the server's where it has its own.
    #[arg(long, value_name = "A[,B]", value_parser = parse_cpus)]
    cpus: Option<Pinning>,

    /// Run with real-time priority (`SCHED_FIFO`), which starves what else
    /// wants these CPUs.
    #[arg(long)]
    fifo: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Compare(bench_compare::Args),
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    if let Some(Command::Compare(args)) = &args.command {
        return bench_compare::run(args);
    }
    let ladder = ladder(args)?;
    let output = args.output.prepare()?;
    let report = args.how.measure(|bench| ladder.measure(bench))?;
    output.write(&report)?;
    // Who names a thing wants it measured.
    if args.socket_path.is_some()
        && let Some(why) = nothing_of(&report, 3)
    {
        return Err(Failure::peer(why));
    }
    for (rung, wanted) in [(5, args.qemu.is_some()), (7, true)] {
        if wanted
            && ladder.rungs.contains(&rung)
            && !report.interrupted
            && let Some(why) = nothing_of(&report, rung)
        {
            return Err(Failure::failed(why));
        }
    }
    Ok(())
}

/// Why nothing of a rung was measured, if so. Floors are ours.
fn nothing_of(report: &Report, rung: u8) -> Option<&str> {
    let sections = || {
        report
            .sections
            .iter()
            .filter(|section| section.rung == rung)
    };
    let mut rows = sections().flat_map(|section| &section.rows);
    if rows.any(|row| row.floor.is_some()) {
        return None;
    }
    let mut gaps = sections().flat_map(|section| &section.gaps);
    gaps.next().map(|gap| gap.why.as_str())
}

impl How {
    /// Measures as was asked for, until it is done or interrupted.
    pub(super) fn measure(
        &self,
        climb: impl FnOnce(&Bench<'_>) -> Vec<Section>,
    ) -> Result<Report, Failure> {
        let plan = self.plan().map_err(Failure::failed)?;
        stop_on_signals(&plan.interrupt)?;
        let progress = Line::new();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let machine = Machine::look();
        let bench = Bench::new(plan, &progress);
        let sections = climb(&bench);
        progress.clear();
        Ok(Report {
            format: FORMAT,
            started: now.map_or(0, |now| now.as_secs()),
            interrupted: bench.plan.interrupt.raised(),
            machine,
            method: bench.plan.method(self.quick, &bench.clock),
            sections,
        })
    }

    /// What was asked for, tried: what cannot be had is told at once.
    fn plan(&self) -> Result<Plan, Trouble> {
        let pinning = match self.cpus {
            Some(pinning) => pinning,
            None => Pinning::choose()?,
        };
        for cpu in [Some(pinning.client), pinning.other].into_iter().flatten() {
            Pinned::to(cpu)?;
        }
        let plan = if self.quick {
            Plan::quick(pinning)
        } else {
            Plan::thorough(pinning)
        };
        if self.fifo {
            plan.with_fifo()
        } else {
            Ok(plan)
        }
    }
}

/// The first SIGINT or SIGTERM ends the measurement, the second the program.
fn stop_on_signals(interrupt: &Interrupt) -> Result<(), Failure> {
    for signal in [SIGINT, SIGTERM] {
        let status = 128 + signal;
        flag::register_conditional_shutdown(signal, status, interrupt.flag())
            .and_then(|_| flag::register(signal, interrupt.flag()))
            .map_err(|error| Failure::failed(format!("cannot handle signals: {error}")))?;
    }
    Ok(())
}

fn ladder(args: &Args) -> Result<Ladder, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::failed(format!("cannot find this program: {error}")))?;
    let mut rungs = args.rungs.clone();
    if rungs.contains(&3) && args.socket_path.is_none() {
        return Err(Failure::usage(
            "rung 3 is another server: say --socket-path",
        ));
    }
    if rungs.is_empty() {
        rungs.extend(USUAL_RUNGS);
    }
    if args.socket_path.is_some() {
        rungs.push(3);
    }
    Ok(Ladder {
        rungs,
        program,
        socket_path: args.socket_path.clone(),
        qemu: args.qemu.clone(),
    })
}

fn parse_rung(text: &str) -> Result<u8, String> {
    match text.parse() {
        Ok(rung @ (1..=5 | 7)) => Ok(rung),
        Ok(6) => Err("6 is guest-bench, which runs inside a guest".to_owned()),
        _ => Err("a rung is a number from 1 to 5, or 7".to_owned()),
    }
}

fn parse_cpus(text: &str) -> Result<Pinning, String> {
    let mut cpus = text.split(',').map(|cpu| {
        cpu.parse::<usize>()
            .map_err(|_| format!("'{cpu}' is not the number of a CPU"))
    });
    let client = cpus.next().ok_or("no CPU")??;
    let other = cpus.next().transpose()?;
    if cpus.next().is_some() || other == Some(client) {
        return Err("use one CPU, or two different ones".to_owned());
    }
    Ok(Pinning { client, other })
}
