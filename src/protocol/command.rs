//! The commands by number and by name.

use std::fmt;

/// A command of the specification (vfio-user, Commands).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Command {
    /// Agrees on a protocol version and capabilities.
    Version = 1,
    /// Makes a range of client memory known.
    DmaMap = 2,
    /// Takes a range of client memory back.
    DmaUnmap = 3,
    /// Asks what the device has.
    DeviceGetInfo = 4,
    /// Asks about one region.
    DeviceGetRegionInfo = 5,
    /// Asks for the eventfds that stand for parts of a region.
    DeviceGetRegionIoFds = 6,
    /// Asks about one interrupt type.
    DeviceGetIrqInfo = 7,
    /// Sets up, masks or triggers interrupts.
    DeviceSetIrqs = 8,
    /// Reads from a region.
    RegionRead = 9,
    /// Writes to a region.
    RegionWrite = 10,
    /// The server reads client memory.
    DmaRead = 11,
    /// The server writes client memory.
    DmaWrite = 12,
    /// Resets the device.
    DeviceReset = 13,
    /// Several small region writes in one message.
    RegionWriteMulti = 15,
    /// Gets, sets or probes a device feature.
    DeviceFeature = 16,
    /// Reads migration data.
    MigDataRead = 17,
    /// Writes migration data.
    MigDataWrite = 18,
}

impl Command {
    /// Every command, in the order of their numbers. 14 was `DIRTY_PAGES` and
    /// is no longer in the specification.
    pub const ALL: [Command; 17] = [
        Command::Version,
        Command::DmaMap,
        Command::DmaUnmap,
        Command::DeviceGetInfo,
        Command::DeviceGetRegionInfo,
        Command::DeviceGetRegionIoFds,
        Command::DeviceGetIrqInfo,
        Command::DeviceSetIrqs,
        Command::RegionRead,
        Command::RegionWrite,
        Command::DmaRead,
        Command::DmaWrite,
        Command::DeviceReset,
        Command::RegionWriteMulti,
        Command::DeviceFeature,
        Command::MigDataRead,
        Command::MigDataWrite,
    ];

    /// The command of a header's number, if the specification has it.
    #[inline]
    pub fn from_wire(number: u16) -> Option<Command> {
        Some(match number {
            1 => Command::Version,
            2 => Command::DmaMap,
            3 => Command::DmaUnmap,
            4 => Command::DeviceGetInfo,
            5 => Command::DeviceGetRegionInfo,
            6 => Command::DeviceGetRegionIoFds,
            7 => Command::DeviceGetIrqInfo,
            8 => Command::DeviceSetIrqs,
            9 => Command::RegionRead,
            10 => Command::RegionWrite,
            11 => Command::DmaRead,
            12 => Command::DmaWrite,
            13 => Command::DeviceReset,
            15 => Command::RegionWriteMulti,
            16 => Command::DeviceFeature,
            17 => Command::MigDataRead,
            18 => Command::MigDataWrite,
            _ => return None,
        })
    }

    /// The number that stands in a header.
    #[inline]
    pub fn to_wire(self) -> u16 {
        self as u16
    }

    /// Whether a client may send descriptors along.
    pub(super) fn takes_descriptors(self) -> bool {
        matches!(self, Command::DmaMap | Command::DeviceSetIrqs)
    }

    /// The specification's name, without `VFIO_USER_`.
    pub fn name(self) -> &'static str {
        match self {
            Command::Version => "VERSION",
            Command::DmaMap => "DMA_MAP",
            Command::DmaUnmap => "DMA_UNMAP",
            Command::DeviceGetInfo => "DEVICE_GET_INFO",
            Command::DeviceGetRegionInfo => "DEVICE_GET_REGION_INFO",
            Command::DeviceGetRegionIoFds => "DEVICE_GET_REGION_IO_FDS",
            Command::DeviceGetIrqInfo => "DEVICE_GET_IRQ_INFO",
            Command::DeviceSetIrqs => "DEVICE_SET_IRQS",
            Command::RegionRead => "REGION_READ",
            Command::RegionWrite => "REGION_WRITE",
            Command::DmaRead => "DMA_READ",
            Command::DmaWrite => "DMA_WRITE",
            Command::DeviceReset => "DEVICE_RESET",
            Command::RegionWriteMulti => "REGION_WRITE_MULTI",
            Command::DeviceFeature => "DEVICE_FEATURE",
            Command::MigDataRead => "MIG_DATA_READ",
            Command::MigDataWrite => "MIG_DATA_WRITE",
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seventeen_numbers_of_the_specification_are_known_and_no_other() {
        let known: Vec<u16> = (0..=u16::MAX)
            .filter(|number| Command::from_wire(*number).is_some())
            .collect();
        let all: Vec<u16> = Command::ALL.iter().map(|c| c.to_wire()).collect();
        assert_eq!(known, all);
        assert!(!known.contains(&14));
    }

    #[test]
    fn a_number_there_and_back_is_the_same_command() {
        for command in Command::ALL {
            assert_eq!(Command::from_wire(command.to_wire()), Some(command));
        }
    }

    #[test]
    fn names_are_the_specifications() {
        assert_eq!(Command::RegionRead.name(), "REGION_READ");
        assert_eq!(Command::DeviceSetIrqs.to_string(), "DEVICE_SET_IRQS");
    }
}
