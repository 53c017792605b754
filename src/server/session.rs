//! One client, from its connection to its end: what is allowed when, and what
//! it gets when it is not.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use thiserror::Error;

use super::client_memory::{Lent, Messages};
use super::commands;
use super::refusal::Refusal;
use super::version::{self, Negotiated};
use super::{Handle, Limits, Observer, Terms};
use crate::endpoint::Endpoint;
use crate::protocol::{
    Command, Header, Inbox, Kind, Message, Outgoing, ReceiveError, RegionAccess, Request, Socket,
    Wait, Waiting, reply_size,
};

/// How a session ended, other than by the client leaving between two
/// messages.
#[derive(Debug, Error)]
pub enum SessionError {
    /// Nothing that can be understood came, or nothing in time.
    #[error("{0}")]
    Receive(#[from] ReceiveError),
    /// The client does not take its replies, or is gone.
    #[error("cannot reply: {0}")]
    Reply(#[from] io::Error),
    /// No version could be agreed on.
    #[error("VERSION was refused")]
    Version,
}

/// A client that is being served.
pub(super) struct Session<'a, O> {
    endpoint: &'a mut Endpoint,
    observer: &'a mut O,
    socket: Arc<Socket>,
    inbox: Rc<RefCell<Inbox>>,
    limits: &'a Limits,
    waiting: Waiting,
    outgoing: Outgoing,
    /// The descriptors that go with the reply.
    reply_fds: Vec<OwnedFd>,
    connected_at: Instant,
    agreed: Option<Agreed>,
}

/// What VERSION settled.
struct Agreed {
    negotiated: Negotiated,
    messages: Arc<Messages>,
}

impl<'a, O: Observer> Session<'a, O> {
    /// Serves `stream` until the client leaves or must be given up, or the
    /// server is stopped.
    ///
    /// # Errors
    ///
    /// See [`SessionError`]; a client that leaves in order is none.
    pub(super) fn serve(
        endpoint: &'a mut Endpoint,
        stream: UnixStream,
        terms: &'a Terms,
        handle: &Handle,
        observer: &'a mut O,
    ) -> Result<(), SessionError> {
        let Terms { limits, waiting } = terms;
        let socket = Arc::new(Socket::new(stream, limits.message)?);
        let inbox = Inbox::new(socket.clone(), limits.message).waiting(*waiting);
        let inbox = Rc::new(RefCell::new(inbox));
        let _lent = Lent::new(inbox.clone());
        let _registered = handle.register(socket.clone());
        let mut session = Session {
            endpoint,
            observer,
            socket,
            inbox,
            limits,
            waiting: *waiting,
            outgoing: Outgoing::default(),
            reply_fds: Vec::new(),
            connected_at: Instant::now(),
            agreed: None,
        };
        let end = session.run();
        if let Some(agreed) = session.agreed.take() {
            agreed.messages.close();
        }
        session.socket.finish();
        session.endpoint.disconnect();
        match end {
            Err(SessionError::Receive(ReceiveError::Closed)) => Ok(()),
            // It may have been in the middle of anything.
            Err(_) if handle.stopped() => Ok(()),
            end => end,
        }
    }

    fn run(&mut self) -> Result<(), SessionError> {
        let mut message = Message::new();
        loop {
            if self.endpoint.has_events() {
                self.wait_for_events()?;
            }
            let wait = match self.agreed {
                Some(_) => Wait::Forever,
                None => self.handshake()?,
            };
            let received = self.inbox.borrow_mut().receive(&mut message, wait);
            if let Err(error) = received {
                return self.end(error);
            }
            self.handle(&mut message)?;
        }
    }

    /// How long to wait for VERSION, whatever else the client sends.
    #[cold]
    fn handshake(&self) -> Result<Wait, ReceiveError> {
        let deadline = self.connected_at + self.limits.handshake;
        if Instant::now() >= deadline {
            return Err(ReceiveError::TimedOut);
        }
        Ok(Wait::Until(deadline))
    }

    /// Waits for the client's next command and deals with events until then.
    #[inline(never)]
    fn wait_for_events(&mut self) -> Result<(), SessionError> {
        loop {
            let mut fds = vec![PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)];
            fds.extend(
                self.endpoint
                    .event_fds()
                    .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
            );
            let here = self.inbox.borrow().has_input();
            let at_once = here || self.waiting == Waiting::Spin;
            let no_wait = rustix::event::Timespec::default();
            match poll(&mut fds, at_once.then_some(&no_wait)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(SessionError::Reply(errno.into())),
            }
            let command = here || !fds[0].revents().is_empty();
            self.endpoint.handle_events();
            if command {
                return Ok(());
            }
        }
    }

    #[inline]
    fn handle(&mut self, message: &mut Message) -> Result<(), SessionError> {
        if message.header.kind == Kind::Reply {
            message.fds.clear();
            // An answer to a DMA message; without one, it is dropped.
            if let Some(agreed) = &self.agreed {
                agreed.messages.deliver(message);
            }
            return Ok(());
        }
        let Message { header, body, fds } = message;
        self.observer.received(header);
        match self.execute(header, body, fds) {
            Ok(()) if header.no_reply => self.reply_fds.clear(),
            Ok(()) if self.reply_fds.is_empty() => {
                self.observer.answering(header);
                self.socket.send(self.outgoing.finish(), &[])?;
                self.observer.answered(header);
            }
            Ok(()) => self.reply_with_fds()?,
            Err(refusal) => {
                // Closed before the client learns that they are not wanted.
                fds.clear();
                self.refuse(header, body, &refusal)?;
            }
        }
        Ok(())
    }

    #[cold]
    fn reply_with_fds(&mut self) -> io::Result<()> {
        let fds = std::mem::take(&mut self.reply_fds);
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        self.socket.send(self.outgoing.finish(), &borrowed)
    }

    /// Executes a command and leaves its reply in `outgoing` and `reply_fds`.
    #[inline]
    fn execute(
        &mut self,
        header: &Header,
        body: &[u8],
        fds: &mut Vec<OwnedFd>,
    ) -> Result<(), Refusal> {
        let command = Command::from_wire(header.command).ok_or(Refusal::Unknown(header.command))?;
        let Some(agreed) = &self.agreed else {
            return self.negotiate(header, command, body, fds);
        };
        let context = commands::Context {
            endpoint: self.endpoint,
            negotiated: &agreed.negotiated,
        };
        match command {
            // These two carry every trapped access. They are spared the way
            // through a `Request`, which is as large as its largest command.
            Command::RegionRead => {
                refuse_descriptors(fds)?;
                let access = RegionAccess::parse(body)?;
                context.region_read(&access, header, &mut self.outgoing)
            }
            Command::RegionWrite => {
                refuse_descriptors(fds)?;
                let (access, data) = RegionAccess::parse_write(body)?;
                context.region_write(&access, data, header, &mut self.outgoing)
            }
            _ => {
                let request = Request::parse(command, body)?;
                let reply = self.outgoing.begin(&header.reply());
                commands::execute(context, request, fds, reply, &mut self.reply_fds)
            }
        }
    }

    /// Executes the first command, which must be VERSION.
    #[cold]
    fn negotiate(
        &mut self,
        header: &Header,
        command: Command,
        body: &[u8],
        fds: &[OwnedFd],
    ) -> Result<(), Refusal> {
        let Request::Version(proposal) = Request::parse(command, body)? else {
            return Err(Refusal::TooEarly(command));
        };
        refuse_descriptors(fds)?;
        let negotiated = version::negotiate(&proposal, self.limits)?;
        let reply = self.outgoing.begin(&header.reply());
        let twin = version::answer(&negotiated, reply)?;
        self.agree(negotiated, twin)
    }

    /// Begins to serve under what was negotiated.
    fn agree(
        &mut self,
        negotiated: Negotiated,
        twin: Option<version::Twin>,
    ) -> Result<(), Refusal> {
        let max_data = negotiated.client_max_data;
        let messages = if let Some(twin) = twin {
            self.reply_fds.push(twin.theirs);
            Messages::over_twin(twin.ours, max_data, self.limits)?
        } else {
            Messages::over_main(self.socket.clone(), max_data, self.limits)
        };
        let messages = Arc::new(messages);
        let page_size = negotiated.page_size;
        let max_maps = negotiated.max_dma_maps;
        self.endpoint.connect(messages.clone(), page_size, max_maps);
        self.agreed = Some(Agreed {
            negotiated,
            messages,
        });
        Ok(())
    }

    /// Answers a refused command with its errno. The `vfio_user` crate's
    /// client reads as many bytes of an error as of a normal reply, so it
    /// gets them.
    #[cold]
    fn refuse(
        &mut self,
        header: &Header,
        body: &[u8],
        refusal: &Refusal,
    ) -> Result<(), SessionError> {
        let command = Command::from_wire(header.command);
        let name = command.map_or("unknown command", Command::name);
        log::debug!("{name} refused: {refusal}");
        self.reply_fds.clear();
        if !header.no_reply {
            let max_data = self.max_data();
            let padding = command.map_or(0, |command| reply_size(command, body, max_data));
            let reply = self.outgoing.begin(&header.refusal(refusal.errno()));
            pad(reply, body, padding);
            self.socket.send(self.outgoing.finish(), &[])?;
        }
        // Without a version there is nothing to talk about (vfio-user,
        // VERSION: the server closes the connection).
        if command == Some(Command::Version) && self.agreed.is_none() {
            return Err(SessionError::Version);
        }
        Ok(())
    }

    /// Ends the session because there is no further message.
    #[cold]
    fn end(&mut self, error: ReceiveError) -> Result<(), SessionError> {
        if let ReceiveError::Unframed(header, malformed) = &error {
            self.refuse_unframed(header, malformed.errno())?;
        }
        Err(error.into())
    }

    /// A last word to a client whose next message cannot be found.
    fn refuse_unframed(&mut self, bytes: &[u8; Header::SIZE], errno: i32) -> io::Result<()> {
        let Some(header) = Header::refusal_of(bytes, errno) else {
            return Ok(());
        };
        self.outgoing.begin(&header);
        self.socket.send(self.outgoing.finish(), &[])
    }

    fn max_data(&self) -> u32 {
        self.agreed
            .as_ref()
            .map_or(0, |agreed| agreed.negotiated.max_data)
    }
}

/// Fills an error reply to the size of a normal one: the request's fixed
/// fields, then all-ones.
fn pad(reply: &mut Vec<u8>, body: &[u8], padding: usize) {
    let echo = body.len().min(padding).min(16);
    reply.extend_from_slice(&body[..echo]);
    reply.resize(Header::SIZE + padding, 0xff);
}

/// For commands that carry no descriptors.
pub(super) fn refuse_descriptors(fds: &[OwnedFd]) -> Result<(), Refusal> {
    match fds.len() {
        0 => Ok(()),
        got => Err(Refusal::Descriptors { got, expected: 0 }),
    }
}
