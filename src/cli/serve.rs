//! `vgpu-stub serve`: devices on sockets, until told to stop.

#[cfg(feature = "xen")]
mod xen;

use std::fs;
use std::io::Write;
use std::num::NonZeroUsize;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread;
#[cfg(feature = "host")]
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use vgpu_stub::devices::{Choice, MAX_VECTORS};
use vgpu_stub::endpoint::{Endpoint, MAX_MAPS};
use vgpu_stub::fastpath::{MAX_SLOTS, Polling};
use vgpu_stub::server::{Limits, Listener, Server, Source};

use super::failure::Failure;
use super::inherited;

/// Serve devices to vfio-user clients, each device on its own socket, or to a
/// Xen guest.
///
/// Without --device, the stub is served. A device takes its socket from its
/// own socket-path= or fd=, else from --socket-path or --fd, else from the
/// sockets that systemd passes, in order. Runs in the foreground
/// until SIGTERM or SIGINT, and then removes the sockets it made; a second
/// signal ends it at once.
///
/// One process serves up to 256 devices, which a shell can spell out:
/// vgpu-stub serve $(printf ' --device=stub,socket-path=/run/gpu%d' $(seq 0 255))
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Listen on this UNIX socket. A stale one is replaced.
    #[arg(short, long, value_name = "PATH")]
    socket_path: Option<PathBuf>,

    /// Use this inherited UNIX socket, listening or connected.
    #[arg(long, value_name = "N", conflicts_with = "socket_path")]
    fd: Option<RawFd>,

    /// A device to serve: its name and, after commas, socket-path=PATH, fd=N,
    /// vectors=N or, with --xen, bdf=ADDRESS. May be repeated.
    #[arg(
        short,
        long = "device",
        value_name = "NAME[,KEY=VALUE...]",
        default_value = "stub"
    )]
    devices: Vec<DeviceArg>,

    /// Serve all devices on N threads in place of a thread for each device,
    /// which is what 0 means. Such a thread sleeps whenever no device has
    /// anything to do. A client that does not take its replies can hold one
    /// up for 5 seconds.
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,

    /// The permissions of sockets that are made, in octal.
    #[arg(long, value_name = "MODE", value_parser = parse_mode)]
    socket_mode: Option<u32>,

    /// Write the process id here once all sockets are there.
    #[arg(long, value_name = "PATH")]
    pidfile: Option<PathBuf>,

    /// Write a line to this inherited descriptor, and close it, once all
    /// sockets are there.
    #[arg(long, value_name = "N")]
    ready_fd: Option<RawFd>,

    /// Stop serving a device when its first client leaves.
    #[arg(long)]
    once: bool,

    /// Whether a device's thread looks for work before it sleeps: never, as
    /// long as that was worthwhile lately, or always, which takes a CPU from
    /// others for as long as there is a client. A process that may run on one
    /// CPU only sleeps at once unless it always looks.
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    poll: Poll,

    /// With --poll adaptive: the most of a CPU's time that each device's
    /// thread spends looking for work, 1 to 100 percent.
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = Polling::BUDGET,
        value_parser = clap::value_parser!(u8).range(1..=100)
    )]
    poll_budget: u8,

    /// Stop serving a device that no client has connected to for so many
    /// seconds after the start.
    #[cfg(feature = "host")]
    #[arg(long, value_name = "SECONDS", conflicts_with = "xen")]
    first_client_within: Option<u32>,

    #[cfg(feature = "xen")]
    #[command(flatten)]
    xen: xen::XenArgs,
}

/// What `--poll` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Poll {
    /// It sleeps at once.
    Never,
    /// It looks as long as that was worthwhile lately, at most 200 us.
    #[default]
    Adaptive,
    /// It never sleeps while it has a client: for measurements.
    Always,
}

/// The most devices of one process: what `tests/scale.rs` shows.
const MAX_DEVICES: usize = 256;

/// The descriptors of a device besides those of DMA maps: interrupts, what
/// wakes the requesters of shared memory, sockets and doorbells.
const OTHER_DESCRIPTORS: u64 = MAX_VECTORS as u64 + MAX_SLOTS as u64 + 16;

/// With fewer DMA maps a guest may not run.
const FEW_MAPS: u64 = 32;

/// With fewer descriptors a client may not have these and interrupts.
const FEW_DESCRIPTORS: u64 = 64;

/// Where a device's clients come from, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum SocketArg {
    Path(PathBuf),
    Fd(RawFd),
}

/// A `--device`, checked.
#[derive(Clone, Debug)]
struct DeviceArg {
    choice: Choice,
    socket: Option<SocketArg>,
    /// Where it is in a Xen guest.
    #[cfg(feature = "xen")]
    slot: Option<vgpu_stub::xen::Slot>,
}

impl FromStr for DeviceArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut socket = None;
        #[cfg(feature = "xen")]
        let mut slot = None;
        let choice = Choice::parse(text, KEYS, |key, value| {
            #[cfg(feature = "xen")]
            if key == "bdf" {
                return match slot.replace(value.parse()?) {
                    None => Ok(true),
                    Some(_) => Err(format!("'bdf={value}' is a second place for one device")),
                };
            }
            let this = match key {
                "socket-path" if !value.is_empty() => SocketArg::Path(value.into()),
                "fd" => {
                    let number = value.parse();
                    SocketArg::Fd(
                        number.map_err(|_| format!("fd={value} is not a descriptor's number"))?,
                    )
                }
                _ => return Ok(false),
            };
            match socket.replace(this) {
                None => Ok(true),
                Some(_) => Err(format!("'{key}={value}' is a second socket for one device")),
            }
        })?;
        Ok(DeviceArg {
            choice,
            socket,
            #[cfg(feature = "xen")]
            slot,
        })
    }
}

/// What a `--device` may say.
const KEYS: &str = if cfg!(feature = "xen") {
    "socket-path=PATH, fd=N, bdf=ADDRESS or vectors=N"
} else {
    "socket-path=PATH, fd=N or vectors=N"
};

fn parse_mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "not an octal mode such as 0660".to_owned())
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    #[cfg(feature = "xen")]
    {
        if let Some(domain) = args.xen.xen {
            return xen::run(args, domain);
        }
        if args.devices.iter().any(|device| device.slot.is_some()) {
            return Err(Failure::usage(
                "bdf= is for --xen; on a socket the client says where",
            ));
        }
    }
    // Before anything is made that a signal has to remove.
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(Failure::failed)?;
    let server = build(args)?;
    let _pidfile = args.pidfile.as_deref().map(Pidfile::write).transpose()?;
    tell_ready(args.ready_fd)?;

    let stopper = server.stopper();
    let waiting = signals.handle();
    let stopping = thread::spawn(move || {
        let mut signals = signals.forever();
        if signals.next().is_some() {
            log::info!("stopping");
            stopper.stop();
        }
        // Stopping takes a moment; who asks again will not wait for it.
        if signals.next().is_some() {
            log::warn!("stopped at once; sockets may be left behind");
            std::process::exit(1);
        }
    });
    let end = server.run().map_err(Failure::failed);
    waiting.close();
    // It only waits for the signals that were just closed.
    let _ = stopping.join();
    end
}

/// Makes all devices and their sockets.
fn build(args: &Args) -> Result<Server, Failure> {
    let count = args.devices.len();
    if count > MAX_DEVICES {
        return Err(Failure::usage(format!(
            "{count} devices; one process serves {MAX_DEVICES} at most, start another for the rest"
        )));
    }
    let limits = Limits {
        max_dma_maps: maps_each(count),
        ..Limits::default()
    };
    let mut server = Server::new()
        .once(args.once)
        .limits(limits)
        .polling(polling(args));
    if let Some(threads) = NonZeroUsize::new(args.threads) {
        if args.poll == Poll::Always {
            return Err(Failure::usage(
                "--poll always needs a thread for each device; leave out --threads",
            ));
        }
        server = server.threads(threads);
    }
    #[cfg(feature = "host")]
    if let Some(seconds) = args.first_client_within {
        server = server.first_client_within(Duration::from_secs(seconds.into()));
    }
    let mut offered = offered_sockets(args)?.into_iter();
    for (number, device) in args.devices.iter().enumerate() {
        let own = device.socket.clone();
        let kind = device.choice.kind();
        let socket = own.or_else(|| offered.next()).ok_or_else(|| {
            let name = kind.name;
            Failure::usage(format!(
                "device {name} has no socket; give --socket-path, or socket-path= for each device"
            ))
        })?;
        let builder = kind
            .builder(device.choice.options())
            .map_err(Failure::usage)?;
        let endpoint = Endpoint::new(builder).map_err(Failure::failed)?;
        let name = match args.devices.len() {
            1 => kind.name.to_owned(),
            _ => format!("{}#{number}", kind.name),
        };
        let source = open(&socket, args.socket_mode)?;
        log::info!("{name}: listening on {socket}");
        server
            .add(&name, endpoint, source)
            .map_err(Failure::failed)?;
    }
    match offered.next() {
        None => Ok(server),
        Some(socket) => Err(Failure::usage(format!(
            "{socket}: more sockets than devices; add a --device for it"
        ))),
    }
}

fn polling(args: &Args) -> Polling {
    let budget = args.poll_budget;
    match args.poll {
        Poll::Never => Polling::Never,
        Poll::Adaptive => Polling::Adaptive { budget },
        Poll::Always => Polling::Always,
    }
}

/// Raises the limit of open descriptors as far as we may, and returns how
/// many DMA maps with one each device can have without starving the others.
fn maps_each(devices: usize) -> u32 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Without the right to, we have what we have.
    let _ = setrlimit(Resource::Nofile, limit);
    let open = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let devices = u64::try_from(devices).unwrap_or(u64::MAX).max(1);
    let each = open.saturating_sub(64) / devices;
    if each < FEW_DESCRIPTORS {
        log::warn!(
            "{open} descriptors are few for {devices} devices: clients may be refused \
             interrupts and DMA maps; raise the limit (ulimit -Hn, LimitNOFILE=)"
        );
    }
    // A client that has many of one kind has few of the others.
    let maps = each.saturating_sub(OTHER_DESCRIPTORS).max(FEW_MAPS);
    u32::try_from(maps.min(MAX_MAPS as u64 / devices)).unwrap_or(u32::MAX)
}

/// The sockets for devices that have none of their own.
fn offered_sockets(args: &Args) -> Result<Vec<SocketArg>, Failure> {
    if let Some(path) = &args.socket_path {
        return Ok(vec![SocketArg::Path(path.clone())]);
    }
    if let Some(fd) = args.fd {
        return Ok(vec![SocketArg::Fd(fd)]);
    }
    let passed = sd_notify::listen_fds()
        .map_err(|error| Failure::usage(format!("LISTEN_FDS: {error}; unset it")))?;
    Ok(passed.map(SocketArg::Fd).collect())
}

fn open(socket: &SocketArg, mode: Option<u32>) -> Result<Source, Failure> {
    match socket {
        SocketArg::Path(path) => Listener::bind(path, mode)
            .map(Source::Listener)
            .map_err(Failure::listen),
        SocketArg::Fd(number) => Source::from_fd(inherited::take(*number)?)
            .map_err(|_| {
                Failure::usage(format!(
                    "file descriptor {number} is not a UNIX stream socket; pass a listening or connected one"
                ))
            }),
    }
}

/// Tells whoever waits that all sockets are there.
fn tell_ready(fd: Option<RawFd>) -> Result<(), Failure> {
    if let Some(number) = fd {
        let mut pipe = fs::File::from(inherited::take(number)?);
        pipe.write_all(b"\n").map_err(|error| {
            Failure::failed(format!("--ready-fd {number}: cannot write: {error}"))
        })?;
    }
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        log::warn!("cannot notify systemd: {error}");
    }
    Ok(())
}

/// A file with our process id; removed when dropped.
struct Pidfile(PathBuf);

impl Pidfile {
    fn write(path: &Path) -> Result<Self, Failure> {
        fs::write(path, format!("{}\n", std::process::id())).map_err(|error| {
            let path = path.display();
            Failure::failed(format!(
                "{path}: cannot write the pidfile: {error}; choose another --pidfile"
            ))
        })?;
        Ok(Pidfile(path.to_owned()))
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = fs::remove_file(&self.0);
    }
}

impl std::fmt::Display for SocketArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SocketArg::Path(path) => write!(f, "{}", path.display()),
            SocketArg::Fd(number) => write!(f, "file descriptor {number}"),
        }
    }
}
