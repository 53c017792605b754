//! Hostile servers of our client.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{SendFlags, send};
use vgpu_stub::client::{Client as OurClient, ClientError, Options};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use super::peer::Peer;
use super::random::{Random, SEED};
use super::turn;
use super::wire::messages::version;
use super::wire::{Client, Cmd, PATIENCE, bytes, message, reply};

/// Where what is in the shared pages (docs/shared-mmio.md).
const REQUEST: usize = 512;
const ANSWER: usize = REQUEST + 32;
const RESULT: usize = REQUEST + 40;
const SIZE: usize = 12_288;

/// How long our client waits for a server that does not answer.
const SHORT: Duration = Duration::from_millis(100);

/// What a server says that takes what it is asked for.
const TERMS: &str = r#"{"version":1,"slots":1,"ring":256,"fd_index":0}"#;

/// The accesses of a session that goes well.
const ACCESSES: u64 = 200;

/// A peer that plays the server, and where it connects to: it is the client
/// of the socket alone.
struct Scene {
    listener: UnixListener,
    peer: Peer,
    _directory: tempfile::TempDir,
}

impl Scene {
    fn new(role: &str, seed: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        Scene {
            listener,
            peer: Peer::start(role, seed, &socket),
            _directory: directory,
        }
    }

    /// Our client of the peer's next session.
    fn client(&self, timeout: Duration) -> Result<OurClient, ClientError> {
        let (stream, _) = self.listener.accept().unwrap();
        let options = Options::default().shared_mmio(1).timeout(timeout);
        in_time(|| OurClient::over(stream, &options))
    }
}

/// Whatever it comes to, it does so in time.
#[track_caller]
fn in_time<T>(act: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = act();
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    done
}

fn read(client: &mut OurClient) -> Result<u64, ClientError> {
    let mut data = [0; 8];
    in_time(|| client.read(0, 0, &mut data)).map(|()| u64::from_le_bytes(data))
}

/// Nothing is asked any more, and no answer taken.
#[track_caller]
fn is_over(client: &mut OurClient) {
    for _ in 0..3 {
        let again = read(client);
        assert!(
            matches!(again, Err(ClientError::GivenUp { .. })),
            "{again:?}"
        );
        client.post(0, 0, &[1; 8]).unwrap_err();
    }
}

#[test]
fn memory_that_could_be_taken_away_and_absurd_terms_are_refused() {
    let _turn = turn();
    let scene = Scene::new("absurd", SEED);
    for (number, (terms, _)) in ABSURD.iter().enumerate() {
        let client = scene.client(PATIENCE);
        assert!(client.is_err(), "{number}: {terms}");
    }
    scene.peer.succeeds();
}

#[test]
fn a_server_cannot_cut_its_memory_while_it_is_in_use() {
    goes_well("shrinker");
}

#[test]
fn answers_that_come_twice_are_taken_once() {
    goes_well("repeater");
}

fn goes_well(role: &str) {
    let _turn = turn();
    let scene = Scene::new(role, SEED);
    let mut client = scene.client(PATIENCE).unwrap();
    for number in 0..ACCESSES {
        assert_eq!(read(&mut client).unwrap(), number);
    }
    drop(client);
    scene.peer.succeeds();
}

#[test]
fn answers_to_what_was_not_asked_are_no_answers() {
    let _turn = turn();
    for seed in SEED..SEED + 5 {
        let scene = Scene::new("misnumberer", seed);
        let mut client = scene.client(SHORT).unwrap();
        let answer = read(&mut client);
        assert!(answer.is_err(), "{answer:?}");
        is_over(&mut client);
        drop(client);
        scene.peer.succeeds();
    }
}

#[test]
fn an_answer_that_comes_before_its_question_is_taken_once_at_most() {
    let _turn = turn();
    let scene = Scene::new("prophet", SEED);
    let mut client = scene.client(SHORT).unwrap();
    // The answers to the first and the second question are there already.
    let first = read(&mut client);
    assert!(matches!(first, Ok(1)), "{first:?}");
    let second = read(&mut client);
    assert!(second.is_err(), "{second:?}");
    is_over(&mut client);
    drop(client);
    scene.peer.succeeds();
}

#[test]
fn an_answer_that_comes_too_late_is_not_taken() {
    let _turn = turn();
    let scene = Scene::new("late", SEED);
    let mut client = scene.client(SHORT).unwrap();
    let answer = read(&mut client);
    assert!(answer.is_err(), "{answer:?}");
    // The peer answers when it hears that the socket was closed, and ends.
    is_over(&mut client);
    drop(client);
    scene.peer.succeeds();
}

#[test]
fn a_server_that_never_wakes_us_costs_our_timeout_at_most() {
    let _turn = turn();
    let scene = Scene::new("mute", SEED);
    let mut client = scene.client(SHORT).unwrap();
    let mut number = 0;
    let ended = loop {
        match read(&mut client) {
            Ok(value) => assert_eq!(value, number),
            Err(error) => break Some(error),
        }
        number += 1;
        if number == ACCESSES {
            break None;
        }
    };
    if ended.is_some() {
        is_over(&mut client);
    }
    drop(client);
    scene.peer.succeeds();
}

#[test]
fn a_server_that_dies_in_the_middle_of_an_access_is_noticed_at_once() {
    let _turn = turn();
    let scene = Scene::new("mortal", SEED);
    let mut client = scene.client(Duration::from_secs(3600)).unwrap();
    let answer = read(&mut client);
    assert!(answer.is_err(), "{answer:?}");
    is_over(&mut client);
    scene.peer.was_killed();
}

#[test]
fn a_server_that_asks_without_end_and_never_answers_costs_our_timeout() {
    let _turn = turn();
    let scene = Scene::new("asker", SEED);
    let mut client = scene.client(SHORT).unwrap();
    let answer = read(&mut client);
    assert!(answer.is_err(), "{answer:?}");
    is_over(&mut client);
    drop(client);
    scene.peer.succeeds();
}

#[test]
fn a_server_that_writes_nonsense_everywhere_costs_our_timeout_at_most() {
    let _turn = turn();
    for seed in SEED..SEED + 3 {
        let scene = Scene::new("server's scribbler", seed);
        for _ in 0..SCRIBBLED {
            let mut client = scene.client(SHORT).unwrap();
            for number in 0..50 {
                let done = in_time(|| match number % 3 {
                    0 => client.post(0, 0, &[1; 8]),
                    1 => client.write(0, 0, &[1; 4]),
                    _ => client.read(0, 0, &mut [0; 8]),
                });
                if done.is_err_and(|error| !error.is_recoverable()) {
                    is_over(&mut client);
                    break;
                }
            }
        }
        scene.peer.succeeds();
    }
}

/// How many sessions are scribbled in.
const SCRIBBLED: usize = 5;

/// Terms that cannot be taken, and what comes with them.
const ABSURD: [(&str, Sent); 18] = [
    (TERMS, Sent::Unsealed),
    (TERMS, Sent::Small),
    (TERMS, Sent::NoMemory),
    (TERMS, Sent::NoSockets),
    (TERMS, Sent::Few),
    (TERMS, Sent::Nothing),
    (
        r#"{"version":0,"slots":1,"ring":256,"fd_index":0}"#,
        Sent::All,
    ),
    (
        r#"{"version":2,"slots":1,"ring":256,"fd_index":0}"#,
        Sent::All,
    ),
    (
        r#"{"version":1,"slots":0,"ring":256,"fd_index":0}"#,
        Sent::All,
    ),
    (
        r#"{"version":1,"slots":2,"ring":256,"fd_index":0}"#,
        Sent::All,
    ),
    (
        r#"{"version":1,"slots":65537,"ring":256,"fd_index":0}"#,
        Sent::All,
    ),
    (
        r#"{"version":1,"slots":1,"ring":0,"fd_index":0}"#,
        Sent::All,
    ),
    (
        r#"{"version":1,"slots":1,"ring":255,"fd_index":0}"#,
        Sent::All,
    ),
    (
        r#"{"version":1,"slots":1,"ring":2147483648,"fd_index":0}"#,
        Sent::All,
    ),
    (
        r#"{"version":1,"slots":1,"ring":1024,"fd_index":0}"#,
        Sent::All,
    ),
    (
        r#"{"version":1,"slots":1,"ring":256,"fd_index":1}"#,
        Sent::All,
    ),
    (
        r#"{"version":1,"slots":1,"ring":256,"fd_index":4294967295}"#,
        Sent::All,
    ),
    (r#"{"version":1,"slots":1}"#, Sent::All),
];

/// The descriptors that come with the terms.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    All,
    /// The memory can shrink.
    Unsealed,
    /// It is smaller than the terms say.
    Small,
    /// It is a socket.
    NoMemory,
    /// What wakes are files.
    NoSockets,
    /// One is missing.
    Few,
    Nothing,
}

/// Plays a hostile server.
pub(crate) fn play(role: &str, socket: &Path, random: Random) {
    match role {
        "absurd" => offer_absurdities(socket),
        "shrinker" => shrink(socket),
        "repeater" => repeat(socket),
        "misnumberer" => misnumber(socket, random),
        "prophet" => foretell(socket),
        "late" => answer_late(socket),
        "mute" => answer_silently(socket),
        "mortal" => die(socket),
        "asker" => ask_only(socket),
        "server's scribbler" => scribble(socket, random),
        _ => panic!("no peer is called {role}"),
    }
}

/// A session, from the server's side.
struct Session {
    connection: Client,
    file: File,
    memory: Arc<MmapRegion<()>>,
    /// What wakes the client.
    wake: UnixStream,
    _woken: UnixStream,
    /// The sequence of the last request.
    taken: u32,
}

fn memory(size: usize, seals: SealFlags) -> File {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(rustix::fs::memfd_create("hostile", flags).unwrap());
    file.set_len(size as u64).unwrap();
    rustix::fs::fcntl_add_seals(&file, seals).unwrap();
    file
}

/// Answers VERSION with these terms.
fn offer(socket: &Path, terms: &str, sent: Sent) -> Session {
    let connection = Client::connect(socket);
    let hello = connection.receive();
    let seals = match sent {
        Sent::Unsealed => SealFlags::empty(),
        _ => SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    };
    let file = memory(if sent == Sent::Small { 4096 } else { SIZE }, seals);
    let (woken, their_server) = UnixStream::pair().unwrap();
    let (wake, their_slot) = UnixStream::pair().unwrap();
    let mut fds: Vec<OwnedFd> = vec![
        file.try_clone().unwrap().into(),
        their_server.into(),
        their_slot.into(),
    ];
    let other = || OwnedFd::from(File::open("/dev/null").unwrap());
    match sent {
        Sent::All | Sent::Unsealed | Sent::Small => {}
        Sent::NoMemory => fds[0] = fds[1].try_clone().unwrap(),
        Sent::NoSockets => fds[2] = other(),
        Sent::Few => fds.truncate(2),
        Sent::Nothing => fds.clear(),
    }
    let json = format!(r#"{{"capabilities":{{"max_msg_fds":16,"shared_mmio":{terms}}}}}"#);
    let answer = reply(hello.id(), Cmd::Version, &version(1, &json));
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    connection.send_with(&answer, &fds);
    let mapped = FileOffset::new(file.try_clone().unwrap(), 0);
    let size = usize::try_from(file.metadata().unwrap().len()).unwrap();
    Session {
        connection,
        file,
        memory: Arc::new(MmapRegion::from_file(mapped, size).unwrap()),
        wake,
        _woken: woken,
        taken: 0,
    }
}

impl Session {
    fn u64_at(&self, at: usize) -> &AtomicU64 {
        self.memory.get_atomic_ref(at).unwrap()
    }

    fn u32_at(&self, at: usize) -> &AtomicU32 {
        self.memory.get_atomic_ref(at).unwrap()
    }

    /// The next request's sequence; none if the client has left.
    fn request(&mut self) -> Option<u32> {
        loop {
            let request = self.u64_at(REQUEST).load(Ordering::Acquire);
            let sequence = u32::try_from(request & 0xffff_ffff).unwrap();
            if sequence != self.taken {
                self.taken = sequence;
                return Some(sequence);
            }
            if self.is_left() {
                return None;
            }
            thread::yield_now();
        }
    }

    /// Whether the client has closed the socket.
    fn is_left(&self) -> bool {
        let mut stream = self.connection.stream();
        stream.set_nonblocking(true).unwrap();
        match stream.read(&mut [0; 4096]) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }

    /// Returns when the client has closed the socket.
    fn wait_until_left(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_left() {
            assert!(Instant::now() < deadline, "the client does not leave");
            thread::yield_now();
        }
    }

    fn answer(&self, sequence: u32, result: u64) {
        self.u64_at(RESULT).store(result, Ordering::Relaxed);
        self.u64_at(ANSWER)
            .store(sequence.into(), Ordering::Release);
    }

    /// Wakes the client, whether it sleeps or not.
    fn signal(&self) {
        let _ = send(&self.wake, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

fn offer_absurdities(socket: &Path) {
    for (terms, sent) in ABSURD {
        offer(socket, terms, sent).wait_until_left();
    }
}

fn shrink(socket: &Path) {
    let mut session = offer(socket, TERMS, Sent::All);
    let mut number = 0;
    while let Some(sequence) = session.request() {
        let cut = session.file.set_len(0).unwrap_err();
        assert_eq!(cut.raw_os_error(), Some(libc::EPERM));
        session.answer(sequence, number);
        session.signal();
        number += 1;
    }
    assert_eq!(number, ACCESSES);
}

/// Answers each request again and again, and signals more than once.
fn repeat(socket: &Path) {
    let mut session = offer(socket, TERMS, Sent::All);
    let mut number = 0;
    while let Some(sequence) = session.request() {
        for _ in 0..3 {
            session.answer(sequence, number);
            session.signal();
        }
        thread::yield_now();
        session.answer(sequence, number);
        session.signal();
        number += 1;
    }
    assert_eq!(number, ACCESSES);
}

fn misnumber(socket: &Path, mut random: Random) {
    let mut session = offer(socket, TERMS, Sent::All);
    let sequence = session.request().unwrap();
    while !session.is_left() {
        let any = u32::try_from(random.next() >> 32).unwrap();
        let wrong = random.of(&[0, sequence.wrapping_add(1), sequence.wrapping_sub(1), any]);
        if wrong != sequence {
            session.answer(wrong, 1);
        }
        session.signal();
        thread::yield_now();
    }
}

/// Answers the first question before there is one, and nothing else.
fn foretell(socket: &Path) {
    // The client finds the answer however soon it asks.
    let session = offer(socket, TERMS, Sent::All);
    session.answer(1, 1);
    session.signal();
    session.wait_until_left();
}

fn answer_late(socket: &Path) {
    let mut session = offer(socket, TERMS, Sent::All);
    let sequence = session.request().unwrap();
    session.wait_until_left();
    session.answer(sequence, 1);
    session.signal();
}

fn answer_silently(socket: &Path) {
    let mut session = offer(socket, TERMS, Sent::All);
    let mut number = 0;
    while let Some(sequence) = session.request() {
        session.answer(sequence, number);
        number += 1;
    }
}

fn die(socket: &Path) {
    let mut session = offer(socket, TERMS, Sent::All);
    session.request().unwrap();
    let us = rustix::process::getpid();
    rustix::process::kill_process(us, rustix::process::Signal::KILL).unwrap();
}

fn ask_only(socket: &Path) {
    let mut session = offer(socket, TERMS, Sent::All);
    session.request().unwrap();
    while !session.is_left() {
        let question = message(9, Cmd::DmaRead, &bytes![0x1000u64, 8u64]);
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let _ = send(session.connection.stream(), &question, flags);
        session.signal();
    }
}

/// Any words at any place until the client leaves.
fn scribble(socket: &Path, mut random: Random) {
    for _ in 0..SCRIBBLED {
        let session = offer(socket, TERMS, Sent::All);
        while !session.is_left() {
            let word = usize::try_from(random.below(SIZE as u64 / 8)).unwrap() * 8;
            let at = random.of(&[word, 0, 128, 256, REQUEST, REQUEST + 24, ANSWER, RESULT]);
            let value = random.next();
            match random.below(4) {
                0 => session.u64_at(at).store(value, Ordering::SeqCst),
                1 => session.u64_at(at).store(value & 0xff, Ordering::SeqCst),
                2 => session.u32_at(at).store(0, Ordering::SeqCst),
                _ => session.signal(),
            }
        }
    }
}
