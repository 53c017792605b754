//! What every test here stands on: a QEMU with the device in slot 12.

use std::path::Path;
use std::sync::OnceLock;

use vgpu_stub::device::Register;

use crate::rig::qtest::{Bar, Board, Ended, Msix, Qtest, Slot};
use crate::rig::shim_qemu::{self, ShimQemu, Version};
use crate::rig::{Memory, RigError};
use crate::wire::{PATIENT, Served};

/// Where the device is, as on a host.
pub(crate) const SLOT: Slot = Slot(0xc);

/// Guest memory for interrupts and DMA: some of it above the first megabyte.
pub(crate) const MAILBOX: u64 = 0x20_0000;

/// QEMU with the device, built if it has to be.
pub(crate) fn program() -> Result<&'static ShimQemu, RigError> {
    static PROGRAM: OnceLock<Result<ShimQemu, RigError>> = OnceLock::new();
    let result = PROGRAM.get_or_init(|| shim_qemu::obtain(Version::under_test()));
    result.as_ref().map_err(Clone::clone)
}

/// A machine without the device.
pub(crate) fn empty() -> Result<Board, RigError> {
    let qemu = program()?;
    Ok(Board::new(qemu.command(), qemu.data_arguments()))
}

/// The device on this socket with further properties, such as
/// `,msg-timeout=300`, as the command line has it.
pub(crate) fn device(socket: &Path, properties: &str) -> String {
    format!("vgpu-stub,socket={}{properties},addr=0xc", socket.display())
}

/// A machine with such a device.
pub(crate) fn board(socket: &Path, properties: &str) -> Result<Board, RigError> {
    Ok(empty()?.device(device(socket, properties)))
}

/// The device in a machine that runs, with its BARs in their places.
pub(crate) struct Card {
    pub(crate) qemu: Qtest,
    pub(crate) slot: Slot,
    pub(crate) bars: [Option<Bar>; 6],
}

impl Card {
    /// Starts a machine and places the device's BARs.
    #[track_caller]
    pub(crate) fn start(board: Board) -> Self {
        Self::at(board.start(), SLOT)
    }

    /// Places the BARs of the device in a slot.
    #[track_caller]
    pub(crate) fn at(mut qemu: Qtest, slot: Slot) -> Self {
        let bars = slot.place(&mut qemu);
        Card { qemu, slot, bars }
    }

    /// A BAR.
    #[track_caller]
    pub(crate) fn bar(&self, index: usize) -> Bar {
        self.bars[index].expect("the device has this BAR")
    }

    /// Reads BAR 0 with one access.
    #[track_caller]
    pub(crate) fn read(&mut self, offset: u64, width: u32) -> u64 {
        self.qemu.read(self.bar(0).address + offset, width)
    }

    /// Writes BAR 0 with one access.
    #[track_caller]
    pub(crate) fn write(&mut self, offset: u64, width: u32, value: u64) {
        self.qemu.write(self.bar(0).address + offset, width, value);
    }

    /// Reads a register of BAR 0.
    #[track_caller]
    pub(crate) fn get(&mut self, register: impl Register) -> u64 {
        let row = register.row();
        self.read(row.offset.into(), row.width.bytes())
    }

    /// Writes a register of BAR 0.
    #[track_caller]
    pub(crate) fn set(&mut self, register: impl Register, value: u64) {
        let row = register.row();
        self.write(row.offset.into(), row.width.bytes(), value);
    }

    /// MSI-X.
    #[track_caller]
    pub(crate) fn msix(&mut self) -> Msix {
        self.slot.msix(&mut self.qemu, &self.bars)
    }
}

/// A device of the library, or the `test` device, served by this process.
pub(crate) fn served(device: &str) -> Served {
    Served::with(PATIENT, &[device])
}

/// A machine with such a device that runs.
pub(crate) fn card(served: &Served, device: &str, properties: &str) -> Result<Card, RigError> {
    Ok(Card::start(board(&served.path(device), properties)?))
}

/// The same whose memory has no descriptor.
pub(crate) fn private_card(
    served: &Served,
    device: &str,
    properties: &str,
) -> Result<Card, RigError> {
    let board = board(&served.path(device), properties)?;
    Ok(Card::start(board.memory(Memory::Private)))
}

/// Starts a machine that must not come up, and returns why: QEMU says so in
/// one line, and its status is 1.
#[track_caller]
pub(crate) fn refusal(board: Board, device: &str) -> String {
    let mut qemu = board.start();
    assert!(!qemu.is_up(), "QEMU takes {device}");
    let ended = qemu.ended();
    reason(&ended, device)
}

/// The reason in what QEMU has said before it ended.
#[track_caller]
pub(crate) fn reason(ended: &Ended, device: &str) -> String {
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let [line] = &ended.said[..] else {
        panic!("not one line: {:?}", ended.said)
    };
    let reason = line.split_once(&format!("-device {device}: "));
    let (_, reason) = reason.unwrap_or_else(|| panic!("not about the device: {line}"));
    reason.to_owned()
}
