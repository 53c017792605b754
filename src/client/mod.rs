//! The built-in vfio-user client: what `demo` and `probe` look through, and
//! what tests and benches drive a server with.
//!
//! It never trusts the server. Whatever that sends, or does not send, becomes
//! a [`ClientError`] in bounded time and memory. While it waits for a reply
//! it answers the server's `DMA_READ` and `DMA_WRITE` from the [`Memory`] that
//! it was given, on the main socket or on the twin.
//!
//! A server that knows it carries out accesses of 1 to 8 bytes by memory that
//! both share ([`Options::shared_mmio`]): nothing changes but what they cost.
//!
//! ```
//! use std::os::unix::net::UnixStream;
//! use vgpu_stub::client::{Client, Options};
//! use vgpu_stub::devices::KINDS;
//! use vgpu_stub::endpoint::Endpoint;
//! use vgpu_stub::server::{Server, Source};
//!
//! let (ours, theirs) = UnixStream::pair()?;
//! let mut server = Server::new();
//! let stub = Endpoint::new(KINDS[0].builder(Default::default())?)?;
//! server.add("stub", stub, Source::Connected(theirs))?;
//! let server = std::thread::spawn(|| server.run());
//!
//! let mut client = Client::over(ours, &Options::default())?;
//! let mut id = [0; 4];
//! client.read(0, 0, &mut id)?;
//! assert_eq!(&id, b"VGPU");
//!
//! drop(client);
//! server.join().unwrap()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod commands;
mod connect;
mod doorbell;
mod error;
mod memory;
mod region;
mod requester;
mod shared;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

pub use connect::{Agreement, Options};
pub use doorbell::Doorbell;
pub use error::ClientError;
pub use memory::{Memory, NoMemory};
pub use region::{MappedArea, Region};
pub use requester::{Requester, Spinning};

use crate::protocol::{
    Command, Header, Inbox, Kind, Message, Outgoing, ReceiveError, Socket, Wait,
};

/// A connection to a vfio-user server, after VERSION.
#[derive(Debug)]
pub struct Client {
    main: Channel,
    /// Where the server's commands come from, if that was agreed.
    twin: Option<Channel>,
    agreement: Agreement,
    outgoing: Outgoing,
    /// The message received last.
    message: Message,
    memory: Lender,
    next_id: u16,
    /// The first id since the last reply: from there on, messages were posted.
    oldest_posted: u16,
    timeout: Duration,
    spinning: Spinning,
    given_up: bool,
    /// The way by shared memory, if there is one.
    shared: Option<Box<shared::Shared>>,
}

/// One socket, both ways.
#[derive(Debug)]
struct Channel {
    socket: Arc<Socket>,
    inbox: Inbox,
}

struct Lender(Box<dyn Memory>);

impl std::fmt::Debug for Lender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Memory")
    }
}

impl Client {
    /// What VERSION settled.
    pub fn agreement(&self) -> &Agreement {
        &self.agreement
    }

    /// Lends memory to the server's `DMA_READ` and `DMA_WRITE`. Which of it
    /// the server may reach is for [`Client::dma_map`] to tell it.
    pub fn lend(&mut self, memory: impl Memory + 'static) {
        self.memory = Lender(Box::new(memory));
    }

    /// Sets how long the server may take from here on for each answer.
    ///
    /// # Errors
    ///
    /// [`ClientError::Io`] if the socket does not take it.
    pub fn set_timeout(&mut self, timeout: Duration) -> Result<(), ClientError> {
        // To the kernel 0 is for ever.
        self.timeout = timeout.max(Duration::from_millis(1));
        connect::set_receive_timeout(&self.main.socket, self.timeout).map_err(|source| {
            ClientError::Io {
                command: Command::Version,
                source,
            }
        })
    }

    /// Serves the server's commands until `event` can be read, at most for
    /// `timeout`. Returns whether it can.
    ///
    /// # Errors
    ///
    /// What ends the connection; replies that nobody waits for do.
    pub fn wait_for(
        &mut self,
        event: BorrowedFd<'_>,
        timeout: Duration,
    ) -> Result<bool, ClientError> {
        let waited = self.serve_until(event, Instant::now() + timeout);
        self.keep(waited)
    }

    fn serve_until(
        &mut self,
        event: BorrowedFd<'_>,
        deadline: Instant,
    ) -> Result<bool, ClientError> {
        // Nothing was asked; what comes are the server's DMA commands.
        let command = Command::DmaRead;
        if self.is_over() {
            return Err(ClientError::GivenUp { command });
        }
        loop {
            let ready = self.poll(command, Some(event), deadline)?;
            if ready.event {
                return Ok(true);
            }
            if !ready.main || Instant::now() >= deadline {
                return Ok(false);
            }
            self.receive(command)?;
            if self.message.header.kind == Kind::Reply && !self.is_posted(self.next_id) {
                return Err(self.wrong_reply(command, self.next_id));
            }
            self.answer_server(command)?;
        }
    }

    /// Asks, and leaves the reply in `self.message`.
    fn ask(
        &mut self,
        command: Command,
        fds: &[BorrowedFd<'_>],
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), ClientError> {
        let id = self.send(command, false, fds, encode)?;
        let answer = self.wait_for_reply(command, id);
        self.oldest_posted = self.next_id;
        self.keep(answer)
    }

    /// Sends a command that the server does not answer.
    fn send_posted(
        &mut self,
        command: Command,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), ClientError> {
        self.send(command, true, &[], encode).map(|_| ())
    }

    fn send(
        &mut self,
        command: Command,
        no_reply: bool,
        fds: &[BorrowedFd<'_>],
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<u16, ClientError> {
        if self.is_over() {
            return Err(ClientError::GivenUp { command });
        }
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        let header = Header {
            no_reply,
            ..Header::command(id, command)
        };
        encode(self.outgoing.begin(&header));
        let sent = self.main.socket.send(self.outgoing.finish(), fds);
        let sent = sent.map_err(|source| self.sending_failed(command, source));
        self.keep(sent)?;
        Ok(id)
    }

    fn sending_failed(&self, command: Command, source: std::io::Error) -> ClientError {
        match source.kind() {
            std::io::ErrorKind::TimedOut => self.timed_out(command),
            std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset => {
                ClientError::Closed { command }
            }
            _ => ClientError::Io { command, source },
        }
    }

    /// Serves the server's commands until the reply is here.
    fn wait_for_reply(&mut self, command: Command, id: u16) -> Result<(), ClientError> {
        let deadline = Instant::now() + self.timeout;
        loop {
            if self.twin.is_some() && !self.poll(command, None, deadline)?.main {
                return Err(self.timed_out(command));
            }
            self.receive(command)?;
            let header = &self.message.header;
            if header.kind == Kind::Reply {
                if header.id == id && header.command == command.to_wire() {
                    return match header.error {
                        Some(errno) => Err(ClientError::Refused { command, errno }),
                        None => Ok(()),
                    };
                }
                if !self.is_posted(id) {
                    return Err(self.wrong_reply(command, id));
                }
            }
            self.answer_server(command)?;
            if Instant::now() >= deadline {
                return Err(self.timed_out(command));
            }
        }
    }

    /// Receives a message on the main socket.
    fn receive(&mut self, command: Command) -> Result<(), ClientError> {
        // The socket's own receive timeout bounds this, at no further call.
        let received = self.main.inbox.receive(&mut self.message, Wait::Forever);
        received.map_err(|error| self.receiving_failed(command, error))
    }

    fn receiving_failed(&self, command: Command, error: ReceiveError) -> ClientError {
        match error {
            ReceiveError::Closed => ClientError::Closed { command },
            ReceiveError::Cut => ClientError::Cut { command },
            ReceiveError::TimedOut => self.timed_out(command),
            ReceiveError::Unframed(_, malformed) => ClientError::Garbage { command, malformed },
            ReceiveError::Io(source) if source.kind() == std::io::ErrorKind::WouldBlock => {
                self.timed_out(command)
            }
            ReceiveError::Io(source) => ClientError::Io { command, source },
        }
    }

    /// Whether the message is a reply to a command that wants none. Some
    /// servers send their errors all the same.
    fn is_posted(&self, before: u16) -> bool {
        let posted = before.wrapping_sub(self.oldest_posted);
        self.message.header.id.wrapping_sub(self.oldest_posted) < posted
    }

    /// Answers the message on the main socket, if it is a command.
    fn answer_server(&mut self, command: Command) -> Result<(), ClientError> {
        if self.message.header.kind == Kind::Reply {
            log::debug!("the server answered a posted write");
            return Ok(());
        }
        let memory = self.memory.0.as_mut();
        let (message, socket) = (&self.message, &self.main.socket);
        let served = memory::serve(memory, message, &mut self.outgoing, socket);
        served.map_err(|source| self.sending_failed(command, source))
    }

    /// Waits for the main socket or for `event`, and meanwhile serves the twin.
    fn poll(
        &mut self,
        command: Command,
        event: Option<BorrowedFd<'_>>,
        deadline: Instant,
    ) -> Result<Ready, ClientError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let here = self.main.inbox.has_input();
            let wait = if here { Duration::ZERO } else { left };
            let (twin, ready) = self.poll_once(command, event, wait)?;
            if twin {
                self.serve_twin(command)?;
            }
            let ready = Ready {
                main: ready.main || here,
                ..ready
            };
            if ready.main || ready.event || left.is_zero() {
                return Ok(ready);
            }
        }
    }

    /// Returns whether the twin, and what else, can be read.
    fn poll_once(
        &self,
        command: Command,
        event: Option<BorrowedFd<'_>>,
        wait: Duration,
    ) -> Result<(bool, Ready), ClientError> {
        let main = self.main.socket.as_fd();
        let twin = self.twin.as_ref().map(|twin| twin.socket.as_fd());
        // An absent one is looked at in the main socket's place.
        let fds = [main, twin.unwrap_or(main), event.unwrap_or(main)];
        let mut fds = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let wait = Timespec::try_from(wait).map_err(|_| self.timed_out(command))?;
        match poll(&mut fds, Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => {
                let source = errno.into();
                return Err(ClientError::Io { command, source });
            }
        }
        let [main, twin_ready, event_ready] = fds.map(|fd| !fd.revents().is_empty());
        let ready = Ready {
            main,
            event: event.is_some() && event_ready,
        };
        Ok((twin.is_some() && twin_ready, ready))
    }

    /// Answers one message on the twin. A server may close it: then the main
    /// socket tells what happens next.
    fn serve_twin(&mut self, command: Command) -> Result<(), ClientError> {
        let Some(twin) = &mut self.twin else {
            return Ok(());
        };
        let wait = Wait::Until(Instant::now() + self.timeout);
        match twin.inbox.receive(&mut self.message, wait) {
            Ok(()) if self.message.header.kind == Kind::Command => {
                let memory = self.memory.0.as_mut();
                let served = memory::serve(memory, &self.message, &mut self.outgoing, &twin.socket);
                served.map_err(|source| self.sending_failed(command, source))
            }
            // We never ask there.
            Ok(()) => Err(self.wrong_reply(command, self.next_id)),
            Err(ReceiveError::Closed) => {
                self.twin = None;
                Ok(())
            }
            Err(error) => Err(self.receiving_failed(command, error)),
        }
    }

    fn wrong_reply(&self, command: Command, id: u16) -> ClientError {
        ClientError::WrongReply {
            command,
            id,
            got_id: self.message.header.id,
            got_command: self.message.header.command,
        }
    }

    fn timed_out(&self, command: Command) -> ClientError {
        let after = self.timeout;
        ClientError::TimedOut { command, after }
    }

    /// Whether an earlier error, or one of a requester, ended the connection.
    fn is_over(&self) -> bool {
        let shared = self.shared.as_ref();
        self.given_up || shared.is_some_and(|shared| shared.line.is_over())
    }

    /// Ends the connection at an error that does not let it go on.
    fn keep<T>(&mut self, result: Result<T, ClientError>) -> Result<T, ClientError> {
        if let Err(error) = &result
            && !error.is_recoverable()
        {
            self.given_up = true;
            self.main.socket.shutdown();
            if let Some(shared) = &self.shared {
                shared.line.give_up();
            }
        }
        result
    }

    /// The descriptors that came with the last reply.
    fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.message.fds)
    }
}

/// The socket of its commands. Whoever goes on with it uses it alone.
impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.main.socket.as_fd()
    }
}

/// What can be read.
#[derive(Clone, Copy, Debug)]
struct Ready {
    main: bool,
    event: bool,
}
