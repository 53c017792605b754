//! The way of nearly every access: from the socket to a register and back,
//! while there is nothing else to look at.

use std::io;

use super::{Session, SessionError};
use crate::endpoint::{Endpoint, RegionError};
use crate::protocol::{ReceiveError, Small, SmallAccess, Wait};
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
    if let Err(error) = connection.inbox.wait(Wait::Forever) {
        return (connection, Stop::Receive(error));
    }
    loop {
        let done = match connection.inbox.take_small(small) {
            Small::Read(access) => carry_out(endpoint, connection, access, None),
            Small::Write(access, data) => carry_out(endpoint, connection, access, Some(data)),
            Small::Other => return (connection, Stop::Other),
            Small::Nothing => {
                if let Err(error) = connection.flush() {
                    return (connection, Stop::Reply(error));
                }
                if let Err(error) = connection.inbox.receive_anew() {
                    return (connection, Stop::Receive(error));
                }
                continue;
            }
        };
        connection = match done {
            Ok(connection) => connection,
            Err(stopped) => return stopped,
        };
    }
}

/// Carries out an access and answers it. `data` are what it writes, if it
/// does. Twice in the program: for reads, and for writes.
#[allow(clippy::inline_always, reason = "every access comes through here")]
#[inline(always)]
fn carry_out(
    endpoint: &mut Endpoint,
    mut connection: Box<Connection>,
    access: SmallAccess,
    data: Option<u64>,
) -> Result<Box<Connection>, (Box<Connection>, Stop)> {
    if let Err(error) = connection.make_ready() {
        return Err((connection, Stop::Reply(error)));
    }
    let length = access.count() as usize;
    let found = endpoint.find_register(access.region(), access.offset(), length);
    let Some(register) = found else {
        return match other(endpoint, connection, access, data) {
            (connection, Ok(())) => Ok(connection),
            (connection, Err(error)) => Err((connection, Stop::Refused(access, error))),
        };
    };
    // Of the access no more is needed when the device has been called.
    let begun = connection.begin_answer(&access, data.is_none());
    lend(connection);
    let value = match data {
        None => register.read(),
        Some(data) => {
            register.write(length, data);
            0
        }
    };
    connection = take_back();
    connection.end_answer(begun, value);
    Ok(connection)
}

/// Carries out an access of something else than a register.
#[cold]
fn other(
    endpoint: &mut Endpoint,
    mut connection: Box<Connection>,
    access: SmallAccess,
    data: Option<u64>,
) -> (Box<Connection>, Result<(), RegionError>) {
    let (region, offset) = (access.region(), access.offset());
    let length = access.count() as usize;
    let begun = connection.begin_answer(&access, data.is_none());
    lend(connection);
    let done = match data {
        None => endpoint.load(region, offset, length),
        Some(data) => {
            let stored = endpoint.store(region, offset, length, data);
            stored.map(|()| 0)
        }
    };
    connection = take_back();
    let done = done.map(|value| connection.end_answer(begun, value));
    (connection, done)
}
