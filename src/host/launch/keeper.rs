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
pub(in crate::host) const RESTARTS: &str = "restarts";

/// How long a successor may take to be ready; the first has the launcher's
/// patience.
const SUCCESSOR: Duration = Duration::from_secs(10);
/// How long a server has after a signal to hear it too: systemd tells all
/// processes of a unit, and the second signal would end it at once.
const TOLD_TOO: Duration = Duration::from_secs(1);

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
    let renewable = matches!(job.way, Way::Domain { .. });
    let mut signals =
        Signals::new(renewable).map_err(|error| format!("cannot start a server: {error}"))?;
    child::limit(job);
    let first = one(job, directory, &mut signals, Some(launcher))?;
    let Way::Domain { id, devices } = &job.way else {
        return first.result();
    };
    let end = match first.ready {
        Some(_) => successors(job, directory, &mut signals, first, &|| {
            xen::is_gone(devices, *id)
        }),
        None => first.result(),
    };
    end.map_err(|why| {
        let state = directory.path().join(child::STATE);
        match xen::remove_left(devices, *id, &state) {
            Ok(()) => why,
            Err(worse) => format!("{why}; {worse}"),
        }
    })
}

/// Has a server that was ready followed by others, as long as there is a domain
/// to be served.
fn successors(
    job: &Job,
    directory: &InUse,
    signals: &mut Signals,
    mut end: End,
    is_gone: &dyn Fn() -> bool,
) -> Result<(), String> {
    let mut restarts = Restarts::default();
    let mut count = 0_u32;
    loop {
        let renew = std::mem::take(&mut signals.renew);
        if end.well && !renew {
            return Ok(());
        }
        let why = end.how;
        let wait = match restarts.after(end.ready.unwrap_or_default()) {
            _ if renew => Duration::ZERO,
            Some(wait) => wait,
            None => return Err(format!("{why}; given up after {count} successors")),
        };
        if signals.sleep(wait) {
            return Err(why);
        }
        // It may have been the domain's end that ended the server.
        if is_gone() {
            log::info!("{why}; the domain is gone");
            return Ok(());
        }
        count += 1;
        log::warn!("{why}; starting successor {count} after {wait:?}");
        // The doctor tells of it.
        let _ = std::fs::write(directory.path().join(RESTARTS), format!("{count}\n{why}\n"));
        end = one(job, directory, signals, None).unwrap_or_else(|how| End {
            how,
            well: false,
            ready: None,
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
    told_to_renew: Option<UnixStream>,
    /// End with the server.
    stop: bool,
    /// Another server is wanted, of the program as it is now.
    renew: bool,
}

impl Signals {
    /// A server with a successor is renewable.
    fn new(renewable: bool) -> io::Result<Signals> {
        let pipe = |signal| -> io::Result<UnixStream> {
            let (told, ours) = UnixStream::pair()?;
            signal_hook::low_level::pipe::register(signal, told)?;
            ours.set_nonblocking(true)?;
            Ok(ours)
        };
        Ok(Signals {
            told_to_stop: pipe(SIGTERM)?,
            told_to_renew: renewable.then(|| pipe(SIGHUP)).transpose()?,
            stop: false,
            renew: false,
        })
    }

    /// Takes note of what has come.
    fn take(&mut self) {
        let mut chunk = [0; 16];
        self.stop |= matches!((&self.told_to_stop).read(&mut chunk), Ok(1..));
        let renew = self.told_to_renew.as_ref();
        self.renew |= renew.is_some_and(|mut renew| matches!(renew.read(&mut chunk), Ok(1..)));
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
    let mut tell_at = None;
    let until = launcher.is_none().then(|| Instant::now() + SUCCESSOR);
    loop {
        let stop = &signals.told_to_stop;
        let renew = signals.told_to_renew.as_ref().unwrap_or(stop);
        let mut fds = vec![
            PollFd::new(&output, PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
            PollFd::new(renew, PollFlags::IN),
        ];
        let mut next = tell_at;
        if let Some(ready) = &ready {
            fds.push(PollFd::new(ready, PollFlags::IN));
            fds.extend(launcher.map(|launcher| PollFd::new(launcher, PollFlags::IN)));
            next = next.into_iter().chain(until).min();
        }
        let left = next.map(|next: Instant| next.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                end(Signal::KILL);
                return Err(failed(error.into()));
            }
        }
        let passed = |time: Option<Instant>| time.is_some_and(|time| time <= Instant::now());
        let events: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let event = |number: usize| events.get(number) == Some(&true);
        if event(1) || event(2) {
            signals.take();
            let patience = match job.way {
                Way::Domain { .. } if ready.is_none() => TOLD_TOO,
                _ => Duration::ZERO,
            };
            tell_at.get_or_insert(Instant::now() + patience);
        }
        if passed(tell_at) {
            tell_at = None;
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
        } else if event(4) || (ready.is_some() && passed(until)) {
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    /// A directory in use, and a keeper that no signal reaches.
    struct Kept {
        _run: TempDir,
        directory: InUse,
        job: Job,
        signals: Signals,
        stop: UnixStream,
    }

    impl Kept {
        /// `script` is told by `$ready` where its byte goes, and has a file
        /// `$count` to count by.
        fn new(script: &str) -> Kept {
            let run = tempfile::tempdir().unwrap();
            let directory = InUse::make(run.path(), "7").unwrap();
            let server = run.path().join("server");
            let head = "#!/bin/sh\ncount=${0%server}count\n\
                while [ $1 != --ready-fd ]; do shift; done; ready=/proc/self/fd/$2\n";
            fs::write(&server, format!("{head}{script}\n")).unwrap();
            fs::set_permissions(&server, fs::Permissions::from_mode(0o755)).unwrap();
            let (stop, told_to_stop) = UnixStream::pair().unwrap();
            told_to_stop.set_nonblocking(true).unwrap();
            Kept {
                job: Job {
                    directory: directory.path().to_owned(),
                    server,
                    device: "stub".to_owned(),
                    uid: None,
                    memory: 1 << 30,
                    // Xen's devices are not to be had here.
                    way: Way::Socket { connect_timeout: 1 },
                },
                directory,
                signals: Signals {
                    told_to_stop,
                    told_to_renew: None,
                    stop: false,
                    renew: false,
                },
                stop,
                _run: run,
            }
        }

        /// What becomes of the domain after a first server has died.
        fn successors(&mut self, is_gone: bool) -> Result<(), String> {
            let first = End {
                how: "was killed".to_owned(),
                well: false,
                ready: Some(Duration::ZERO),
            };
            let path = socket(self.directory.path());
            let is_gone = || {
                // Each has another socket.
                let _ = fs::remove_file(&path);
                is_gone
            };
            successors(
                &self.job,
                &self.directory,
                &mut self.signals,
                first,
                &is_gone,
            )
        }

        fn restarts(&self) -> Option<String> {
            fs::read_to_string(self.directory.path().join(RESTARTS)).ok()
        }
    }

    #[test]
    fn servers_that_die_are_followed_until_one_ends_well() {
        let mut kept = Kept::new(
            "echo >>$count\n\
             case $(wc -l <$count) in\n\
             1) kill -KILL $$;;\n\
             2) echo >$ready; echo 'on fire'; exit 3;;\n\
             3) echo >$ready;;\n\
             esac",
        );
        assert_eq!(kept.successors(false), Ok(()));
        let restarts = kept.restarts().unwrap();
        assert!(restarts.starts_with("3\n"), "{restarts}");
        assert!(
            restarts.contains("server: ended with status 3: on fire"),
            "{restarts}"
        );
    }

    #[test]
    fn a_server_that_died_with_its_domain_has_no_successor() {
        let mut kept = Kept::new("echo >>$count");
        assert_eq!(kept.successors(true), Ok(()));
        assert_eq!(kept.restarts(), None);
    }

    #[test]
    fn who_is_told_to_stop_starts_no_other() {
        let mut kept = Kept::new("echo >$ready");
        kept.stop.write_all(&[1]).unwrap();
        assert_eq!(kept.successors(false), Err("was killed".to_owned()));
        assert_eq!(kept.restarts(), None);
    }

    #[test]
    fn a_server_that_is_renewed_is_followed_whatever_its_end() {
        let mut kept = Kept::new("echo >$ready");
        kept.signals.renew = true;
        assert_eq!(kept.successors(false), Ok(()));
        assert!(kept.restarts().unwrap().starts_with("1\n"));
    }
}
