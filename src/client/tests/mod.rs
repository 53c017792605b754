//! A scripted server at the other end of a socket pair: each of its lies
//! becomes its error, in bounded time.

mod descriptions;
mod lies;
mod memory;
mod pages;
mod requesters;
mod shared;

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::*;
use crate::protocol::{Capabilities, Proposal, RegionAccess};

const PATIENCE: Duration = Duration::from_secs(5);

/// The server's side. What it waits for, it waits for without a deadline: the
/// client ends the connection.
struct Peer {
    socket: Arc<Socket>,
    inbox: Inbox,
    message: Message,
}

impl Peer {
    fn new(stream: UnixStream) -> Peer {
        let socket = Arc::new(Socket::new(stream, PATIENCE).unwrap());
        Peer {
            inbox: Inbox::new(socket.clone(), PATIENCE),
            socket,
            message: Message::new(),
        }
    }

    /// The client's next message; `None` if it left.
    fn next(&mut self) -> Option<Header> {
        let received = self.inbox.receive(&mut self.message, Wait::Forever);
        received.ok().map(|()| self.message.header)
    }

    fn send(&self, header: Header, body: &[u8]) {
        self.send_with(header, body, &[]);
    }

    fn send_with(&self, header: Header, body: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut out = Outgoing::default();
        out.begin(&header).extend_from_slice(body);
        // The client may have left.
        let _ = self.socket.send(out.finish(), fds);
    }

    fn raw(&self, bytes: &[u8]) {
        let _ = self.socket.send(bytes, &[]);
    }

    fn version(&mut self, capabilities: Capabilities, fds: &[BorrowedFd<'_>]) {
        let header = self.next().unwrap();
        let mut body = Vec::new();
        let proposal = Proposal {
            major: 0,
            minor: 1,
            capabilities,
        };
        proposal.encode(&mut body);
        self.send_with(header.reply(), &body, fds);
    }

    /// Keeps the connection until the client ends it.
    fn stay(&mut self) {
        while self.next().is_some() {}
    }
}

/// Connects a client to a server that does as `script` says.
fn connect(
    options: Options,
    script: impl FnOnce(&mut Peer) + Send + 'static,
) -> Result<Client, ClientError> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || script(&mut Peer::new(theirs)));
    Client::over(ours, &options)
}

/// A client whose server agrees, and then does as `script` says.
fn agreed(script: impl FnOnce(&mut Peer) + Send + 'static) -> Client {
    let options = Options::default().timeout(PATIENCE);
    connect(options, |peer| {
        peer.version(Capabilities::default(), &[]);
        script(peer);
    })
    .unwrap()
}

/// A client whose server answers the next command with this body.
fn answered(body: Vec<u8>) -> Client {
    agreed(move |peer| {
        let header = peer.next().unwrap();
        peer.send(header.reply(), &body);
        peer.stay();
    })
}

fn read(client: &mut Client) -> Result<[u8; 4], ClientError> {
    let mut data = [0; 4];
    client.read(0, 8, &mut data).map(|()| data)
}

/// Checks an error's name, that it is one line, and that it ends the
/// connection.
macro_rules! assert_ends {
    ($client:expr, $result:expr, $pattern:pat) => {
        let error = $result.map(|_| ()).unwrap_err();
        assert!(matches!(error, $pattern), "{error:?}");
        assert!(!error.to_string().contains('\n'));
        let next = $client.reset().unwrap_err();
        assert!(matches!(next, ClientError::GivenUp { .. }), "{next:?}");
    };
}

fn access(count: u32) -> RegionAccess {
    RegionAccess {
        offset: 8,
        region: 0,
        count,
    }
}

fn access_body(access: RegionAccess, data: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    access.encode(&mut body);
    body.extend_from_slice(data);
    body
}

use assert_ends;
