//! `vgpu-stub keep`: what the launcher starts; nobody else does.

use std::path::PathBuf;

use vgpu_stub::host::launch::{self, Job};

use super::failure::Failure;

/// Keep one server for a launcher.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[arg(long)]
    directory: PathBuf,
    #[arg(long)]
    server: PathBuf,
    #[arg(long)]
    device: String,
    #[arg(long)]
    uid: Option<u32>,
    #[arg(long)]
    memory: u64,
    #[arg(long)]
    connect_timeout: u32,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let job = Job {
        directory: args.directory,
        server: args.server,
        device: args.device,
        uid: args.uid,
        memory: args.memory,
        connect_timeout: args.connect_timeout,
    };
    launch::keep(&job).map_err(Failure::failed)
}
