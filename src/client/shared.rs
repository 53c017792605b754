//! The client's own accesses by shared memory, and those of its requesters.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use super::requester::{Line, Way, posted};
use super::{Client, ClientError, Options, Requester};
use crate::fastpath::{self, Access, Layout};
use crate::protocol::{Command, Kind, SharedMmio};

/// What was agreed upon.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) line: Arc<Line>,
    own: Way,
    /// The slots of requesters that nobody asked for yet.
    spare: Vec<fastpath::Requester>,
}

impl Client {
    /// A further requester, for another thread. `None` if no slot is left:
    /// [`Options::shared_mmio`] asks for them, [`Agreement`](super::Agreement)
    /// says how many there are, and the client has the first. A slot is not
    /// given back.
    ///
    /// It has the client's timeout of now. The client goes on serving the
    /// server's commands: a device that reads the client's memory by message
    /// in the middle of a requester's access waits until the client is used,
    /// or [waits](Client::wait_for).
    pub fn requester(&mut self) -> Option<Requester> {
        let shared = self.shared.as_mut()?;
        let slot = shared.spare.pop()?;
        let line = Arc::clone(&shared.line);
        let way = Way::new(slot, self.spinning);
        Some(Requester::new(line, way, self.timeout))
    }

    /// Whether accesses go by shared memory.
    #[inline]
    pub(super) fn shares(&self) -> bool {
        self.shared.is_some()
    }

    /// Carries out an access by shared memory, and meanwhile serves the
    /// server's commands.
    pub(super) fn access(&mut self, command: Command, access: &Access) -> Result<u64, ClientError> {
        let shared = self.shared.take().filter(|_| !self.given_up);
        let Some(mut shared) = shared else {
            return Err(ClientError::GivenUp { command });
        };
        let (timeout, line) = (self.timeout, &*shared.line);
        let answer = shared
            .own
            .ask(line, command, access, timeout, |wake, until| {
                self.attend(command, wake, until)
            });
        self.shared = Some(shared);
        self.keep(answer)
    }

    /// Posts a write, in the ring or else acknowledged: on the socket it could
    /// be overtaken by what comes after it in the ring.
    pub(super) fn post_shared(
        &mut self,
        region: u32,
        offset: u64,
        data: &[u8],
    ) -> Result<(), ClientError> {
        let command = Command::RegionWrite;
        let Some(access) = Access::write(region, offset, data) else {
            return posted(self.write(region, offset, data).map(|()| 0));
        };
        match &self.shared {
            Some(shared) if !self.given_up && !shared.line.is_over() => {
                if shared.line.post(&access) {
                    return Ok(());
                }
            }
            _ => return Err(ClientError::GivenUp { command }),
        }
        posted(self.access(command, &access))
    }

    /// Waits for a wake-up, and answers at most one command of the server.
    #[cold]
    fn attend(
        &mut self,
        command: Command,
        wake: BorrowedFd<'_>,
        until: Instant,
    ) -> Result<(), ClientError> {
        if !self.poll(command, Some(wake), until)?.main {
            return Ok(());
        }
        self.receive(command)?;
        if self.message.header.kind == Kind::Reply && !self.is_posted(self.next_id) {
            return Err(self.wrong_reply(command, self.next_id));
        }
        self.answer_server(command)
    }

    /// Takes the server's terms and what came with them, if they are any.
    pub(super) fn share(
        &mut self,
        options: &Options,
        theirs: SharedMmio,
        fds: &mut [Option<OwnedFd>],
    ) -> Result<Option<Layout>, ClientError> {
        let Some(asked) = options.proposal.capabilities.shared_mmio else {
            // Nobody asked for it.
            return Ok(None);
        };
        let absurd = |why: String| ClientError::SharedMmio { why };
        if !(1..=asked.version).contains(&theirs.version) {
            return Err(absurd(format!("version {}", theirs.version)));
        }
        let slots = u16::try_from(theirs.slots).ok();
        let slots = slots.filter(|_| theirs.slots <= asked.slots);
        let ring = theirs.ring.unwrap_or_default();
        let layout = slots.and_then(|slots| Layout::new(slots, ring));
        let layout = layout.ok_or_else(|| {
            let slots = theirs.slots;
            absurd(format!("{slots} slots and a ring of {ring}"))
        })?;
        let (first, got) = (theirs.fd_index.unwrap_or_default(), fds.len());
        let fds = (first as usize..).take(layout.fds()).map(|index| {
            let fd = fds.get_mut(index).and_then(Option::take);
            fd.ok_or(ClientError::Descriptor {
                command: Command::Version,
                index: u32::try_from(index).unwrap_or(u32::MAX),
                got,
            })
        });
        let fds: Vec<OwnedFd> = fds.collect::<Result<_, _>>()?;
        let opened = fastpath::open(layout, fds);
        let (slots, poster) = opened.map_err(|error| absurd(error.to_string()))?;
        let mut spare = slots;
        spare.reverse();
        let line = Line::new(Arc::clone(&self.main.socket), poster);
        if let Some(first) = spare.pop() {
            let own = Way::new(first, self.spinning);
            self.shared = Some(Box::new(Shared { line, own, spare }));
        }
        Ok(Some(layout))
    }
}
