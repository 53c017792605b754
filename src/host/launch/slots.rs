//! Who has a slot of the guest's first PCI bus, by QEMU's arguments.
//!
//! QEMU refuses a device of its own whose slot is taken. It does not know of an
//! ioreq server, though: with a function that both register, Xen asks one of
//! them, and nobody says so.

use std::ffi::OsString;

use serde_json::Value;

use super::call::Caller;

/// More slots than a bus has.
const SLOTS: u8 = 32;

/// Names of PCI devices begin so, if they are not known by their `addr`.
const PCI: [&str; 27] = [
    "ac97",
    "ahci",
    "bochs-display",
    "cirrus-vga",
    "e1000",
    "edu",
    "es1370",
    "i82",
    "ich9-ahci",
    "ich9-usb-",
    "igb",
    "intel-hda",
    "ivshmem-",
    "lsi53c",
    "megasas",
    "ne2k_pci",
    "nec-usb-xhci",
    "nvme",
    "pcnet",
    "pci-ohci",
    "piix3-usb-uhci",
    "qemu-xhci",
    "qxl",
    "rtl8139",
    "usb-ehci",
    "vga",
    "xen-p",
];

/// A device of QEMU's, as its arguments say.
struct Device {
    name: String,
    /// The slot that they name.
    slot: Option<u8>,
}

/// The device that has this slot, if any.
pub(super) fn taken(arguments: &[OsString], caller: Caller, slot: u8) -> Option<String> {
    let mut slots: [Option<String>; SLOTS as usize] = Default::default();
    slots[0] = Some("the host bridge".to_owned());
    slots[1] = Some("the ISA bridge".to_owned());
    let mut put = |device: Device| {
        let slot = match device.slot {
            Some(slot) => Some(usize::from(slot)),
            None => slots.iter().position(Option::is_none),
        };
        // Two at one place: QEMU will say so itself.
        if let Some(place) = slot.and_then(|slot| slots.get_mut(slot)) {
            place.get_or_insert(device.name);
        }
    };
    match caller {
        // The stock wrapper adds it, after us.
        Caller::Xenopsd => put(Device {
            name: "VGA".to_owned(),
            slot: Some(2),
        }),
        // A part of the machine, before any device of the arguments.
        Caller::Libxl if xenfv(arguments) => put(Device {
            name: "xen-platform".to_owned(),
            slot: None,
        }),
        Caller::Libxl => {}
    }
    devices(arguments).for_each(put);
    slots.into_iter().nth(usize::from(slot)).flatten()
}

fn xenfv(arguments: &[OsString]) -> bool {
    arguments.windows(2).any(|pair| {
        let machine = pair[1].to_string_lossy();
        is_option(&pair[0], &["machine", "M"])
            && machine
                .split(',')
                .any(|word| word.trim_start_matches("type=").starts_with("xenfv"))
    })
}

/// QEMU's PCI devices on the first bus.
fn devices(arguments: &[OsString]) -> impl Iterator<Item = Device> {
    let pairs = arguments.windows(2);
    let values = pairs.filter(|pair| is_option(&pair[0], &["device"]));
    values.filter_map(|pair| {
        let text = pair[1].to_string_lossy();
        if text.starts_with('{') {
            json(&text)
        } else {
            plain(&text)
        }
    })
}

/// QEMU takes one dash or two.
fn is_option(argument: &OsString, names: &[&str]) -> bool {
    let text = argument.to_string_lossy();
    let name = text.strip_prefix("--").or_else(|| text.strip_prefix('-'));
    name.is_some_and(|name| names.contains(&name))
}

/// `DRIVER,KEY=VALUE,...`; the driver may have its key too.
fn plain(text: &str) -> Option<Device> {
    let (mut name, mut bus, mut addr) = (None, None, None);
    for (at, word) in text.split(',').enumerate() {
        match word.split_once('=') {
            None if at == 0 => name = Some(word),
            Some(("driver", value)) => name = Some(value),
            Some(("bus", value)) => bus = Some(value),
            Some(("addr", value)) => addr = Some(value),
            _ => {}
        }
    }
    device(name?, bus, addr.and_then(slot))
}

fn json(text: &str) -> Option<Device> {
    let json: Value = serde_json::from_str(text).ok()?;
    let addr = match &json["addr"] {
        // A slot and its function in a number.
        Value::Number(number) => number.as_u64().and_then(|n| u8::try_from(n >> 3).ok()),
        Value::String(text) => slot(text),
        _ => None,
    };
    device(json["driver"].as_str()?, json["bus"].as_str(), addr)
}

fn device(name: &str, bus: Option<&str>, slot: Option<u8>) -> Option<Device> {
    if bus.is_some_and(|bus| bus != "pci.0" && bus != "pcie.0") {
        return None;
    }
    let low = name.to_ascii_lowercase();
    let known = || PCI.iter().any(|known| low.starts_with(known));
    let virtio = || low.starts_with("virtio-") && low.contains("-pci");
    // A namespace is on its controller's bus, whether it is named or not.
    let is_pci = slot.is_some() || (low != "nvme-ns" && (known() || virtio()));
    is_pci.then(|| Device {
        name: name.chars().filter(|c| !c.is_control()).take(40).collect(),
        slot,
    })
}

/// QEMU reads a slot as C's `%x.%x`: always hexadecimal.
fn slot(text: &str) -> Option<u8> {
    let slot = text.split('.').next()?.trim();
    let digits = slot.strip_prefix("0x").or_else(|| slot.strip_prefix("0X"));
    let slot = u8::from_str_radix(digits.unwrap_or(slot), 16).ok()?;
    (slot < SLOTS).then_some(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(caller: Caller, line: &str, slot: u8) -> Option<String> {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        taken(&arguments, caller, slot)
    }

    #[test]
    fn a_slot_that_a_device_names_is_its() {
        for line in [
            "-device edu,addr=0xc",
            "-device edu,addr=c",
            "-device edu,addr=0xc.0",
            "--device edu,id=x,addr=0x0c.2,bus=pci.0",
            "-device driver=edu,addr=0xc",
            r#"-device {"driver":"edu","addr":"0xc"}"#,
            r#"-device {"addr":96,"driver":"edu","bus":"pci.0"}"#,
            // Whatever it is: it has a place on the bus.
            "-m 1 -device edu,addr=0xc -device edu,addr=0xd",
        ] {
            let taker = who(Caller::Libxl, line, 12);
            assert_eq!(taker.as_deref(), Some("edu"), "{line}");
        }
        for line in [
            "-device edu,addr=12",
            "-device edu,addr=0xd",
            "-device edu,addr=0xc,bus=bridge",
            "-device edu,addr=0xcc",
            "-device edu,addr=",
            "-drive addr=0xc",
            "-device",
            r#"-device {"driver":"edu","addr":"#,
            r#"-device {"driver":7,"addr":"0xc"}"#,
            "",
        ] {
            assert_eq!(who(Caller::Libxl, line, 12), None, "{line}");
        }
    }

    #[test]
    fn xls_devices_take_the_first_slots_that_are_free() {
        let line = "-xen-domid 7 -machine xenfv,suppress-vmdesc=on -m 1016 \
            -device cirrus-vga,vgamem_mb=8 -device rtl8139,id=nic0,netdev=net0,mac=00:16:3e:00:00:01 \
            -device ide-hd,drive=ide-0,unit=0,bus=ide.0 -device e1000,addr=5 -device AHCI,id=ahci0";
        let slots = [
            "the host bridge",
            "the ISA bridge",
            "xen-platform",
            "cirrus-vga",
            "rtl8139",
            "e1000",
            "AHCI",
        ];
        for (slot, name) in (0..).zip(slots) {
            assert_eq!(who(Caller::Libxl, line, slot).as_deref(), Some(name));
        }
        assert_eq!(who(Caller::Libxl, line, 7), None);
        // Without the platform device the others are one lower.
        let line = line.replace("xenfv", "pc,accel=xen");
        let second = who(Caller::Libxl, &line, 2);
        assert_eq!(second.as_deref(), Some("cirrus-vga"));
    }

    #[test]
    fn xenopsds_devices_have_slots_and_the_stock_wrapper_adds_vga() {
        let line = "7 -device xen-platform,addr=3,device-id=0x0001 -device nvme,serial=nvme0,id=nvme0,addr=7 \
            -device nvme-ns,drive=disk0,bus=nvme0 -device rtl8139,netdev=tapnet0,addr=4";
        for (slot, name) in [(2, "VGA"), (3, "xen-platform"), (4, "rtl8139"), (7, "nvme")] {
            assert_eq!(who(Caller::Xenopsd, line, slot).as_deref(), Some(name));
        }
        assert_eq!(who(Caller::Xenopsd, line, 5), None);
        assert_eq!(who(Caller::Xenopsd, line, 12), None);
    }
}
