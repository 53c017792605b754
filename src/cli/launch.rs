//! `vgpu-stub launch`: a plain QEMU with the device.

use std::ffi::OsString;
use std::time::Duration;

use vgpu_stub::devices::Choice;
use vgpu_stub::host::config::Address;
use vgpu_stub::host::launch::Launch;

use super::failure::Failure;

/// Start a device's server and become QEMU with the device.
///
/// The device is added to QEMU's arguments as `vgpu-stub` or `vfio-user-pci`,
/// whichever QEMU knows; the server ends with QEMU. Questions to QEMU, such as
/// libvirt's before it starts a VM, are passed through. Guest memory that is
/// shared (-object memory-backend-memfd,share=on) is mapped by the device,
/// other memory is copied in messages.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The device: its name and, after a comma, vectors=N.
    #[arg(short, long, value_name = "NAME[,vectors=N]", default_value = "stub")]
    #[arg(value_parser = |text: &str| Choice::parse(text, "vectors=N", |_, _| Ok(false)))]
    device: Choice,

    /// The device's slot on the guest's first PCI bus, 0x2 to 0x1f.
    #[arg(long, value_name = "SLOT")]
    addr: Option<Address>,

    /// How long the server may take to start.
    #[arg(long, value_name = "SECONDS", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=60))]
    start_timeout: u64,

    /// QEMU and its arguments.
    #[arg(last = true, required = true, value_name = "QEMU ARGS")]
    command: Vec<OsString>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let launch = Launch {
        device: args.device,
        addr: args.addr,
        start_timeout: Duration::from_secs(args.start_timeout),
    };
    match args.command.split_first() {
        Some((qemu, arguments)) => match launch.exec(qemu, arguments) {
            Ok(never) => match never {},
            Err(why) => Err(Failure::failed(why)),
        },
        None => Err(Failure::usage("no QEMU given; write it after --")),
    }
}
