//! A PCI function of the machine, through its ports and its memory.

use super::Qtest;

/// PCI configuration mechanism #1 (PCI 3.0, 3.2.2.3.2).
const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;

const COMMAND: u16 = 0x04;
const STATUS: u16 = 0x06;
const BAR0: u16 = 0x10;
const CAPABILITIES: u16 = 0x34;
const INTERRUPT_PIN: u16 = 0x3d;

const MEMORY_SPACE: u64 = 1 << 1;
const BUS_MASTER: u64 = 1 << 2;
const CAPABILITY_LIST: u64 = 1 << 4;

/// Where BARs are placed: above memory, below the chipset's own.
const WINDOW: u64 = 0xe000_0000;
/// The part of the window for one slot.
const SLOT_WINDOW: u64 = 0x0100_0000;

/// Function 0 of a device on bus 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(pub(crate) u8);

/// A BAR that has its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bar {
    pub(crate) address: u64,
    pub(crate) size: u64,
    /// Bits 3:0 of the register.
    pub(crate) kind: u64,
}

impl Slot {
    fn select(self, qemu: &mut Qtest, offset: u16) -> u16 {
        let function = u64::from(self.0) << 11;
        let register = u64::from(offset & 0xfc);
        qemu.set_port(CONFIG_ADDRESS, 4, 1 << 31 | function | register);
        CONFIG_DATA + (offset & 3)
    }

    /// Reads config space.
    #[track_caller]
    pub(crate) fn get(self, qemu: &mut Qtest, offset: u16, width: u32) -> u64 {
        let port = self.select(qemu, offset);
        qemu.port(port, width)
    }

    /// Writes config space.
    #[track_caller]
    pub(crate) fn set(self, qemu: &mut Qtest, offset: u16, width: u32, value: u64) {
        let port = self.select(qemu, offset);
        qemu.set_port(port, width, value);
    }

    /// All 256 bytes of config space.
    #[track_caller]
    pub(crate) fn config(self, qemu: &mut Qtest) -> Vec<u8> {
        let mut bytes = Vec::new();
        for offset in (0..256).step_by(4) {
            let word = self.get(qemu, offset, 4);
            bytes.extend_from_slice(&word.to_le_bytes()[..4]);
        }
        bytes
    }

    /// Places all memory BARs and lets the function decode them and be a bus
    /// master.
    #[track_caller]
    pub(crate) fn place(self, qemu: &mut Qtest) -> [Option<Bar>; 6] {
        let mut bars = [None; 6];
        let mut next = WINDOW + SLOT_WINDOW * u64::from(self.0);
        let mut index = 0;
        while index < 6 {
            let register = BAR0 + 4 * index;
            self.set(qemu, register, 4, 0xffff_ffff);
            let sized = self.get(qemu, register, 4);
            let wide = sized & 0x6 == 0x4;
            if sized != 0 && sized & 1 == 0 {
                let size = (!(sized & !0xf) & 0xffff_ffff) + 1;
                next = next.next_multiple_of(size);
                self.set(qemu, register, 4, next);
                if wide {
                    self.set(qemu, register + 4, 4, 0);
                }
                bars[usize::from(index)] = Some(Bar {
                    address: next,
                    size,
                    kind: sized & 0xf,
                });
                next += size;
            }
            index += if wide { 2 } else { 1 };
        }
        self.command(qemu, MEMORY_SPACE | BUS_MASTER, 0);
        bars
    }

    /// Sets and clears bits of the command register.
    #[track_caller]
    pub(crate) fn command(self, qemu: &mut Qtest, set: u64, clear: u64) {
        let command = self.get(qemu, COMMAND, 2);
        self.set(qemu, COMMAND, 2, command & !clear | set);
    }

    /// The offset of a capability of this id.
    #[track_caller]
    pub(crate) fn capability(self, qemu: &mut Qtest, id: u64) -> Option<u16> {
        if self.get(qemu, STATUS, 2) & CAPABILITY_LIST == 0 {
            return None;
        }
        let mut at = self.get(qemu, CAPABILITIES, 1);
        // More would be a loop.
        for _ in 0..48 {
            let offset = u16::try_from(at & 0xfc).unwrap();
            if offset == 0 {
                return None;
            }
            if self.get(qemu, offset, 1) == id {
                return Some(offset);
            }
            at = self.get(qemu, offset + 1, 1);
        }
        panic!("the capabilities of slot {} have no end", self.0);
    }

    /// MSI-X of a function whose BARs are placed.
    #[track_caller]
    pub(crate) fn msix(self, qemu: &mut Qtest, bars: &[Option<Bar>; 6]) -> Msix {
        let offset = self.capability(qemu, 0x11).expect("it has MSI-X");
        let place = |word: u64| {
            let bar = bars[usize::try_from(word & 7).unwrap()].expect("it is placed");
            bar.address + (word & !7)
        };
        let control = self.get(qemu, offset + 2, 2);
        Msix {
            slot: self,
            control: offset + 2,
            vectors: (control & 0x7ff) + 1,
            table: place(self.get(qemu, offset + 4, 4)),
            pending: place(self.get(qemu, offset + 8, 4)),
        }
    }

    /// Routes the function's interrupt pin to a line of the interrupt
    /// controllers, so that [`Slot::line`] sees it.
    #[track_caller]
    pub(crate) fn route(self, qemu: &mut Qtest, line: u8) {
        assert_eq!(self.get(qemu, INTERRUPT_PIN, 1), 1, "it has INTA");
        // PIIX3's PIRQ routes (i82371SB, 4.1.7); the pins are swizzled as
        // on QEMU's board.
        let pirq = (u16::from(self.0) + 3) & 3;
        Slot(1).set(qemu, 0x60 + pirq, 1, line.into());
        // Level triggered (ELCR), as PCI's are.
        let port = 0x4d0 + u16::from(line / 8);
        let levels = qemu.port(port, 1);
        qemu.set_port(port, 1, levels | 1 << (line % 8));
    }

    /// Whether a routed line is high at the interrupt controller.
    #[track_caller]
    pub(crate) fn line(qemu: &mut Qtest, line: u8) -> bool {
        let port = if line < 8 { 0x20 } else { 0xa0 };
        // OCW3: the next read is of the request register (8259A).
        qemu.set_port(port, 1, 0x0a);
        qemu.port(port, 1) & 1 << (line % 8) != 0
    }
}

/// A function's MSI-X.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Msix {
    slot: Slot,
    control: u16,
    pub(crate) vectors: u64,
    table: u64,
    pending: u64,
}

impl Msix {
    const ENABLE: u64 = 1 << 15;
    const MASK_ALL: u64 = 1 << 14;

    /// Writes the function's enable and mask bits.
    #[track_caller]
    pub(crate) fn control(&self, qemu: &mut Qtest, enable: bool, mask: bool) {
        let enable = if enable { Self::ENABLE } else { 0 };
        let mask = if mask { Self::MASK_ALL } else { 0 };
        self.slot.set(qemu, self.control, 2, enable | mask);
    }

    /// Points a vector at an address; there its data will be written.
    #[track_caller]
    pub(crate) fn point(&self, qemu: &mut Qtest, vector: u64, address: u64, data: u64) {
        let entry = self.table + 16 * vector;
        qemu.write(entry, 4, address);
        qemu.write(entry + 4, 4, 0);
        qemu.write(entry + 8, 4, data);
    }

    /// Masks or unmasks a vector.
    #[track_caller]
    pub(crate) fn mask(&self, qemu: &mut Qtest, vector: u64, masked: bool) {
        qemu.write(self.table + 16 * vector + 12, 4, masked.into());
    }

    /// Whether a vector is pending.
    #[track_caller]
    pub(crate) fn is_pending(&self, qemu: &mut Qtest, vector: u64) -> bool {
        let word = qemu.read(self.pending + vector / 64 * 8, 8);
        word & 1 << (vector % 64) != 0
    }
}
