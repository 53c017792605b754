//! The other process.

use std::env;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::random::Random;
use super::{clients, servers};

/// How long a peer may take for all that it does.
const LIMIT: Duration = Duration::from_secs(60);

/// What tells a process that it is the peer, and of whom.
const ROLE: &str = "VGPU_STUB_TEST_ROLE";
const SEED: &str = "VGPU_STUB_TEST_SEED";
const SOCKET: &str = "VGPU_STUB_TEST_SOCKET";

/// A peer, and what is readable when it has ended; killed when dropped.
pub(crate) struct Peer(Child, OwnedFd);

impl Peer {
    /// Has a process play `role` at a socket.
    pub(crate) fn start(role: &str, seed: u64, socket: &Path) -> Self {
        println!("{role}: seed {seed}");
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "peer::the_peer_itself", "--nocapture"])
            .env(ROLE, role)
            .env(SEED, seed.to_string())
            .env(SOCKET, socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let ended = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        Peer(child, ended)
    }

    /// Waits for its end for so long; `true` if it does not come.
    pub(crate) fn runs_on(&mut self, time: Duration) -> bool {
        let mut fds = [PollFd::new(&self.1, PollFlags::IN)];
        poll(&mut fds, Some(&time.try_into().unwrap())).unwrap() == 0
    }

    /// Waits until it has done all, which must have been as it expected.
    pub(crate) fn succeeds(mut self) {
        let status = self.ended();
        assert!(status.success(), "the peer: {status}");
    }

    /// Kills it as nothing else would.
    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.was_killed();
    }

    /// Waits until it has died of that.
    pub(crate) fn was_killed(mut self) {
        assert_eq!(self.ended().signal(), Some(libc::SIGKILL));
    }

    fn ended(&mut self) -> ExitStatus {
        assert!(!self.runs_on(LIMIT), "the peer does not end");
        self.0.wait().unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test unless the environment says so: then this process is the peer.
#[test]
fn the_peer_itself() {
    let Ok(role) = env::var(ROLE) else {
        return;
    };
    let seed = env::var(SEED).unwrap().parse().unwrap();
    let socket = PathBuf::from(env::var_os(SOCKET).unwrap());
    let random = Random::new(seed);
    if !clients::play(&role, &socket, random) {
        servers::play(&role, &socket, Random::new(seed));
    }
}
