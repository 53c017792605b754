//! The command line: flags become a checked configuration once, then a
//! command of its own file runs.

#[cfg(feature = "bench")]
mod bench;
#[cfg(feature = "bench")]
mod bench_compare;
#[cfg(feature = "bench")]
mod bench_output;
#[cfg(feature = "bench")]
mod bench_peer;
mod capabilities;
mod demo;
mod demo_checks;
#[cfg(feature = "host")]
mod doctor;
mod failure;
#[cfg(feature = "host")]
mod generate;
#[cfg(feature = "bench")]
mod guest_bench;
mod inherited;
#[cfg(feature = "host")]
mod keep;
#[cfg(feature = "host")]
mod launch;
mod looks;
mod probe;
mod probe_findings;
#[cfg(feature = "bench")]
mod progress;
mod qemu_args;
mod screen;
mod serve;
#[cfg(feature = "host")]
mod wrapper;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use log::LevelFilter;

use failure::Failure;

/// A PCI device in a process of its own, served over vfio-user.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, after_help = EXIT_STATUS)]
struct Cli {
    /// Print what this program supports, as JSON, and exit.
    #[arg(long, exclusive = true)]
    print_capabilities: bool,

    #[command(subcommand)]
    command: Option<Command>,

    /// Say more; may be repeated.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,

    /// Say what is at least this important.
    #[arg(long, global = true, value_name = "LEVEL", conflicts_with = "verbose")]
    #[arg(value_parser = ["error", "warn", "info", "debug", "trace", "off"])]
    log_level: Option<String>,
}

const EXIT_STATUS: &str =
    "`vgpu-stub --socket-path PATH` and `vgpu-stub --fd N` mean `vgpu-stub serve ...`, \
as vfio-user's conventions for servers ask.

Exit status: 0 clean, 1 failed, 2 usage, \
3 cannot listen on a socket, 4 a server does not answer as vfio-user says, \
5 doctor found a warning, 6 doctor found something broken, \
7 serve --xen was told to leave its guest to a successor.";

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Demo(demo::Args),
    Probe(probe::Args),
    #[cfg(feature = "host")]
    Doctor(doctor::Args),
    QemuArgs(qemu_args::Args),
    #[cfg(feature = "host")]
    Launch(launch::Args),
    #[cfg(feature = "host")]
    #[command(hide = true)]
    Keep(keep::Args),
    #[cfg(feature = "bench")]
    Bench(bench::Args),
    #[cfg(feature = "bench")]
    GuestBench(guest_bench::Args),
    #[cfg(feature = "host")]
    Generate(generate::Args),
    #[cfg(feature = "bench")]
    #[command(hide = true)]
    BenchPeer(bench_peer::Args),
}

/// Parses the command line and runs what it says.
pub(crate) fn main() -> ExitCode {
    #[cfg(feature = "host")]
    {
        let mut arguments = std::env::args_os();
        if wrapper::is_called(arguments.next().as_deref()) {
            return wrapper::run(arguments);
        }
    }
    let cli = Cli::parse_from(with_command(std::env::args_os()));
    start_logging(&cli);
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_said() {
                eprintln!("vgpu-stub: {failure}");
            }
            ExitCode::from(failure.status())
        }
    }
}

/// vfio-user's conventions for servers want `--socket-path` and `--fd` to work
/// without a command: they mean `serve`.
fn with_command(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.collect();
    let first = arguments.get(1).and_then(|argument| argument.to_str());
    let option = first.and_then(|argument| argument.split('=').next());
    if matches!(option, Some("--socket-path" | "--fd")) {
        arguments.insert(1, "serve".into());
    }
    arguments
}

fn run(cli: Cli) -> Result<(), Failure> {
    if cli.print_capabilities {
        return capabilities::print();
    }
    match cli.command {
        Some(Command::Serve(args)) => serve::run(&args),
        Some(Command::Demo(args)) => demo::run(&args),
        Some(Command::Probe(args)) => probe::run(&args),
        #[cfg(feature = "host")]
        Some(Command::Doctor(args)) => doctor::run(&args),
        Some(Command::QemuArgs(args)) => qemu_args::run(&args),
        #[cfg(feature = "host")]
        Some(Command::Launch(args)) => launch::run(&args),
        #[cfg(feature = "host")]
        Some(Command::Keep(args)) => keep::run(args),
        #[cfg(feature = "bench")]
        Some(Command::Bench(args)) => bench::run(&args),
        #[cfg(feature = "bench")]
        Some(Command::GuestBench(args)) => guest_bench::run(&args),
        #[cfg(feature = "host")]
        Some(Command::Generate(args)) => generate::run(&args),
        #[cfg(feature = "bench")]
        Some(Command::BenchPeer(args)) => bench_peer::run(&args),
        // `arg_required_else_help` leaves only the global options.
        None => Err(Failure::usage("no command given; see vgpu-stub --help")),
    }
}

fn start_logging(cli: &Cli) {
    let level = match (&cli.log_level, cli.verbose) {
        (Some(level), _) => level.parse().unwrap_or(LevelFilter::Info),
        // A server says who comes and goes; the others have their output.
        (None, 0) if matches!(cli.command, Some(Command::Serve(_))) => LevelFilter::Info,
        (None, 0) => LevelFilter::Warn,
        (None, 1) => LevelFilter::Debug,
        (None, _) => LevelFilter::Trace,
    };
    env_logger::Builder::new()
        .filter_level(level)
        .format_target(false)
        .init();
}
