//! The device as a whole: its info, its features, its migration data.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::wire::{check_argsz, exactly, length, prefix, put, query, size};
use super::{Command, Malformed};

const FLAG_RESET: u32 = 1 << 0;
const FLAG_PCI: u32 = 1 << 1;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct InfoWire {
    argsz: u32,
    flags: u32,
    regions: u32,
    irqs: u32,
}

/// Asks for a [`DeviceInfo`] (vfio-user, `VFIO_USER_DEVICE_GET_INFO`). It says
/// nothing but how much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceInfoQuery;

impl DeviceInfoQuery {
    /// The request.
    ///
    /// # Errors
    ///
    /// Fewer than 16 bytes, an `argsz` below that, more bytes than `argsz`.
    pub fn parse(body: &[u8]) -> Result<DeviceInfoQuery, Malformed> {
        query(Command::DeviceGetInfo, body, |wire: &InfoWire| wire.argsz)?;
        Ok(DeviceInfoQuery)
    }

    /// Appends the request.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(
            out,
            &InfoWire {
                argsz: size::<InfoWire>(),
                flags: 0,
                regions: 0,
                irqs: 0,
            },
        );
    }
}

/// What the device has (vfio-user, `VFIO_USER_DEVICE_GET_INFO`, Reply). It is a
/// PCI device: this version of the protocol has no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// It understands `DEVICE_RESET`.
    pub resettable: bool,
    /// How many regions it has.
    pub regions: u32,
    /// How many interrupt types it has.
    pub irqs: u32,
}

impl DeviceInfo {
    /// The reply. Unknown flags are ignored.
    ///
    /// # Errors
    ///
    /// Fewer than 16 bytes, or a device that is not PCI.
    pub fn parse(body: &[u8]) -> Result<DeviceInfo, Malformed> {
        let command = Command::DeviceGetInfo;
        let (wire, _) = prefix::<InfoWire>(command, body)?;
        if wire.flags & FLAG_PCI == 0 {
            let flags = wire.flags;
            return Err(Malformed::Flags { command, flags });
        }
        Ok(DeviceInfo {
            resettable: wire.flags & FLAG_RESET != 0,
            regions: wire.regions,
            irqs: wire.irqs,
        })
    }

    /// Appends the reply.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(
            out,
            &InfoWire {
                argsz: size::<InfoWire>(),
                flags: FLAG_PCI | if self.resettable { FLAG_RESET } else { 0 },
                regions: self.regions,
                irqs: self.irqs,
            },
        );
    }
}

const FEATURE_INDEX: u32 = 0xffff;
const FEATURE_GET: u32 = 1 << 16;
const FEATURE_SET: u32 = 1 << 17;
const FEATURE_PROBE: u32 = 1 << 18;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct FeatureWire {
    argsz: u32,
    flags: u32,
}

/// Gets, sets or probes a feature (vfio-user, `VFIO_USER_DEVICE_FEATURE`). The
/// reply has the same form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature<'a> {
    /// The room for the reply's payload; in a reply, the size it needs.
    pub argsz: u32,
    /// The feature.
    pub index: u16,
    /// Its data is wanted.
    pub get: bool,
    /// Its data is brought.
    pub set: bool,
    /// Only whether it is there is wanted.
    pub probe: bool,
    /// The feature's own.
    pub data: &'a [u8],
}

impl<'a> Feature<'a> {
    /// The request, or its reply.
    ///
    /// # Errors
    ///
    /// Fewer than 8 bytes, an `argsz` below that, unknown flags, none of get,
    /// set and probe, get and set without probe.
    pub fn parse(body: &'a [u8]) -> Result<Feature<'a>, Malformed> {
        let command = Command::DeviceFeature;
        let (wire, data) = prefix::<FeatureWire>(command, body)?;
        check_argsz(command, wire.argsz, size::<FeatureWire>())?;
        let flags = wire.flags;
        let has = |bit| flags & bit != 0;
        let (get, set, probe) = (has(FEATURE_GET), has(FEATURE_SET), has(FEATURE_PROBE));
        let unknown = has(!(FEATURE_INDEX | FEATURE_GET | FEATURE_SET | FEATURE_PROBE));
        if unknown || !(get || set || probe) || (get && set && !probe) {
            return Err(Malformed::Flags { command, flags });
        }
        let [low, high, ..] = flags.to_le_bytes();
        Ok(Feature {
            argsz: wire.argsz,
            index: u16::from_le_bytes([low, high]),
            get,
            set,
            probe,
            data,
        })
    }

    /// Appends the request, or its reply.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let bit = |set, bit| if set { bit } else { 0 };
        let flags = u32::from(self.index)
            | bit(self.get, FEATURE_GET)
            | bit(self.set, FEATURE_SET)
            | bit(self.probe, FEATURE_PROBE);
        let argsz = self.argsz;
        put(out, &FeatureWire { argsz, flags });
        out.extend_from_slice(self.data);
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct MigWire {
    argsz: u32,
    size: u32,
}

/// Asks for migration data (vfio-user, `VFIO_USER_MIG_DATA_READ`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigDataRead {
    /// The room for the reply's payload.
    pub argsz: u32,
    /// How much data is wanted.
    pub size: u32,
}

impl MigDataRead {
    /// The request.
    ///
    /// # Errors
    ///
    /// A payload that is not 8 bytes, or an `argsz` below that.
    pub fn parse(body: &[u8]) -> Result<MigDataRead, Malformed> {
        let command = Command::MigDataRead;
        let wire: MigWire = exactly(command, body)?;
        check_argsz(command, wire.argsz, size::<MigWire>())?;
        Ok(MigDataRead {
            argsz: wire.argsz,
            size: wire.size,
        })
    }

    /// Appends the request.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (argsz, size) = (self.argsz, self.size);
        put(out, &MigWire { argsz, size });
    }
}

/// Migration data: the reply to `MIG_DATA_READ` and the request of
/// `MIG_DATA_WRITE`, which look alike (vfio-user, `VFIO_USER_MIG_DATA_WRITE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigData<'a> {
    /// The data.
    pub data: &'a [u8],
}

impl<'a> MigData<'a> {
    /// The message.
    ///
    /// # Errors
    ///
    /// Fewer than 8 bytes, an `argsz` below that, or data that is not `size`
    /// bytes.
    pub fn parse(body: &'a [u8]) -> Result<MigData<'a>, Malformed> {
        let command = Command::MigDataWrite;
        let (wire, data) = prefix::<MigWire>(command, body)?;
        check_argsz(command, wire.argsz, size::<MigWire>())?;
        if data.len() != wire.size as usize {
            return Err(Malformed::Count {
                command,
                count: u64::from(wire.size),
                got: data.len(),
            });
        }
        Ok(MigData { data })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(
            out,
            &MigWire {
                argsz: length(size_of::<MigWire>() + self.data.len()),
                size: length(self.data.len()),
            },
        );
        out.extend_from_slice(self.data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T: std::fmt::Debug>(result: Result<T, Malformed>) -> i32 {
        result.unwrap_err().errno()
    }

    #[test]
    fn a_query_is_16_bytes_with_room_for_as_many() {
        let mut out = Vec::new();
        DeviceInfoQuery.encode(&mut out);
        assert_eq!(out, bytes![16u32, 0u32, 0u32, 0u32]);
        assert_eq!(DeviceInfoQuery::parse(&out), Ok(DeviceInfoQuery));
    }

    #[test]
    fn the_crates_query_counts_the_header_in_argsz() {
        let body = bytes![32u32, 0u32, 0u32, 0u32];
        assert_eq!(DeviceInfoQuery::parse(&body), Ok(DeviceInfoQuery));
    }

    #[test]
    fn a_query_that_fills_the_other_fields_is_served() {
        let body = bytes![16u32, 2u32, 9u32, 5u32];
        assert_eq!(DeviceInfoQuery::parse(&body), Ok(DeviceInfoQuery));
    }

    #[test]
    fn a_query_without_room_for_the_reply_is_refused() {
        let long = bytes![16u32, 0u32, 0u32, 0u32, 0u8];
        let small = bytes![15u32, 0u32, 0u32, 0u32];
        for body in [&long[..], &long[..15], &[], &small] {
            assert_eq!(refused(DeviceInfoQuery::parse(body)), libc::EINVAL);
        }
    }

    #[test]
    fn info_is_16_bytes_and_says_pci() {
        let info = DeviceInfo {
            resettable: true,
            regions: 9,
            irqs: 5,
        };
        let mut out = Vec::new();
        info.encode(&mut out);
        assert_eq!(out, bytes![16u32, 3u32, 9u32, 5u32]);
        assert_eq!(DeviceInfo::parse(&out), Ok(info));
        let fixed = DeviceInfo {
            resettable: false,
            ..info
        };
        out.clear();
        fixed.encode(&mut out);
        assert_eq!(out, bytes![16u32, 2u32, 9u32, 5u32]);
    }

    #[test]
    fn info_of_another_bus_or_cut_short_is_refused() {
        let platform = bytes![16u32, 5u32, 9u32, 5u32];
        assert!(DeviceInfo::parse(&platform).is_err());
        assert!(DeviceInfo::parse(&platform[..15]).is_err());
    }

    #[test]
    fn a_feature_is_argsz_flags_and_its_own_data() {
        let body = bytes![16u32, 2u32 | 1 << 17, 3u32, 0u32];
        let feature = Feature {
            argsz: 16,
            index: 2,
            get: false,
            set: true,
            probe: false,
            data: &body[8..],
        };
        assert_eq!(Feature::parse(&body), Ok(feature));
        let mut out = Vec::new();
        feature.encode(&mut out);
        assert_eq!(out, body);
    }

    #[test]
    fn get_and_set_go_together_only_when_probed() {
        assert!(Feature::parse(&bytes![8u32, 0x7_0001u32]).is_ok());
        assert_eq!(
            refused(Feature::parse(&bytes![8u32, 0x3_0001u32])),
            libc::EINVAL
        );
    }

    #[test]
    fn a_feature_that_means_nothing_is_refused() {
        let wrong = [
            bytes![8u32, 1u32],
            bytes![8u32, 0x9_0001u32],
            bytes![7u32, 0x1_0001u32],
            bytes![8u32, 0u16],
        ];
        for body in wrong {
            assert_eq!(refused(Feature::parse(&body)), libc::EINVAL);
        }
    }

    #[test]
    fn asking_for_migration_data_is_8_bytes() {
        let body = bytes![4104u32, 4096u32];
        let read = MigDataRead {
            argsz: 4104,
            size: 4096,
        };
        assert_eq!(MigDataRead::parse(&body), Ok(read));
        let mut out = Vec::new();
        read.encode(&mut out);
        assert_eq!(out, body);
        for body in [bytes![7u32, 0u32], bytes![8u32], bytes![8u32, 0u32, 0u8]] {
            assert_eq!(refused(MigDataRead::parse(&body)), libc::EINVAL);
        }
    }

    #[test]
    fn migration_data_is_as_long_as_it_says() {
        let body = bytes![11u32, 3u32, 1u8, 2u8, 3u8];
        assert_eq!(MigData::parse(&body), Ok(MigData { data: &[1, 2, 3] }));
        let mut out = Vec::new();
        MigData { data: &[1, 2, 3] }.encode(&mut out);
        assert_eq!(out, body);
        for body in [&body[..10], &body[..7], &bytes![7u32, 0u32]] {
            assert_eq!(refused(MigData::parse(body)), libc::EINVAL);
        }
    }
}
