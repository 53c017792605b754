//! Many devices in one process: each with its own client, at rest while their
//! clients are, and cheap. What an access costs among many is asserted in
//! `tests/counts.rs`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod program;
mod wire;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use program::{Serving, inherit, output, text};
use rustix::process::{Resource, getrlimit, setrlimit};
use tempfile::{TempDir, tempdir};
use vgpu_stub::device::Register;
use vgpu_stub::devices::StubRegister;
use wire::shared::Shared;
use wire::{Client, PATIENCE, QEMU};

/// The most devices of one process.
const MANY: u32 = 256;

/// The most resident memory that a further device may take, in KiB. Without
/// optimisation the stacks of threads are that much larger.
const BOUND: u64 = if cfg!(debug_assertions) { 96 } else { 64 };

/// A thread for each device, and a pool.
const WAYS: [&[&str]; 2] = [&[], &["--threads=2"]];

/// One test at a time: each has hundreds of descriptors and threads.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    turn
}

/// A process that serves many stubs.
struct Fleet {
    serving: Serving,
    directory: TempDir,
}

impl Fleet {
    fn start(count: u32, arguments: &[&str]) -> Self {
        let directory = tempdir().unwrap();
        let path = text(directory.path());
        let devices = (0..count).map(|number| format!("--device=stub,socket-path={path}/{number}"));
        // Lines about each client would fill the pipe that nobody reads.
        let arguments = ["--log-level=warn"].iter().chain(arguments);
        let arguments = arguments.map(ToString::to_string);
        let serving = Serving::start(devices.chain(arguments));
        Fleet { serving, directory }
    }

    fn socket(&self, number: u32) -> PathBuf {
        self.directory.path().join(number.to_string())
    }

    fn client(&self, number: u32) -> Client {
        let mut client = Client::connect(&self.socket(number));
        client.agree(QEMU);
        client
    }

    fn sharing(&self, number: u32) -> (Client, Shared) {
        let mut client = Client::connect(&self.socket(number));
        let shared = Shared::agree(&mut client, 1);
        (client, shared)
    }

    /// All resident memory, in KiB.
    fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.serving.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
        kib.trim().parse().unwrap()
    }

    /// How often each thread went to sleep or was made to wait, once all
    /// sleep and none wakes.
    fn at_rest(&self) -> BTreeMap<u32, u64> {
        let deadline = Instant::now() + PATIENCE;
        let mut before = None;
        loop {
            let now = self.switches();
            match now {
                Some(now) if before.as_ref() == Some(&now) => return now,
                now => before = now,
            }
            assert!(Instant::now() < deadline, "the server does not rest");
        }
    }

    /// The switches of each thread so far; `None` if some thread is awake.
    fn switches(&self) -> Option<BTreeMap<u32, u64>> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.serving.id())).unwrap();
        let of_thread = |path: PathBuf| {
            let status = fs::read_to_string(path.join("status")).unwrap();
            let asleep = status.lines().any(|line| line.starts_with("State:\tS"));
            let counts = status.lines().filter_map(|line| {
                let (name, count) = line.split_once(':')?;
                let counts = name.ends_with("voluntary_ctxt_switches");
                counts.then(|| count.trim().parse::<u64>().unwrap())
            });
            let id = path.file_name()?.to_str()?.parse().ok()?;
            asleep.then(|| (id, counts.sum()))
        };
        tasks.map(|task| of_thread(task.unwrap().path())).collect()
    }
}

fn scratch() -> u64 {
    StubRegister::SCRATCH.row().offset.into()
}

#[test]
fn each_of_256_clients_has_a_device_of_its_own() {
    let _turn = turn();
    for way in WAYS {
        let fleet = Fleet::start(MANY, way);
        let mut sessions: Vec<_> = (0..MANY).map(|number| fleet.sharing(number)).collect();
        for (number, (client, shared)) in (0u64..).zip(&mut sessions) {
            // Some by message, some by shared memory, some posted.
            match number % 3 {
                0 => client.set(StubRegister::SCRATCH, number),
                1 => shared.slots[0].write(0, scratch(), 4, number).unwrap(),
                _ => shared.ring.post(0, scratch(), 4, number),
            }
        }
        for (number, (client, shared)) in (0u64..).zip(&mut sessions) {
            assert_eq!(client.get(StubRegister::SCRATCH), number);
            assert_eq!(shared.slots[0].read(0, scratch(), 4), Ok(number));
        }
        let (status, _) = fleet.serving.end(rustix::process::Signal::TERM);
        assert!(status.success(), "{status}");
    }
}

#[test]
fn a_further_device_takes_little_memory_whether_it_has_a_client_or_not() {
    let _turn = turn();
    for way in WAYS {
        let (one, many) = (Fleet::start(1, way), Fleet::start(MANY, way));
        let check = |what: &str| {
            // A thread that has yet to sleep has yet to take its memory.
            one.at_rest();
            many.at_rest();
            let more = many.resident().saturating_sub(one.resident());
            let each = more / u64::from(MANY - 1);
            println!("{way:?}, {what}: {each} KiB for each further device");
            assert!(each < BOUND, "{way:?}, {what}: {each} KiB each");
        };
        check("without clients");
        let visit = |fleet: &Fleet, number| {
            let mut client = fleet.client(number);
            for value in 0..10 {
                client.set(StubRegister::SCRATCH, value);
                client.post(StubRegister::SCRATCH, value);
                assert_eq!(client.get(StubRegister::SCRATCH), value);
            }
            client
        };
        let clients: Vec<_> = (0..MANY).map(|number| visit(&many, number)).collect();
        let client = visit(&one, 0);
        check("with clients");
        drop((clients, client));
        let share = |fleet: &Fleet, number| {
            let (client, mut shared) = fleet.sharing(number);
            // All of the ring, and so all of its memory.
            for value in 0..u64::from(shared.ring.entries) {
                shared.ring.post(0, scratch(), 4, value);
            }
            assert_eq!(shared.slots[0].read(0, scratch(), 4), Ok(255));
            (client, shared)
        };
        let clients: Vec<_> = (0..MANY).map(|number| share(&many, number)).collect();
        let client = share(&one, 0);
        check("with clients that share memory");
        drop((clients, client));
        let clients: Vec<_> = (0..MANY).map(|number| visit(&many, number)).collect();
        let client = visit(&one, 0);
        check("after clients have left and others come");
        drop((clients, client));
    }
}

#[test]
fn nothing_wakes_while_256_clients_rest() {
    let _turn = turn();
    for way in WAYS {
        let fleet = Fleet::start(MANY, way);
        let mut sessions: Vec<_> = (0..MANY).map(|number| fleet.sharing(number)).collect();
        for (client, shared) in &mut sessions {
            client.set(StubRegister::SCRATCH, 1);
            assert_eq!(shared.slots[0].read(0, scratch(), 4), Ok(1));
        }
        let before = fleet.at_rest();
        pass_time();
        assert_eq!(fleet.switches(), Some(before));
    }
}

/// Takes a while that ends with something done, 20 000 times back and forth
/// between two threads.
fn pass_time() {
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut byte = [0];
            while theirs.read_exact(&mut byte).is_ok() {
                theirs.write_all(&byte).unwrap();
            }
        });
        for _ in 0..20_000 {
            ours.write_all(&[1]).unwrap();
            ours.read_exact(&mut [0]).unwrap();
        }
        drop(ours);
    });
}

#[test]
fn the_others_sleep_while_one_client_works() {
    let _turn = turn();
    let fleet = Fleet::start(MANY, &[]);
    let mut sessions: Vec<_> = (0..MANY).map(|number| fleet.sharing(number)).collect();
    let before = fleet.at_rest();
    let (client, shared) = &mut sessions[100];
    for value in 0..500 {
        client.set(StubRegister::SCRATCH, value);
        assert_eq!(shared.slots[0].read(0, scratch(), 4), Ok(value));
    }
    let after = fleet.at_rest();
    assert_eq!(before.len(), after.len());
    let woken = after.iter().filter(|(id, count)| before[id] != **count);
    assert_eq!(woken.count(), 1, "threads that were woken");
}

#[test]
fn a_shell_spells_out_256_devices_and_more_are_refused() {
    let _turn = turn();
    let arguments = "$(printf ' --device=stub,socket-path=/run/gpu%d' $(seq 0 255))";
    let help = String::from_utf8(output(["serve", "--help"]).stdout).unwrap();
    let words: Vec<&str> = help.split_whitespace().collect();
    assert!(words.join(" ").contains(arguments), "{help}");

    let directory = tempdir().unwrap();
    let (mut ready, theirs) = std::io::pipe().unwrap();
    let arguments = arguments.replace("/run", text(directory.path()));
    let mut command = Command::new("sh");
    let number = inherit(&mut command, theirs.into());
    let program = env!("CARGO_BIN_EXE_vgpu-stub");
    let script = format!("exec {program} serve --ready-fd {number} {arguments}");
    command.args(["-c", &script]).stderr(Stdio::null());
    let mut server = command.spawn().unwrap();
    drop(command);
    ready.read_exact(&mut [0]).unwrap();
    for number in [0, 255] {
        let mut client = Client::connect(&directory.path().join(format!("gpu{number}")));
        client.agree(QEMU);
        assert_eq!(client.get(StubRegister::ID), 0x5550_4756);
    }
    server.kill().unwrap();
    server.wait().unwrap();

    let devices = (0..=MANY).map(|number| format!("--device=stub,socket-path=x{number}"));
    let refused = output(["serve".to_owned()].into_iter().chain(devices));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(
        said.contains("257 devices; one process serves 256 at most"),
        "{said}"
    );
}
