//! What `demo` makes the stub do, and checks.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::MemfdFlags;
use vgpu_stub::client::{Client, ClientError, Memory, NoMemory};
use vgpu_stub::device::Register;
use vgpu_stub::devices::StubRegister;
use vgpu_stub::protocol::{DmaAccess, DmaMap, DmaUnmap};

use super::demo::local;
use super::looks;
use super::screen::size;

const PATIENCE: Duration = Duration::from_secs(5);

/// `VFIO_PCI_MSIX_IRQ_INDEX` of `<linux/vfio.h>`.
const MSIX: u32 = 2;
/// The vector that a finished DMA raises: the number of `STATUS.DMA_DONE`.
const DMA_DONE: u32 = 0;
const FENCE: u32 = 0x600d_cafe;

/// A check: what it found, or what is wrong.
type Check = fn(&mut Client) -> Result<String, String>;

/// The checks.
pub(super) struct Checks;

impl Checks {
    /// Each with its name.
    pub(super) const ALL: [(&str, Check); 4] = [
        ("write and read", Checks::scratch),
        ("interrupt", Checks::interrupt),
        ("DMA, shared memory", Checks::shared_memory),
        ("DMA, by messages", Checks::messages),
    ];

    fn scratch(client: &mut Client) -> Result<String, String> {
        const VALUE: u64 = 0x0123_4567_89ab_cdef;
        write(client, StubRegister::SCRATCH64, VALUE)?;
        let read = looks::read_register(client, StubRegister::SCRATCH64.row());
        let read = read.map_err(said)?;
        if read == VALUE {
            return Ok(format!("SCRATCH64 holds {VALUE:#x}"));
        }
        Err(format!("SCRATCH64 is {read:#x} instead of {VALUE:#x}"))
    }

    /// Has a vector raised and receives it.
    fn interrupt(client: &mut Client) -> Result<String, String> {
        const VECTOR: u32 = 3;
        let vector = Vector::assign(client, VECTOR)?;
        let begun = Instant::now();
        write(client, StubRegister::IRQ_RAISE, VECTOR.into())?;
        vector.wait(client)?;
        let took = looks::time(begun.elapsed());
        Ok(format!("MSI-X vector {VECTOR} raised, received in {took}"))
    }

    /// The device copies in memory that it maps.
    fn shared_memory(client: &mut Client) -> Result<String, String> {
        let range = Range {
            address: 1 << 32,
            length: 2 << 20,
        };
        let memfd = rustix::fs::memfd_create("vgpu-stub-demo", MemfdFlags::CLOEXEC);
        let memory = File::from(memfd.map_err(local)?);
        memory.set_len(range.size()).map_err(local)?;
        range.lend(client, Some(&memory))?;
        let took = range.copy(
            client,
            |offset, data| memory.write_all_at(data, offset).map_err(local),
            |offset, data| memory.read_exact_at(data, offset).map_err(local),
        )?;
        range.take_back(client)?;
        Ok(range.praise(took))
    }

    /// The device copies in memory that only messages reach.
    fn messages(client: &mut Client) -> Result<String, String> {
        let range = Range {
            address: 2 << 32,
            length: 128 << 10,
        };
        let memory = Lent::new(range);
        client.lend(memory.clone());
        range.lend(client, None)?;
        let mut by_hand = memory.clone();
        let took = range.copy(
            client,
            |offset, data| {
                by_hand
                    .write(range.address + offset, data)
                    .map_err(|e| e.to_string())
            },
            |offset, data| {
                let mut memory = memory.clone();
                memory
                    .read(range.address + offset, data)
                    .map_err(|e| e.to_string())
            },
        )?;
        range.take_back(client)?;
        Ok(range.praise(took))
    }
}

/// Memory that the device copies in: what it copies, room for the copy, and a
/// page for the fence.
#[derive(Clone, Copy)]
struct Range {
    address: u64,
    length: u64,
}

impl Range {
    fn size(self) -> u64 {
        2 * self.length + 4096
    }

    fn fence(self) -> u64 {
        2 * self.length
    }

    fn lend(self, client: &mut Client, file: Option<&File>) -> Result<(), String> {
        let map = DmaMap {
            access: DmaAccess {
                read: true,
                write: true,
            },
            file_io: false,
            mmap: false,
            offset: 0,
            address: self.address,
            size: self.size(),
        };
        client.dma_map(&map, file.map(AsFd::as_fd)).map_err(said)
    }

    fn take_back(self, client: &mut Client) -> Result<(), String> {
        let (address, size) = (self.address, self.size());
        let unmap = DmaUnmap::Range { address, size };
        client.dma_unmap(&unmap).map_err(said)
    }

    /// Fills the memory, has it copied, waits for the interrupt, and compares.
    fn copy(
        self,
        client: &mut Client,
        mut put: impl FnMut(u64, &[u8]) -> Result<(), String>,
        mut get: impl FnMut(u64, &mut [u8]) -> Result<(), String>,
    ) -> Result<Duration, String> {
        let source = pattern(self.length);
        put(0, &source)?;
        let vector = Vector::assign(client, DMA_DONE)?;
        let registers = [
            (StubRegister::STATUS, u64::from(u32::MAX)),
            (StubRegister::IRQ_ENABLE, 1 << DMA_DONE),
            (StubRegister::DMA_SOURCE, self.address),
            (StubRegister::DMA_DESTINATION, self.address + self.length),
            (StubRegister::DMA_LENGTH, self.length),
            (StubRegister::DMA_FENCE_ADDRESS, self.address + self.fence()),
            (StubRegister::DMA_FENCE, FENCE.into()),
        ];
        for (register, value) in registers {
            write(client, register, value)?;
        }
        let begun = Instant::now();
        write(client, StubRegister::DMA_COMMAND, 1)?;
        vector.wait(client)?;
        let took = begun.elapsed();
        let mut copied = vec![0; source.len()];
        get(self.length, &mut copied)?;
        if let Some(place) = source.iter().zip(&copied).position(|(a, b)| a != b) {
            return Err(format!("byte {place:#x} of the copy differs"));
        }
        let mut fence = [0; 4];
        get(self.fence(), &mut fence)?;
        match u32::from_le_bytes(fence) {
            FENCE => Ok(took),
            other => Err(format!("the fence is {other:#x} instead of {FENCE:#x}")),
        }
    }

    fn praise(self, took: Duration) -> String {
        let (bytes, took) = (size(self.length), looks::time(took));
        format!("{bytes} copied in {took}, each byte compared")
    }
}

/// Bytes that tell where they are from.
fn pattern(length: u64) -> Vec<u8> {
    let words = (0..length / 8).map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    words.flat_map(u64::to_le_bytes).collect()
}

/// Memory of ours that the device asks for.
#[derive(Clone)]
struct Lent {
    address: u64,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Lent {
    fn new(range: Range) -> Self {
        let size = usize::try_from(range.size()).unwrap_or(0);
        Lent {
            address: range.address,
            bytes: Arc::new(Mutex::new(vec![0; size])),
        }
    }

    fn with(
        &self,
        address: u64,
        length: usize,
        access: impl FnOnce(&mut [u8]),
    ) -> Result<(), NoMemory> {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let start = address.checked_sub(self.address).ok_or(NoMemory)?;
        let start = usize::try_from(start).map_err(|_| NoMemory)?;
        let end = start.checked_add(length).ok_or(NoMemory)?;
        access(bytes.get_mut(start..end).ok_or(NoMemory)?);
        Ok(())
    }
}

impl Memory for Lent {
    fn read(&mut self, address: u64, data: &mut [u8]) -> Result<(), NoMemory> {
        self.with(address, data.len(), |bytes| data.copy_from_slice(bytes))
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), NoMemory> {
        self.with(address, data.len(), |bytes| bytes.copy_from_slice(data))
    }
}

/// An MSI-X vector that we receive.
struct Vector {
    number: u32,
    event: OwnedFd,
}

impl Vector {
    fn assign(client: &mut Client, number: u32) -> Result<Vector, String> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let event = eventfd(0, flags).map_err(local)?;
        let fds = [event.as_fd()];
        client.assign_irqs(MSIX, number, &fds).map_err(said)?;
        Ok(Vector { number, event })
    }

    fn wait(&self, client: &mut Client) -> Result<(), String> {
        let number = self.number;
        let came = client
            .wait_for(self.event.as_fd(), PATIENCE)
            .map_err(said)?;
        let mut count = [0; 8];
        if !came || rustix::io::read(&self.event, &mut count) != Ok(8) {
            let seconds = PATIENCE.as_secs();
            return Err(format!("vector {number} did not come within {seconds} s"));
        }
        match u64::from_ne_bytes(count) {
            1 => Ok(()),
            count => Err(format!("vector {number} came {count} times at once")),
        }
    }
}

fn write(client: &mut Client, register: StubRegister, value: u64) -> Result<(), String> {
    let row = register.row();
    let width = row.width.bytes() as usize;
    let bytes = value.to_le_bytes();
    client
        .write(0, row.offset.into(), &bytes[..width])
        .map_err(said)
}

#[allow(clippy::needless_pass_by_value, reason = "fits map_err")]
fn said(error: ClientError) -> String {
    error.to_string()
}
