//! The rows that every server gets, and what takes their samples.

use std::cell::RefCell;
use std::rc::Rc;

use super::medium::{Access, BURST, Carries, POSTED};
use super::messages::WRITES;
use crate::bench::{Candidate, Clock, Peer, Subject, Trouble};

impl Access {
    const ALL: [Access; 7] = [
        Access::Read,
        Access::Write,
        Access::Posted,
        Access::Sustained,
        Access::ServerCpu,
        Access::ReadBack,
        Access::Multi,
    ];

    /// Those of a server on a socket.
    pub(in crate::bench) fn by_socket(writes: bool, multi: bool) -> Vec<Access> {
        let mut all = Access::ALL.to_vec();
        all.retain(|&access| match access {
            Access::Read => true,
            Access::Multi => writes && multi,
            _ => writes,
        });
        all
    }

    fn name(self) -> &'static str {
        match self {
            Access::Read => "read",
            Access::Write => "write",
            Access::Posted => "posted",
            Access::Sustained => "sustained",
            Access::ServerCpu => "server-cpu",
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
            Access::ServerCpu => format!("posted write, one of {BURST}, the server's CPU time"),
            Access::ReadBack => "posted write, read back".to_owned(),
            Access::Multi => format!("WRITE_MULTI of {WRITES}"),
        }
    }

    fn batch(self) -> u32 {
        match self {
            Access::Sustained => POSTED,
            Access::ServerCpu => BURST,
            _ => 1,
        }
    }
}

/// A server that rows are about, or what is their floor.
#[derive(Clone)]
pub(in crate::bench) struct Server {
    /// The last part of its rows' names.
    pub(in crate::bench) name: &'static str,
    /// What it is, for people.
    pub(in crate::bench) what: &'static str,
    /// What it can, in any order.
    pub(in crate::bench) accesses: Vec<Access>,
    pub(in crate::bench) connection: Rc<RefCell<Connection>>,
}

impl Server {
    fn does(&self, access: Access) -> bool {
        // Who spins uses all the time there is.
        let counts = access != Access::ServerCpu || self.connection.borrow().works_on_demand();
        counts && self.accesses.contains(&access)
    }
}

/// A connection that all rows of a server share, one after the other.
pub(in crate::bench) struct Connection {
    medium: Box<dyn Carries>,
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
    pub(in crate::bench) fn new(medium: impl Carries + 'static, process: Option<u32>) -> Self {
        Connection {
            medium: Box::new(medium),
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
    pub(in crate::bench) fn to_peer(
        medium: impl Carries + 'static,
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
            ..Connection::new(medium, process)
        })
    }

    /// Whether the server's CPU time is that of its work.
    fn works_on_demand(&self) -> bool {
        self.process.is_some() && !self.spins
    }

    /// Takes the samples of a slice, and leaves nothing behind for the next.
    /// After a failure the stream is out of step, and all others fail.
    fn sample(&mut self, access: Access, clock: &Clock, ticks: &mut [u64]) -> Result<(), Trouble> {
        if let Some(trouble) = &self.failed {
            return Err(trouble.clone());
        }
        let process = self.process;
        let taken = self
            .begin()
            .and_then(|()| self.medium.take(access, process, clock, ticks));
        let ended = taken.and_then(|()| self.end());
        self.failed = ended.as_ref().err().cloned();
        ended
    }

    fn begin(&mut self) -> Result<(), Trouble> {
        if let Some(peer) = self.peer.as_ref().filter(|_| self.spins) {
            peer.resume()?;
            self.medium.push()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Trouble> {
        self.medium.push()?;
        match &self.peer {
            Some(peer) if self.spins => peer.pause(),
            _ => Ok(()),
        }
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
/// the same to `floor` if that does it. Their names begin with `prefix`.
pub(in crate::bench) fn rows(
    prefix: &str,
    floor: &Server,
    servers: &[Server],
) -> Vec<Candidate<'static>> {
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
        let mut name_of_floor = None;
        if floor.does(access) {
            rows.push(row(floor, format!("floor: {what}, {}", floor.what), None));
            name_of_floor = Some(of(floor));
        }
        rows.extend(servers.map(|server| {
            let what = format!("{what}, {}", server.what);
            row(server, what, name_of_floor.clone())
        }));
    }
    rows
}
