//! `/dev/xen/evtchn`: by which Xen tells us of a request, and we it of an
//! answer.
//!
//! A port that was read stays masked until it is written back.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::domain::DomainId;
use super::error::{XenError, open};
use super::ioctl::{BindInterdomain, BindUnbound, Notify, RestrictPorts, call};

/// The driver.
pub(super) const EVTCHN: &str = "/dev/xen/evtchn";

/// `DOMID_SELF` (`xen/include/public/xen.h`): the domain that we run in.
const SELF: u32 = 0x7ff0;

/// A port at our end, as the driver numbers it. 0 is none.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(transparent)]
pub struct LocalPort(u32);

/// Ports, read and written through one descriptor. They are closed with it.
#[derive(Debug)]
pub struct EventChannels {
    file: File,
    /// A channel from us to us: what is signalled, and what is then read.
    wake: (LocalPort, LocalPort),
}

impl EventChannels {
    /// Opens the driver.
    ///
    /// # Errors
    ///
    /// [`XenError`], as of [`Domain::open`](super::Domain::open).
    pub fn open() -> Result<Self, XenError> {
        Self::from_fd(open(Path::new(EVTCHN))?)
    }

    /// Takes over a descriptor of the driver that was not restricted yet: the
    /// channel to wake ourselves by is one with ourselves.
    ///
    /// # Errors
    ///
    /// [`XenError`] if it is restricted, or no such descriptor.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, XenError> {
        let remote_domain = SELF;
        let read = call(fd.as_fd(), &mut BindUnbound { remote_domain }).map_err(XenError::ports)?;
        let mut bind = BindInterdomain {
            remote_domain,
            remote_port: read,
        };
        let signalled = call(fd.as_fd(), &mut bind).map_err(XenError::ports)?;
        Ok(EventChannels {
            file: File::from(fd),
            wake: (LocalPort(signalled), LocalPort(read)),
        })
    }

    /// From now on, ports can be bound to those of this domain only.
    ///
    /// # Errors
    ///
    /// [`XenError`] if it is restricted already.
    pub fn restrict(&self, domain: DomainId) -> Result<(), XenError> {
        let domain = domain.number();
        call(self.file.as_fd(), &mut RestrictPorts { domain })
            .map(drop)
            .map_err(XenError::ports)
    }

    /// Binds a port to the domain's port `remote`, which nobody else has bound.
    /// It is not masked.
    ///
    /// # Errors
    ///
    /// [`XenError`] if there is no such port, or somebody has it.
    pub fn bind(&self, domain: DomainId, remote: u32) -> Result<LocalPort, XenError> {
        let mut bind = BindInterdomain {
            remote_domain: domain.number().into(),
            remote_port: remote,
        };
        call(self.file.as_fd(), &mut bind)
            .map(LocalPort)
            .map_err(|error| XenError::bind(domain, remote, error))
    }

    /// Waits until a port is signalled, and returns how many of `ports` were
    /// filled in. Each of them is masked from now on.
    ///
    /// # Errors
    ///
    /// The kernel's.
    #[inline]
    pub fn wait(&self, ports: &mut [LocalPort]) -> io::Result<usize> {
        loop {
            match rustix::io::read(&self.file, ports.as_mut_bytes()) {
                Ok(bytes) => return Ok(bytes / size_of::<LocalPort>()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Unmasks ports. One that was signalled meanwhile is read next.
    ///
    /// # Errors
    ///
    /// The kernel's.
    #[inline]
    pub fn unmask(&self, ports: &[LocalPort]) -> io::Result<()> {
        rustix::io::write(&self.file, ports.as_bytes())?;
        Ok(())
    }

    /// Signals the other end of a port.
    ///
    /// # Errors
    ///
    /// The kernel's.
    #[inline]
    pub fn notify(&self, port: LocalPort) -> io::Result<()> {
        call(self.file.as_fd(), &mut Notify { port: port.0 })?;
        Ok(())
    }

    /// Whether a port is the one by which a [`Waker`] wakes.
    #[inline]
    pub fn is_wake(&self, port: LocalPort) -> bool {
        port == self.wake.1
    }

    /// What ends a [`wait`](Self::wait) from another thread.
    pub fn waker(self: &Arc<Self>) -> Waker {
        Waker(self.clone())
    }
}

/// Ends the wait of a thread, the one under way or else the next.
#[derive(Clone, Debug)]
pub struct Waker(Arc<EventChannels>);

impl Waker {
    /// Signals the port that [`EventChannels::is_wake`] knows.
    pub fn wake(&self) {
        // There is no way for it to fail: the channel is ours.
        let _ = self.0.notify(self.0.wake.0);
    }
}
