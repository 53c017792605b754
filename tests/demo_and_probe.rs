//! The built program as a person runs it: `demo`, and `probe` against good
//! and bad servers.

mod program;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use vgpu_stub::protocol::{Command as Request, DeviceInfo, Header, Proposal, RegionInfo};

use program::{Serving, output, text};

fn probe(socket: &Path, arguments: &[&str]) -> Output {
    let probe = ["probe", "--socket-path", text(socket)];
    output(probe.iter().chain(arguments))
}

fn stdout(run: &Output) -> String {
    String::from_utf8(run.stdout.clone()).unwrap()
}

fn stderr(run: &Output) -> String {
    String::from_utf8(run.stderr.clone()).unwrap()
}

fn assert_clean(run: &Output) {
    assert_eq!(run.status.code(), Some(0), "{}", stderr(run));
    assert_eq!(stderr(run), "");
}

/// Status 4, nothing on stdout, and one line on stderr that says `what`.
fn assert_peer_failure(run: &Output, what: &str) {
    let said = stderr(run);
    assert_eq!(run.status.code(), Some(4), "{said}");
    assert_eq!(stdout(run), "");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains(what), "{said}");
}

/// Serves a device on a socket of its own.
fn serve(device: &str) -> (Serving, tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("device.sock");
    let serving = Serving::start(["--device", device, "--socket-path", text(&socket)]);
    (serving, directory, socket)
}

/// A listener that gives its one client to `serve`.
struct Listening {
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

impl Listening {
    fn start(serve: impl FnOnce(UnixStream) + Send + 'static) -> Listening {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("device.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || serve(listener.accept().unwrap().0));
        Listening {
            socket,
            _directory: directory,
        }
    }
}

#[test]
fn demo_shows_the_stub_and_that_it_works() {
    let run = output(["demo"]);
    assert_clean(&run);
    let shown = stdout(&run);
    for part in [
        "Processing accelerators [1200]: Device [1af4:1111] (rev 01)",
        "Mem+ BusMaster+",
        "[size=4K]",
        "MSI-X: Enable+ Count=16 Masked-",
        "  000 ID                0x55504756 ",
        "  020 IRQ_RAISE         write-only ",
        "ok    interrupt          MSI-X vector 3 raised, received in ",
        "ok    DMA, shared memory 2 MiB copied in ",
        "ok    DMA, by messages   128 KiB copied in ",
        "  read ",
        "  write ",
        "All of it works.",
    ] {
        assert!(shown.contains(part), "no '{part}' in:\n{shown}");
    }
    assert!(!shown.contains('\x1b'), "colours without a terminal");
}

#[test]
fn probe_shows_what_a_server_has() {
    let (_serving, _directory, socket) = serve("stub");
    let run = probe(&socket, &[]);
    assert_clean(&run);
    let shown = stdout(&run);
    for part in [
        ": vfio-user 0.1\n",
        "  write_multiple       true\n",
        "  0  BAR 0        4 KiB  read write\n",
        "  7  config       4 KiB  read write\n",
        "  2  MSI-X       16  eventfd maskable\n",
        "Device [1af4:1111]",
        "Registers of BAR 0: the stub of this program",
        "  000 ID                0x55504756 ",
        "  config read ",
    ] {
        assert!(shown.contains(part), "no '{part}' in:\n{shown}");
    }
}

#[test]
fn probe_writes_nothing() {
    let (_serving, _directory, socket) = serve("stub");
    let registers = |run: &Output| {
        let found: Value = serde_json::from_slice(&run.stdout).unwrap();
        found["registers"]["registers"].as_array().unwrap().clone()
    };
    let value = |registers: &[Value], name: &str| {
        let mut found = registers.iter().filter(|row| row["name"] == name);
        found.next().unwrap()["value"].as_u64().unwrap()
    };
    let first = registers(&probe(&socket, &["--json"]));
    let second = registers(&probe(&socket, &["--json"]));
    for registers in [first, second] {
        assert_eq!(value(&registers, "ID"), 0x5550_4756);
        assert_eq!(value(&registers, "WRITES"), 0);
    }
}

#[test]
fn probe_tells_a_program_in_json() {
    let (_serving, _directory, socket) = serve("doorbell");
    let run = probe(&socket, &["--json"]);
    assert_clean(&run);
    let found: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(found["version"]["minor"], 1);
    let capabilities = &found["version"]["capabilities"];
    assert_eq!(capabilities["max_data_xfer_size"], 1 << 20);
    assert_eq!(found["device"]["regions"], 9);
    let bar0 = &found["regions"][0];
    assert_eq!(
        (&bar0["name"], &bar0["size"]),
        (&"BAR 0".into(), &8192.into())
    );
    assert_eq!(bar0["ioeventfds"][0]["offset"], 4);
    assert_eq!(bar0["ioeventfds"][1]["shadow"], true);
    assert_eq!(bar0["areas"][0]["offset"], 4096);
    assert_eq!(bar0["read_only_areas"][0]["size"], 4096);
    assert_eq!(found["irqs"][1]["name"], "MSI");
    assert_eq!(found["irqs"][1]["count"], 1);
    assert_eq!(found["function"]["identity"]["device"], 0x1112);
    assert_eq!(found["registers"]["device"], "doorbell");
    assert!(found["config_read"]["p50_ns"].as_u64().unwrap() > 0);
}

#[test]
fn probe_of_nothing_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("device.sock");
    let run = probe(&socket, &[]);
    assert_peer_failure(&run, "cannot connect: No such file or directory");
    drop(UnixListener::bind(&socket).unwrap());
    let run = probe(&socket, &[]);
    assert_peer_failure(&run, "nobody listens there");
}

#[test]
fn probe_of_a_silent_server_ends_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("device.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let begun = Instant::now();
    let run = probe(&socket, &["--timeout", "1"]);
    assert_peer_failure(&run, "VERSION: no answer within 1 s");
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn probe_of_something_else_says_so() {
    let other = Listening::start(|mut stream| {
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
        // Until the client leaves.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let run = probe(&other.socket, &[]);
    assert_peer_failure(&run, "VERSION: the answer is not vfio-user");
}

#[test]
fn probe_of_a_server_that_leaves_says_so() {
    let leaving = Listening::start(drop);
    let run = probe(&leaving.socket, &[]);
    assert_peer_failure(&run, "VERSION: the server closed the connection");
}

/// Answers VERSION, then each command with what `answer` makes of the
/// command's header and body.
fn scripted(mut answer: impl FnMut(&Header, &[u8]) -> Vec<u8> + Send + 'static) -> Listening {
    Listening::start(move |mut stream| {
        loop {
            let mut bytes = [0; Header::SIZE];
            if stream.read_exact(&mut bytes).is_err() {
                return;
            }
            let header = Header::parse(&bytes).unwrap();
            let mut body = vec![0; header.payload()];
            stream.read_exact(&mut body).unwrap();
            let mut reply = Vec::new();
            if header.command == Request::Version.to_wire() {
                Proposal::default().encode(&mut reply);
            } else {
                reply = answer(&header, &body);
            }
            let size = u32::try_from(Header::SIZE + reply.len()).unwrap();
            let header = Header {
                size,
                ..header.reply()
            };
            let message = [&header.encode()[..], &reply].concat();
            if stream.write_all(&message).is_err() {
                return;
            }
        }
    })
}

/// A server of endless regions and interrupts, all of whose bytes are ones.
fn endless(header: &Header, body: &[u8]) -> Vec<u8> {
    let index = body
        .get(8..12)
        .map_or(0, |index| u32::from_ne_bytes(index.try_into().unwrap()));
    let mut reply = Vec::new();
    match Request::from_wire(header.command).unwrap() {
        Request::DeviceGetInfo => DeviceInfo {
            resettable: false,
            regions: u32::MAX,
            irqs: u32::MAX,
        }
        .encode(&mut reply),
        Request::DeviceGetRegionInfo => RegionInfo {
            index,
            readable: true,
            writeable: true,
            mappable: true,
            size: u64::MAX,
            offset: u64::MAX,
            areas: Vec::new(),
            read_only: Vec::new(),
        }
        .encode(u32::MAX, &mut reply),
        Request::RegionRead => {
            reply.extend_from_slice(body);
            reply.extend_from_slice(&[0xff; 4]);
        }
        // Flags of all ones, the index, and a count of all ones.
        _ => {
            reply.extend_from_slice(&16u32.to_ne_bytes());
            reply.extend_from_slice(&[0xff; 4]);
            reply.extend_from_slice(&index.to_ne_bytes());
            reply.extend_from_slice(&[0xff; 4]);
        }
    }
    reply
}

#[test]
fn probe_of_a_server_that_claims_everything_is_bounded() {
    let lying = scripted(endless);
    let run = probe(&lying.socket, &[]);
    assert_clean(&run);
    let shown = stdout(&run);
    assert!(
        shown.contains("only the first 16 were looked at"),
        "{shown}"
    );
    assert!(shown.contains("vendor id 0xffff"), "{shown}");
}

#[test]
fn probe_of_a_server_whose_answers_never_fit_says_so() {
    let mut argsz = 32u32;
    let growing = scripted(move |header, body| {
        let mut reply = endless(header, body);
        if header.command == Request::DeviceGetRegionInfo.to_wire() {
            argsz += 8;
            reply[..4].copy_from_slice(&argsz.to_ne_bytes());
        }
        reply
    });
    let run = probe(&growing.socket, &[]);
    assert_peer_failure(&run, "DEVICE_GET_REGION_INFO: the answer wants 40 bytes");
}

#[test]
fn probe_of_a_server_with_short_answers_says_so() {
    let short = scripted(|_, _| vec![0; 3]);
    let run = probe(&short.socket, &["--json"]);
    assert_peer_failure(&run, "the answer makes no sense: DEVICE_GET_INFO");
}
