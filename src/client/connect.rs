//! From a path or a stream to a client that has agreed on a version.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::{Channel, Client, ClientError, Lender, NoMemory, Spinning};
use crate::fastpath::{self, Layout};
use crate::protocol::{
    Capabilities, Command, Inbox, MAX_DATA, MAX_FDS, Message, Outgoing, Proposal, SharedMmio,
    Socket, TwinSocket,
};

/// What to propose to a server, and how long to wait for it.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long it may take for each answer.
    pub timeout: Duration,
    /// The version and the capabilities to propose. `max_data_xfer_size` may
    /// be at most [`MAX_DATA`], more is proposed as that.
    pub proposal: Proposal,
    /// What a thread does while it waits for an answer by shared memory.
    pub spinning: Spinning,
}

impl Default for Options {
    /// 5 seconds, version 0.1, `REGION_WRITE_MULTI`, no twin socket, no shared
    /// memory.
    fn default() -> Self {
        Options {
            timeout: Duration::from_secs(5),
            proposal: Proposal {
                major: 0,
                minor: 1,
                capabilities: Capabilities {
                    max_msg_fds: u32::try_from(MAX_FDS).ok(),
                    max_data_xfer_size: Some(MAX_DATA),
                    max_dma_maps: Some(Capabilities::DEFAULT_MAX_DMA_MAPS),
                    pgsizes: Some(Capabilities::DEFAULT_PGSIZES),
                    write_multiple: Some(true),
                    ..Capabilities::default()
                },
            },
            spinning: Spinning::default(),
        }
    }
}

impl Options {
    /// Asks for a socket of its own for the server's commands, too.
    #[must_use]
    pub fn twin_socket(mut self) -> Self {
        self.proposal.capabilities.twin_socket = Some(TwinSocket {
            supported: true,
            fd_index: None,
        });
        self
    }

    /// Asks for read-only areas, too: pages that can be read without the
    /// server.
    #[must_use]
    pub fn read_only_areas(mut self) -> Self {
        self.proposal.capabilities.read_only_areas = Some(true);
        self
    }

    /// Asks for doorbells that keep their value, too.
    #[must_use]
    pub fn shadow_doorbells(mut self) -> Self {
        self.proposal.capabilities.shadow_doorbells = Some(true);
        self
    }

    /// Asks for accesses by shared memory, with so many slots: one for the
    /// client and one for each further [`Requester`](super::Requester), at
    /// least 1 and at most [`MAX_SLOTS`](fastpath::MAX_SLOTS). A server that
    /// does not know it, or gives fewer, is no error.
    #[must_use]
    pub fn shared_mmio(mut self, slots: u16) -> Self {
        self.proposal.capabilities.shared_mmio = Some(SharedMmio {
            version: fastpath::VERSION,
            slots: slots.clamp(1, fastpath::MAX_SLOTS).into(),
            ring: None,
            fd_index: None,
        });
        self
    }

    /// Sets what a thread does while it waits for an answer by shared memory.
    #[must_use]
    pub fn spinning(mut self, spinning: Spinning) -> Self {
        self.spinning = spinning;
        self
    }

    /// Sets how long the server may take for each answer.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        // To the kernel 0 is for ever.
        self.timeout = timeout.max(Duration::from_millis(1));
        self
    }
}

/// What VERSION settled (vfio-user, `VFIO_USER_VERSION`).
#[derive(Clone, Copy, Debug)]
pub struct Agreement {
    /// The server's answer as it said it.
    pub reply: Proposal,
    /// The most data in one region access; longer ones are split.
    pub max_data: u32,
    /// The most descriptors that the server takes in one message.
    pub max_fds: usize,
    /// The server's commands come on a socket of their own.
    pub twin_socket: bool,
    /// The server knows `REGION_WRITE_MULTI`.
    pub write_multiple: bool,
    /// The slots and the ring of accesses by shared memory: those of 1 to 8
    /// bytes go that way.
    pub shared_mmio: Option<Layout>,
}

impl Client {
    /// Connects to the server that listens on `path`.
    ///
    /// # Errors
    ///
    /// [`ClientError::Connect`], and as [`Client::over`].
    pub fn connect(path: &Path, options: &Options) -> Result<Client, ClientError> {
        let stream = open(path, options.timeout).map_err(|source| ClientError::Connect {
            path: path.to_owned(),
            advice: advice(&source),
            source,
        })?;
        Client::over(stream, options)
    }

    /// Agrees with the server at the other end of `stream`.
    ///
    /// # Errors
    ///
    /// Whatever the server does instead of agreeing.
    pub fn over(stream: UnixStream, options: &Options) -> Result<Client, ClientError> {
        let command = Command::Version;
        let failed = |source| ClientError::Io { command, source };
        let mut options = *options;
        let capabilities = &mut options.proposal.capabilities;
        let max_data = capabilities.max_data_xfer_size.unwrap_or(MAX_DATA);
        capabilities.max_data_xfer_size = Some(max_data.clamp(1, MAX_DATA));
        let mut client = Client {
            main: Channel::new(stream, options.timeout).map_err(failed)?,
            twin: None,
            agreement: Agreement {
                reply: Proposal::default(),
                max_data,
                max_fds: 0,
                twin_socket: false,
                write_multiple: false,
                shared_mmio: None,
            },
            outgoing: Outgoing::default(),
            message: Message::new(),
            memory: Lender(Box::new(NoMemory)),
            next_id: 0,
            oldest_posted: 0,
            timeout: options.timeout,
            spinning: options.spinning,
            given_up: false,
            shared: None,
        };
        client.ask(command, &[], |out| options.proposal.encode(out))?;
        client.agree(&options)?;
        Ok(client)
    }

    /// Takes the server's terms, if they are any.
    fn agree(&mut self, options: &Options) -> Result<(), ClientError> {
        let command = Command::Version;
        let reply = Proposal::parse(&self.message.body).map_err(ClientError::Malformed)?;
        let (major, minor) = (reply.major, reply.minor);
        if major != options.proposal.major || minor > options.proposal.minor {
            return Err(ClientError::Version { major, minor });
        }
        let mut fds: Vec<_> = self.take_fds().into_iter().map(Some).collect();
        let (ours, theirs) = (&options.proposal.capabilities, &reply.capabilities);
        let asked = ours.twin_socket.is_some_and(|twin| twin.supported);
        let twin = theirs.twin_socket.filter(|twin| asked && twin.supported);
        if let Some(twin) = twin {
            let index = twin.fd_index.unwrap_or(0);
            let got = fds.len();
            let fd = fds.get_mut(index as usize).and_then(Option::take);
            let fd = fd.ok_or(ClientError::Descriptor {
                command,
                index,
                got,
            })?;
            let failed = |source| ClientError::Io { command, source };
            let twin = Channel::new(UnixStream::from(fd), self.timeout).map_err(failed)?;
            self.twin = Some(twin);
        }
        let shared_mmio = match theirs.shared_mmio {
            Some(shared) => self.share(options, shared, &mut fds)?,
            None => None,
        };
        let max_data = theirs.max_data_xfer_size;
        let max_fds = theirs.max_msg_fds;
        let max_fds = max_fds.unwrap_or(Capabilities::DEFAULT_MAX_MSG_FDS) as usize;
        self.agreement = Agreement {
            reply,
            max_data: max_data
                .unwrap_or(Capabilities::DEFAULT_MAX_DATA_XFER_SIZE)
                .min(ours.max_data_xfer_size.unwrap_or(MAX_DATA)),
            max_fds: max_fds.min(MAX_FDS),
            twin_socket: twin.is_some(),
            write_multiple: theirs.write_multiple == Some(true),
            shared_mmio,
        };
        Ok(())
    }
}

impl Channel {
    /// No wait on it is longer than `timeout`.
    fn new(stream: UnixStream, timeout: Duration) -> io::Result<Channel> {
        set_receive_timeout(&stream, timeout)?;
        let socket = Arc::new(Socket::new(stream, timeout)?);
        Ok(Channel {
            inbox: Inbox::new(socket.clone(), timeout),
            socket,
        })
    }
}

pub(super) fn set_receive_timeout(socket: impl AsFd, timeout: Duration) -> io::Result<()> {
    Ok(set_socket_timeout(socket, Timeout::Recv, Some(timeout))?)
}

/// As [`UnixStream::connect`], but does not wait for ever for a listener that
/// does not accept.
fn open(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Bounds connect, too.
    set_socket_timeout(&socket, Timeout::Send, Some(timeout))?;
    connect(&socket, &address)?;
    Ok(UnixStream::from(socket))
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "start a server there first",
        io::ErrorKind::ConnectionRefused => "nobody listens there, start the server again",
        io::ErrorKind::PermissionDenied => "run as a user who may connect",
        io::ErrorKind::WouldBlock => "the server accepts nobody, see whether it is stuck",
        _ => "check the path",
    }
}
