//! A client that says exactly what it is told to.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::bytes;
use super::device::{ID, Reg};
use super::messages::{self, Cmd, errno_reply, message, reply};
use vgpu_stub::device::Register;

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A message from the server.
#[derive(Debug)]
pub(crate) struct Received {
    /// All of it.
    pub(crate) bytes: Vec<u8>,
    /// What came with it.
    pub(crate) fds: Vec<OwnedFd>,
}

impl Received {
    pub(crate) fn id(&self) -> u16 {
        u16::from_ne_bytes([self.bytes[0], self.bytes[1]])
    }

    pub(crate) fn command(&self) -> u16 {
        u16::from_ne_bytes([self.bytes[2], self.bytes[3]])
    }

    pub(crate) fn flags(&self) -> u32 {
        self.u32(8)
    }

    /// The errno of an error reply, 0 of any other.
    pub(crate) fn errno(&self) -> i32 {
        if self.flags() == 0x21 {
            self.u32(12).cast_signed()
        } else {
            0
        }
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.bytes[16..]
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.bytes[at..at + 4].try_into().unwrap())
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.bytes[at..at + 8].try_into().unwrap())
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: UnixStream,
    next_id: u16,
}

impl Client {
    pub(crate) fn connect(path: &Path) -> Self {
        Self::over(UnixStream::connect(path).unwrap())
    }

    /// Talks over a socket that is there already.
    pub(crate) fn over(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Client { stream, next_id: 1 }
    }

    /// A second handle to the same connection.
    pub(crate) fn again(&self) -> Self {
        Client {
            stream: self.stream.try_clone().unwrap(),
            next_id: 0x8000,
        }
    }

    pub(crate) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Agrees on version 0.1 and returns the reply.
    pub(crate) fn agree(&mut self, json: &str) -> Received {
        let received = self.ask(Cmd::Version, &messages::version(1, json));
        assert_eq!(received.errno(), 0, "VERSION refused");
        received
    }

    pub(crate) fn send(&self, bytes: &[u8]) {
        (&self.stream).write_all(bytes).unwrap();
    }

    /// Sends bytes, in one send, with descriptors.
    pub(crate) fn send_with(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        let parts = [IoSlice::new(bytes)];
        let flags = SendFlags::NOSIGNAL;
        let sent = sendmsg(&self.stream, &parts, &mut control, flags);
        assert_eq!(sent, Ok(bytes.len()));
    }

    /// Sends a command and returns its id.
    pub(crate) fn command(&mut self, command: Cmd, body: &[u8], fds: &[BorrowedFd<'_>]) -> u16 {
        let id = self.next_id;
        self.next_id += 1;
        let bytes = message(id, command, body);
        if fds.is_empty() {
            self.send(&bytes);
        } else {
            self.send_with(&bytes, fds);
        }
        id
    }

    /// Waits until the server has received all that was sent.
    pub(crate) fn wait_until_taken(&self) {
        let deadline = Instant::now() + PATIENCE;
        while super::files::unreceived(&self.stream) > 0 {
            assert!(Instant::now() < deadline, "the server receives nothing");
            std::thread::yield_now();
        }
    }

    /// Receives a whole message, or `None` if the server left.
    pub(crate) fn try_receive(&self) -> Option<Received> {
        let mut bytes = vec![0; 16];
        let mut fds = Vec::new();
        let mut got = 0;
        while got < bytes.len() {
            let (count, more) = receive_some(&self.stream, &mut bytes[got..]);
            fds.extend(more);
            if count == 0 {
                assert_eq!(got, 0, "the server left in the middle of a message");
                return None;
            }
            got += count;
            if got == 16 {
                let size = u32::from_ne_bytes(bytes[4..8].try_into().unwrap());
                bytes.resize(size as usize, 0);
            }
        }
        Some(Received { bytes, fds })
    }

    pub(crate) fn receive(&self) -> Received {
        self.try_receive().expect("the server left")
    }

    /// Sends a command and receives the answer to it.
    pub(crate) fn ask(&mut self, command: Cmd, body: &[u8]) -> Received {
        self.ask_with(command, body, &[])
    }

    /// Sends a command with descriptors and receives the answer to it.
    pub(crate) fn ask_with(
        &mut self,
        command: Cmd,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Received {
        let id = self.command(command, body, fds);
        let received = self.receive();
        let expected = (id, command as u16);
        assert_eq!((received.id(), received.command()), expected);
        assert_eq!(received.flags() & 0xf, 1, "a reply");
        received
    }

    /// Sends a command that must succeed, and returns its reply's body.
    #[track_caller]
    pub(crate) fn done(&mut self, command: Cmd, body: &[u8]) -> Vec<u8> {
        self.done_with(command, body, &[])
    }

    /// As [`Client::done`], with descriptors.
    #[track_caller]
    pub(crate) fn done_with(
        &mut self,
        command: Cmd,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Vec<u8> {
        let received = self.ask_with(command, body, fds);
        assert_eq!(received.flags(), 1, "errno {}", received.errno());
        received.body().to_vec()
    }

    /// Sends a command that must be refused: the whole reply is compared,
    /// and the stream must be in step afterwards.
    #[track_caller]
    pub(crate) fn refused(&mut self, command: Cmd, body: &[u8], errno: i32) {
        self.refused_with(command, body, &[], errno);
    }

    /// As [`Client::refused`], with descriptors.
    #[track_caller]
    pub(crate) fn refused_with(
        &mut self,
        command: Cmd,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
        errno: i32,
    ) {
        let id = self.command(command, body, fds);
        let received = self.receive();
        let expected = errno_reply(id, command as u16, errno, &padding(command, body));
        assert_eq!(received.bytes, expected, "{command:?} {body:02x?}");
        assert!(received.fds.is_empty());
        self.in_step();
    }

    /// A command that is answered as it should be: the stream is in step.
    #[track_caller]
    pub(crate) fn in_step(&mut self) {
        let body = messages::access(0, Reg::ID.row().offset.into(), 4);
        let id = self.command(Cmd::RegionRead, &body, &[]);
        let expected = reply(id, Cmd::RegionRead, &[&body[..], &bytes![ID]].concat());
        assert_eq!(self.receive().bytes, expected, "the stream is out of step");
    }

    /// The server says nothing more and leaves.
    #[track_caller]
    pub(crate) fn closed(&self) {
        let mut byte = [0];
        match (&self.stream).read(&mut byte) {
            Ok(0) => {}
            // The server left without reading all that was sent.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            other => panic!("the connection is open: {other:?}"),
        }
    }

    pub(crate) fn read(&mut self, region: u32, offset: u64, count: u32) -> Vec<u8> {
        let body = messages::access(region, offset, count);
        let answer = self.done(Cmd::RegionRead, &body);
        assert_eq!(answer[..16], body);
        answer[16..].to_vec()
    }

    pub(crate) fn write(&mut self, region: u32, offset: u64, data: &[u8]) {
        let body = messages::write(region, offset, data);
        assert_eq!(self.done(Cmd::RegionWrite, &body), body[..16]);
    }

    /// Reads a register of BAR 0.
    pub(crate) fn get(&mut self, register: impl Register) -> u64 {
        let row = register.row();
        let mut value = self.read(0, row.offset.into(), row.width.bytes());
        value.resize(8, 0);
        u64::from_le_bytes(value.try_into().unwrap())
    }

    /// Writes a register of BAR 0.
    pub(crate) fn set(&mut self, register: impl Register, value: u64) {
        let row = register.row();
        let width = row.width.bytes() as usize;
        self.write(0, row.offset.into(), &value.to_le_bytes()[..width]);
    }

    /// Writes a register of BAR 0 without a reply, which a message of the
    /// device might overtake.
    pub(crate) fn post(&mut self, register: impl Register, value: u64) {
        let row = register.row();
        let width = row.width.bytes() as usize;
        let body = messages::write(0, row.offset.into(), &value.to_le_bytes()[..width]);
        self.send(&messages::posted(0, Cmd::RegionWrite, &body));
    }

    /// Maps a file, readable and writeable.
    pub(crate) fn map(&mut self, file: &impl AsFd, address: u64, size: u64) {
        let body = messages::map(messages::READABLE | messages::WRITEABLE, 0, address, size);
        self.done_with(Cmd::DmaMap, &body, &[file.as_fd()]);
    }

    /// Maps memory that is reached by messages.
    pub(crate) fn map_without(&mut self, address: u64, size: u64) {
        let body = messages::map(messages::READABLE | messages::WRITEABLE, 0, address, size);
        self.done(Cmd::DmaMap, &body);
    }

    /// Receives a command of the server: `(id, address, count, data)`.
    #[track_caller]
    pub(crate) fn question(&self, command: Cmd) -> (u16, u64, u64, Vec<u8>) {
        let received = self.receive();
        let what = (received.command(), received.flags());
        assert_eq!(what, (command as u16, 0), "{command:?} expected");
        let data = received.body()[16..].to_vec();
        (received.id(), received.u64(16), received.u64(24), data)
    }

    /// Answers the write of nothing with which the server finds out whether
    /// the client's DMA messages are the specification's.
    #[track_caller]
    pub(crate) fn prove_sound(&self) {
        let (id, address, count, _) = self.question(Cmd::DmaWrite);
        assert_eq!(count, 0);
        self.send(&reply(id, Cmd::DmaWrite, &bytes![address, 0u64]));
    }

    /// Answers a `DMA_READ` with these bytes, and returns its address.
    #[track_caller]
    pub(crate) fn provide(&self, data: &[u8]) -> u64 {
        let (id, address, count, _) = self.question(Cmd::DmaRead);
        assert_eq!(count, data.len() as u64);
        let body = [&bytes![address, count][..], data].concat();
        self.send(&reply(id, Cmd::DmaRead, &body));
        address
    }

    /// Accepts a `DMA_WRITE`, and returns its address and data.
    #[track_caller]
    pub(crate) fn accept(&self) -> (u64, Vec<u8>) {
        let (id, address, count, data) = self.question(Cmd::DmaWrite);
        assert_eq!(count, data.len() as u64);
        self.send(&reply(id, Cmd::DmaWrite, &bytes![address, count]));
        (address, data)
    }
}

/// What follows the header of an error reply, so that it is as long as a
/// normal one: the request's own fields, at most 16 bytes, then all-ones.
fn padding(command: Cmd, body: &[u8]) -> Vec<u8> {
    let size = match command {
        Cmd::DmaUnmap => 24,
        Cmd::GetRegionInfo => 32,
        Cmd::GetInfo | Cmd::GetRegionIoFds | Cmd::GetIrqInfo | Cmd::RegionWrite => 16,
        Cmd::WriteMulti => 8,
        Cmd::RegionRead => {
            let count = body.get(12..16).map_or(0, |count| {
                u32::from_ne_bytes(count.try_into().unwrap()) as usize
            });
            16 + count.min(1 << 20)
        }
        _ => 0,
    };
    let mut padding = body[..body.len().min(size).min(16)].to_vec();
    padding.resize(size, 0xff);
    padding
}

fn receive_some(stream: &UnixStream, bytes: &mut [u8]) -> (usize, Vec<OwnedFd>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(bytes)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let count = match recvmsg(stream, &mut parts, &mut control, flags) {
        Ok(received) => received.bytes,
        Err(rustix::io::Errno::CONNRESET) => 0,
        Err(errno) => panic!("nothing from the server: {errno}"),
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(arrived) = message {
            fds.extend(arrived);
        }
    }
    (count, fds)
}
