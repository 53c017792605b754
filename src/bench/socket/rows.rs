//! The rows that every server on a socket gets, and what takes their samples.

use std::cell::RefCell;
use std::rc::Rc;

use super::link::Link;
use super::messages::{Exchange, Messages, WRITES};
use crate::bench::{Candidate, Clock, Peer, Subject, Trouble, timed};

/// How many posted writes go out before a read waits for them.
pub(super) const POSTED: u32 = 64;

/// A kind of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    Posted,
    Sustained,
    ReadBack,
    Multi,
}

impl Access {
    const ALL: [Access; 6] = [
        Access::Read,
        Access::Write,
        Access::Posted,
        Access::Sustained,
        Access::ReadBack,
        Access::Multi,
    ];

    fn name(self) -> &'static str {
        match self {
            Access::Read => "read",
            Access::Write => "write",
            Access::Posted => "posted",
            Access::Sustained => "sustained",
            Access::ReadBack => "read-back",
            Access::Multi => "write-multi",
        }
    }

    fn what(self) -> String {
        match self {
            Access::Read => "read".to_owned(),
            Access::Write => "acknowledged write".to_owned(),
            Access::Posted => "posted write, the send".to_owned(),
            Access::Sustained => format!("posted write, one of {POSTED}"),
            Access::ReadBack => "posted write, read back".to_owned(),
            Access::Multi => format!("WRITE_MULTI of {WRITES}"),
        }
    }

    fn batch(self) -> u32 {
        match self {
            Access::Sustained => POSTED,
            _ => 1,
        }
    }
}

/// A server that rows are about, or the ping-pong that is their floor.
#[derive(Clone)]
pub(super) struct Server {
    /// The last part of its rows' names.
    pub(super) name: &'static str,
    /// What it is, for people.
    pub(super) what: &'static str,
    /// It may be written to.
    pub(super) writes: bool,
    /// It knows `REGION_WRITE_MULTI`.
    pub(super) multi: bool,
    pub(super) connection: Rc<RefCell<Connection>>,
}

impl Server {
    fn does(&self, access: Access) -> bool {
        match access {
            Access::Read => true,
            Access::Multi => self.writes && self.multi,
            _ => self.writes,
        }
    }
}

/// A connection that all rows of a server share, one after the other.
pub(super) struct Connection {
    link: Link,
    messages: Messages,
    /// The server's process, if it is known.
    process: Option<u32>,
    /// The process, if it is ours.
    peer: Option<Peer>,
    /// It spins, and so must not run in the time of other rows.
    spins: bool,
    /// Why there will be no more.
    failed: Option<Trouble>,
}

impl Connection {
    /// To a server of somebody else's.
    pub(super) fn new(link: Link, messages: Messages, process: Option<u32>) -> Self {
        Connection {
            link,
            messages,
            process,
            peer: None,
            spins: false,
            failed: None,
        }
    }

    /// To a peer of ours, which runs only when it is needed if it spins.
    ///
    /// # Errors
    ///
    /// If it has ended.
    pub(super) fn to_peer(
        link: Link,
        messages: Messages,
        peer: Peer,
        spins: bool,
    ) -> Result<Self, Trouble> {
        if spins {
            peer.pause()?;
        }
        let process = Some(peer.id());
        Ok(Connection {
            peer: Some(peer),
            spins,
            ..Connection::new(link, messages, process)
        })
    }

    /// Takes the samples of a slice, and leaves nothing behind for the next.
    /// After a failure the stream is out of step, and all others fail.
    fn sample(&mut self, access: Access, clock: &Clock, ticks: &mut [u64]) -> Result<(), Trouble> {
        if let Some(trouble) = &self.failed {
            return Err(trouble.clone());
        }
        let taken = self.begin().and_then(|()| self.take(access, clock, ticks));
        let ended = taken.and_then(|()| self.end());
        self.failed = ended.as_ref().err().cloned();
        ended
    }

    fn begin(&mut self) -> Result<(), Trouble> {
        if let Some(peer) = self.peer.as_ref().filter(|_| self.spins) {
            peer.resume()?;
            self.read()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Trouble> {
        self.read()?;
        match &self.peer {
            Some(peer) if self.spins => peer.pause(),
            _ => Ok(()),
        }
    }

    fn read(&mut self) -> Result<(), Trouble> {
        exchange(&mut self.link, &self.messages.read)
    }

    fn take(&mut self, access: Access, clock: &Clock, ticks: &mut [u64]) -> Result<(), Trouble> {
        let Connection { link, messages, .. } = self;
        let Messages {
            read,
            write,
            post,
            multi,
        } = &*messages;
        match access {
            Access::Read => timed(clock, ticks, 1, || exchange(link, read)),
            Access::Write => timed(clock, ticks, 1, || exchange(link, write)),
            Access::Multi => timed(clock, ticks, 1, || exchange(link, multi)),
            Access::ReadBack => timed(clock, ticks, 1, || {
                exchange(link, post)?;
                exchange(link, read)
            }),
            Access::Sustained => timed(clock, ticks, 1, || {
                for _ in 0..POSTED {
                    exchange(link, post)?;
                }
                exchange(link, read)
            }),
            Access::Posted => ticks.iter_mut().try_for_each(|ticks| {
                timed(clock, std::slice::from_mut(ticks), 1, || {
                    exchange(link, post)
                })?;
                exchange(link, read)
            }),
        }
    }
}

/// Sends a message, and waits for its answer if it gets one.
#[inline]
fn exchange(link: &mut Link, exchange: &Exchange) -> Result<(), Trouble> {
    link.send(&exchange.request)?;
    match &exchange.reply {
        Some(reply) => link.receive(reply),
        None => Ok(()),
    }
}

/// One row: an access to a server.
struct Row {
    connection: Rc<RefCell<Connection>>,
    access: Access,
}

impl Subject for Row {
    fn sample(&mut self, clock: &Clock, ticks: &mut [u64]) -> Result<(), Trouble> {
        let mut connection = self.connection.borrow_mut();
        connection.sample(self.access, clock, ticks)
    }

    fn peer(&self) -> Option<u32> {
        self.connection.borrow().process
    }
}

/// A row for each access to each of `servers` that does it, behind the row of
/// the same bytes to `floor`. Their names begin with `prefix`.
pub(super) fn rows(prefix: &str, floor: &Server, servers: &[Server]) -> Vec<Candidate<'static>> {
    let mut rows = Vec::new();
    for access in Access::ALL {
        let mut servers = servers
            .iter()
            .filter(|server| server.does(access))
            .peekable();
        if servers.peek().is_none() {
            continue;
        }
        let (name, what) = (access.name(), access.what());
        let of = |server: &Server| format!("{prefix}.{name}.{}", server.name);
        let row = |server: &Server, what, floor| Candidate {
            name: of(server),
            what,
            floor,
            batch: access.batch(),
            subject: Box::new(Row {
                connection: server.connection.clone(),
                access,
            }),
        };
        rows.push(row(floor, format!("floor: {what}, {}", floor.what), None));
        rows.extend(servers.map(|server| {
            let what = format!("{what}, {}", server.what);
            row(server, what, Some(of(floor)))
        }));
    }
    rows
}
