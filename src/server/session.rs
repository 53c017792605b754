//! One client, from its connection to its end: what is allowed when, and what
//! it gets when it is not.

mod plain;
mod pooled;
mod shared;
mod wait;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;

use super::client_memory::Messages;
use super::commands;
use super::connection::{Connection, Lent};
use super::refusal::Refusal;
use super::version::{self, Answer, Negotiated};
use super::watch::Watch;
use super::{Handle, Limits, Observer, Terms};
use crate::endpoint::Endpoint;
use crate::fastpath::{Fault, Serving, Spin};
use crate::protocol::{
    Command, Header, Inbox, Kind, Message, Outgoing, ReceiveError, RegionAccess, Request, SMALL,
    Small, SmallAccess, Socket, reply_size,
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
    /// The client broke the rules of shared memory, which ends the session.
    #[error("shared memory: {0}")]
    Shared(#[from] Fault),
    /// What the client does cannot be waited for.
    #[error("cannot wait: {0}")]
    Wait(#[source] io::Error),
    /// No version could be agreed on.
    #[error("VERSION was refused")]
    Version,
}

/// A client that is being served.
///
/// Whoever serves it calls [`Session::wait`], or waits in a way of its own and
/// calls [`Session::look`], and then [`Session::turn`], again and again, from
/// one thread at a time; and [`Session::finish`] after the first error.
pub(super) struct Session<'a, O> {
    endpoint: &'a mut Endpoint,
    observer: O,
    socket: Arc<Socket>,
    /// Absent only while the device is called, which may have to receive.
    connection: Option<Box<Connection>>,
    /// The message that is carried out.
    message: Message,
    limits: &'a Limits,
    spin: Spin,
    /// How often it was looked for work, roughly.
    looks: u32,
    /// If there is more than the socket to wait for.
    watch: Option<Watch>,
    /// The [`Endpoint::event_changes`] that `watch` knows of; none if it does
    /// not know all else.
    watched: Option<u32>,
    shared: Option<Box<Serving>>,
    /// The answer to it.
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
    /// The most bytes of an access that is taken as a small one.
    small: u32,
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
        observer: O,
    ) -> Result<(), SessionError> {
        let socket = Arc::new(Socket::new(stream, terms.limits.message)?);
        let _registered = handle.register(socket.clone());
        let mut session = Session::new(endpoint, socket, terms, observer);
        let end = session.run();
        session.finish(end, handle).1
    }

    /// A client that has just connected.
    pub(super) fn new(
        endpoint: &'a mut Endpoint,
        socket: Arc<Socket>,
        terms: &'a Terms,
        observer: O,
    ) -> Self {
        let Terms { limits, polling } = terms;
        let inbox = Inbox::new(socket.clone(), limits.message);
        let connection = Connection::new(socket.clone(), inbox);
        Session {
            endpoint,
            observer,
            socket,
            connection: Some(Box::new(connection)),
            message: Message::new(),
            limits,
            spin: polling.spin(),
            looks: 0,
            watch: None,
            watched: None,
            shared: None,
            outgoing: Outgoing::default(),
            reply_fds: Vec::new(),
            connected_at: Instant::now(),
            agreed: None,
        }
    }

    /// Releases all that the client had, and gives the endpoint back. `end` is
    /// why: the first error. It is also what is returned, unless the client
    /// left in order or was left.
    pub(super) fn finish(
        mut self,
        end: Result<(), SessionError>,
        handle: &Handle,
    ) -> (&'a mut Endpoint, Result<(), SessionError>) {
        if let Some(agreed) = self.agreed.take() {
            agreed.messages.close();
        }
        // Who writes into it from now on talks to nobody.
        self.shared = None;
        self.socket.finish();
        self.endpoint.disconnect();
        let end = match end {
            Err(SessionError::Receive(ReceiveError::Closed)) => Ok(()),
            // It may have been in the middle of anything.
            Err(_) if handle.stopped() => Ok(()),
            end => end,
        };
        (self.endpoint, end)
    }

    fn run(&mut self) -> Result<(), SessionError> {
        loop {
            self.wait_for_other()?;
            self.turn()?;
        }
    }

    /// Carries out all that is here, in order, and answers it, with one send
    /// where that is possible. What has come of a message that is not whole
    /// stays. Waits for nobody, unless the device or a client that does not
    /// take its replies makes it.
    #[inline]
    pub(super) fn turn(&mut self) -> Result<(), SessionError> {
        if self.connection().inbox.has_input() || !self.shared_has_work() {
            // After the receive: a doorbell that was rung before a command
            // was sent is heard before the command.
            self.hear()?;
            self.carry_out()?;
        }
        if self.serve_shared()? && self.connection().inbox.has_input() {
            // Put aside while the device waited for the client.
            self.carry_out()?;
        }
        Ok(())
    }

    /// Carries out all messages that are here.
    #[inline]
    fn carry_out(&mut self) -> Result<(), SessionError> {
        loop {
            self.carry_out_small()?;
            if !self.connection().inbox.has_input() || !self.carry_out_next()? {
                return Ok(self.connection().flush()?);
            }
        }
    }

    /// Carries out accesses of registers as far as there is nothing else.
    /// They are spared the way through a [`Message`].
    #[inline]
    fn carry_out_small(&mut self) -> Result<(), SessionError> {
        let small = self.agreed.as_ref().map_or(0, |agreed| agreed.small);
        loop {
            let (access, data) = match self.connection().inbox.take_small(small) {
                Small::Read(access) => (access, None),
                Small::Write(access, data) => (access, Some(data)),
                Small::Nothing | Small::Other => return Ok(()),
            };
            self.observer.received(&access.header());
            self.connection().make_ready()?;
            self.drain()?;
            let done = {
                let _lent = Lent::new(&mut self.connection);
                let (region, offset) = (access.region(), access.offset());
                let length = access.count() as usize;
                match data {
                    None => self.endpoint.load(region, offset, length),
                    Some(data) => self
                        .endpoint
                        .store(region, offset, length, data)
                        .map(|()| 0),
                }
            };
            match done {
                Err(error) => self.refuse(&access.header(), &access.body(), &error.into())?,
                Ok(_) if access.no_reply() => {}
                Ok(value) => self.answer_small(&access, data.is_none(), value)?,
            }
        }
    }

    #[inline]
    fn answer_small(&mut self, access: &SmallAccess, reads: bool, value: u64) -> io::Result<()> {
        self.observer.answering(&access.header());
        let begun = self.connection().begin_answer(access, reads);
        self.connection().end_answer(begun, value);
        if O::LISTENS {
            self.connection().flush()?;
        }
        self.observer.answered(&access.header());
        Ok(())
    }

    /// Carries out the next message, if it is here whole.
    #[inline(never)]
    fn carry_out_next(&mut self) -> Result<bool, SessionError> {
        let mut message = std::mem::take(&mut self.message);
        let done = match self.connection().inbox.take(&mut message) {
            Ok(true) => self.handle(&mut message).map(|()| true),
            Ok(false) => Ok(false),
            Err(error) => self.end(error).map(|()| false),
        };
        self.message = message;
        done
    }

    #[inline]
    fn connection(&mut self) -> &mut Connection {
        self.connection
            .as_mut()
            .expect("it comes back when the device has been called")
    }

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
        self.connection().make_ready()?;
        self.drain()?;
        match self.execute(header, body, fds) {
            Ok(()) if header.no_reply => self.reply_fds.clear(),
            Ok(()) if self.reply_fds.is_empty() => {
                self.observer.answering(header);
                self.answer()?;
                if O::LISTENS {
                    self.connection().flush()?;
                }
                self.observer.answered(header);
            }
            Ok(()) => {
                let fds = std::mem::take(&mut self.reply_fds);
                let message = self.outgoing.finish();
                let connection = self.connection.as_mut();
                connection.map_or(Ok(()), |connection| connection.answer_with(message, &fds))?;
            }
            Err(refusal) => {
                // Closed before the client learns that they are not wanted.
                fds.clear();
                self.refuse(header, body, &refusal)?;
            }
        }
        Ok(())
    }

    /// Answers with what is in `outgoing`.
    fn answer(&mut self) -> io::Result<()> {
        let message = self.outgoing.finish();
        let connection = self.connection.as_mut();
        connection.map_or(Ok(()), |connection| connection.answer(message))
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
        let _lent = Lent::new(&mut self.connection);
        match command {
            // These two may carry much, which goes straight into the reply.
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
        let answer = version::answer(negotiated, reply)?;
        self.agree(answer)
    }

    /// Begins to serve under what was negotiated.
    fn agree(&mut self, answer: Answer) -> Result<(), Refusal> {
        let Answer {
            negotiated,
            twin,
            shared,
        } = answer;
        let max_data = negotiated.client_max_data;
        let messages = if let Some(twin) = twin {
            self.reply_fds.push(twin.theirs);
            self.connection().keep_nothing();
            Messages::over_twin(twin.ours, max_data, self.limits)?
        } else {
            Messages::over_main(self.socket.clone(), max_data, self.limits)
        };
        if let Some((serving, fds)) = shared {
            self.reply_fds.extend(fds);
            self.shared = Some(Box::new(serving));
            self.watched = None;
        }
        let messages = Arc::new(messages);
        let page_size = negotiated.page_size;
        let max_maps = negotiated.max_dma_maps;
        self.endpoint.connect(messages.clone(), page_size, max_maps);
        self.agreed = Some(Agreed {
            small: negotiated.max_data.min(SMALL),
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
            self.answer()?;
        }
        // Without a version there is nothing to talk about (vfio-user,
        // VERSION: the server closes the connection).
        if command == Some(Command::Version) && self.agreed.is_none() {
            self.connection().flush()?;
            return Err(SessionError::Version);
        }
        Ok(())
    }

    /// Ends the session because there is no further message.
    #[cold]
    fn end(&mut self, error: ReceiveError) -> Result<(), SessionError> {
        if let ReceiveError::Unframed(header, malformed) = &error {
            self.refuse_unframed(header, malformed.errno())?;
            self.connection().flush()?;
        }
        Err(error.into())
    }

    /// A last word to a client whose next message cannot be found.
    fn refuse_unframed(&mut self, bytes: &[u8; Header::SIZE], errno: i32) -> io::Result<()> {
        let Some(header) = Header::refusal_of(bytes, errno) else {
            return Ok(());
        };
        self.outgoing.begin(&header);
        self.answer()
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
