//! The `vgpu-stub` program; `vgpu-stub --help` says what it does.

#![deny(clippy::unwrap_used)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
