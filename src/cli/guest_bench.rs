//! `vgpu-stub guest-bench`: what an access costs, from inside a VM.

use std::path::PathBuf;

use vgpu_stub::bench::{Address, Place, Report, Target, Wanted, guest};

use super::bench::How;
use super::bench_output::Output;
use super::failure::Failure;

/// Measure what a register access costs, from inside any Linux VM.
///
/// Maps the BAR through sysfs and times reads and writes of a register of the
/// stub that only stores; it needs root, and no driver. Of any other device
/// the register must be named. Ctrl-C keeps what is measured.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The function to measure: 0000:00:04.0, or 00:04.0. `lspci -d 1af4:1111`
    /// lists the stubs.
    #[arg(long, value_name = "ADDRESS")]
    bdf: Address,

    /// Its BAR.
    #[arg(long, value_name = "N", default_value_t = 0)]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=5))]
    bar: u8,

    /// The register to access. To read it must do nothing to the device.
    #[arg(long, value_name = "BYTES", value_parser = parse_offset)]
    offset: Option<u64>,

    /// Compare with this function, which the hypervisor emulates itself. QEMU's
    /// `edu` is found without being named.
    #[arg(long, value_name = "ADDRESS")]
    floor_bdf: Option<Address>,

    /// The BAR of the function to compare with.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "floor_bdf")]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=5))]
    floor_bar: u8,

    /// The register to compare with.
    #[arg(long, value_name = "BYTES", value_parser = parse_offset, requires = "floor_bdf")]
    floor_offset: Option<u64>,

    /// Write to the named registers too: what was read from them before.
    #[arg(long)]
    write: bool,

    /// Measure a function that has a driver all the same. The driver may be
    /// using it.
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    how: How,

    #[command(flatten)]
    output: Output,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let wanted = Wanted {
        sysfs: PathBuf::from("/sys"),
        place: Place {
            address: args.bdf,
            bar: args.bar,
            offset: args.offset,
        },
        floor: args.floor_bdf.map(|address| Place {
            address,
            bar: args.floor_bar,
            offset: args.floor_offset,
        }),
        write: args.write,
        force: args.force,
    };
    let target = Target::open(&wanted).map_err(Failure::failed)?;
    let output = args.output.prepare()?;
    let report = args
        .how
        .measure(|bench| bench.in_runs(|bench| vec![guest(bench, &target)]))?;
    // The functions are back to how they were before anything else can fail.
    drop(target);
    output.write(&report)?;
    came_to_its_end(&report)
}

/// A device that went away, or whose server did, is a failure.
fn came_to_its_end(report: &Report) -> Result<(), Failure> {
    let mut rows = report.sections.iter().flat_map(|section| &section.rows);
    if let Some((name, why)) = rows.find_map(|row| Some((&row.name, row.partial.as_ref()?))) {
        return Err(Failure::failed(format!("{name}: {why}")));
    }
    let mut gaps = report.sections.iter().flat_map(|section| &section.gaps);
    let read = |name: &str| name.starts_with("guest.read");
    let measured = report.sections.iter().any(|section| {
        let mut rows = section.rows.iter();
        rows.any(|row| read(&row.name))
    });
    match gaps.find(|gap| read(&gap.what)) {
        Some(gap) if !measured => Err(Failure::failed(format!("{}: {}", gap.what, gap.why))),
        _ => Ok(()),
    }
}

/// A number of bytes, `0x10` or `16`.
fn parse_offset(text: &str) -> Result<u64, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| format!("'{text}' is no number like 0x10"))
}
