//! QEMU without a guest: a test moves its buses by hand (qtest).
//!
//! Standard input is the qtest socket, standard output the monitor's, so a
//! QEMU in namespaces and a chroot of its own is reached all the same.
//!
//! What fails here fails the test at once, with what QEMU has said: there is
//! nothing that a test could do about it. Every wait has an end.

mod slot;

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rustix::io::FdFlags;
use serde_json::{Value, json};

pub(crate) use slot::{Bar, Msix, Slot};

use super::process::{Process, lines_of};
use super::qmp::Qmp;
use super::{Memory, RigError};

/// How long QEMU may take for anything that it is asked. A device may wait
/// for its server meanwhile, but never so long.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Guest memory, in bytes.
pub(crate) const RAM: u64 = 64 << 20;

/// A machine that is to be started.
pub(crate) struct Board {
    command: Command,
    memory: Memory,
    arguments: Vec<OsString>,
    inherited: Vec<OwnedFd>,
}

impl Board {
    /// A machine of this QEMU: `pc`, with nothing in it.
    pub(crate) fn new(command: Command, data: Vec<OsString>) -> Self {
        Self {
            command,
            memory: Memory::Shared,
            arguments: data,
            inherited: Vec::new(),
        }
    }

    /// Chooses the kind of guest memory; it is `Shared` otherwise.
    pub(crate) fn memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// Adds `-device`.
    pub(crate) fn device(self, device: impl Into<OsString>) -> Self {
        self.args(["-device".into(), device.into()])
    }

    /// Adds anything else to the command line.
    pub(crate) fn args<A: Into<OsString>>(mut self, more: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(more.into_iter().map(Into::into));
        self
    }

    /// Hands a descriptor over; returns its number there.
    pub(crate) fn inherit(&mut self, fd: OwnedFd) -> i32 {
        let number = fd.as_raw_fd();
        self.inherited.push(fd);
        number
    }

    /// Has a tool start QEMU: its program and arguments.
    pub(crate) fn under<A: AsRef<OsStr>>(mut self, tool: &[A]) -> Self {
        let mut command = Command::new(&tool[0]);
        command.args(&tool[1..]);
        command.arg(self.command.get_program());
        command.args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        self.command = command;
        self
    }

    /// Starts it. It may still end by itself: what is asked of it then fails
    /// the test, [`Qtest::ended`] does not.
    #[track_caller]
    pub(crate) fn start(mut self) -> Qtest {
        let memory = match self.memory {
            Memory::Shared => "memory-backend-memfd,share=on",
            Memory::Private => "memory-backend-ram,share=off",
        };
        let megabytes = RAM >> 20;
        let line = [
            // Names that QEMU has had since 4.2.
            "-no-user-config -nodefaults -display none -machine pc,accel=qtest".to_owned(),
            format!("-m {megabytes} -object {memory},id=ram,size={megabytes}M"),
            "-numa node,memdev=ram".to_owned(),
            "-chardev socket,id=qtest,fd=0 -qtest chardev:qtest -qtest-log none".to_owned(),
            "-chardev socket,id=monitor,fd=1 -qmp chardev:monitor".to_owned(),
        ]
        .join(" ");
        let (commands, theirs) = UnixStream::pair().unwrap();
        let (monitor, monitors) = UnixStream::pair().unwrap();
        commands.set_read_timeout(Some(LIMIT)).unwrap();
        let inherited = std::mem::take(&mut self.inherited);
        inherit(&mut self.command, inherited);
        self.command
            .args(line.split(' '))
            .args(&self.arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(OwnedFd::from(monitors)))
            .stderr(Stdio::piped());
        let mut child = self.command.spawn().unwrap();
        let errors = lines_of(child.stderr.take().unwrap());
        Qtest {
            process: Process::new(child),
            answers: BufReader::new(commands.try_clone().unwrap()),
            commands,
            errors,
            monitor: Monitor::Silent(Some(monitor)),
        }
    }
}

/// Has a command inherit descriptors under their numbers.
fn inherit(command: &mut Command, descriptors: Vec<OwnedFd>) {
    let keep = move || {
        for fd in &descriptors {
            rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes system calls and does not
    // allocate.
    #[allow(unsafe_code, reason = "the only way to pass a descriptor on")]
    unsafe {
        command.pre_exec(keep);
    }
}

/// A QEMU that a test moves; it is killed and reaped on drop.
pub(crate) struct Qtest {
    process: Process,
    commands: UnixStream,
    answers: BufReader<UnixStream>,
    errors: Receiver<String>,
    monitor: Monitor,
}

enum Monitor {
    Silent(Option<UnixStream>),
    Ready(Qmp),
}

/// What a QEMU left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// What it wrote to standard error.
    pub(crate) said: Vec<String>,
}

impl Qtest {
    /// QEMU's process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends a command; returns the answer's words after `OK`.
    #[track_caller]
    pub(crate) fn ask(&mut self, command: impl Display) -> String {
        let line = format!("{command}\n");
        let mut answer = String::new();
        let result = self.commands.write_all(line.as_bytes()).and_then(|()| {
            // What a chip says by itself comes in between.
            while answer.is_empty() || answer.starts_with("IRQ ") {
                answer.clear();
                if self.answers.read_line(&mut answer)? == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
            }
            Ok(())
        });
        match (result, answer.trim_end().strip_prefix("OK")) {
            (Ok(()), Some(rest)) => rest.trim_start().to_owned(),
            (Ok(()), None) => panic!("{}: {answer}", line.trim_end()),
            (Err(error), _) => self.lost(line.trim_end(), &error),
        }
    }

    #[track_caller]
    fn lost(&mut self, what: &str, why: &dyn Display) -> ! {
        self.process.kill();
        let said: Vec<String> = self.errors.iter().collect();
        let status = self.process.wait(Instant::now());
        panic!("{what}: {why}; QEMU {status:?} said: {}", said.join("\n"));
    }

    #[track_caller]
    fn number(&mut self, command: impl Display) -> u64 {
        let answer = self.ask(command);
        let digits = answer.trim_start_matches("0x");
        u64::from_str_radix(digits, 16).unwrap()
    }

    /// Reads memory or a device with one access of `width` bytes.
    #[track_caller]
    pub(crate) fn read(&mut self, address: u64, width: u32) -> u64 {
        self.number(format_args!("read{} {address:#x}", letter(width)))
    }

    /// Writes memory or a device with one access of `width` bytes.
    #[track_caller]
    pub(crate) fn write(&mut self, address: u64, width: u32, value: u64) {
        self.ask(format_args!(
            "write{} {address:#x} {value:#x}",
            letter(width)
        ));
    }

    /// Reads a port.
    #[track_caller]
    pub(crate) fn port(&mut self, port: u16, width: u32) -> u64 {
        self.number(format_args!("in{} {port:#x}", letter(width)))
    }

    /// Writes a port.
    #[track_caller]
    pub(crate) fn set_port(&mut self, port: u16, width: u32, value: u64) {
        self.ask(format_args!("out{} {port:#x} {value:#x}", letter(width)));
    }

    /// Reads bytes of memory.
    #[track_caller]
    pub(crate) fn memory(&mut self, address: u64, length: usize) -> Vec<u8> {
        let answer = self.ask(format_args!("read {address:#x} {length:#x}"));
        let digits = answer.trim_start_matches("0x").as_bytes();
        let byte = |pair: &[u8]| {
            let pair = std::str::from_utf8(pair).unwrap();
            u8::from_str_radix(pair, 16).unwrap()
        };
        digits.chunks(2).map(byte).collect()
    }

    /// Writes bytes of memory.
    #[track_caller]
    pub(crate) fn set_memory(&mut self, address: u64, bytes: &[u8]) {
        use std::fmt::Write as _;
        let mut digits = String::with_capacity(2 * bytes.len());
        for byte in bytes {
            let _ = write!(digits, "{byte:02x}");
        }
        let length = bytes.len();
        self.ask(format_args!("write {address:#x} {length:#x} 0x{digits}"));
    }

    /// Moves the virtual clock, which stands still otherwise.
    #[track_caller]
    pub(crate) fn clock_step(&mut self, nanoseconds: u64) {
        self.ask(format_args!("clock_step {nanoseconds}"));
    }

    /// Asks again and again, within a limit. Each question lets QEMU's main
    /// loop go round.
    #[track_caller]
    pub(crate) fn until<T>(
        &mut self,
        what: &str,
        mut question: impl FnMut(&mut Self) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(answer) = question(self) {
                return answer;
            }
            assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        }
    }

    /// Runs a command of the monitor.
    #[track_caller]
    pub(crate) fn qmp(&mut self, command: &str, arguments: &Value) -> Result<Value, RigError> {
        self.monitor().execute(command, arguments)
    }

    /// Waits for an event of the monitor.
    #[track_caller]
    pub(crate) fn event(&mut self, name: &str) -> Value {
        match self.monitor().wait_event(name, LIMIT) {
            Ok(event) => event,
            Err(error) => self.lost(name, &error),
        }
    }

    /// Resets the machine, and returns when that is done.
    #[track_caller]
    pub(crate) fn reset(&mut self) {
        self.qmp("system_reset", &json!({})).unwrap();
        self.event("RESET");
    }

    #[track_caller]
    fn monitor(&mut self) -> &mut Qmp {
        if let Monitor::Silent(stream) = &mut self.monitor {
            let stream = stream.take().expect("it could not be negotiated before");
            match Qmp::negotiate(stream) {
                Ok(qmp) => self.monitor = Monitor::Ready(qmp),
                Err(error) => self.lost("QMP", &error),
            }
        }
        match &mut self.monitor {
            Monitor::Ready(qmp) => qmp,
            Monitor::Silent(_) => unreachable!("it was made ready above"),
        }
    }

    /// QEMU is alive: its machine and its monitor answer.
    #[track_caller]
    pub(crate) fn alive(&mut self) {
        // The host bridge of the machine `pc`.
        assert_eq!(Slot(0).get(self, 0, 4), 0x1237_8086);
        self.qmp("query-status", &json!({})).unwrap();
    }

    /// Whether its machine is made and answers; otherwise it ends.
    #[track_caller]
    pub(crate) fn is_up(&mut self) -> bool {
        let sent = self.commands.write_all(b"inl 0xcf8\n");
        let mut answer = String::new();
        match sent.and_then(|()| self.answers.read_line(&mut answer)) {
            Ok(0) => false,
            Ok(_) => true,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                self.lost("the start", &error)
            }
            // It ended with the question unread.
            Err(_) => false,
        }
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub(crate) fn ended(mut self) -> Ended {
        match self.process.wait(Instant::now() + LIMIT) {
            Ok(Some(status)) => Ended {
                status,
                said: self.errors.iter().collect(),
            },
            _ => self.lost("the end", &"it goes on"),
        }
    }

    /// Tells it to quit, which it must do well; returns what it has said.
    #[track_caller]
    pub(crate) fn quit(mut self) -> Vec<String> {
        if let Err(error) = self.qmp("quit", &json!({})) {
            self.lost("quit", &error);
        }
        let ended = self.ended();
        assert!(ended.status.success(), "{ended:?}");
        ended.said
    }
}

fn letter(width: u32) -> char {
    match width {
        1 => 'b',
        2 => 'w',
        4 => 'l',
        8 => 'q',
        _ => panic!("no access has {width} bytes"),
    }
}
