//! The server's own commands, on the main socket and on the twin.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;

use rustix::event::{EventfdFlags, eventfd};

use super::*;
use crate::protocol::{DmaTransfer, SetIrqs, TwinSocket};

/// 16 bytes at 0x1000.
#[derive(Clone, Default)]
struct Sixteen(Arc<Mutex<[u8; 16]>>);

impl Sixteen {
    fn at(address: u64, length: usize) -> Result<std::ops::Range<usize>, NoMemory> {
        let start = address.checked_sub(0x1000).ok_or(NoMemory)?;
        let start = usize::try_from(start).map_err(|_| NoMemory)?;
        let range = start..start + length;
        (range.end <= 16).then_some(range).ok_or(NoMemory)
    }
}

impl Memory for Sixteen {
    fn read(&mut self, address: u64, data: &mut [u8]) -> Result<(), NoMemory> {
        let range = Sixteen::at(address, data.len())?;
        data.copy_from_slice(&self.0.lock().unwrap()[range]);
        Ok(())
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), NoMemory> {
        let range = Sixteen::at(address, data.len())?;
        self.0.lock().unwrap()[range].copy_from_slice(data);
        Ok(())
    }
}

/// Writes `data` to the client's memory, reads it back, and returns the errno
/// of a read beyond.
fn use_memory(peer: &mut Peer, data: &[u8]) -> u32 {
    let mut body = Vec::new();
    DmaTransfer::encode_write(0x1004, data, &mut body);
    peer.send(Header::command(9, Command::DmaWrite), &body);
    let reply = peer.next().unwrap();
    assert_eq!((reply.id, reply.kind, reply.error), (9, Kind::Reply, None));
    peer.send(Header::command(10, Command::DmaRead), &body[..16]);
    assert_eq!(peer.next().unwrap().error, None);
    assert_eq!(&peer.message.body[16..], data);
    let (address, count) = (0x100f, u64::MAX >> 1);
    let mut body = Vec::new();
    DmaTransfer { address, count }.encode(&mut body);
    peer.send(Header::command(11, Command::DmaRead), &body);
    assert!(peer.next().unwrap().error.is_some());
    let (address, count) = (0x100f, 2);
    body.clear();
    DmaTransfer { address, count }.encode(&mut body);
    peer.send(Header::command(12, Command::DmaRead), &body);
    peer.next().unwrap().error.unwrap()
}

#[test]
fn the_servers_dma_is_served_while_a_reply_is_awaited() {
    let mut client = agreed(|peer| {
        let asked = peer.next().unwrap();
        let errno = use_memory(peer, b"guest");
        peer.send(asked.refusal(errno.cast_signed()), &[]);
        peer.stay();
    });
    let memory = Sixteen::default();
    client.lend(memory.clone());
    let error = client.reset().unwrap_err();
    assert!(
        matches!(error, ClientError::Refused { errno, .. } if errno == libc::EFAULT.unsigned_abs())
    );
    assert_eq!(&memory.0.lock().unwrap()[4..9], b"guest");
}

/// A client with a twin socket, whose server does as `script` says with the
/// main and the twin.
fn twin(script: impl FnOnce(&mut Peer, &mut Peer) + Send + 'static) -> Client {
    connect(Options::default().twin_socket(), |peer| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let fd_index = Some(0);
        let supported = true;
        let twin_socket = Some(TwinSocket {
            supported,
            fd_index,
        });
        let capabilities = Capabilities {
            twin_socket,
            ..Capabilities::default()
        };
        peer.version(capabilities, &[theirs.as_fd()]);
        drop(theirs);
        script(peer, &mut Peer::new(ours));
    })
    .unwrap()
}

#[test]
fn the_servers_dma_is_served_on_the_twin_socket() {
    let mut client = twin(|peer, twin| {
        let asked = peer.next().unwrap();
        use_memory(twin, b"twin");
        peer.send(asked.reply(), &[]);
        peer.stay();
    });
    assert!(client.agreement().twin_socket);
    let memory = Sixteen::default();
    client.lend(memory.clone());
    client.reset().unwrap();
    assert_eq!(&memory.0.lock().unwrap()[4..8], b"twin");
}

#[test]
fn a_twin_socket_that_closes_does_not_disturb_the_main_one() {
    let mut client = twin(|peer, twin| {
        twin.socket.shutdown();
        let asked = peer.next().unwrap();
        peer.send(asked.reply(), &[]);
        peer.stay();
    });
    client.reset().unwrap();
}

#[test]
fn the_servers_dma_is_served_while_an_event_is_awaited() {
    let event: OwnedFd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let theirs = event.try_clone().unwrap();
    let mut client = agreed(move |peer| {
        use_memory(peer, b"event");
        rustix::io::write(&theirs, &1u64.to_ne_bytes()).unwrap();
        peer.stay();
    });
    client.lend(Sixteen::default());
    assert!(client.wait_for(event.as_fd(), PATIENCE).unwrap());
    rustix::io::read(&event, &mut [0; 8]).unwrap();
    assert!(!client.wait_for(event.as_fd(), Duration::ZERO).unwrap());
}

#[test]
fn commands_that_a_server_cannot_send_are_refused() {
    let mut client = agreed(|peer| {
        let asked = peer.next().unwrap();
        peer.send(Header::command(1, Command::DeviceReset), &[]);
        assert_eq!(peer.next().unwrap().error, Some(22));
        let unknown = Header {
            command: 99,
            ..Header::command(2, Command::DeviceReset)
        };
        peer.send(unknown, &[]);
        assert_eq!(peer.next().unwrap().error, Some(38));
        peer.send(Header::command(3, Command::DmaWrite), &[0; 17]);
        assert_eq!(peer.next().unwrap().error, Some(22));
        peer.send(asked.reply(), &[]);
        peer.stay();
    });
    client.reset().unwrap();
}

#[test]
fn interrupts_are_assigned_as_many_at_a_time_as_the_server_takes() {
    let mut client = connect(Options::default(), |peer| {
        let max_msg_fds = Some(2);
        let capabilities = Capabilities {
            max_msg_fds,
            ..Capabilities::default()
        };
        peer.version(capabilities, &[]);
        for (start, count) in [(0, 2), (2, 1)] {
            let header = peer.next().unwrap();
            let set = SetIrqs::parse(&peer.message.body).unwrap();
            assert_eq!((set.start, set.count as usize), (start, count));
            assert_eq!(peer.message.fds.len(), count);
            peer.send(header.reply(), &[]);
        }
        peer.stay();
    })
    .unwrap();
    let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    client.assign_irqs(2, 0, &[event.as_fd(); 3]).unwrap();
}
