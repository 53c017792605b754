//! `cargo bench --bench xen`: rung 7 of the bench, in the dom0 of a Xen in
//! software, on a machine with one processor and on one with two, of which the
//! second is the guest's. Prints both reports.
//!
//! `-- --processors N` takes that machine alone, and `-- --quick` measures
//! shortly. All is interpreted twice: only ratios in one report mean something,
//! and only while nothing else runs here.

#[path = "../tests/rig/mod.rs"]
mod rig;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use rig::{RigError, xen};

/// The program as cargo built it for a bench: optimised and stripped.
const PROGRAM: &str = env!("CARGO_BIN_EXE_vgpu-stub");

/// Eleven guests, each some tens of seconds.
const LIMIT: Duration = Duration::from_secs(3600);

const MEASURE: &str = "
xl vcpu-pin Domain-0 all 0
cp /share/vgpu-stub /usr/bin/
vgpu-stub bench --rungs 7 @QUICK@ --output /tmp/report >/dev/null && cp /tmp/report/report.md /share/
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    // `cargo test --benches` runs it too.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let mut after = arguments.iter().skip_while(|word| *word != "--processors");
    let chosen = after.nth(1).and_then(|number| number.parse().ok());
    let machines = chosen.map_or(vec![1, 2], |processors| vec![processors]);
    for processors in machines {
        println!("# {processors} processors\n");
        match measure(processors, quick) {
            Ok(report) => println!("{report}"),
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// The report as Markdown.
fn measure(processors: u32, quick: bool) -> Result<String, RigError> {
    let xen = xen::Rig::with_processors(processors)?;
    let mut dom0 = xen.dom0()?;
    dom0.program("vgpu-stub", Path::new(PROGRAM))?;
    let quick = if quick { "--quick" } else { "" };
    dom0.run_well(&MEASURE.replace("@QUICK@", quick), LIMIT)?;
    Ok(dom0.read("report.md"))
}
