//! `vgpu-stub bench-peer`: what the bench starts to have someone to talk to.

use std::num::NonZeroUsize;

use vgpu_stub::bench::{PeerKind, PeerOptions, serve_peer};

use super::failure::Failure;

/// Serve the bench, on the socket that is the standard input.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to be: stub, crate, ping-pong, cache-line or eventfds.
    #[arg(long)]
    kind: PeerKind,

    /// Spin for messages instead of sleeping.
    #[arg(long)]
    spin: bool,

    /// Write at the end when each read was received and answered.
    #[arg(long)]
    stamps: bool,

    /// Have so many more devices, each with a client that does nothing.
    #[arg(long, default_value_t = 0)]
    idle: u32,

    /// Serve all devices on so many threads.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let options = PeerOptions {
        spin: args.spin,
        stamps: args.stamps,
        idle: args.idle,
        threads: args.threads,
        ..PeerOptions::of(args.kind)
    };
    serve_peer(&options).map_err(Failure::failed)
}
