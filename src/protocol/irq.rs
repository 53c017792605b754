//! Interrupts: what there are, and what the client does with them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::wire::{check_argsz, length, nothing_after, prefix, put, query, size};
use super::{Command, Malformed};

const INFO_EVENTFD: u32 = 1 << 0;
const INFO_MASKABLE: u32 = 1 << 1;
const INFO_AUTOMASKED: u32 = 1 << 2;
const INFO_NORESIZE: u32 = 1 << 3;

const DATA_NONE: u32 = 1 << 0;
const DATA_BOOL: u32 = 1 << 1;
const DATA_EVENTFD: u32 = 1 << 2;
const DATA_MASK: u32 = DATA_NONE | DATA_BOOL | DATA_EVENTFD;
const ACTION_MASK: u32 = 1 << 3;
const ACTION_UNMASK: u32 = 1 << 4;
const ACTION_TRIGGER: u32 = 1 << 5;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct InfoWire {
    argsz: u32,
    flags: u32,
    index: u32,
    count: u32,
}

/// Which interrupt type the client asks about (vfio-user,
/// `VFIO_USER_DEVICE_GET_IRQ_INFO`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IrqInfoQuery {
    /// The interrupt type.
    pub index: u32,
}

impl IrqInfoQuery {
    /// The request.
    ///
    /// # Errors
    ///
    /// Fewer than 16 bytes, an `argsz` below that, more bytes than `argsz`.
    pub fn parse(body: &[u8]) -> Result<IrqInfoQuery, Malformed> {
        let wire: InfoWire = query(Command::DeviceGetIrqInfo, body, |w: &InfoWire| w.argsz)?;
        Ok(IrqInfoQuery { index: wire.index })
    }

    /// Appends the request.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(
            out,
            &InfoWire {
                argsz: size::<InfoWire>(),
                flags: 0,
                index: self.index,
                count: 0,
            },
        );
    }
}

/// An interrupt type (vfio-user, `VFIO_USER_DEVICE_GET_IRQ_INFO`, Reply).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "they are the specification's four independent flags"
)]
pub struct IrqInfo {
    /// The interrupt type.
    pub index: u32,
    /// How many interrupts it has.
    pub count: u32,
    /// It can be signalled through eventfds.
    pub eventfd: bool,
    /// It can be masked and unmasked.
    pub maskable: bool,
    /// It masks itself when it is triggered.
    pub automasked: bool,
    /// Its interrupts are set up all at once.
    pub noresize: bool,
}

impl IrqInfo {
    /// The reply. Unknown flags are ignored.
    ///
    /// # Errors
    ///
    /// Fewer than 16 bytes.
    pub fn parse(body: &[u8]) -> Result<IrqInfo, Malformed> {
        let (wire, _) = prefix::<InfoWire>(Command::DeviceGetIrqInfo, body)?;
        let has = |bit| wire.flags & bit != 0;
        Ok(IrqInfo {
            index: wire.index,
            count: wire.count,
            eventfd: has(INFO_EVENTFD),
            maskable: has(INFO_MASKABLE),
            automasked: has(INFO_AUTOMASKED),
            noresize: has(INFO_NORESIZE),
        })
    }

    /// Appends the reply.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let bit = |set, bit| if set { bit } else { 0 };
        put(
            out,
            &InfoWire {
                argsz: size::<InfoWire>(),
                flags: bit(self.eventfd, INFO_EVENTFD)
                    | bit(self.maskable, INFO_MASKABLE)
                    | bit(self.automasked, INFO_AUTOMASKED)
                    | bit(self.noresize, INFO_NORESIZE),
                index: self.index,
                count: self.count,
            },
        );
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SetWire {
    argsz: u32,
    flags: u32,
    index: u32,
    start: u32,
    count: u32,
}

/// What happens to the interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqAction {
    /// They are masked.
    Mask,
    /// They are unmasked.
    Unmask,
    /// They are triggered.
    Trigger,
}

/// What a [`SetIrqs`] brings along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqData<'a> {
    /// Nothing: the action is done now, to every interrupt of the range.
    None,
    /// One byte for each interrupt: the action is done now where it is not 0.
    Bool(&'a [u8]),
    /// The message's fds are eventfds, to be signalled whenever the action
    /// happens; no fds take them away.
    EventFd,
}

/// Sets up, masks, unmasks or triggers interrupts (vfio-user,
/// `VFIO_USER_DEVICE_SET_IRQS`).
///
/// `start + count` does not overflow. The count is 0 only in the request that
/// disables the whole type. That type and range exist, and that the fds match,
/// is for the session to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetIrqs<'a> {
    /// The interrupt type.
    pub index: u32,
    /// The first interrupt.
    pub start: u32,
    /// How many interrupts.
    pub count: u32,
    /// What happens to them.
    pub action: IrqAction,
    /// To which of them, or through what.
    pub data: IrqData<'a>,
}

impl<'a> SetIrqs<'a> {
    /// The request.
    ///
    /// # Errors
    ///
    /// Fewer than 20 bytes, an `argsz` below that, not exactly one data and one
    /// action flag, unknown flags, a range that overflows, a count of 0 in
    /// anything but "disable all", data that is not `count` bytes for bool and
    /// none otherwise.
    pub fn parse(body: &'a [u8]) -> Result<SetIrqs<'a>, Malformed> {
        let command = Command::DeviceSetIrqs;
        let (wire, rest) = prefix::<SetWire>(command, body)?;
        check_argsz(command, wire.argsz, size::<SetWire>())?;
        let set = SetIrqs::from_fields(wire.index, wire.flags, wire.start, wire.count, rest)?;
        match set.data {
            IrqData::Bool(_) => Ok(set),
            IrqData::None | IrqData::EventFd => {
                nothing_after(command, size_of::<SetWire>(), rest)?;
                Ok(set)
            }
        }
    }

    /// The request, from its fields and the bytes of its bools.
    ///
    /// # Errors
    ///
    /// As [`SetIrqs::parse`].
    pub fn from_fields(
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        bools: &'a [u8],
    ) -> Result<SetIrqs<'a>, Malformed> {
        let command = Command::DeviceSetIrqs;
        let invalid = Malformed::Flags { command, flags };
        let action = match flags & !DATA_MASK {
            ACTION_MASK => IrqAction::Mask,
            ACTION_UNMASK => IrqAction::Unmask,
            ACTION_TRIGGER => IrqAction::Trigger,
            _ => return Err(invalid),
        };
        let data = match flags & DATA_MASK {
            DATA_NONE => IrqData::None,
            DATA_BOOL if bools.len() == count as usize => IrqData::Bool(bools),
            DATA_BOOL => {
                return Err(Malformed::Count {
                    command,
                    count: u64::from(count),
                    got: bools.len(),
                });
            }
            DATA_EVENTFD => IrqData::EventFd,
            _ => return Err(invalid),
        };
        let set = SetIrqs {
            index,
            start,
            count,
            action,
            data,
        };
        set.check_range()?;
        Ok(set)
    }

    /// Whether this disables every interrupt of the type: a count of 0 with no
    /// data.
    pub fn disables_all(&self) -> bool {
        self.count == 0
            && self.start == 0
            && self.action == IrqAction::Trigger
            && self.data == IrqData::None
    }

    fn check_range(&self) -> Result<(), Malformed> {
        let command = Command::DeviceSetIrqs;
        if self.count == 0 && !self.disables_all() {
            let field = "count";
            let value = 0;
            return Err(Malformed::Field {
                command,
                field,
                value,
            });
        }
        if self.start.checked_add(self.count).is_none() {
            return Err(Malformed::Wraps {
                command,
                start: u64::from(self.start),
                length: u64::from(self.count),
            });
        }
        Ok(())
    }

    /// Appends the request. Eventfds travel beside it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let action = match self.action {
            IrqAction::Mask => ACTION_MASK,
            IrqAction::Unmask => ACTION_UNMASK,
            IrqAction::Trigger => ACTION_TRIGGER,
        };
        let (data, bytes): (u32, &[u8]) = match self.data {
            IrqData::None => (DATA_NONE, &[]),
            IrqData::Bool(bytes) => (DATA_BOOL, bytes),
            IrqData::EventFd => (DATA_EVENTFD, &[]),
        };
        put(
            out,
            &SetWire {
                argsz: length(size_of::<SetWire>() + bytes.len()),
                flags: action | data,
                index: self.index,
                start: self.start,
                count: self.count,
            },
        );
        out.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(flags: u32, start: u32, count: u32) -> Vec<u8> {
        bytes![20u32, flags, 2u32, start, count]
    }

    #[test]
    fn a_query_is_16_bytes_with_the_index_at_8() {
        let body = bytes![16u32, 0u32, 2u32, 0u32];
        let expected = IrqInfoQuery { index: 2 };
        assert_eq!(IrqInfoQuery::parse(&body), Ok(expected));
        let mut out = Vec::new();
        expected.encode(&mut out);
        assert_eq!(out, body);
    }

    #[test]
    fn a_query_without_room_for_the_reply_is_refused() {
        let small = bytes![15u32, 0u32, 2u32, 0u32];
        let long = bytes![16u32, 0u32, 2u32, 0u32, 0u8];
        for body in [&small[..], &small[..15], &long] {
            assert_eq!(IrqInfoQuery::parse(body).unwrap_err().errno(), libc::EINVAL);
        }
    }

    #[test]
    fn an_interrupt_type_is_16_bytes_with_four_flags() {
        let info = IrqInfo {
            index: 2,
            count: 16,
            eventfd: true,
            maskable: false,
            automasked: false,
            noresize: true,
        };
        let body = bytes![16u32, 0b1001u32, 2u32, 16u32];
        let mut out = Vec::new();
        info.encode(&mut out);
        assert_eq!(out, body);
        assert_eq!(IrqInfo::parse(&body), Ok(info));
        let masks = IrqInfo::parse(&bytes![16u32, 0b0110u32, 0u32, 1u32]).unwrap();
        assert!(masks.maskable && masks.automasked && !masks.eventfd && !masks.noresize);
        assert!(IrqInfo::parse(&body[..15]).is_err());
    }

    #[test]
    fn each_pair_of_data_and_action_is_understood() {
        let actions = [
            (1 << 3, IrqAction::Mask),
            (1 << 4, IrqAction::Unmask),
            (1 << 5, IrqAction::Trigger),
        ];
        for (bit, action) in actions {
            let none = set(bit | 1, 3, 2);
            let bools = [set(bit | 2, 3, 2), vec![1, 0]].concat();
            let eventfd = set(bit | 4, 3, 2);
            let data = [
                (none, IrqData::None),
                (bools, IrqData::Bool(&[1, 0])),
                (eventfd, IrqData::EventFd),
            ];
            for (body, data) in data {
                let parsed = SetIrqs::parse(&body).unwrap();
                assert_eq!((parsed.index, parsed.start, parsed.count), (2, 3, 2));
                assert_eq!((parsed.action, parsed.data), (action, data));
                let mut out = Vec::new();
                parsed.encode(&mut out);
                assert_eq!(out[4..], body[4..]);
                assert_eq!(out[..4], bytes![length(body.len())]);
            }
        }
    }

    #[test]
    fn flags_must_be_one_data_and_one_action() {
        let trigger = 1 << 5;
        for flags in [
            0,
            1,
            trigger,
            trigger | 3,
            trigger | 5,
            0x18 | 1,
            trigger | 1 | 64,
        ] {
            let body = set(flags, 0, 1);
            let refusal = SetIrqs::parse(&body).unwrap_err();
            assert!(matches!(refusal, Malformed::Flags { .. }), "{flags:#x}");
            assert_eq!(refusal.errno(), libc::EINVAL);
        }
    }

    #[test]
    fn a_count_of_zero_disables_all_and_means_nothing_else() {
        assert!(SetIrqs::parse(&set(0x21, 0, 0)).unwrap().disables_all());
        assert!(!SetIrqs::parse(&set(0x21, 0, 1)).unwrap().disables_all());
        let wrong = [
            (0x21, 1), // a start
            (0x22, 0), // bool
            (0x24, 0), // eventfd
            (0x09, 0), // mask
            (0x11, 0), // unmask
        ];
        for (flags, start) in wrong {
            let body = set(flags, start, 0);
            assert_eq!(SetIrqs::parse(&body).unwrap_err().errno(), libc::EINVAL);
        }
    }

    #[test]
    fn a_range_that_overflows_is_refused() {
        let body = set(0x21, u32::MAX, 1);
        let refusal = SetIrqs::parse(&body).unwrap_err();
        assert!(matches!(refusal, Malformed::Wraps { .. }));
        assert_eq!(refusal.errno(), libc::EINVAL);
    }

    #[test]
    fn data_must_be_what_the_flags_say() {
        let wrong = [
            set(0x22, 0, 2),                           // bool without bytes
            [set(0x22, 0, 2), vec![1]].concat(),       // one byte of two
            [set(0x22, 0, 2), vec![1, 1, 1]].concat(), // three of two
            [set(0x21, 0, 1), vec![1]].concat(),       // none with a byte
            [set(0x24, 0, 1), vec![0; 4]].concat(),    // an fd in band
            set(0x21, 0, 1)[..19].to_vec(),
            bytes![19u32, 0x21u32, 2u32, 0u32, 1u32],
        ];
        for body in wrong {
            assert_eq!(SetIrqs::parse(&body).unwrap_err().errno(), libc::EINVAL);
        }
    }
}
