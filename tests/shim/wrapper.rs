//! The conditions under which XCP-ng's qemu-wrapper starts QEMU: mount,
//! network and IPC namespaces of its own, files of at most 1 MiB, a seccomp
//! sandbox, and, once its devices are realized, a chroot and a user without
//! rights. They need root.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::fake::{Fake, Then, is};
use crate::pages::Sharing;
use crate::rig::qtest::{Board, Qtest};
use crate::rig::require;
use crate::rig::{Memory, RigError};
use crate::stage::{Card, MAILBOX, device, empty, refusal};
use crate::wire::Cmd;
use crate::wire::device::{Reg, result};

/// As xenopsd says it (`ocaml/xenopsd/xc/device.ml`).
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=allow,spawn=deny,resourcecontrol=deny";

/// `qemu_base` and the domain's id.
const USER: &str = "65542:65542";

const ID: u64 = 0x5550_4756;
const ONES: u64 = 0xffff_ffff;

/// A domain's directory: its chroot, and a place for its sockets that has the
/// same name inside and outside.
struct Domain {
    directory: TempDir,
}

impl Domain {
    fn new() -> Result<Self, RigError> {
        if !rustix::process::geteuid().is_root() {
            let what = "namespaces and a chroot need root";
            return Err(RigError::missing(what, "this is another user", "be root"));
        }
        let directory = tempfile::tempdir().unwrap();
        let domain = Domain { directory };
        let inside = domain.inside();
        fs::create_dir_all(&inside).unwrap();
        // For a user without rights, from its root on.
        for part in inside
            .ancestors()
            .take_while(|part| part.starts_with(domain.root()))
        {
            fs::set_permissions(part, Permissions::from_mode(0o755)).unwrap();
        }
        symlink(&inside, domain.outside()).unwrap();
        Ok(domain)
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// The directory's name for those outside, and for QEMU in its chroot.
    fn outside(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// Where it really is.
    fn inside(&self) -> PathBuf {
        let name = self.outside();
        self.root().join(name.strip_prefix("/").unwrap())
    }

    /// The name of the socket.
    fn socket(&self) -> PathBuf {
        self.outside().join("socket")
    }

    /// A machine in this domain.
    fn board(&self) -> Result<Board, RigError> {
        let limits = "unshare --mount --net --ipc prlimit --fsize=1048576:1048576";
        let limits: Vec<&str> = limits.split(' ').collect();
        let board = empty()?.under(&limits).memory(Memory::Private);
        Ok(board
            .args(["-sandbox", SANDBOX, "-runas", USER, "-chroot"])
            .args([self.root()]))
    }

    fn card(&self, socket: &Path, properties: &str) -> Result<Card, RigError> {
        let board = self.board()?.device(device(socket, properties));
        let mut qemu = board.start();
        if !qemu.is_up() {
            let ended = qemu.ended();
            let said = ended.said.join(" ");
            if said.contains("sandbox") {
                let what = "QEMU is built without a sandbox";
                return Err(RigError::missing(what, said, "install libseccomp-dev"));
            }
            return Err(RigError::failed("QEMU", said));
        }
        is_confined(&qemu, &self.root());
        Ok(Card::at(qemu, crate::stage::SLOT))
    }
}

/// The conditions hold, or there would be nothing to see.
fn is_confined(qemu: &Qtest, root: &Path) {
    let process = PathBuf::from(format!("/proc/{}", qemu.id()));
    let status = fs::read_to_string(process.join("status")).unwrap();
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(line("Uid:"), "65542");
    assert_eq!(line("Seccomp:"), "2");
    assert_eq!(fs::read_link(process.join("root")).unwrap(), root);
    for namespace in ["mnt", "net", "ipc"] {
        let of = |process: &Path| fs::read_link(process.join("ns").join(namespace)).unwrap();
        assert_ne!(of(&process), of(Path::new("/proc/self")), "{namespace}");
    }
    let limits = fs::read_to_string(process.join("limits")).unwrap();
    let limit = limits
        .lines()
        .find(|line| line.starts_with("Max file size"));
    assert!(limit.unwrap().contains("1048576"), "{limits}");
}

/// All that a device does, once.
fn all_works(card: &mut Card) {
    assert_eq!(card.slot.get(&mut card.qemu, 0, 4), 0x1119_1af4);
    for (width, value) in [(1, 0x11), (2, 0x2233), (4, 0x4455_6677), (8, u64::MAX / 3)] {
        card.write(0x08, width, value);
        assert_eq!(card.read(0x08, width), value);
    }
    // Memory of the server's, larger than a file may be.
    let bar = card.bar(2);
    for offset in [0, bar.size - 4] {
        card.qemu.write(bar.address + offset, 4, 0x1234);
        assert_eq!(card.qemu.read(bar.address + offset, 4), 0x1234);
    }
    let rings = card.get(Reg::RINGS);
    card.set(Reg::BELL, 1);
    let at = card.bar(0).address + 0x18;
    card.qemu.until("the bell", |qemu| {
        (qemu.read(at, 4) == rings + 1).then_some(())
    });
    card.qemu.write(MAILBOX, 8, 0x0102_0304_0506_0708);
    card.set(Reg::ADDRESS, MAILBOX);
    card.set(Reg::GO, 1);
    assert_eq!(card.get(Reg::RESULT), result::DONE);
    assert_eq!(card.get(Reg::VALUE), 0x0102_0304_0506_0708);
    let msix = card.msix();
    msix.point(&mut card.qemu, 9, MAILBOX, 0x77);
    msix.mask(&mut card.qemu, 9, false);
    msix.control(&mut card.qemu, true, false);
    card.set(Reg::RAISE, 9);
    card.qemu.until("vector 9", |qemu| {
        (qemu.read(MAILBOX, 4) == 0x77).then_some(())
    });
    card.qemu.alive();
}

/// The server's socket must let the domain's user in.
fn open_to_all(socket: &Path) {
    fs::set_permissions(socket, Permissions::from_mode(0o666)).unwrap();
}

#[test]
fn a_socket_outside_the_chroot_is_reached_before_it() {
    let domain = require!(Domain::new());
    let fake = Fake::honest();
    let mut card = require!(domain.card(&fake.socket(), ""));
    all_works(&mut card);
    card.qemu.reset();
    let mut card = Card::at(card.qemu, crate::stage::SLOT);
    all_works(&mut card);
    // Nothing of guest memory can be mapped there.
    let maps = fake.heard(|heard| heard.is(Cmd::DmaMap));
    assert!(!maps.is_empty() && maps.iter().all(|map| map.fds == 0));
    card.qemu.quit();
}

#[test]
fn shared_memory_needs_nothing_that_is_forbidden_there() {
    let domain = require!(Domain::new());
    let fake = Fake::sharing(Sharing::default(), |_, _| Then::Honest);
    let mut card = require!(domain.card(&fake.socket(), ""));
    all_works(&mut card);
    assert!(fake.count(|heard| heard.by_memory) > 10);
    card.qemu.quit();
}

#[test]
fn a_descriptor_needs_no_path() {
    let domain = require!(Domain::new());
    let fake = Fake::honest();
    let mut board = require!(domain.board());
    let stream = UnixStream::connect(fake.socket()).unwrap();
    let fd = board.inherit(stream.into());
    let qemu = board.device(format!("vgpu-stub,fd={fd},addr=0xc")).start();
    all_works(&mut Card::at(qemu, crate::stage::SLOT));
}

#[test]
fn a_server_that_dies_costs_the_device_only() {
    let domain = require!(Domain::new());
    let fake = Fake::start(|_, message| {
        let is_read = is(message, Cmd::RegionRead);
        if is_read && message.u64(16) == 4 {
            Then::Die
        } else {
            Then::Honest
        }
    });
    let mut card = require!(domain.card(&fake.socket(), ",msg-timeout=300,reconnect=20"));
    all_works(&mut card);
    assert_eq!(card.get(Reg::SCRATCH), ONES);
    for _ in 0..100 {
        // The path leads nowhere from inside: each attempt fails.
        assert_eq!(card.get(Reg::ID), ONES);
        card.qemu.alive();
    }
}

#[test]
fn a_server_that_comes_back_is_found_inside_the_chroot() {
    let domain = require!(Domain::new());
    let socket = domain.socket();
    let fake = Fake::start_at(&socket, |_, _| Then::Honest);
    open_to_all(&socket);
    let mut card = require!(domain.card(&socket, ",msg-timeout=300,reconnect=20"));
    all_works(&mut card);
    fake.hang_up();
    fake.wait_sessions(2);
    let at = card.bar(0).address;
    card.qemu
        .until("the device", |qemu| (qemu.read(at, 4) == ID).then_some(()));
    all_works(&mut card);
}

#[test]
fn an_absent_server_is_one_line_there_as_well() {
    let domain = require!(Domain::new());
    let socket = domain.socket();
    let device = device(&socket, "");
    let reason = refusal(require!(domain.board()).device(&device), &device);
    assert!(reason.contains("No such file"), "{reason}");
}
