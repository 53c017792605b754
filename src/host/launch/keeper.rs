//! The keeper: a small process that has one server as its child.
//!
//! It gives the server its descriptors, its user and its limits, passes on
//! what it says, tells the launcher when it is ready or why it is not, and
//! removes the directory when it has ended. systemd 219 could do none of this
//! for a transient unit, and where no systemd runs it is the same.
//!
//! A server that is past QEMU has a successor if it dies before its domain
//! does: until then the guest stands still at its next access. The keeper has
//! the rights that a successor needs and a server has not, and the file that
//! it goes on from.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, setsid};
use signal_hook::consts::{SIGHUP, SIGTERM};

use super::child::{self, Said, Server};
use super::directory::InUse;
use super::restarts::Restarts;
use super::{apart, xen};

/// The launcher's socket in a directory.
pub(super) const LAUNCHER: &str = "launcher";
/// QEMU's.
pub(super) const SOCKET: &str = "socket";
/// How often the server was started again, and why the last time.
pub(super) const RESTARTS: &str = "restarts";

/// How long a successor may take to be ready; the first has the launcher's
/// patience.
const SUCCESSOR: Duration = Duration::from_secs(10);

/// What a keeper is to do.
#[derive(Clone, Debug)]
pub struct Job {
    /// The directory that the launcher has made.
    pub directory: PathBuf,
    /// The program that serves.
    pub server: PathBuf,
    /// What it serves, as its `--device` takes it.
    pub device: String,
    /// The user and group that it runs as; the keeper's own without.
    pub uid: Option<u32>,
    /// The memory that it may use, in bytes.
    pub memory: u64,
    /// To whom.
    pub way: Way,
}

/// The way from the guest to a server.
#[derive(Clone, Debug)]
pub enum Way {
    /// One client on a socket in the directory.
    Socket {
        /// How long the server waits for it, in seconds.
        connect_timeout: u32,
    },
    /// A domain, past QEMU.
    Domain {
        /// Which one.
        id: u16,
        /// The directory of Xen's `privcmd` and `evtchn`.
        devices: PathBuf,
    },
}

impl Job {
    /// The command line of a keeper that does it, after the program's name.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["keep".into()];
        let mut add = |flag: &str, value: &OsStr| arguments.extend([flag.into(), value.to_owned()]);
        add("--directory", self.directory.as_os_str());
        add("--server", self.server.as_os_str());
        add("--device", self.device.as_ref());
        add("--memory", self.memory.to_string().as_ref());
        match &self.way {
            Way::Socket { connect_timeout } => {
                add("--connect-timeout", connect_timeout.to_string().as_ref());
            }
            Way::Domain { id, devices } => {
                add("--xen", id.to_string().as_ref());
                add("--xen-devices", devices.as_os_str());
            }
        }
        if let Some(uid) = self.uid {
            add("--uid", uid.to_string().as_ref());
        }
        arguments
    }
}

/// Keeps a server until it ends. Call it before anything else is done in the
/// process: it closes every descriptor that is open.
///
/// # Errors
///
/// One line: why there was no server, or how it failed.
pub fn keep(job: &Job) -> Result<(), String> {
    apart::close_inherited();
    // Fails for one who leads a group already, which does as well.
    let _ = setsid();
    // Only who started it connects to its socket.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let path = &job.directory;
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    // Nobody is there to be served for.
    let launcher = UnixStream::connect(path.join(LAUNCHER)).map_err(failed)?;
    let _ = launcher.set_write_timeout(Some(Duration::from_secs(1)));
    let directory = InUse::join(path).map_err(failed)?;
    let end = serve(job, &directory, &launcher);
    if let Err(why) = &end {
        // Nobody listens once it has been ready.
        let _ = writeln!(&launcher, "failed {why}");
    }
    directory.remove().map_err(failed)?;
    // The launcher takes the directory's name for free when this closes.
    drop(launcher);
    end
}

fn serve(job: &Job, directory: &InUse, launcher: &UnixStream) -> Result<(), String> {
    let mut signals = Signals::new().map_err(|error| format!("cannot start a server: {error}"))?;
    child::limit(job);
    let mut end = one(job, directory, &mut signals, Some(launcher))?;
    let mut restarts = Restarts::default();
    let mut count = 0_u32;
    loop {
        let (Way::Domain { id, devices }, Some(ready)) = (&job.way, end.ready) else {
            return end.result();
        };
        if end.well && !signals.renew {
            return Ok(());
        }
        let why = end.how;
        if signals.stop {
            return Err(why);
        }
        let renew = std::mem::take(&mut signals.renew);
        let wait = if renew {
            Some(Duration::ZERO)
        } else {
            restarts.after(ready)
        };
        let Some(wait) = wait else {
            return Err(format!("{why}; given up after {count} successors"));
        };
        if signals.sleep(wait) {
            return Ok(());
        }
        // It may have been the domain's end that ended the server.
        if let Err(gone) = xen::look(devices, *id) {
            log::info!("{why}; {gone}");
            return Ok(());
        }
        count += 1;
        log::warn!("{why}; starting successor {count} after {wait:?}");
        // The doctor tells of it.
        let _ = std::fs::write(directory.path().join(RESTARTS), format!("{count}\n{why}\n"));
        let next = one(job, directory, &mut signals, None);
        end = next.unwrap_or_else(|how| End {
            how,
            well: false,
            ready: Some(Duration::ZERO),
        });
    }
}

/// How a server ended.
struct End {
    /// In words.
    how: String,
    /// With status 0.
    well: bool,
    /// How long it was ready, if it was.
    ready: Option<Duration>,
}

impl End {
    fn result(self) -> Result<(), String> {
        if self.well && self.ready.is_some() {
            Ok(())
        } else {
            Err(self.how)
        }
    }
}

/// What the keeper was told by signals.
struct Signals {
    told_to_stop: UnixStream,
    told_to_renew: UnixStream,
    /// End with the server.
    stop: bool,
    /// Another server is wanted, of the program as it is now.
    renew: bool,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        let pipe = |signal| -> io::Result<UnixStream> {
            let (told, ours) = UnixStream::pair()?;
            signal_hook::low_level::pipe::register(signal, told)?;
            ours.set_nonblocking(true)?;
            Ok(ours)
        };
        Ok(Signals {
            told_to_stop: pipe(SIGTERM)?,
            told_to_renew: pipe(SIGHUP)?,
            stop: false,
            renew: false,
        })
    }

    /// Takes note of what has come.
    fn take(&mut self) {
        let mut chunk = [0; 16];
        self.stop |= matches!((&self.told_to_stop).read(&mut chunk), Ok(1..));
        self.renew |= matches!((&self.told_to_renew).read(&mut chunk), Ok(1..));
    }

    /// Waits; `true` if it was told to stop meanwhile.
    fn sleep(&mut self, time: Duration) -> bool {
        let time = Timespec::try_from(time).ok();
        let mut fds = [PollFd::new(&self.told_to_stop, PollFlags::IN)];
        // Too early is no harm.
        let _ = poll(&mut fds, time.as_ref());
        self.take();
        self.stop
    }
}

/// Runs one server to its end. Without a launcher it is a successor.
fn one(
    job: &Job,
    directory: &InUse,
    signals: &mut Signals,
    launcher: Option<&UnixStream>,
) -> Result<End, String> {
    let failed = |error: io::Error| format!("cannot start a server: {error}");
    let Server {
        child: mut server,
        ready,
        mut output,
    } = Server::start(job, directory)?;
    let mut said = Said::default();
    let (mut ready, mut ready_since) = (Some(ready), None);
    let id = Pid::from_child(&server);
    let end = |signal| {
        // It has not been waited for: the number is still its own.
        let _ = kill_process(id, signal);
    };
    let until = launcher.is_none().then(|| Instant::now() + SUCCESSOR);
    loop {
        let mut fds = vec![
            PollFd::new(&output, PollFlags::IN),
            PollFd::new(&signals.told_to_stop, PollFlags::IN),
            PollFd::new(&signals.told_to_renew, PollFlags::IN),
        ];
        let mut timeout = None;
        if let Some(ready) = &ready {
            fds.push(PollFd::new(ready, PollFlags::IN));
            fds.extend(launcher.map(|launcher| PollFd::new(launcher, PollFlags::IN)));
            timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
        }
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let in_time = match poll(&mut fds, timeout.as_ref()) {
            Ok(events) => events > 0,
            Err(Errno::INTR) => true,
            Err(error) => {
                end(Signal::KILL);
                return Err(failed(error.into()));
            }
        };
        let events: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let event = |number: usize| events.get(number) == Some(&true);
        if event(1) || event(2) {
            signals.take();
            end(if signals.stop {
                Signal::TERM
            } else {
                Signal::HUP
            });
        }
        if event(3)
            && let Some(mut pipe) = ready.take()
        {
            let is_ready = matches!(pipe.read(&mut [0; 1]), Ok(1));
            ready_since = is_ready.then(Instant::now);
            // One that has gone is seen next time; there is no next time.
            let tell = |mut launcher: &UnixStream| writeln!(launcher, "ready");
            if is_ready && launcher.is_some_and(|launcher| tell(launcher).is_err()) {
                end(Signal::KILL);
            }
        } else if event(4) || !in_time {
            // The launcher has given up, or we do.
            ready = None;
            end(Signal::KILL);
        }
        if event(0) && !said.read(&mut output) {
            break;
        }
    }
    let status = server.wait().map_err(failed)?;
    Ok(End {
        how: format!("{}: {}", job.server.display(), said.ending(status)),
        well: status.success(),
        ready: ready_since.map(|since| since.elapsed()),
    })
}

/// The socket that QEMU connects to.
pub(super) fn socket(directory: &Path) -> PathBuf {
    directory.join(SOCKET)
}
