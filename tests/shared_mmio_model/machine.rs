//! The machine: its memory, its CPUs, and what is done wrong on it.

pub(super) const RING: u8 = 1;
pub(super) const CLIENTS: usize = 2;
/// The slot of each client.
pub(super) const SLOTS: [u8; CLIENTS] = [0, 1];
/// Stores that a CPU has not shown to the others.
pub(super) const BUFFER: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    /// One that finds the ring full becomes an access.
    Post,
    Access,
}
pub(super) use Item::{Access, Post};

/// What each client does.
pub(super) type Scripts = [&'static [Item]; CLIENTS];

/// The ring runs full and around; a read pushes it.
pub(super) const POSTS: Scripts = [&[Post, Post], &[Access]];
/// Both clients and the server sleep and wake again.
pub(super) const ACCESSES: Scripts = [&[Access, Access], &[Access]];
/// Both clients post, under their lock, and one reads what it posted.
pub(super) const PUSH: Scripts = [&[Post, Access], &[Post]];

// The shared memory. The lock is the clients' own.
pub(super) const SERVER_SLEEPS: u8 = 0;
pub(super) const TAIL: u8 = 1;
pub(super) const HEAD: u8 = 2;
pub(super) const LOCK: u8 = 3;
pub(super) const REQUEST: u8 = 4;
pub(super) const CLIENT_SLEEPS: u8 = 6;
pub(super) const ANSWER: u8 = 8;
pub(super) const VALUE: u8 = 10;
pub(super) const ENTRY: u8 = 12;
pub(super) const BYTES: usize = 13;

/// Where the ring has what a counter means.
pub(super) fn entry(counter: u8) -> u8 {
    ENTRY + counter.wrapping_rem(RING)
}

/// No item has this number.
pub(super) const NOTHING: u8 = 0xff;

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutant {
    None,
    /// No fence between a request or a tail and the look at the server's flag.
    NoFenceAfterRequest,
    /// No fence between the server's flag and its look at the work.
    NoFenceInServerSleep,
    /// No fence between an answer and the look at the client's flag.
    NoFenceAfterAnswer,
    /// No fence between the client's flag and its look at the answer.
    NoFenceInClientSleep,
    /// The server looks for work, then sets its flag.
    ServerLooksFirst,
    /// The client looks for its answer, then sets its flag.
    ClientLooksFirst,
    /// The server's flag is read and then cleared, after the signal.
    ClearsAfterSignal,
    /// The server throws signals away after it looked for work.
    ServerDrainsLate,
    /// The client throws signals away after it looked for its answer.
    ClientDrainsLate,
    /// The head is moved on before the entry is copied.
    HeadBeforeCopy,
    /// The tail is moved on before the entry is written.
    TailBeforeEntry,
    /// The ring takes one entry more than it has.
    FullLater,
    /// The request is shown before the slot's other words.
    RequestBeforeValue,
    /// The server looks into the ring before it looks at the slots, not then.
    PushBeforeRequest,
}

/// A CPU: the server's is 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Cpu {
    pub(super) at: At,
    pub(super) buffer: [(u8, u8); BUFFER],
    pub(super) buffered: u8,
    /// The ring's tail as it was read.
    pub(super) tail: u8,
    /// Server: the entry or value that was read. Client: the item it is at.
    pub(super) item: u8,
    /// Client: the sequence of its last access.
    pub(super) sequence: u8,
}

/// The next instruction of a CPU; a slot's come with its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub(super) enum At {
    #[default]
    Start,
    // The client: posts,
    LookFull,
    WriteEntry,
    WriteTail,
    UnlockFull,
    Unlock,
    // asks,
    WriteValue,
    WriteRequest,
    // wakes the server, after a post or a request,
    Fence(bool),
    LookFlag(bool),
    Swap(bool),
    Signal(bool),
    ClearFlag(bool),
    // waits for its answer, and does the next item.
    LookAnswer,
    SetFlag,
    FlagFence,
    LookAnswerAgain,
    ThrowAway,
    Sleep,
    WakeUp(bool),
    // The server: takes what is in the ring, then goes on at a slot,
    Ring(Next),
    Entry(Next),
    Head(Next),
    CarryOut(Next),
    // a slot's access,
    Request(u8),
    Value(u8),
    Tail(u8),
    Serve(u8),
    Answer(u8),
    AnswerFence(u8),
    LookClient(u8),
    WakeClient(u8),
    // and its own sleep.
    SetServerFlag,
    ServerFence,
    LookTail,
    LookRequest(u8),
    ServerThrowsAway,
    ServerSleeps,
    ServerWakesUp,
}

/// Where the server goes on after the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Next {
    /// To the request of a slot.
    Request(u8),
    /// To the access of a slot.
    Serve(u8),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) memory: [u8; BYTES],
    pub(super) cpus: [Cpu; 1 + CLIENTS],
    /// Signals that nobody took: the server's, and each client's.
    pub(super) signals: [bool; 1 + CLIENTS],
    /// The server's own: what it took out of the ring, and of each slot.
    pub(super) head: u8,
    pub(super) taken: [u8; CLIENTS],
    pub(super) value: u8,
    /// How many of each client's items were carried out.
    pub(super) done: [u8; CLIENTS],
    /// What was in the ring when a client asked.
    pub(super) posted: [u8; CLIENTS],
}

impl State {
    pub(super) fn start() -> State {
        let mut memory = [0; BYTES];
        memory[VALUE as usize..].fill(NOTHING);
        State {
            memory,
            cpus: [Cpu::default(); 1 + CLIENTS],
            signals: [false; 1 + CLIENTS],
            head: 0,
            taken: [0; CLIENTS],
            value: NOTHING,
            done: [0; CLIENTS],
            posted: [0; CLIENTS],
        }
    }

    pub(super) fn load(&self, cpu: usize, address: u8) -> u8 {
        let Cpu {
            buffer, buffered, ..
        } = &self.cpus[cpu];
        let own = buffer[..usize::from(*buffered)].iter().rev();
        own.clone()
            .find(|store| store.0 == address)
            .map_or(self.memory[usize::from(address)], |store| store.1)
    }

    /// Whether a step was possible: there is room in the buffer.
    pub(super) fn store(&mut self, cpu: usize, address: u8, value: u8) -> bool {
        let Cpu {
            buffer, buffered, ..
        } = &mut self.cpus[cpu];
        let has_room = usize::from(*buffered) < BUFFER;
        if has_room {
            buffer[usize::from(*buffered)] = (address, value);
            *buffered += 1;
        }
        has_room
    }

    /// A full fence is possible once the buffer is empty.
    pub(super) fn fence(&self, cpu: usize) -> bool {
        self.cpus[cpu].buffered == 0
    }

    /// Shows the oldest store to all.
    pub(super) fn flush(&mut self, cpu: usize) -> bool {
        let Cpu {
            buffer, buffered, ..
        } = &mut self.cpus[cpu];
        if *buffered == 0 {
            return false;
        }
        let (address, value) = buffer[0];
        buffer.rotate_left(1);
        buffer[BUFFER - 1] = (0, 0);
        *buffered -= 1;
        self.memory[usize::from(address)] = value;
        true
    }

    /// The server carries an item out: each once, and a client's in order.
    pub(super) fn carry_out(&mut self, item: u8) -> Result<(), String> {
        let (client, index) = (usize::from(item >> 4), item & 0xf);
        if item == NOTHING || self.done[client] != index {
            return Err(format!("item {item:#x} after {:?}", self.done));
        }
        self.done[client] += 1;
        Ok(())
    }

    pub(super) fn is_done(&self, scripts: Scripts) -> bool {
        let mut scripts = scripts.iter().zip(self.done).zip(&self.cpus[1..]);
        scripts.all(|((script, done), cpu)| {
            script.len() == usize::from(done) && script.len() == usize::from(cpu.item)
        })
    }
}
