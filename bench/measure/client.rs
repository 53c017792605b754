//! A client that repeats one access and does nothing else.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use vgpu_stub::device::Register;
use vgpu_stub::devices::StubRegister;
use vgpu_stub::endpoint::CONFIG_REGION;
use vgpu_stub::protocol::{Capabilities, Command, Header, Kind, Outgoing, Proposal, RegionAccess};

/// A 4-byte access, to the stub's SCRATCH register but for the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// `REGION_READ`.
    Read,
    /// `REGION_WRITE`, answered.
    Write,
    /// `REGION_WRITE` that wants no reply, as QEMU's posted writes.
    PostedWrite,
    /// `REGION_READ` of config space.
    ConfigRead,
}

impl Access {
    /// All kinds of accesses to the register.
    pub(crate) const ALL: [Access; 3] = [Access::Read, Access::Write, Access::PostedWrite];

    fn message(self) -> Vec<u8> {
        let command = match self {
            Access::Read | Access::ConfigRead => Command::RegionRead,
            Access::Write | Access::PostedWrite => Command::RegionWrite,
        };
        let header = Header {
            no_reply: self == Access::PostedWrite,
            ..Header::command(1, command)
        };
        let (region, offset) = match self {
            Access::ConfigRead => (CONFIG_REGION, 0),
            _ => (0, StubRegister::SCRATCH.row().offset.into()),
        };
        let access = RegionAccess {
            offset,
            region,
            count: 4,
        };
        let mut message = Outgoing::default();
        let body = message.begin(&header);
        access.encode(body);
        if command == Command::RegionWrite {
            body.extend_from_slice(&[1, 2, 3, 4]);
        }
        message.finish().to_vec()
    }

    /// The bytes of the reply.
    fn reply(self) -> usize {
        match self {
            Access::Read | Access::ConfigRead => Header::SIZE + 16 + 4,
            Access::Write => Header::SIZE + 16,
            Access::PostedWrite => 0,
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Access::Read => "read",
            Access::Write => "acknowledged write",
            Access::PostedWrite => "No_reply write",
            Access::ConfigRead => "config space read",
        })
    }
}

/// A client after VERSION.
pub(crate) struct Client(UnixStream);

impl Client {
    /// Agrees on a version over `stream`.
    pub(crate) fn new(mut stream: UnixStream) -> io::Result<Self> {
        let proposal = Proposal {
            major: 0,
            minor: 1,
            capabilities: Capabilities::default(),
        };
        let mut message = Outgoing::default();
        proposal.encode(message.begin(&Header::command(0, Command::Version)));
        stream.write_all(message.finish())?;
        let mut header = [0; Header::SIZE];
        stream.read_exact(&mut header)?;
        let mut body = vec![0; accepted(header)?.payload()];
        stream.read_exact(&mut body)?;
        Ok(Client(stream))
    }

    /// Does an access `times` times, one at a time: the next begins when the
    /// server has taken the last.
    pub(crate) fn repeat(&mut self, access: Access, times: u32) -> io::Result<()> {
        self.repeat_bursts(access, times, 1)
    }

    /// Does `times` bursts of an access, each of so many in one send.
    pub(crate) fn repeat_bursts(
        &mut self,
        access: Access,
        times: u32,
        burst: usize,
    ) -> io::Result<()> {
        let message = access.message().repeat(burst);
        let mut reply = vec![0; access.reply() * burst];
        for _ in 0..times {
            self.0.write_all(&message)?;
            if access == Access::PostedWrite {
                while unread(&self.0)? > 0 {
                    thread::yield_now();
                }
                continue;
            }
            self.0.read_exact(&mut reply)?;
            if let Some(header) = reply.first_chunk() {
                accepted(*header)?;
            }
        }
        Ok(())
    }
}

/// The header of a reply that is no refusal.
fn accepted(header: [u8; Header::SIZE]) -> io::Result<Header> {
    let header = Header::parse(&header).map_err(io::Error::other)?;
    match header.error {
        None if header.kind == Kind::Reply => Ok(header),
        _ => Err(io::Error::other(format!("not an answer: {header:?}"))),
    }
}

/// What the peer has not received yet, in bytes of kernel memory.
fn unread(stream: &UnixStream) -> io::Result<libc::c_int> {
    // From linux/sockios.h.
    const SIOCOUTQ: rustix::ioctl::Opcode = 0x5411;
    #[allow(unsafe_code, reason = "rustix has no wrapper for this ioctl")]
    // SAFETY: SIOCOUTQ writes one int and reads nothing (unix(7)).
    let bytes = unsafe {
        let outq = rustix::ioctl::Getter::<SIOCOUTQ, libc::c_int>::new();
        rustix::ioctl::ioctl(stream, outq)
    };
    Ok(bytes?)
}
