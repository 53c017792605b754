//! Guest memory that the client did not share: `DMA_READ` and `DMA_WRITE`
//! messages to the client (vfio-user, read and write operations).
//!
//! They go over the twin socket if one was negotiated. Else they share the
//! main socket with the client's commands: the session's thread receives for
//! all, hands replies to the threads that wait, and puts commands aside while
//! it waits for a reply itself. So neither side waits for the other for ever.

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::Limits;
use super::connection::{Connection, with_lent};
use crate::endpoint::{ClientMemory, DmaError};
use crate::protocol::{
    Command, DmaTransfer, Header, Inbox, Kind, Message, Outgoing, ReceiveError, Socket, Wait,
};

/// The most data in one of our messages: such a message is sent whole.
const CHUNK: usize = 16 * 1024;

/// A reply of the client: its errno or its body.
type Answer = Result<Vec<u8>, u32>;

/// Guest memory through messages.
pub(super) struct Messages {
    route: Route,
    /// The client's `max_data_xfer_size`, at most [`CHUNK`].
    max_data: usize,
    timeout: Duration,
    /// Whether the client's DMA messages are the specification's, once known.
    sound: OnceLock<bool>,
}

enum Route {
    Main(MainSocket),
    Twin(TwinSocket),
}

impl Messages {
    /// Over the socket of the client's commands.
    pub(super) fn over_main(socket: Arc<Socket>, max_data: u32, limits: &Limits) -> Self {
        let main = MainSocket {
            socket,
            state: Mutex::default(),
            answered: Condvar::new(),
        };
        Self::new(Route::Main(main), max_data, limits)
    }

    /// Over a socket of their own.
    pub(super) fn over_twin(
        stream: UnixStream,
        max_data: u32,
        limits: &Limits,
    ) -> std::io::Result<Self> {
        let socket = Arc::new(Socket::new(stream, limits.message)?);
        let turn = Turn {
            inbox: Inbox::new(socket.clone(), limits.message),
            next_id: 0,
        };
        let twin = TwinSocket {
            socket,
            suspended: AtomicBool::new(false),
            turn: Mutex::new(turn),
        };
        Ok(Self::new(Route::Twin(twin), max_data, limits))
    }

    fn new(route: Route, max_data: u32, limits: &Limits) -> Self {
        Messages {
            route,
            max_data: (max_data as usize).min(CHUNK),
            timeout: limits.dma,
            sound: OnceLock::new(),
        }
    }

    /// Takes a reply that came over the main socket. One that nobody waits
    /// for any more is dropped.
    pub(super) fn deliver(&self, message: &Message) {
        if let Route::Main(main) = &self.route {
            main.deliver(message);
        }
    }

    /// The client left: whoever waits is told.
    pub(super) fn close(&self) {
        match &self.route {
            Route::Main(main) => {
                main.lock().closed = true;
                main.answered.notify_all();
            }
            // The client may keep its end of the twin when it leaves.
            Route::Twin(twin) => twin.socket.shutdown(),
        }
    }

    fn read_once(&self, address: u64, data: &mut [u8]) -> Result<(), DmaError> {
        self.check_sound(address)?;
        let request = DmaTransfer {
            address,
            count: data.len() as u64,
        };
        let body = self.ask(Command::DmaRead, address, &|out| request.encode(out))?;
        match DmaTransfer::parse_read_reply(&body) {
            Ok((reply, read)) if reply == request => {
                // The codec checked that there are `count` bytes.
                data.copy_from_slice(read);
                Ok(())
            }
            _ => Err(nonsense(address)),
        }
    }

    fn write_once(&self, address: u64, data: &[u8]) -> Result<(), DmaError> {
        self.check_sound(address)?;
        let encode = |out: &mut Vec<u8>| DmaTransfer::encode_write(address, data, out);
        let body = self.ask(Command::DmaWrite, address, &encode)?;
        let count = data.len() as u64;
        match DmaTransfer::parse_write_reply(&body) {
            Ok(None) => Ok(()),
            Ok(Some(reply)) if reply == DmaTransfer { address, count } => Ok(()),
            _ => Err(nonsense(address)),
        }
    }

    /// Refuses DMA by message to a client whose messages differ from the
    /// specification's: QEMU before 11 has the data 4 bytes early, which would
    /// corrupt guest memory. It answers writes with a bare header, and so a
    /// write of nothing tells.
    fn check_sound(&self, address: u64) -> Result<(), DmaError> {
        let sound = match self.sound.get() {
            Some(sound) => *sound,
            None => self.find_sound(address)?,
        };
        let errno = libc::ENOTSUP.unsigned_abs();
        let refused = DmaError::Refused { address, errno };
        sound.then_some(()).ok_or(refused)
    }

    fn find_sound(&self, address: u64) -> Result<bool, DmaError> {
        let nothing = |out: &mut Vec<u8>| DmaTransfer::encode_write(address, &[], out);
        // A refusal says nothing about the layout.
        let answer = self.ask(Command::DmaWrite, address, &nothing)?;
        let sound = !answer.is_empty();
        if !sound {
            log::warn!(
                "the client's DMA messages are not the specification's; \
                 share guest memory (memory-backend-memfd,share=on) or use QEMU 11"
            );
        }
        Ok(*self.sound.get_or_init(|| sound))
    }

    /// Sends a command and returns the body of its answer.
    fn ask(
        &self,
        command: Command,
        address: u64,
        encode: &dyn Fn(&mut Vec<u8>),
    ) -> Result<Vec<u8>, DmaError> {
        let deadline = Instant::now() + self.timeout;
        let mut question = Question {
            header: Header::command(0, command),
            encode,
            address,
            deadline,
        };
        let answer = match &self.route {
            Route::Main(main) => main.ask(&mut question)?,
            Route::Twin(twin) => twin.ask(&mut question)?,
        };
        answer.map_err(|errno| DmaError::Refused { address, errno })
    }
}

/// An answer that is none.
fn nonsense(address: u64) -> DmaError {
    DmaError::Refused {
        address,
        errno: libc::EPROTO.unsigned_abs(),
    }
}

/// A command of ours that wants an answer.
struct Question<'a> {
    header: Header,
    encode: &'a dyn Fn(&mut Vec<u8>),
    address: u64,
    deadline: Instant,
}

impl Question<'_> {
    fn send(&mut self, socket: &Socket, id: u16) -> Result<(), DmaError> {
        self.header.id = id;
        let mut out = Outgoing::default();
        (self.encode)(out.begin(&self.header));
        let sent = socket.send_beside(out.finish(), &[]);
        sent.map_err(|_| DmaError::Disconnected)
    }

    fn is_answered_by(&self, reply: &Header) -> bool {
        let asked = (Kind::Reply, self.header.id, self.header.command);
        (reply.kind, reply.id, reply.command) == asked
    }

    fn timed_out(&self) -> DmaError {
        DmaError::TimedOut {
            address: self.address,
        }
    }
}

impl ClientMemory for Messages {
    fn read(&self, mut address: u64, data: &mut [u8]) -> Result<(), DmaError> {
        for chunk in data.chunks_mut(self.max_data) {
            self.read_once(address, chunk)?;
            address = address.wrapping_add(chunk.len() as u64);
        }
        Ok(())
    }

    fn write(&self, mut address: u64, data: &[u8]) -> Result<(), DmaError> {
        for chunk in data.chunks(self.max_data) {
            self.write_once(address, chunk)?;
            address = address.wrapping_add(chunk.len() as u64);
        }
        Ok(())
    }

    fn suspend(&self, suspended: bool) {
        match &self.route {
            Route::Main(main) => main.suspend(suspended),
            // Answers come without the session's thread: the message under
            // way may end as it does, and is the last.
            Route::Twin(twin) => twin.suspended.store(suspended, Ordering::Release),
        }
    }
}

fn answer_of(message: &Message) -> Answer {
    match message.header.error {
        // An error without a number is an error all the same.
        Some(0) => Err(libc::EIO.unsigned_abs()),
        Some(errno) => Err(errno),
        None => Ok(message.body.clone()),
    }
}

/// The main socket, shared with the client's commands.
struct MainSocket {
    socket: Arc<Socket>,
    state: Mutex<Waiting>,
    answered: Condvar,
}

#[derive(Default)]
struct Waiting {
    next_id: u16,
    closed: bool,
    suspended: bool,
    /// Each question that waits: its command, and its answer once that is
    /// here.
    answers: HashMap<u16, (u16, Option<Answer>)>,
}

impl MainSocket {
    fn ask(&self, question: &mut Question<'_>) -> Result<Answer, DmaError> {
        let id = self.enter(question.header.command)?;
        // The client may wait for an answer before it gives one.
        let sent = with_lent(|connection| connection.map_or(Ok(()), Connection::flush));
        sent.map_err(|_| DmaError::Disconnected)?;
        let answer = question
            .send(&self.socket, id)
            .and_then(|()| self.wait(id, question));
        self.lock().answers.remove(&id);
        answer
    }

    /// Finds a free message id.
    fn enter(&self, command: u16) -> Result<u16, DmaError> {
        let mut state = self.lock();
        if state.suspended {
            return Err(DmaError::Reset);
        }
        // A device with so many threads is none.
        if state.closed || state.answers.len() > usize::from(u16::MAX / 2) {
            return Err(DmaError::Disconnected);
        }
        while state.answers.contains_key(&state.next_id) {
            state.next_id = state.next_id.wrapping_add(1);
        }
        let id = state.next_id;
        state.next_id = id.wrapping_add(1);
        state.answers.insert(id, (command, None));
        Ok(id)
    }

    /// While suspended nobody waits and nobody asks.
    fn suspend(&self, suspended: bool) {
        let mut state = self.lock();
        state.suspended = suspended;
        state.answers.clear();
        self.answered.notify_all();
    }

    fn wait(&self, id: u16, question: &Question<'_>) -> Result<Answer, DmaError> {
        let mut message = Message::new();
        loop {
            let mut state = self.lock();
            match state.answers.get_mut(&id).map(|(_, answer)| answer.take()) {
                None => return Err(DmaError::Reset),
                Some(Some(answer)) => return Ok(answer),
                Some(None) if state.closed => return Err(DmaError::Disconnected),
                Some(None) => {}
            }
            let left = question.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(question.timed_out());
            }
            with_lent(|connection| {
                if let Some(connection) = connection {
                    drop(state);
                    return self.receive(&mut connection.inbox, &mut message, question);
                }
                // Whether woken or not, the loop looks again.
                drop(self.answered.wait_timeout(state, left));
                Ok(())
            })?;
        }
    }

    /// On the session's own thread: receives a message and deals with it.
    fn receive(
        &self,
        inbox: &mut Inbox,
        message: &mut Message,
        question: &Question<'_>,
    ) -> Result<(), DmaError> {
        if !inbox.may_defer() {
            // A client that sends commands without end and no answer.
            return Err(question.timed_out());
        }
        match inbox.receive_new(message, Wait::Until(question.deadline)) {
            Ok(()) if message.header.kind == Kind::Reply => self.deliver(message),
            Ok(()) => inbox.defer(std::mem::take(message)),
            Err(ReceiveError::TimedOut) => return Err(question.timed_out()),
            // The session meets the same end when it receives next.
            Err(_) => return Err(DmaError::Disconnected),
        }
        Ok(())
    }

    fn deliver(&self, message: &Message) {
        let header = &message.header;
        if let Some((command, answer)) = self.lock().answers.get_mut(&header.id)
            && *command == header.command
        {
            *answer = Some(answer_of(message));
            self.answered.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket for our messages alone: one is under way at a time.
struct TwinSocket {
    socket: Arc<Socket>,
    suspended: AtomicBool,
    turn: Mutex<Turn>,
}

/// What the thread needs whose question is under way.
struct Turn {
    inbox: Inbox,
    next_id: u16,
}

impl TwinSocket {
    fn ask(&self, question: &mut Question<'_>) -> Result<Answer, DmaError> {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if self.suspended.load(Ordering::Acquire) {
            return Err(DmaError::Reset);
        }
        let id = turn.next_id;
        turn.next_id = id.wrapping_add(1);
        question.send(&self.socket, id)?;
        let mut message = Message::new();
        loop {
            let wait = Wait::Until(question.deadline);
            match turn.inbox.receive_new(&mut message, wait) {
                Ok(()) if question.is_answered_by(&message.header) => {
                    return Ok(answer_of(&message));
                }
                // A reply to a question that timed out.
                Ok(()) => {}
                Err(ReceiveError::TimedOut) => return Err(question.timed_out()),
                Err(_) => return Err(DmaError::Disconnected),
            }
        }
    }
}
