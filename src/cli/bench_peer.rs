//! `vgpu-stub bench-peer`: what the bench starts to have someone to talk to.

use vgpu_stub::bench::{PeerKind, serve_peer};

use super::failure::Failure;

/// Serve the bench, on the socket that is the standard input.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to be: stub, crate or ping-pong.
    #[arg(long)]
    kind: PeerKind,

    /// Spin for messages instead of sleeping.
    #[arg(long)]
    spin: bool,

    /// Write at the end when each read was received and answered.
    #[arg(long)]
    stamps: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    serve_peer(args.kind, args.spin, args.stamps).map_err(Failure::failed)
}
