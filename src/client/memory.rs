//! Memory that the server reaches through messages: its `DMA_READ` and
//! `DMA_WRITE` (vfio-user, `VFIO_USER_DMA_READ`).

use thiserror::Error;

use crate::protocol::{Command, DmaTransfer, MAX_DATA, Malformed, Message, Outgoing, Socket};

/// Memory that the server may read and write by message.
pub trait Memory: Send {
    /// Reads at a device address.
    ///
    /// # Errors
    ///
    /// [`NoMemory`] if not all of it is there.
    fn read(&mut self, address: u64, data: &mut [u8]) -> Result<(), NoMemory>;

    /// Writes at a device address.
    ///
    /// # Errors
    ///
    /// [`NoMemory`] if not all of it is there; then nothing was written.
    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), NoMemory>;
}

/// There is no such memory. As a [`Memory`], there is none at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("there is no such memory")]
pub struct NoMemory;

impl Memory for NoMemory {
    fn read(&mut self, _: u64, _: &mut [u8]) -> Result<(), NoMemory> {
        Err(NoMemory)
    }

    fn write(&mut self, _: u64, _: &[u8]) -> Result<(), NoMemory> {
        Err(NoMemory)
    }
}

/// Answers a command of the server on the socket that it came from.
pub(super) fn serve(
    memory: &mut dyn Memory,
    message: &Message,
    out: &mut Outgoing,
    socket: &Socket,
) -> std::io::Result<()> {
    let header = &message.header;
    let reply = out.begin(&header.reply());
    if let Err(errno) = execute(memory, message, reply) {
        log::debug!("the server's command {} was refused", header.command);
        out.begin(&header.refusal(errno));
    }
    if header.no_reply {
        return Ok(());
    }
    socket.send(out.finish(), &[])
}

/// Appends the reply's body, or says with which errno there is none.
fn execute(memory: &mut dyn Memory, message: &Message, reply: &mut Vec<u8>) -> Result<(), i32> {
    let errno = |malformed: Malformed| malformed.errno();
    match Command::from_wire(message.header.command) {
        Some(Command::DmaRead) => {
            let transfer = DmaTransfer::parse(&message.body).map_err(errno)?;
            // Our own max_data_xfer_size.
            let count = u32::try_from(transfer.count).ok();
            let count = count.filter(|count| *count <= MAX_DATA);
            let count = count.ok_or(libc::EINVAL)? as usize;
            transfer.encode(reply);
            let start = reply.len();
            reply.resize(start + count, 0);
            memory
                .read(transfer.address, &mut reply[start..])
                .map_err(|NoMemory| libc::EFAULT)
        }
        Some(Command::DmaWrite) => {
            let (transfer, data) = DmaTransfer::parse_write(&message.body).map_err(errno)?;
            memory
                .write(transfer.address, data)
                .map_err(|NoMemory| libc::EFAULT)?;
            transfer.encode(reply);
            Ok(())
        }
        Some(_) => Err(libc::EINVAL),
        None => Err(libc::ENOSYS),
    }
}
