//! A client's command, checked.

use super::{
    Command, DeviceInfoQuery, DmaMap, DmaUnmap, Feature, IoFdsQuery, IrqInfoQuery, Malformed,
    MigData, MigDataRead, Proposal, RegionAccess, RegionInfoQuery, SetIrqs, WriteMulti,
    wire::nothing_after,
};
use zerocopy::FromBytes;

/// A client's command with its payload. Data stays in the receive buffer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Request<'a> {
    /// Proposes a version and capabilities.
    Version(Proposal),
    /// Makes a range of client memory known.
    DmaMap(DmaMap),
    /// Takes client memory back.
    DmaUnmap(DmaUnmap),
    /// Asks what the device has.
    DeviceGetInfo,
    /// Asks about a region.
    DeviceGetRegionInfo(RegionInfoQuery),
    /// Asks for a region's eventfds.
    DeviceGetRegionIoFds(IoFdsQuery),
    /// Asks about an interrupt type.
    DeviceGetIrqInfo(IrqInfoQuery),
    /// Sets up, masks, unmasks or triggers interrupts.
    DeviceSetIrqs(SetIrqs<'a>),
    /// Reads from a region.
    RegionRead(RegionAccess),
    /// Writes to a region.
    RegionWrite(RegionAccess, &'a [u8]),
    /// Writes to regions several times.
    RegionWriteMulti(WriteMulti<'a>),
    /// Resets the device.
    DeviceReset,
    /// Gets, sets or probes a feature.
    DeviceFeature(Feature<'a>),
    /// Reads migration data.
    MigDataRead(MigDataRead),
    /// Writes migration data.
    MigDataWrite(MigData<'a>),
}

impl<'a> Request<'a> {
    /// Checks the payload of a client's command.
    ///
    /// How long a payload may be:
    /// - A request with data of its own (`VERSION`, `DEVICE_SET_IRQS` with
    ///   bools, the writes, `DEVICE_FEATURE`) is as long as its data.
    /// - A query whose `argsz` is the room for the reply (the four `GET_`
    ///   commands) may bring that room along, up to `argsz`, because
    ///   libvfio-user's and SPDK's clients send the buffer that they want
    ///   filled. What follows the fixed part is ignored.
    /// - Any other is exactly its fixed part.
    ///
    /// Fields that the client "must" leave 0 because the reply fills them are
    /// ignored, since clients fill them. An `argsz` below the fixed part is
    /// refused.
    ///
    /// # Errors
    ///
    /// Whatever the payload's own `parse` refuses, and the two commands that
    /// only a server sends.
    #[inline]
    pub fn parse(command: Command, body: &'a [u8]) -> Result<Request<'a>, Malformed> {
        match command {
            Command::RegionRead => RegionAccess::parse(body).map(Request::RegionRead),
            Command::RegionWrite => RegionAccess::parse_write(body)
                .map(|(access, data)| Request::RegionWrite(access, data)),
            _ => Request::parse_other(command, body),
        }
    }

    /// Everything but the two hot ones, out of their way.
    fn parse_other(command: Command, body: &'a [u8]) -> Result<Request<'a>, Malformed> {
        match command {
            Command::Version => Proposal::parse(body).map(Request::Version),
            Command::DmaMap => DmaMap::parse(body).map(Request::DmaMap),
            Command::DmaUnmap => DmaUnmap::parse(body).map(Request::DmaUnmap),
            Command::DeviceGetInfo => {
                DeviceInfoQuery::parse(body).map(|DeviceInfoQuery| Request::DeviceGetInfo)
            }
            Command::DeviceGetRegionInfo => {
                RegionInfoQuery::parse(body).map(Request::DeviceGetRegionInfo)
            }
            Command::DeviceGetRegionIoFds => {
                IoFdsQuery::parse(body).map(Request::DeviceGetRegionIoFds)
            }
            Command::DeviceGetIrqInfo => IrqInfoQuery::parse(body).map(Request::DeviceGetIrqInfo),
            Command::DeviceSetIrqs => SetIrqs::parse(body).map(Request::DeviceSetIrqs),
            Command::RegionWriteMulti => WriteMulti::parse(body).map(Request::RegionWriteMulti),
            Command::DeviceReset => nothing_after(command, 0, body).map(|()| Request::DeviceReset),
            Command::DeviceFeature => Feature::parse(body).map(Request::DeviceFeature),
            Command::MigDataRead => MigDataRead::parse(body).map(Request::MigDataRead),
            Command::MigDataWrite => MigData::parse(body).map(Request::MigDataWrite),
            Command::DmaRead | Command::DmaWrite => Err(Malformed::Direction(command)),
            Command::RegionRead | Command::RegionWrite => Request::parse(command, body),
        }
    }

    /// The command.
    pub fn command(&self) -> Command {
        match self {
            Request::Version(_) => Command::Version,
            Request::DmaMap(_) => Command::DmaMap,
            Request::DmaUnmap(_) => Command::DmaUnmap,
            Request::DeviceGetInfo => Command::DeviceGetInfo,
            Request::DeviceGetRegionInfo(_) => Command::DeviceGetRegionInfo,
            Request::DeviceGetRegionIoFds(_) => Command::DeviceGetRegionIoFds,
            Request::DeviceGetIrqInfo(_) => Command::DeviceGetIrqInfo,
            Request::DeviceSetIrqs(_) => Command::DeviceSetIrqs,
            Request::RegionRead(_) => Command::RegionRead,
            Request::RegionWrite(..) => Command::RegionWrite,
            Request::RegionWriteMulti(_) => Command::RegionWriteMulti,
            Request::DeviceReset => Command::DeviceReset,
            Request::DeviceFeature(_) => Command::DeviceFeature,
            Request::MigDataRead(_) => Command::MigDataRead,
            Request::MigDataWrite(_) => Command::MigDataWrite,
        }
    }
}

/// The payload of a command's normal reply.
///
/// The `vfio_user` crate's client reads this much whether the reply is an error
/// or not, and would wait for ever after a bare header; so error replies are
/// padded to it. `max_data` is the session's `max_data_xfer_size`, which bounds
/// what a refused read can make us send.
pub fn reply_size(command: Command, request_body: &[u8], max_data: u32) -> usize {
    match command {
        Command::DmaUnmap => 24,
        Command::DeviceGetRegionInfo => 32,
        Command::DeviceGetInfo
        | Command::DeviceGetRegionIoFds
        | Command::DeviceGetIrqInfo
        | Command::RegionWrite => 16,
        Command::RegionRead => {
            let count = request_body
                .get(12..)
                .and_then(|rest| u32::read_from_prefix(rest).ok())
                .map_or(0, |(count, _)| count);
            16 + count.min(max_data) as usize
        }
        Command::RegionWriteMulti => 8,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{DmaAccess, IrqAction, IrqData};

    #[test]
    fn each_command_of_a_client_is_parsed_as_itself() {
        let payloads = [
            (Command::Version, bytes![0u16, 0u16]),
            (Command::DmaMap, bytes![32u32, 1u32, 0u64, 0u64, 1u64]),
            (Command::DmaUnmap, bytes![24u32, 0u32, 0u64, 1u64]),
            (Command::DeviceGetInfo, bytes![16u32, 0u32, 0u32, 0u32]),
            (
                Command::DeviceGetRegionInfo,
                bytes![32u32, 0u32, 0u32, 0u32, 0u64, 0u64],
            ),
            (
                Command::DeviceGetRegionIoFds,
                bytes![16u32, 0u32, 0u32, 0u32],
            ),
            (Command::DeviceGetIrqInfo, bytes![16u32, 0u32, 0u32, 0u32]),
            (
                Command::DeviceSetIrqs,
                bytes![20u32, 0x21u32, 0u32, 0u32, 0u32],
            ),
            (Command::RegionRead, bytes![0u64, 0u32, 4u32]),
            (Command::RegionWrite, bytes![0u64, 0u32, 4u32, 1u32]),
            (Command::DeviceReset, Vec::new()),
            (
                Command::RegionWriteMulti,
                bytes![1u64, 0u64, 0u32, 4u32, 0u64],
            ),
            (Command::DeviceFeature, bytes![8u32, 0x1_0001u32]),
            (Command::MigDataRead, bytes![16u32, 8u32]),
            (Command::MigDataWrite, bytes![9u32, 1u32, 0u8]),
        ];
        for (command, body) in &payloads {
            let request = Request::parse(*command, body).unwrap();
            assert_eq!(request.command(), *command);
        }
    }

    #[test]
    fn a_servers_commands_are_refused_from_a_client() {
        for command in [Command::DmaRead, Command::DmaWrite] {
            let refusal = Request::parse(command, &bytes![0u64, 4u64]).unwrap_err();
            assert_eq!(refusal, Malformed::Direction(command));
            assert_eq!(refusal.errno(), libc::EINVAL);
        }
    }

    #[test]
    fn a_reset_has_no_payload() {
        let refusal = Request::parse(Command::DeviceReset, &[0]).unwrap_err();
        assert!(matches!(
            refusal,
            Malformed::Long {
                most: 0,
                got: 1,
                ..
            }
        ));
        assert_eq!(refusal.errno(), libc::EINVAL);
    }

    #[test]
    fn what_qemu_sends_is_accepted() {
        let map = bytes![32u32, 3u32, 0u64, 0u64, 0x10_0000u64];
        let parsed = Request::parse(Command::DmaMap, &map).unwrap();
        let write = DmaAccess {
            read: true,
            write: true,
        };
        assert!(matches!(parsed, Request::DmaMap(map) if map.access == write));
        let disable = bytes![20u32, 0x21u32, 2u32, 0u32, 0u32];
        let parsed = Request::parse(Command::DeviceSetIrqs, &disable).unwrap();
        assert!(matches!(parsed, Request::DeviceSetIrqs(set) if set.disables_all()));
        let unmask = bytes![20u32, 0x11u32, 0u32, 0u32, 1u32];
        let parsed = Request::parse(Command::DeviceSetIrqs, &unmask).unwrap();
        let expected = SetIrqs {
            index: 0,
            start: 0,
            count: 1,
            action: IrqAction::Unmask,
            data: IrqData::None,
        };
        assert_eq!(parsed, Request::DeviceSetIrqs(expected));
    }

    #[test]
    fn an_error_reply_is_as_long_as_the_normal_one() {
        let read = bytes![0u64, 0u32, 4u32];
        let sizes = [
            (Command::Version, 0),
            (Command::DmaMap, 0),
            (Command::DmaUnmap, 24),
            (Command::DeviceGetInfo, 16),
            (Command::DeviceGetRegionInfo, 32),
            (Command::DeviceGetRegionIoFds, 16),
            (Command::DeviceGetIrqInfo, 16),
            (Command::DeviceSetIrqs, 0),
            (Command::RegionRead, 20),
            (Command::RegionWrite, 16),
            (Command::DmaRead, 0),
            (Command::DmaWrite, 0),
            (Command::DeviceReset, 0),
            (Command::RegionWriteMulti, 8),
            (Command::DeviceFeature, 0),
            (Command::MigDataRead, 0),
            (Command::MigDataWrite, 0),
        ];
        for (command, size) in sizes {
            assert_eq!(reply_size(command, &read, 1 << 20), size, "{command}");
        }
    }

    #[test]
    fn a_refused_read_is_answered_with_no_more_than_the_session_allows() {
        let huge = bytes![0u64, 0u32, u32::MAX];
        assert_eq!(reply_size(Command::RegionRead, &huge, 4096), 16 + 4096);
        assert_eq!(reply_size(Command::RegionRead, &huge[..15], 4096), 16);
        assert_eq!(reply_size(Command::RegionRead, &[], 4096), 16);
    }
}
