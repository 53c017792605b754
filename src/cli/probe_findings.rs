//! What `probe` found: as JSON by its fields, and as text.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;
use vgpu_stub::client;
use vgpu_stub::pci::Description;
use vgpu_stub::protocol::{self, DeviceInfo, IoFds, IrqInfo, Proposal};

use super::looks::{self, CONFIG, Latency, Reading};
use super::screen::{BAD, DIM, Screen, size};

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct Findings {
    socket_path: PathBuf,
    version: Version,
    pub(super) device: Device,
    pub(super) regions: Vec<Region>,
    pub(super) irqs: Vec<Irq>,
    pub(super) function: Option<Function>,
    pub(super) registers: Option<DeviceRegisters>,
    pub(super) config_read: Option<Look<Latency>>,
}

/// Something that the server told, or would not.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Look<T> {
    Seen(T),
    Refused { refused: String },
}

/// The server's answer to VERSION.
#[derive(Debug, Serialize)]
pub(super) struct Version {
    major: u16,
    minor: u16,
    capabilities: Value,
}

#[derive(Debug, Serialize)]
pub(super) struct Device {
    resettable: bool,
    pub(super) regions: u32,
    pub(super) irqs: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct Region {
    pub(super) index: u32,
    name: String,
    #[serde(flatten)]
    info: Look<RegionFields>,
    /// Absent for a region of no size, and after a refusal.
    ioeventfds: Option<Look<Vec<IoEventFd>>>,
}

#[derive(Debug, Serialize)]
struct RegionFields {
    size: u64,
    readable: bool,
    writeable: bool,
    /// What can be mapped.
    areas: Vec<Area>,
    /// What can be mapped for reading.
    read_only_areas: Vec<Area>,
    /// A file came along.
    fd: bool,
}

#[derive(Debug, Serialize)]
struct Area {
    offset: u64,
    size: u64,
}

#[derive(Debug, Serialize)]
struct IoEventFd {
    offset: u64,
    size: u64,
    datamatch: Option<u64>,
    /// The value is kept.
    shadow: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct Irq {
    index: u32,
    name: String,
    #[serde(flatten)]
    info: Look<IrqFields>,
}

#[derive(Debug, Serialize)]
struct IrqFields {
    count: u32,
    flags: Vec<&'static str>,
}

/// Config space.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Function {
    Seen(Box<Description>),
    Refused { refused: String },
    Unreadable { unreadable: String },
}

/// The registers of a device of ours.
#[derive(Debug, Serialize)]
pub(super) struct DeviceRegisters {
    pub(super) device: &'static str,
    pub(super) registers: Look<Vec<Reading>>,
}

impl<T> Look<T> {
    fn map<U>(self, change: impl FnOnce(T) -> U) -> Look<U> {
        match self {
            Look::Seen(seen) => Look::Seen(change(seen)),
            Look::Refused { refused } => Look::Refused { refused },
        }
    }

    pub(super) fn seen(&self) -> Option<&T> {
        match self {
            Look::Seen(seen) => Some(seen),
            Look::Refused { .. } => None,
        }
    }
}

impl Version {
    pub(super) fn new(reply: &Proposal) -> Self {
        // The codec writes them as the wire has them: 4 bytes, JSON, NUL.
        let mut wire = Vec::new();
        reply.encode(&mut wire);
        let json = wire.get(4..wire.len() - 1).unwrap_or_default();
        let value: Value = serde_json::from_slice(json).unwrap_or_default();
        Version {
            major: reply.major,
            minor: reply.minor,
            capabilities: value["capabilities"].clone(),
        }
    }
}

impl Area {
    fn new(area: &protocol::Area) -> Self {
        Area {
            offset: area.offset,
            size: area.size,
        }
    }
}

impl Region {
    pub(super) fn new(index: u32, region: Look<client::Region>) -> Self {
        let info = region.map(|region| RegionFields {
            size: region.info.size,
            readable: region.info.readable,
            writeable: region.info.writeable,
            areas: region.areas().iter().map(Area::new).collect(),
            read_only_areas: region.info.read_only.iter().map(Area::new).collect(),
            fd: region.file().is_some(),
        });
        Region {
            index,
            name: region_name(index),
            info,
            ioeventfds: None,
        }
    }

    pub(super) fn set_io_fds(&mut self, io_fds: Look<IoFds>) {
        let ioeventfds = io_fds.map(|io_fds| {
            let each = io_fds.sub_regions.iter().map(|sub| IoEventFd {
                offset: sub.offset,
                size: sub.size,
                datamatch: sub.datamatch,
                shadow: sub.shadow.is_some(),
            });
            each.collect()
        });
        self.ioeventfds = Some(ioeventfds);
    }

    pub(super) fn size(&self) -> u64 {
        self.info.seen().map_or(0, |info| info.size)
    }
}

/// `VFIO_PCI_*_REGION_INDEX` of `<linux/vfio.h>`.
fn region_name(index: u32) -> String {
    match index {
        0..=5 => format!("BAR {index}"),
        6 => "ROM".to_owned(),
        CONFIG => "config".to_owned(),
        8 => "VGA".to_owned(),
        _ => "(unknown)".to_owned(),
    }
}

impl Irq {
    pub(super) fn new(index: u32, info: Look<IrqInfo>) -> Self {
        // `VFIO_PCI_*_IRQ_INDEX` of `<linux/vfio.h>`.
        let name = match index {
            0 => "INTx",
            1 => "MSI",
            2 => "MSI-X",
            3 => "error",
            4 => "request",
            _ => "(unknown)",
        };
        let info = info.map(|info| {
            let flags = [
                (info.eventfd, "eventfd"),
                (info.maskable, "maskable"),
                (info.automasked, "automasked"),
                (info.noresize, "noresize"),
            ];
            let set = flags
                .into_iter()
                .filter_map(|(set, name)| set.then_some(name));
            IrqFields {
                count: info.count,
                flags: set.collect(),
            }
        });
        let name = name.to_owned();
        Irq { index, name, info }
    }
}

impl Findings {
    pub(super) fn new(socket_path: &Path, version: Version, device: &DeviceInfo) -> Self {
        Findings {
            socket_path: socket_path.to_owned(),
            version,
            device: Device {
                resettable: device.resettable,
                regions: device.regions,
                irqs: device.irqs,
            },
            regions: Vec::new(),
            irqs: Vec::new(),
            function: None,
            registers: None,
            config_read: None,
        }
    }

    /// The size of config space, if there is any.
    pub(super) fn config_size(&self) -> Option<u64> {
        let config = self.regions.iter().find(|region| region.index == CONFIG)?;
        Some(config.size()).filter(|size| *size > 0)
    }

    pub(super) fn bar_sizes(&self) -> [u64; 6] {
        std::array::from_fn(|bar| self.regions.get(bar).map_or(0, Region::size))
    }

    /// Prints it for a person.
    pub(super) fn show(&self, screen: &mut Screen) {
        let Version {
            major,
            minor,
            capabilities,
        } = &self.version;
        let path = self.socket_path.display();
        screen.title(format_args!("{path}: vfio-user {major}.{minor}"));
        if let Value::Object(capabilities) = capabilities {
            for (name, value) in capabilities {
                screen.line(format_args!("  {name:<20} {value}"));
            }
        }
        self.show_regions(screen);
        self.show_irqs(screen);
        self.show_function(screen);
        if let Some(DeviceRegisters { device, registers }) = &self.registers {
            screen.heading(&format!("Registers of BAR 0: the {device} of this program"));
            match registers {
                Look::Seen(registers) => looks::show_registers(screen, registers),
                Look::Refused { refused } => show_refusal(screen, "", refused),
            }
        }
        if let Some(latency) = &self.config_read {
            screen.heading("Latency");
            match latency {
                Look::Seen(latency) => {
                    screen.line(Latency::head("4 bytes"));
                    screen.line(latency.line("config read"));
                }
                Look::Refused { refused } => show_refusal(screen, "", refused),
            }
        }
    }

    fn show_regions(&self, screen: &mut Screen) {
        let Device {
            resettable,
            regions,
            irqs,
        } = self.device;
        let reset = if resettable { "can" } else { "cannot" };
        screen.heading(&format!("Regions ({regions}; the device {reset} be reset)"));
        let absent = |region: &&Region| region.info.seen().is_some_and(|info| info.size == 0);
        for region in self.regions.iter().filter(|region| !absent(region)) {
            show_region(screen, region);
        }
        let none: Vec<&str> = self
            .regions
            .iter()
            .filter(absent)
            .map(|region| region.name.as_str())
            .collect();
        if !none.is_empty() {
            screen.line(format_args!("  {DIM}none: {}{DIM:#}", none.join(", ")));
        }
        show_rest(screen, regions, self.regions.len());
        screen.heading(&format!("Interrupt types ({irqs})"));
    }

    fn show_irqs(&self, screen: &mut Screen) {
        for Irq { index, name, info } in &self.irqs {
            let head = format!("{index}  {name:<8}");
            match info {
                Look::Seen(IrqFields { count, flags }) => {
                    let line = format!("  {head} {count:>5}  {}", flags.join(" "));
                    screen.line(line.trim_end());
                }
                Look::Refused { refused } => show_refusal(screen, &head, refused),
            }
        }
        show_rest(screen, self.device.irqs, self.irqs.len());
    }

    fn show_function(&self, screen: &mut Screen) {
        screen.heading("The function, as lspci -vv prints it");
        match &self.function {
            Some(Function::Seen(function)) => screen.block(&function.to_string()),
            Some(Function::Refused { refused }) => show_refusal(screen, "", refused),
            Some(Function::Unreadable { unreadable }) => show_refusal(screen, "", unreadable),
            None => show_refusal(screen, "", "there is no config space (region 7)"),
        }
    }
}

fn show_region(screen: &mut Screen, region: &Region) {
    let head = format!("{}  {:<8}", region.index, region.name);
    let info = match &region.info {
        Look::Seen(info) => info,
        Look::Refused { refused } => return show_refusal(screen, &head, refused),
    };
    let mut words = Vec::new();
    words.extend(info.readable.then_some("read"));
    words.extend(info.writeable.then_some("write"));
    words.extend((!info.areas.is_empty()).then_some("map"));
    words.extend(info.fd.then_some("file"));
    let (size_of, words) = (size(info.size), words.join(" "));
    screen.line(format_args!("  {head} {size_of:>9}  {words}"));
    let areas = info.areas.iter().map(|area| (area, "maps"));
    let read_only = info.read_only_areas.iter();
    for (area, maps) in areas.chain(read_only.map(|area| (area, "maps for reading"))) {
        let Area { offset, size } = area;
        let outside = offset.checked_add(*size).is_none_or(|end| end > info.size);
        let note = if outside {
            " is not inside the region"
        } else {
            ""
        };
        let last = offset.saturating_add(size.saturating_sub(1));
        screen.line(format_args!(
            "              {maps} {offset:#x} to {last:#x}{BAD}{note}{BAD:#}"
        ));
    }
    match &region.ioeventfds {
        Some(Look::Seen(ioeventfds)) => {
            for IoEventFd {
                offset,
                size,
                datamatch,
                shadow,
            } in ioeventfds
            {
                let value = match (datamatch, shadow) {
                    (Some(value), _) => format!("of {value:#x}"),
                    (None, true) => "of any value, which is kept".to_owned(),
                    (None, false) => "of any value".to_owned(),
                };
                screen.line(format_args!(
                    "              ioeventfd at {offset:#x}, {size} bytes {value}"
                ));
            }
        }
        Some(Look::Refused { refused }) => {
            screen.line(format_args!("              {DIM}{refused}{DIM:#}"));
        }
        None => {}
    }
}

/// What was not looked at.
fn show_rest(screen: &mut Screen, said: u32, seen: usize) {
    if said as usize > seen {
        screen.line(format_args!(
            "  {BAD}only the first {seen} were looked at{BAD:#}"
        ));
    }
}

fn show_refusal(screen: &mut Screen, head: &str, refused: &str) {
    let gap = if head.is_empty() { "" } else { " " };
    screen.line(format_args!("  {head}{gap}{BAD}{refused}{BAD:#}"));
}
