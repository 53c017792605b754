//! `vgpu-stub serve --xen`: devices of a Xen guest, which Xen asks itself.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use vgpu_stub::endpoint::Endpoint;
use vgpu_stub::xen::kept::Unopened;
use vgpu_stub::xen::{
    Domain, DomainId, End, EventChannels, Handle, Seccomp, ServeError, Server, Serving, Slot,
    XenError, run_as,
};

use super::{Args, DeviceArg, Failure, Pidfile, polling, tell_ready};
use crate::cli::inherited;

/// How often to look whether the domain still is, of whose death no event
/// tells.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub(super) struct XenArgs {
    /// Be asked by Xen itself, for this domain: no sockets, and no QEMU in the
    /// path. Each device is a function of the guest, by default from 0000:00:0c.0
    /// on, or where its bdf= says. Start it before the guest's firmware runs:
    /// between `xl create -p` and `xl unpause`. Ends when the domain is gone.
    /// SIGHUP ends it too and has the guest wait for a successor.
    #[arg(
        long,
        value_name = "DOMID",
        conflicts_with_all = ["socket_path", "fd", "threads", "once", "socket_mode"]
    )]
    pub(super) xen: Option<DomainId>,

    /// With --xen: use this inherited descriptor of /dev/xen/privcmd.
    #[arg(long, value_name = "N", requires = "xen")]
    privcmd_fd: Option<RawFd>,

    /// With --xen: use this inherited descriptor of /dev/xen/evtchn.
    #[arg(long, value_name = "N", requires = "xen")]
    evtchn_fd: Option<RawFd>,

    /// With --xen: keep in this file, best on a tmpfs, what a successor goes on
    /// from if this server is killed. One that finds it goes on.
    #[arg(long, value_name = "PATH", requires = "xen")]
    state: Option<PathBuf>,

    /// With --xen: use this inherited descriptor of a state file.
    #[arg(long, value_name = "N", requires = "xen", conflicts_with = "state")]
    state_fd: Option<RawFd>,

    /// With --xen: run as this user, in the group of the same number and in no
    /// other, once Xen's drivers and the state file are open.
    #[arg(
        long,
        value_name = "UID",
        requires = "xen",
        value_parser = clap::value_parser!(u32).range(1..i64::from(u32::MAX))
    )]
    uid: Option<u32>,

    /// With --xen: what becomes of this process if it makes a system call that
    /// it does not need once it is ready.
    #[arg(
        long,
        value_enum,
        value_name = "ACTION",
        default_value_t,
        requires = "xen"
    )]
    seccomp: SeccompArg,
}

/// What `--seccomp` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum SeccompArg {
    /// The kernel ends it.
    #[default]
    Kill,
    /// The kernel notes it in its log.
    Log,
    /// Nothing.
    None,
}

pub(super) fn run(args: &Args, id: DomainId) -> Result<(), Failure> {
    let mut signals = Signals::new().map_err(Failure::failed)?;
    let serving = start(args, id)?;
    let handle = serving.handle();
    let worker = thread::Builder::new()
        .name("ioreq".to_owned())
        .spawn(move || serving.run())
        .map_err(Failure::failed)?;
    let announced = announce(args);
    match &announced {
        Ok(_) => look_after(&handle, &mut signals, || worker.is_finished())?,
        // Nobody knows of it: who waits for it would do so for ever.
        Err(_) if args.xen.keeps_state() => handle.stop(End::Leave),
        Err(_) => handle.stop(End::Remove),
    }
    let end = worker.join();
    let _pidfile = announced?;
    match end {
        Ok(Ok(End::Gone)) => log::info!("domain {id}: gone"),
        Ok(Ok(End::Remove)) => log::info!("domain {id}: its devices are gone"),
        Ok(Ok(End::Leave)) => {
            return Err(Failure::left(format!("domain {id}: waits for a successor")));
        }
        Ok(Err(error)) => return Err(Failure::failed(error)),
        Err(_) => return Err(Failure::failed("the thread that serves has failed")),
    }
    Ok(())
}

/// Tells whoever waits that the devices are there, and gives up the system
/// calls that were needed until now.
fn announce(args: &Args) -> Result<Option<Pidfile>, Failure> {
    let pidfile = args.pidfile.as_deref().map(Pidfile::write).transpose()?;
    // To tell systemd takes a socket.
    tell_ready(args.ready_fd)?;
    args.xen.seccomp().apply().map_err(|error| {
        Failure::failed(format!("seccomp: {error}; --seccomp none does without"))
    })?;
    Ok(pidfile)
}

/// Waits until a signal comes, the domain is gone, or the server has ended by
/// itself.
fn look_after(
    handle: &Handle,
    signals: &mut Signals,
    has_ended: impl Fn() -> bool,
) -> Result<(), Failure> {
    while !has_ended() {
        let end = match signals.wait(LOOK).map_err(Failure::failed)? {
            None if handle.is_alive() => continue,
            None => End::Gone,
            Some(SIGHUP) => End::Leave,
            Some(_) => End::Remove,
        };
        handle.stop(end);
        // Ending takes a moment; who asks again will not wait for it.
        signals.end_at_once_from_now_on();
        break;
    }
    Ok(())
}

impl XenArgs {
    /// Whether a successor could go on.
    fn keeps_state(&self) -> bool {
        self.state.is_some() || self.state_fd.is_some()
    }

    fn seccomp(&self) -> Seccomp {
        match self.seccomp {
            SeccompArg::Kill => Seccomp::Kill,
            SeccompArg::Log => Seccomp::Log,
            SeccompArg::None => Seccomp::None,
        }
    }
}

/// Makes all devices and has Xen send their accesses.
fn start(args: &Args, id: DomainId) -> Result<Serving, Failure> {
    let began = Instant::now();
    #[cfg(feature = "host")]
    if vgpu_stub::host::is_pvh(id) {
        return Err(Failure::failed(XenError::NotHvm(id)));
    }
    let slots = slots(&args.devices)?;
    let (domain, channels) = open(&args.xen, id)?;
    let mut server = Server::new(domain, channels).polling(polling(args));
    if let Some(file) = state(&args.xen)? {
        server = server.state(file);
    }
    if let Some(uid) = args.xen.uid {
        run_as(uid).map_err(|error| {
            Failure::failed(format!(
                "--uid {uid}: {error}; start as root, or leave it out"
            ))
        })?;
    }
    let mut added = Vec::new();
    for (device, slot) in args.devices.iter().zip(slots) {
        let kind = device.choice.kind();
        let builder = kind
            .builder(device.choice.options())
            .map_err(Failure::usage)?;
        let endpoint = Endpoint::new(builder).map_err(Failure::failed)?;
        server.add(slot, endpoint).map_err(|error| match error {
            ServeError::Taken { .. } => Failure::usage(error),
            error => Failure::failed(error),
        })?;
        added.push((kind.name, slot));
    }
    let serving = server.start().map_err(Failure::failed)?;
    for (name, slot) in added {
        log::info!("domain {id}: {name} at {slot}");
    }
    let took = began.elapsed().as_micros();
    log::info!("domain {id}: set up in {took} us");
    Ok(serving)
}

/// Opens Xen's drivers, unless somebody did, and gives up all rights but those
/// over this domain.
fn open(args: &XenArgs, id: DomainId) -> Result<(Domain, EventChannels), Failure> {
    let inherited = |number: Option<RawFd>| number.map(inherited::take).transpose();
    let privcmd: Option<OwnedFd> = inherited(args.privcmd_fd)?;
    let evtchn: Option<OwnedFd> = inherited(args.evtchn_fd)?;
    let opened = || -> Result<_, XenError> {
        let domain = match privcmd {
            Some(fd) => Domain::from_fd(id, fd),
            None => Domain::open(id)?,
        };
        let channels = match evtchn {
            Some(fd) => EventChannels::from_fd(fd)?,
            None => EventChannels::open()?,
        };
        domain.restrict()?;
        channels.restrict(id)?;
        Ok((domain, channels))
    };
    opened().map_err(Failure::failed)
}

/// The state file, if there is to be one.
fn state(args: &XenArgs) -> Result<Option<Unopened>, Failure> {
    let file = match (&args.state, args.state_fd) {
        (Some(path), _) => Unopened::at(path),
        (None, Some(number)) => Unopened::from_fd(inherited::take(number)?),
        (None, None) => return Ok(None),
    };
    file.map(Some).map_err(Failure::failed)
}

/// Where each device goes: those without a place take the next free one.
fn slots(devices: &[DeviceArg]) -> Result<Vec<Slot>, Failure> {
    let named: Vec<Slot> = devices.iter().filter_map(|device| device.slot).collect();
    let mut free = (Slot::FIRST..)
        .map_while(Slot::new)
        .filter(|slot| !named.contains(slot));
    let each = devices.iter().map(|device| {
        if device.socket.is_some() {
            let name = device.choice.kind().name;
            return Err(Failure::usage(format!(
                "device {name}: --xen has no sockets; leave out socket-path= and fd="
            )));
        }
        device.slot.or_else(|| free.next()).ok_or_else(|| {
            Failure::usage("no place is left up to 0000:00:1f.0; give devices a bdf= of their own")
        })
    });
    each.collect()
}

/// The signals that end a server.
struct Signals {
    delivery: SignalDelivery<UnixStream, SignalOnly>,
    at_once: Arc<AtomicBool>,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let all = [SIGTERM, SIGINT, SIGHUP];
        let at_once = Arc::new(AtomicBool::new(false));
        for signal in all {
            flag::register_conditional_shutdown(signal, 1, at_once.clone())?;
        }
        let (read, write) = UnixStream::pair()?;
        let delivery = SignalDelivery::with_pipe(read, write, SignalOnly, all)?;
        Ok(Signals { delivery, at_once })
    }

    /// The first signal that comes in time.
    fn wait(&mut self, limit: Duration) -> io::Result<Option<i32>> {
        let limit = Timespec::try_from(limit).unwrap_or_default();
        let mut fds = [PollFd::new(self.delivery.get_read(), PollFlags::IN)];
        match poll(&mut fds, Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(self.delivery.pending().next()),
            Err(error) => Err(error.into()),
        }
    }

    fn end_at_once_from_now_on(&self) {
        self.at_once.store(true, Ordering::Relaxed);
    }
}
