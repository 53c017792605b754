//! `vgpu-stub keep`: what the launcher starts; nobody else does.

use std::path::PathBuf;

use vgpu_stub::host::launch::{self, Job, Way};

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
    #[arg(long, required_unless_present = "xen", conflicts_with = "xen")]
    connect_timeout: Option<u32>,
    #[arg(long, requires = "xen_devices")]
    xen: Option<u16>,
    #[arg(long)]
    xen_devices: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let way = match (args.xen, args.xen_devices) {
        (Some(id), Some(devices)) => Way::Domain { id, devices },
        _ => Way::Socket {
            connect_timeout: args.connect_timeout.unwrap_or_default(),
        },
    };
    let job = Job {
        directory: args.directory,
        server: args.server,
        device: args.device,
        uid: args.uid,
        memory: args.memory,
        way,
    };
    launch::keep(&job).map_err(Failure::failed)
}
