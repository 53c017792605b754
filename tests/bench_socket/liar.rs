//! A vfio-user server of another make, which goes wrong when it is told to.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use vgpu_stub::protocol::{
    Capabilities, Command, DeviceInfo, Header, Inbox, Message, Outgoing, Proposal, RegionAccess,
    RegionInfo, Request, Socket, Wait, WriteMultiReply,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// What it does with a command.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Does {
    /// What is right.
    Right,
    /// Refuses it with this errno.
    Refuse(i32),
    /// Answers for the byte after.
    Elsewhere,
    /// Closes the connection.
    Leave,
    /// Answers nothing any more.
    Nothing,
}

/// A server that listens in a directory of its own, for one client.
pub(crate) struct Liar {
    directory: tempfile::TempDir,
}

impl Liar {
    /// Its only BAR is number 1. `script` says what it does with each command,
    /// of which it also gets the number.
    pub(crate) fn new(
        capabilities: Capabilities,
        script: impl Fn(Command, u32) -> Does + Send + 'static,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        thread::spawn(move || serve(&listener, capabilities, script));
        Liar { directory }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("socket")
    }
}

fn serve(
    listener: &UnixListener,
    capabilities: Capabilities,
    script: impl Fn(Command, u32) -> Does,
) {
    let (stream, _) = listener.accept().unwrap();
    let socket = Arc::new(Socket::new(stream, PATIENCE).unwrap());
    let mut inbox = Inbox::new(socket.clone(), PATIENCE);
    let mut message = Message::new();
    let mut data = *b"data";
    for number in 0.. {
        // The client may leave whenever it likes.
        let Ok(()) = inbox.receive(&mut message, Wait::Forever) else {
            return;
        };
        let Message { header, body, .. } = &message;
        let command = Command::from_wire(header.command).unwrap();
        let does = script(command, number);
        let mut out = Outgoing::default();
        match does {
            Does::Leave => return,
            Does::Nothing => continue,
            Does::Refuse(errno) => {
                out.begin(&header.refusal(errno));
            }
            Does::Right | Does::Elsewhere => {
                let reply = out.begin(&header.reply());
                answer(command, body, capabilities, &mut data, reply);
                if let Does::Elsewhere = does {
                    reply[Header::SIZE] += 1;
                }
            }
        }
        if !header.no_reply {
            let _ = socket.send(out.finish(), &[]);
        }
    }
}

fn answer(
    command: Command,
    body: &[u8],
    capabilities: Capabilities,
    data: &mut [u8; 4],
    reply: &mut Vec<u8>,
) {
    match Request::parse(command, body).unwrap() {
        Request::Version(_) => {
            let (major, minor) = (0, 1);
            let proposal = Proposal {
                major,
                minor,
                capabilities,
            };
            proposal.encode(reply);
        }
        Request::DeviceGetInfo => {
            let info = DeviceInfo {
                resettable: false,
                regions: 9,
                irqs: 0,
            };
            info.encode(reply);
        }
        Request::DeviceGetRegionInfo(query) => {
            let here = query.index == 1;
            let info = RegionInfo {
                index: query.index,
                readable: here,
                writeable: here,
                mappable: false,
                size: if here { 4 } else { 0 },
                offset: 0,
                areas: Vec::new(),
                read_only: Vec::new(),
            };
            info.encode(query.argsz, reply);
        }
        Request::RegionRead(access) => {
            assert_eq!((access.region, access.offset, access.count), (1, 0, 4));
            access.encode(reply);
            reply.extend_from_slice(data);
        }
        Request::RegionWrite(access, written) => {
            assert_eq!(written, b"data", "it puts back what was there");
            RegionAccess::encode(&access, reply);
        }
        Request::RegionWriteMulti(writes) => {
            let completed = writes.len() as u64;
            WriteMultiReply { completed }.encode(reply);
        }
        request => panic!("{:?} is not asked for", request.command()),
    }
}
