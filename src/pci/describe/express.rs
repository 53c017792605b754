//! The PCI Express capability.

use std::fmt;

use serde::Serialize;

use super::Bytes;
use super::text::Set;
use crate::pci::spec::express;

/// PCI Express registers (PCIe 4.0 7.5.3), without those of slots and root
/// ports and those that version 2 added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ExpressDescription {
    /// Version of the structure.
    pub version: u16,
    /// What the function is.
    pub port_type: PortType,
    /// It can be reset by function level reset.
    pub function_level_reset: bool,
    /// The PCI Express Capabilities register.
    pub flags: u16,
    /// Device Capabilities.
    pub device_capabilities: u32,
    /// Device Control.
    pub device_control: u16,
    /// Device Status.
    pub device_status: u16,
    /// The link registers, where the function has a link.
    pub link: Option<LinkDescription>,
}

/// Link registers (PCIe 4.0 7.5.3.6 to 7.5.3.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LinkDescription {
    /// Link Capabilities.
    pub capabilities: u32,
    /// Link Control.
    pub control: u16,
    /// Link Status.
    pub status: u16,
}

/// Device/port type (PCIe 4.0 7.5.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortType {
    /// PCI Express endpoint.
    Endpoint,
    /// Legacy endpoint.
    LegacyEndpoint,
    /// Endpoint inside the root complex, without a link.
    IntegratedEndpoint,
    /// A port, a bridge or an event collector, with its number.
    Other(u16),
}

impl PortType {
    fn from_register(flags: u16) -> Self {
        match flags >> express::TYPE_SHIFT & 0xf {
            0 => Self::Endpoint,
            1 => Self::LegacyEndpoint,
            9 => Self::IntegratedEndpoint,
            other => Self::Other(other),
        }
    }

    fn has_link(self) -> bool {
        self != Self::IntegratedEndpoint
    }
}

impl fmt::Display for PortType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint => f.write_str("Endpoint"),
            Self::LegacyEndpoint => f.write_str("Legacy Endpoint"),
            Self::IntegratedEndpoint => f.write_str("Root Complex Integrated Endpoint"),
            Self::Other(other) => write!(f, "Unknown type {other}"),
        }
    }
}

impl ExpressDescription {
    /// `None` if a byte of it is missing.
    pub(super) fn decode(bytes: Bytes<'_>, at: usize) -> Option<Self> {
        let flags = bytes.u16(at + express::FLAGS)?;
        let device_capabilities = bytes.u32(at + express::DEVICE_CAPABILITIES)?;
        let port_type = PortType::from_register(flags);
        let link = if port_type.has_link() {
            Some(LinkDescription {
                capabilities: bytes.u32(at + express::LINK_CAPABILITIES)?,
                control: bytes.u16(at + express::LINK_CONTROL)?,
                status: bytes.u16(at + express::LINK_STATUS)?,
            })
        } else {
            None
        };
        Some(Self {
            version: flags & express::VERSION_MASK,
            port_type,
            function_level_reset: device_capabilities & express::FLR_CAPABLE != 0,
            flags,
            device_capabilities,
            device_control: bytes.u16(at + express::DEVICE_CONTROL)?,
            device_status: bytes.u16(at + express::DEVICE_STATUS)?,
            link,
        })
    }
}

// The fields below are those of PCIe 4.0 7.5.3.3 to 7.5.3.8, in lspci's words.

const ERROR_FLAGS: &[(&str, u32)] = &[
    ("CorrErr", 1 << 0),
    ("NonFatalErr", 1 << 1),
    ("FatalErr", 1 << 2),
    ("UnsupReq", 1 << 3),
];
const DEVICE_CONTROL_FLAGS: &[(&str, u32)] = &[
    ("RlxdOrd", 1 << 4),
    ("ExtTag", 1 << 8),
    ("PhantFunc", 1 << 9),
    ("AuxPwr", 1 << 10),
    ("NoSnoop", 1 << 11),
];
const DEVICE_STATUS_FLAGS: &[(&str, u32)] = &[("AuxPwr", 1 << 4), ("TransPend", 1 << 5)];
const SLOT_FLAGS: &[(&str, u32)] = &[
    ("AttnBtn", 1 << 12),
    ("AttnInd", 1 << 13),
    ("PwrInd", 1 << 14),
];
const LINK_CAPABILITIES_FLAGS: &[(&str, u32)] = &[
    ("ClockPM", 1 << 18),
    ("Surprise", 1 << 19),
    ("LLActRep", 1 << 20),
    ("BwNot", 1 << 21),
    ("ASPMOptComp", 1 << 22),
];
const LINK_CONTROL_FLAGS: &[(&str, u32)] = &[
    ("ExtSynch", 1 << 7),
    ("ClockPM", 1 << 8),
    ("AutWidDis", 1 << 9),
    ("BWInt", 1 << 10),
    ("AutBWInt", 1 << 11),
];
const LINK_STATUS_FLAGS: &[(&str, u32)] = &[
    ("TrErr", 1 << 10),
    ("Train", 1 << 11),
    ("SlotClk", 1 << 12),
    ("DLActive", 1 << 13),
    ("BWMgmt", 1 << 14),
    ("ABWMgmt", 1 << 15),
];
const L0S_LATENCY: [&str; 8] = [
    "<64ns",
    "<128ns",
    "<256ns",
    "<512ns",
    "<1us",
    "<2us",
    "<4us",
    "unlimited",
];
const L1_LATENCY: [&str; 8] = [
    "<1us",
    "<2us",
    "<4us",
    "<8us",
    "<16us",
    "<32us",
    "<64us",
    "unlimited",
];
const ASPM: [&str; 4] = ["not supported", "L0s", "L1", "L0s L1"];
const ASPM_ENABLED: [&str; 4] = ["Disabled", "L0s Enabled", "L1 Enabled", "L0s L1 Enabled"];

/// A field as an index that its mask bounds.
fn field(register: impl Into<u32>, shift: u32, mask: u32) -> usize {
    usize::try_from(register.into() >> shift & mask).unwrap_or_default()
}

fn speed(code: usize) -> &'static str {
    let known = ["2.5GT/s", "5GT/s", "8GT/s", "16GT/s", "32GT/s", "64GT/s"];
    let index = code.checked_sub(1);
    index
        .and_then(|at| known.get(at))
        .copied()
        .unwrap_or("unknown")
}

impl fmt::Display for ExpressDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (version, port_type) = (self.version, self.port_type);
        let message = field(self.flags, 9, 0x1f);
        writeln!(f, "Express (v{version}) {port_type}, MSI {message:02x}")?;
        self.fmt_device_capabilities(f)?;
        self.fmt_device(f)?;
        self.link.map_or(Ok(()), |link| link.fmt(f))
    }
}

impl ExpressDescription {
    /// An endpoint inside the root complex has no latencies to accept and no
    /// slot; a legacy endpoint is not told the power of its slot.
    fn fmt_device_capabilities(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let register = self.device_capabilities;
        let has_link = self.port_type.has_link();
        let payload = 128 << field(register, 0, 0b111);
        let phantom = (1 << field(register, 3, 0b11)) - 1;
        write!(
            f,
            "\t\tDevCap:\tMaxPayload {payload} bytes, PhantFunc {phantom}"
        )?;
        if has_link {
            let l0s = L0S_LATENCY[field(register, 6, 0b111)];
            let l1 = L1_LATENCY[field(register, 9, 0b111)];
            write!(f, ", Latency L0s {l0s}, L1 {l1}")?;
        }
        write!(f, "\n\t\t\t{}", Set(register, &[("ExtTag", 1 << 5)]))?;
        if has_link {
            write!(f, " {}", Set(register, SLOT_FLAGS))?;
        }
        let reset: &[_] = &[("RBE", 1 << 15), ("FLReset", express::FLR_CAPABLE)];
        write!(f, " {}", Set(register, reset))?;
        if self.port_type == PortType::Endpoint {
            let scale = field(register, 26, 0b11);
            // Above 239 W the value is a code in steps of 25 W.
            let watts = match register >> 18 & 0xff {
                code @ 0xf0.. if scale == 0 => 250 + 25 * (code - 0xf0),
                value => value,
            };
            let limit = f64::from(watts) / [1.0, 10.0, 100.0, 1000.0][scale];
            write!(f, " SlotPowerLimit {limit}W")?;
        }
        writeln!(f)
    }

    fn fmt_device(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let control = self.device_control;
        let bits = u32::from(control);
        writeln!(f, "\t\tDevCtl:\t{}", Set(bits, ERROR_FLAGS))?;
        write!(f, "\t\t\t{}", Set(bits, DEVICE_CONTROL_FLAGS))?;
        if self.function_level_reset {
            let reset: &[_] = &[("FLReset", u32::from(express::INITIATE_FLR))];
            write!(f, " {}", Set(bits, reset))?;
        }
        let payload = 128 << field(control, 5, 0b111);
        let request = 128 << field(control, 12, 0b111);
        writeln!(
            f,
            "\n\t\t\tMaxPayload {payload} bytes, MaxReadReq {request} bytes"
        )?;
        let status = u32::from(self.device_status);
        let errors = Set(status, ERROR_FLAGS);
        writeln!(
            f,
            "\t\tDevSta:\t{errors} {}",
            Set(status, DEVICE_STATUS_FLAGS)
        )
    }
}

impl fmt::Display for LinkDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_capabilities(f)?;
        let control = u32::from(self.control);
        let aspm = ASPM_ENABLED[field(self.control, 0, 0b11)];
        let boundary = if control & 1 << 3 == 0 { 64 } else { 128 };
        let clock: &[_] = &[("Disabled", 1 << 4), ("CommClk", 1 << 6)];
        writeln!(
            f,
            "\t\tLnkCtl:\tASPM {aspm}; RCB {boundary} bytes, {}",
            Set(control, clock)
        )?;
        writeln!(f, "\t\t\t{}", Set(control, LINK_CONTROL_FLAGS))?;
        self.fmt_status(f)
    }
}

impl LinkDescription {
    fn fmt_capabilities(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let register = self.capabilities;
        let port = register >> 24;
        let aspm = field(register, 10, 0b11);
        let speed = speed(field(register, 0, 0xf));
        let width = field(register, 4, 0x3f);
        write!(
            f,
            "\t\tLnkCap:\tPort #{port}, Speed {speed}, Width x{width}"
        )?;
        write!(f, ", ASPM {}", ASPM[aspm])?;
        if aspm != 0 {
            f.write_str(", Exit Latency ")?;
        }
        if aspm & 0b01 != 0 {
            write!(f, "L0s {}", L0S_LATENCY[field(register, 12, 0b111)])?;
        }
        if aspm == 0b11 {
            f.write_str(", ")?;
        }
        if aspm & 0b10 != 0 {
            write!(f, "L1 {}", L1_LATENCY[field(register, 15, 0b111)])?;
        }
        writeln!(f, "\n\t\t\t{}", Set(register, LINK_CAPABILITIES_FLAGS))
    }

    /// A link that runs below what it could is marked.
    fn fmt_status(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let compare = |now: usize, best: usize| match now.cmp(&best) {
            std::cmp::Ordering::Less => " (downgraded)",
            std::cmp::Ordering::Equal => "",
            std::cmp::Ordering::Greater => " (overdriven)",
        };
        let (now, best) = (field(self.status, 0, 0xf), field(self.capabilities, 0, 0xf));
        let (width, best_width) = (
            field(self.status, 4, 0x3f),
            field(self.capabilities, 4, 0x3f),
        );
        writeln!(
            f,
            "\t\tLnkSta:\tSpeed {}{}, Width x{width}{}",
            speed(now),
            compare(now, best),
            compare(width, best_width)
        )?;
        let flags = Set(u32::from(self.status), LINK_STATUS_FLAGS);
        writeln!(f, "\t\t\t{flags}")
    }
}
