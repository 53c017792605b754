//! The way of nearly every access: from the socket to a register and back,
//! while there is nothing else to look at.

use std::io;

use super::{Session, SessionError};
use crate::endpoint::{Endpoint, RegionError};
use crate::protocol::{ReceiveError, SmallAccess};
use crate::server::Observer;
use crate::server::connection::{Connection, lend, take_back};

/// Why it cannot go on like this.
enum Stop {
    /// There is something else than an access of a register.
    Other,
    Refused(SmallAccess, RegionError),
    Receive(ReceiveError),
    Reply(io::Error),
}

impl<O: Observer> Session<'_, O> {
    /// Whether there is nothing to wait for but the client's commands, and
    /// nobody to watch.
    fn is_plain(&self) -> bool {
        let only_commands = self.shared.is_none() && !self.endpoint.has_events();
        only_commands && self.spin.is_never() && !O::LISTENS
    }

    /// Waits as [`Session::wait`] does, and deals with accesses of registers
    /// until there is something else, for [`Session::turn`]. None of what
    /// [`Session::is_plain`] looks at changes before.
    pub(super) fn wait_for_other(&mut self) -> Result<(), SessionError> {
        if !self.is_plain() {
            return self.wait();
        }
        let Some(small) = self.agreed.as_ref().map(|agreed| agreed.small) else {
            return self.wait();
        };
        let Some(connection) = self.connection.take() else {
            return Ok(());
        };
        let (connection, stop) = serve(self.endpoint, connection, small);
        self.connection = Some(connection);
        match stop {
            Stop::Other => Ok(()),
            Stop::Refused(access, error) => {
                self.refuse(&access.header(), &access.body(), &error.into())
            }
            Stop::Receive(error) => Err(error.into()),
            Stop::Reply(error) => Err(error.into()),
        }
    }
}

fn serve(
    endpoint: &mut Endpoint,
    mut connection: Box<Connection>,
    small: u32,
) -> (Box<Connection>, Stop) {
    loop {
        if let Err(error) = connection.inbox.wait_for_ever() {
            return (connection, Stop::Receive(error));
        }
        while let Some(access) = connection.inbox.take_small(small) {
            if let Err(error) = connection.make_ready() {
                return (connection, Stop::Reply(error));
            }
            let (region, offset) = (access.region(), access.offset());
            let length = access.count() as usize;
            lend(connection);
            let value = match access.data() {
                None => endpoint.load_register(region, offset, length),
                Some(data) => endpoint.store_register(region, offset, length, data),
            };
            connection = take_back();
            let value = match value {
                Some(value) => value,
                None => match other(endpoint, connection, access) {
                    (back, Ok(value)) => {
                        connection = back;
                        value
                    }
                    (back, Err(error)) => return (back, Stop::Refused(access, error)),
                },
            };
            if !access.no_reply() {
                connection.answer_small(&access, value);
            }
        }
        if connection.inbox.has_input() {
            return (connection, Stop::Other);
        }
        if let Err(error) = connection.flush() {
            return (connection, Stop::Reply(error));
        }
    }
}

/// Carries out an access of something else than a register.
#[cold]
fn other(
    endpoint: &mut Endpoint,
    connection: Box<Connection>,
    access: SmallAccess,
) -> (Box<Connection>, Result<u64, RegionError>) {
    let (region, offset) = (access.region(), access.offset());
    let length = access.count() as usize;
    lend(connection);
    let done = match access.data() {
        None => endpoint.load(region, offset, length),
        Some(data) => {
            let stored = endpoint.store(region, offset, length, data);
            stored.map(|()| 0)
        }
    };
    (take_back(), done)
}
