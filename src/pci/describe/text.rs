//! Prints a description as `lspci -nn -vv` does.

use std::fmt;

use super::{BarDescription, BarSpace, CapabilityDescription, CapabilityKind, Description};
use super::{ExtendedDescription, ExtendedKind, MsiDescription, MsixDescription, PowerDescription};
use crate::pci::spec::{command, status};

/// Bits by name, each with a plus or a minus: `Mem+ BusMaster-`.
pub(super) struct Set<'a>(pub(super) u32, pub(super) &'a [(&'static str, u32)]);

impl fmt::Display for Set<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, bit)) in self.1.iter().enumerate() {
            let gap = if index == 0 { "" } else { " " };
            write!(f, "{gap}{name}{}", sign(self.0 & bit != 0))?;
        }
        Ok(())
    }
}

fn sign(set: bool) -> char {
    if set { '+' } else { '-' }
}

const COMMAND_FLAGS: &[(&str, u32)] = &[
    ("I/O", command::IO_SPACE as u32),
    ("Mem", command::MEMORY_SPACE as u32),
    ("BusMaster", command::BUS_MASTER as u32),
    ("SpecCycle", command::SPECIAL_CYCLES as u32),
    ("MemWINV", command::MEMORY_WRITE_INVALIDATE as u32),
    ("VGASnoop", command::VGA_PALETTE_SNOOP as u32),
    ("ParErr", command::PARITY_ERROR_RESPONSE as u32),
    ("Stepping", command::STEPPING as u32),
    ("SERR", command::SERR_ENABLE as u32),
    ("FastB2B", command::FAST_BACK_TO_BACK as u32),
    ("DisINTx", command::INTERRUPT_DISABLE as u32),
];
const STATUS_FLAGS: &[(&str, u32)] = &[
    ("Cap", status::CAPABILITIES_LIST as u32),
    ("66MHz", status::MHZ66 as u32),
    ("UDF", status::USER_DEFINABLE as u32),
    ("FastB2B", status::FAST_BACK_TO_BACK as u32),
    ("ParErr", status::MASTER_DATA_PARITY as u32),
];
const DEVSEL: [&str; 4] = ["fast", "medium", "slow", "??"];
const STATUS_ERROR_FLAGS: &[(&str, u32)] = &[
    (">TAbort", status::SIGNALED_TARGET_ABORT as u32),
    ("<TAbort", status::RECEIVED_TARGET_ABORT as u32),
    ("<MAbort", status::RECEIVED_MASTER_ABORT as u32),
    (">SERR", status::SIGNALED_SYSTEM_ERROR as u32),
    ("<PERR", status::DETECTED_PARITY as u32),
    ("INTx", status::INTERRUPT as u32),
];

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_identity(f)?;
        self.fmt_flags(f)?;
        self.fmt_interrupt(f)?;
        if self.header_layout != 0 {
            let layout = self.header_layout;
            writeln!(f, "\t!!! Header type {layout:02x} is not decoded in full")?;
        }
        for bar in &self.bars {
            writeln!(f, "\t{bar}")?;
        }
        for found in &self.capabilities {
            write!(f, "\tCapabilities: {found}")?;
        }
        for found in &self.extended_capabilities {
            writeln!(f, "\tCapabilities: {found}")?;
        }
        Ok(())
    }
}

impl Description {
    fn fmt_identity(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = &self.identity;
        let (class, interface) = (id.class >> 8, id.class & 0xff);
        let name = self.class_name.unwrap_or("Class");
        write!(
            f,
            "{name} [{class:04x}]: Device [{:04x}:{:04x}]",
            id.vendor, id.device
        )?;
        if id.revision != 0 {
            write!(f, " (rev {:02x})", id.revision)?;
        }
        if interface != 0 {
            write!(f, " (prog-if {interface:02x})")?;
        }
        writeln!(f)?;
        if !matches!(id.subsystem_vendor, 0 | 0xffff) {
            let (vendor, device) = (id.subsystem_vendor, id.subsystem);
            writeln!(f, "\tSubsystem: Device [{vendor:04x}:{device:04x}]")?;
        }
        Ok(())
    }

    fn fmt_flags(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\tControl: {}",
            Set(u32::from(self.command), COMMAND_FLAGS)
        )?;
        let bits = u32::from(self.status);
        let timing = DEVSEL[usize::from(self.status >> status::DEVSEL_SHIFT & 0b11)];
        let flags = Set(bits, STATUS_FLAGS);
        let errors = Set(bits, STATUS_ERROR_FLAGS);
        writeln!(f, "\tStatus: {flags} DEVSEL={timing} {errors}")
    }

    /// The timer and the cache line matter to a bus master alone.
    fn fmt_interrupt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.command & command::BUS_MASTER != 0 {
            write!(f, "\tLatency: {}", self.latency_timer)?;
            if self.cache_line_size != 0 {
                write!(f, ", Cache Line Size: {} bytes", self.cache_line_size)?;
            }
            writeln!(f)?;
        }
        if self.interrupt_pin == 0 && self.interrupt_line == 0 {
            return Ok(());
        }
        let pin = match self.interrupt_pin {
            1 => 'A',
            2 => 'B',
            3 => 'C',
            4 => 'D',
            _ => '?',
        };
        let line = self.interrupt_line;
        writeln!(f, "\tInterrupt: pin {pin} routed to IRQ {line}")
    }
}

impl fmt::Display for BarDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, address, .. } = *self;
        write!(f, "Region {index}: ")?;
        match self.space {
            BarSpace::Io if address != 0 || self.enabled => write!(f, "I/O ports at {address:04x}"),
            BarSpace::Io => write!(f, "I/O ports at <unassigned>"),
            BarSpace::Invalid64 => write!(f, "Memory at <invalid-64bit-slot>"),
            _ if address == 0 => write!(f, "Memory at <unassigned>"),
            _ => write!(f, "Memory at {address:08x}"),
        }?;
        let prefetchable = if self.prefetchable { "" } else { "non-" };
        let width = match self.space {
            BarSpace::Io => None,
            BarSpace::Memory32 => Some("32-bit"),
            BarSpace::Memory1M => Some("low-1M"),
            BarSpace::Memory64 | BarSpace::Invalid64 => Some("64-bit"),
            BarSpace::Reserved => Some("type 3"),
        };
        if let Some(width) = width {
            write!(f, " ({width}, {prefetchable}prefetchable)")?;
        }
        if !self.enabled {
            f.write_str(" [disabled]")?;
        }
        self.size.map_or(Ok(()), |size| write_size(f, size))
    }
}

fn write_size(f: &mut fmt::Formatter<'_>, mut size: u64) -> fmt::Result {
    let mut unit = "";
    for larger in ["K", "M", "G", "T"] {
        if size < 1024 {
            break;
        }
        size /= 1024;
        unit = larger;
    }
    write!(f, " [size={size}{unit}]")
}

impl fmt::Display for CapabilityDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:02x}] ", self.offset)?;
        match &self.kind {
            CapabilityKind::PowerManagement(power) => power.fmt(f),
            CapabilityKind::Msi(msi) => msi.fmt(f),
            CapabilityKind::Msix(msix) => msix.fmt(f),
            CapabilityKind::Express(express) => express.fmt(f),
            CapabilityKind::Vendor { length } => {
                writeln!(f, "Vendor Specific Information: Len={length:02x} <?>")
            }
            CapabilityKind::Unknown { id: 0, .. } => writeln!(f, "Null"),
            CapabilityKind::Unknown { id, register } => {
                writeln!(f, "Capability ID {id:#04x} [{register:04x}]")
            }
            CapabilityKind::Looped => writeln!(f, "<chain looped>"),
            CapabilityKind::Broken => writeln!(f, "<chain broken>"),
            CapabilityKind::Truncated => writeln!(f, "<not given>"),
        }
    }
}

impl fmt::Display for ExtendedDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offset = self.offset;
        match self.kind {
            ExtendedKind::Present { id, version } => {
                write!(
                    f,
                    "[{offset:03x} v{version}] Extended Capability ID {id:#x}"
                )
            }
            ExtendedKind::Looped => write!(f, "[{offset:03x}] <chain looped>"),
            ExtendedKind::Broken => write!(f, "[{offset:03x}] <chain broken>"),
            ExtendedKind::Truncated => write!(f, "[{offset:03x}] <not given>"),
        }
    }
}

/// The fields of PM 1.2 3.2.3 and 3.2.4.
impl fmt::Display for PowerDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SUPPORT: &[(&str, u32)] = &[
            ("PMEClk", 1 << 3),
            ("DSI", 1 << 5),
            ("D1", 1 << 9),
            ("D2", 1 << 10),
        ];
        const PME: [(&str, u16); 5] = [
            ("D0", 1 << 11),
            ("D1", 1 << 12),
            ("D2", 1 << 13),
            ("D3hot", 1 << 14),
            ("D3cold", 1 << 15),
        ];
        const AUX_CURRENT: [u16; 8] = [0, 55, 100, 160, 220, 270, 320, 375];

        let (capabilities, control) = (self.capabilities, self.control);
        writeln!(f, "Power Management version {}", self.version)?;
        let current = AUX_CURRENT[usize::from(capabilities >> 6 & 0b111)];
        let support = Set(u32::from(capabilities), SUPPORT);
        let pme = PME.map(|(name, bit)| format!("{name}{}", sign(capabilities & bit != 0)));
        let pme = pme.join(",");
        writeln!(f, "\t\tFlags: {support} AuxCurrent={current}mA PME({pme})")?;
        writeln!(
            f,
            "\t\tStatus: D{} NoSoftRst{} PME-Enable{} DSel={} DScale={} PME{}",
            self.state,
            sign(self.no_soft_reset),
            sign(control & 1 << 8 != 0),
            control >> 9 & 0xf,
            control >> 13 & 0b11,
            sign(control & 1 << 15 != 0),
        )
    }
}

impl fmt::Display for MsiDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "MSI: Enable{} Count={}/{} Maskable{} 64bit{}",
            sign(self.enabled),
            self.enabled_vectors,
            self.vectors,
            sign(self.masking.is_some()),
            sign(self.address_64),
        )?;
        let digits = if self.address_64 { 16 } else { 8 };
        let (address, data) = (self.address, self.data);
        writeln!(f, "\t\tAddress: {address:0digits$x}  Data: {data:04x}")?;
        self.masking.map_or(Ok(()), |masking| {
            let (mask, pending) = (masking.mask, masking.pending);
            writeln!(f, "\t\tMasking: {mask:08x}  Pending: {pending:08x}")
        })
    }
}

impl fmt::Display for MsixDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (enable, masked) = (sign(self.enabled), sign(self.masked));
        writeln!(
            f,
            "MSI-X: Enable{enable} Count={} Masked{masked}",
            self.vectors
        )?;
        let (bar, offset) = (self.table_bar, self.table_offset);
        writeln!(f, "\t\tVector table: BAR={bar} offset={offset:08x}")?;
        let (bar, offset) = (self.pba_bar, self.pba_offset);
        writeln!(f, "\t\tPBA: BAR={bar} offset={offset:08x}")
    }
}
