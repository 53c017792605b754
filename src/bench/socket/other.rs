//! Rung 3: a vfio-user server that is running already, whoever's it is.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;

use super::link::Link;
use super::medium::{Access, Messenger};
use super::messages::{Messages, Target};
use super::rows::{self, Connection, Server};
use super::{join_gaps, note, what};
use crate::bench::shared::{self, Accessor};
use crate::bench::waiting::Waiting;
use crate::bench::{Bench, Interrupt, Peer, PeerKind, PeerOptions, Section, Trouble};
use crate::client::{Client, ClientError, Options, Spinning};
use crate::protocol::RegionAccess;

/// How often we look whether to end while the server is asked what it has.
const GLANCE: Duration = Duration::from_millis(50);

/// PCI's BARs.
const BARS: u32 = 6;

/// A server that has been looked at.
struct Found {
    stream: UnixStream,
    target: Target,
    /// Why there are no writes, if so.
    writes: Result<(), Trouble>,
    /// Why there is no `REGION_WRITE_MULTI`, if so.
    multi: Result<(), Trouble>,
    /// Who goes by shared memory, if the server offers that.
    shared: Option<Client>,
}

/// The server that listens on a path, with one connection for all runs: some
/// servers take only one.
pub struct OtherServer {
    /// What is said of it, without rows.
    section: Section,
    /// By the socket and by shared memory; none if it cannot be measured.
    servers: Vec<Server>,
}

impl OtherServer {
    /// Connects to the server and looks at it, but not longer than until an
    /// interrupt.
    pub fn look(path: &Path, interrupt: &Interrupt) -> Self {
        let mut section = Section::new(3, format!("socket: the server on {}", path.display()));
        let servers = look(path, interrupt).and_then(|found| {
            tell(&mut section, &found);
            servers(found, interrupt)
        });
        let servers = match servers {
            Ok(servers) => servers,
            Err(trouble) => {
                // Whoever interrupted us knows why there is nothing.
                if !interrupt.raised() {
                    section.gap("other", trouble);
                }
                Vec::new()
            }
        };
        OtherServer { section, servers }
    }

    /// Measures it on its first BAR that can be read. Writes put back what was
    /// there. `program` is this program, to be run again as the floor's
    /// process.
    pub fn measure(&self, bench: &Bench<'_>, program: &Path) -> Section {
        let mut section = self.section.clone();
        if !self.servers.is_empty() {
            bench.measure(&mut section, || {
                let floor = floor(program, &bench.plan.interrupt)?;
                Ok(rows::rows("other", &floor, &self.servers))
            });
        }
        join_gaps(&mut section);
        section
    }
}

/// Says what was found.
fn tell(section: &mut Section, found: &Found) {
    note(section);
    let Target { region, data, .. } = found.target;
    section.notes.push(format!(
        "Both sides block, and the server runs where it likes, as does the floor's. Accesses are \
         at the beginning of region {region}; writes write {:#x}, which was there.",
        u32::from_le_bytes(data)
    ));
    if let Err(why) = &found.writes {
        section.gap("other writes", why);
    } else if let Err(why) = &found.multi {
        section.gap("other.write-multi.server", why);
    }
}

fn servers(found: Found, interrupt: &Interrupt) -> Result<Vec<Server>, Trouble> {
    // Who made the socket, if it is in sight.
    let process = socket_peercred(&found.stream).ok();
    let process =
        process.and_then(|process| u32::try_from(process.pid.as_raw_nonzero().get()).ok());
    let writes = found.writes.is_ok();
    let link = Link::new(found.stream, Waiting::Block, interrupt.clone())?;
    let messages = Messages::vfio_user(found.target);
    let connection = Connection::new(Messenger { link, messages }, process);
    let mut servers = vec![Server {
        name: "server",
        what: "the server",
        accesses: Access::by_socket(writes, found.multi.is_ok()),
        connection: Rc::new(RefCell::new(connection)),
    }];
    // It uses the socket only to see whether the server is there.
    if let Some(client) = found.shared {
        let connection = Connection::new(Accessor::over(client, found.target), process);
        let mut accesses = shared::ALL.to_vec();
        accesses.retain(|&access| writes || access == Access::Read);
        servers.push(Server {
            name: "shared",
            what: "the server by shared memory",
            accesses,
            connection: Rc::new(RefCell::new(connection)),
        });
    }
    Ok(servers)
}

fn floor(program: &Path, interrupt: &Interrupt) -> Result<Server, Trouble> {
    let kind = PeerKind::PingPong;
    let (peer, stream) = Peer::start(program, &PeerOptions::of(kind))?;
    let link = Link::new(stream, Waiting::Block, interrupt.clone())?;
    let messages = Messages::ping_pong();
    let connection = Connection::to_peer(Messenger { link, messages }, peer, false)?;
    Ok(Server {
        name: "floor",
        what: what(kind),
        accesses: Access::by_socket(true, true),
        connection: Rc::new(RefCell::new(connection)),
    })
}

/// Looks at the server, but not longer than until an interrupt. The thread
/// that it leaves behind then ends when the server answers or is given up.
fn look(path: &Path, interrupt: &Interrupt) -> Result<Found, Trouble> {
    let (done, ended) = mpsc::channel();
    let path = path.to_owned();
    thread::Builder::new()
        .name("look".to_owned())
        .spawn(move || {
            let found = find(&path).map_err(|error| match error {
                // Names the socket itself.
                ClientError::Connect { .. } => Trouble(error.to_string()),
                _ => Trouble::new(path.display(), error),
            });
            // Nobody waits for it after an interrupt.
            let _ = done.send(found.and_then(|found| found));
        })
        .map_err(|error| Trouble::new("cannot start a thread", error))?;
    loop {
        match ended.recv_timeout(GLANCE) {
            Ok(found) => return found,
            Err(RecvTimeoutError::Timeout) if !interrupt.raised() => {}
            Err(_) => return Err(Trouble("interrupted".to_owned())),
        }
    }
}

/// Finds something to access: an outer error for a server that does not
/// answer as it should, an inner one for a device with nothing to access.
fn find(path: &Path) -> Result<Result<Found, Trouble>, ClientError> {
    // Who measures has one CPU.
    let options = Options::default().shared_mmio(1).spinning(Spinning::Never);
    let mut client = Client::connect(path, &options)?;
    let regions = client.device_info()?.regions.min(BARS);
    for region in 0..regions {
        let info = match client.region(region) {
            Ok(found) => found.info,
            Err(ClientError::Refused { .. }) => continue,
            Err(error) => return Err(error),
        };
        if !info.readable || info.size < 4 {
            continue;
        }
        let mut data = [0; 4];
        client.read(region, 0, &mut data)?;
        let target = Target {
            region,
            offset: 0,
            data,
        };
        let writes = tried(client.write(region, 0, &data))?;
        let multi = try_multi(&mut client, target, &writes)?;
        // If the client ends, the connection goes on.
        let stream = match client.as_fd().try_clone_to_owned() {
            Ok(fd) => UnixStream::from(fd),
            Err(error) => return Ok(Err(Trouble::new(path.display(), error))),
        };
        return Ok(Ok(Found {
            stream,
            target,
            writes,
            multi,
            shared: client.agreement().shared_mmio.map(|_| client),
        }));
    }
    Ok(Err(Trouble(format!(
        "{}: none of its BARs can be read; there is nothing to measure",
        path.display()
    ))))
}

fn try_multi(
    client: &mut Client,
    target: Target,
    writes: &Result<(), Trouble>,
) -> Result<Result<(), Trouble>, ClientError> {
    if !client.agreement().write_multiple {
        let why = "the server does not know REGION_WRITE_MULTI";
        return Ok(Err(Trouble(why.to_owned())));
    }
    if writes.is_err() {
        return Ok(writes.clone());
    }
    let access = RegionAccess {
        offset: target.offset,
        region: target.region,
        count: 4,
    };
    let mut data = [0; 8];
    data[..4].copy_from_slice(&target.data);
    tried(client.write_multi(&[(access, data)]))
}

/// A refusal is an answer.
fn tried(outcome: Result<(), ClientError>) -> Result<Result<(), Trouble>, ClientError> {
    match outcome {
        Ok(()) => Ok(Ok(())),
        Err(error @ ClientError::Refused { .. }) => Ok(Err(Trouble(error.to_string()))),
        Err(error) => Err(error),
    }
}
