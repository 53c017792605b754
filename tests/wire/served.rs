//! A device that is being served.

use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vgpu_stub::devices::{Kind, Options};
use vgpu_stub::endpoint::Endpoint;
use vgpu_stub::fastpath::Polling;
use vgpu_stub::server::{Limits, Listener, ServeError, Server, Source, Stopper};

use super::Client;
use super::device::TestDevice;

/// Limits that no test reaches.
pub(crate) const PATIENT: Limits = Limits {
    handshake: Duration::from_secs(20),
    message: Duration::from_secs(20),
    dma: Duration::from_secs(20),
    max_dma_maps: 65_535,
};

/// Limits that a test can afford to reach.
pub(crate) const SHORT: Limits = Limits {
    handshake: Duration::from_millis(200),
    message: Duration::from_millis(200),
    dma: Duration::from_millis(200),
    max_dma_maps: 65_535,
};

/// A device of the library by its name, or the `test` device.
pub(crate) fn make(name: &str) -> Endpoint {
    if name == "test" {
        return Endpoint::new(|irq, dma| Ok(Box::new(TestDevice::new(irq, dma)?))).unwrap();
    }
    let kind = Kind::find(name).unwrap();
    Endpoint::new(kind.builder(Options::default()).unwrap()).unwrap()
}

/// Devices on sockets; served until this is dropped.
pub(crate) struct Served {
    stopper: Stopper,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
    directory: tempfile::TempDir,
}

impl Served {
    /// The test device, with patience.
    pub(crate) fn new() -> Self {
        Self::with(PATIENT, &["test"])
    }

    /// The test device, whose thread never looks before it sleeps.
    pub(crate) fn sleeping() -> Self {
        let server = Server::new().limits(PATIENT).polling(Polling::Never);
        Self::by(server, [("test", make("test"))])
    }

    /// Devices by their names; each one's socket is called as it is.
    pub(crate) fn with(limits: Limits, names: &[&str]) -> Self {
        Self::of(limits, names.iter().map(|name| (*name, make(name))))
    }

    /// Endpoints; each one's socket is called as it is.
    pub(crate) fn of<'a>(
        limits: Limits,
        endpoints: impl IntoIterator<Item = (&'a str, Endpoint)>,
    ) -> Self {
        Self::by(Server::new().limits(limits), endpoints)
    }

    /// Endpoints in a server that was told how to serve; each one's socket is
    /// called as it is.
    pub(crate) fn by<'a>(
        mut server: Server,
        endpoints: impl IntoIterator<Item = (&'a str, Endpoint)>,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, endpoint) in endpoints {
            let listener = Listener::bind(&directory.path().join(name), None).unwrap();
            let source = Source::Listener(listener);
            server.add(name, endpoint, source).unwrap();
        }
        let stopper = server.stopper();
        let thread = Some(thread::spawn(move || server.run()));
        Served {
            stopper,
            thread,
            directory,
        }
    }

    /// The socket of a device.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The only device's socket.
    fn only(&self) -> PathBuf {
        let mut entries = std::fs::read_dir(self.directory.path()).unwrap();
        entries.next().unwrap().unwrap().path()
    }

    /// A client of the only device that has said nothing yet.
    pub(crate) fn connect(&self) -> Client {
        Client::connect(&self.only())
    }

    /// A client of the only device that has agreed on QEMU's terms.
    pub(crate) fn client(&self) -> Client {
        Self::agree(&self.only())
    }

    /// A client of a device by its name, agreed on QEMU's terms.
    pub(crate) fn client_of(&self, name: &str) -> Client {
        Self::agree(&self.path(name))
    }

    fn agree(path: &Path) -> Client {
        let mut client = Client::connect(path);
        client.agree(super::QEMU);
        client
    }

    /// Waits until the server ends and says how it ended.
    pub(crate) fn wait(mut self) -> Result<(), ServeError> {
        self.thread.take().unwrap().join().unwrap()
    }

    /// Ends the server and says how it ended.
    pub(crate) fn stop(mut self) -> Result<(), ServeError> {
        self.stopper.stop();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            // A panic of the server is the test's failure.
            let ended = thread.join();
            assert!(
                thread::panicking() || matches!(ended, Ok(Ok(()))),
                "the server ended badly"
            );
        }
    }
}
