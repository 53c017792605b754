//! `vgpu-stub demo`.

use super::failure::Failure;

/// (to come)
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_: &Args) -> Result<(), Failure> {
    Ok(())
}
