//! A PCI function as Linux shows it in sysfs.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::address::Address;
use super::register::{Register, page_size};
use crate::bench::Trouble;
use crate::device::Width;
use crate::pci::spec::{BAR_COUNT, COMMAND, HEADER_SIZE, command};
use crate::pci::{Description, Identity, describe};

/// Of the flags in `resource` (linux/ioport.h): I/O ports, and an address that
/// the kernel could not give.
const RESOURCE_IO: u64 = 0x100;
const RESOURCE_UNSET: u64 = 0x2000_0000;

/// A function that is there.
#[derive(Debug)]
pub(super) struct Function {
    /// Where it is.
    pub(super) address: Address,
    /// Who it says it is.
    pub(super) identity: Identity,
    directory: PathBuf,
    config: File,
}

impl Function {
    /// Looks at a function without touching its registers.
    pub(super) fn find(sysfs: &Path, address: Address) -> Result<Self, Trouble> {
        let directory = devices(sysfs)?.join(address.to_string());
        if !directory.exists() {
            return Err(Trouble(format!(
                "{address}: no such PCI function; lspci -d 1af4:1111 lists the stubs"
            )));
        }
        let path = directory.join("config");
        let config = File::open(&path).map_err(|error| failed(&path, &error))?;
        let identity = header(address, &config)?.identity;
        Ok(Function {
            address,
            identity,
            directory,
            config,
        })
    }

    /// The first with these ids.
    pub(super) fn search(sysfs: &Path, vendor: u16, device: u16) -> Option<Address> {
        let entries = fs::read_dir(devices(sysfs).ok()?).ok()?.flatten();
        let ids = |directory: &Path| {
            let id = |name| number(fs::read_to_string(directory.join(name)).ok()?.trim());
            Some((id("vendor")?, id("device")?))
        };
        entries
            .filter(|entry| ids(&entry.path()) == Some((vendor.into(), device.into())))
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .min()
    }

    /// The name of the driver that is bound to it.
    pub(super) fn driver(&self) -> Option<String> {
        let driver = fs::read_link(self.directory.join("driver")).ok()?;
        Some(driver.file_name()?.to_string_lossy().into_owned())
    }

    /// Opens a BAR.
    pub(super) fn bar(&self, number: u8) -> Result<Bar, Trouble> {
        let what = format!("{} BAR {number}", self.address);
        let none = |why: &str| Trouble(format!("{what}: {why}"));
        let resources = self.text("resource")?;
        let words = resources.lines().take(BAR_COUNT).nth(number.into());
        let words = words.map(|line| line.split(' ').filter_map(self::number).collect());
        let words: Vec<u64> = words.unwrap_or_default();
        let &[start, end, flags] = &words[..] else {
            return Err(none("there is no such BAR; choose another with --bar"));
        };
        if flags == 0 {
            return Err(none(
                "the function does not have it; choose another with --bar",
            ));
        }
        if flags & RESOURCE_IO != 0 {
            return Err(none("is of I/O ports; choose one of memory with --bar"));
        }
        if flags & RESOURCE_UNSET != 0 || end < start {
            return Err(none("the kernel gave it no address; see dmesg"));
        }
        let path = self.directory.join(format!("resource{number}"));
        // With O_SYNC it is not cached, whatever the BAR says of itself.
        let mut options = File::options();
        options.read(true).write(true).custom_flags(libc::O_SYNC);
        let file = options.open(&path);
        Ok(Bar {
            file: file.map_err(|error| failed(&path, &error))?,
            path,
            start: start % page_size() as u64,
            size: (end - start).saturating_add(1),
        })
    }

    /// Has the function answer accesses to memory until the result is dropped.
    pub(super) fn enable(&self) -> Result<Enabled, Trouble> {
        let path = self.directory.join("enable");
        let off = self.text("enable")?.trim() == "0";
        let mut enabled = Enabled(None);
        if off {
            let command = header(self.address, &self.config)?.command;
            let config = self.directory.join("config");
            put(&path, b"1", 0).map_err(|error| failed(&path, &error))?;
            enabled.0 = Some(Before {
                enable: path,
                config,
                command,
            });
        }
        if header(self.address, &self.config)?.command & command::MEMORY_SPACE == 0 {
            return Err(Trouble(format!(
                "{}: does not answer accesses to memory (Mem- in lspci -vv); see dmesg",
                self.address
            )));
        }
        Ok(enabled)
    }

    /// Reads the first 4 bytes of config space, vendor and device, which must
    /// be what they were.
    #[inline]
    pub(super) fn check(&self) -> Result<(), Trouble> {
        let mut bytes = [0; 4];
        let read = self.config.read_exact_at(&mut bytes, 0);
        read.map_err(|error| Trouble::new(self.address, error))?;
        let Identity { vendor, device, .. } = self.identity;
        if bytes == (u32::from(device) << 16 | u32::from(vendor)).to_le_bytes() {
            return Ok(());
        }
        Err(Trouble(format!(
            "{}: vendor and device are {bytes:02x?} now: it was removed, or its server ended",
            self.address
        )))
    }

    fn text(&self, name: &str) -> Result<String, Trouble> {
        let path = self.directory.join(name);
        fs::read_to_string(&path).map_err(|error| failed(&path, &error))
    }
}

/// A BAR in memory.
#[derive(Debug)]
pub(super) struct Bar {
    path: PathBuf,
    file: File,
    /// Where it begins in its first page: small BARs share one.
    start: u64,
    /// In bytes.
    pub(super) size: u64,
}

impl Bar {
    /// Maps a register.
    pub(super) fn register(&self, offset: u64, width: Width) -> Result<Register, Trouble> {
        let (bytes, size) = (width.bytes(), self.size);
        let wrong = |why: &str| Trouble(format!("offset {offset:#x}, {bytes} bytes: {why}"));
        let end = offset.checked_add(bytes.into());
        if end.is_none_or(|end| end > size) {
            return Err(wrong(&format!("beyond the BAR's {size:#x} bytes")));
        }
        if !offset.is_multiple_of(bytes.into()) {
            return Err(wrong("is not a multiple of the width"));
        }
        Register::map(&self.file, self.start + offset, width)
            .map_err(|error| failed(&self.path, &error))
    }
}

/// A function that answers; puts back how it was when dropped.
#[derive(Debug)]
pub(super) struct Enabled(Option<Before>);

#[derive(Debug)]
struct Before {
    enable: PathBuf,
    config: PathBuf,
    command: u16,
}

impl Drop for Enabled {
    fn drop(&mut self) {
        let Some(before) = &self.0 else { return };
        // The kernel forgets its use of the function, and leaves what it set
        // in the Command register.
        let command = before.command.to_le_bytes();
        let back = put(&before.enable, b"0", 0)
            .and_then(|()| put(&before.config, &command, COMMAND as u64));
        if let Err(error) = back {
            let path = before.enable.display();
            log::warn!("{path}: cannot put back what was there: {error}");
        }
    }
}

/// Writes into a file of sysfs.
fn put(path: &Path, bytes: &[u8], offset: u64) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    file.write_all_at(bytes, offset)
}

/// What the header of config space says.
fn header(address: Address, config: &File) -> Result<Description, Trouble> {
    let mut header = [0; HEADER_SIZE];
    config
        .read_exact_at(&mut header, 0)
        .map_err(|error| Trouble::new(format!("{address}: config space"), error))?;
    describe(&header, [0; BAR_COUNT])
        .map_err(|error| Trouble::new(format!("{address}: config space"), error))
}

fn devices(sysfs: &Path) -> Result<PathBuf, Trouble> {
    let devices = sysfs.join("bus/pci/devices");
    if devices.is_dir() {
        return Ok(devices);
    }
    Err(Trouble(format!(
        "{}: not there: this is no Linux with PCI, or sysfs is not mounted",
        devices.display()
    )))
}

/// A number as sysfs writes it: `0x1af4`.
fn number(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// What an error of sysfs means, and what to do.
fn failed(path: &Path, error: &io::Error) -> Trouble {
    let advice = match error.raw_os_error() {
        Some(libc::EACCES) => "; run this as root",
        Some(libc::EPERM) => {
            "; a kernel that is locked down (Secure Boot) gives no BAR away: see \
             /sys/kernel/security/lockdown, and lockdown= on the kernel's command line"
        }
        Some(libc::EINVAL) => {
            "; a driver has this memory for itself: unbind it, or boot with iomem=relaxed"
        }
        Some(libc::EBUSY) => "; its driver switched it off: unbind the driver",
        Some(libc::EROFS) => "; sysfs can only be read here: do not run this in a container",
        Some(libc::ENOENT) => "; this kernel does not offer it to programs",
        _ => "",
    };
    Trouble(format!("{}: {error}{advice}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_refuses_comes_with_advice() {
        let said = |errno| {
            let error = io::Error::from_raw_os_error(errno);
            failed(Path::new("resource0"), &error).to_string()
        };
        assert!(said(libc::EACCES).ends_with("run this as root"));
        assert!(said(libc::EPERM).contains("locked down"));
        assert!(said(libc::EINVAL).contains("iomem=relaxed"));
        assert!(said(libc::EROFS).contains("container"));
    }
}
