//! What a VM asks for: the value of its key in xenstore.

use std::fmt;
use std::str::FromStr;

use super::face::Wanted;
use crate::devices::Choice;

/// More than any setting that means something.
const MAX: usize = 256;

/// The device that a VM asks for.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Which device, and how it is made.
    pub device: Choice,
    /// Its slot, if it is not the host's choice.
    pub addr: Option<Address>,
    /// How the guest comes to it, if that is not the host's choice.
    pub face: Option<Wanted>,
    /// What becomes of the VM without it, if that is not the host's choice.
    pub on_failure: Option<OnFailure>,
}

impl Setting {
    /// Parses a value. `None`: the VM wants no device.
    ///
    /// # Errors
    ///
    /// One line, of printable characters, that names what is wrong.
    pub fn parse(value: &[u8]) -> Result<Option<Setting>, String> {
        if value.len() > MAX {
            let size = value.len();
            return Err(format!("has {size} bytes; write at most {MAX}"));
        }
        let plain = |c: &u8| c.is_ascii_alphanumeric() || b",=.-".contains(c);
        let text = std::str::from_utf8(value).ok();
        let Some(text) = text.filter(|text| text.as_bytes().iter().all(plain)) else {
            let shown = show(&String::from_utf8_lossy(value));
            return Err(format!(
                "'{shown}' has a character other than letters, digits and , = . -; \
                 write true or a device such as stub,vectors=4"
            ));
        };
        match text {
            "" | "false" | "0" | "off" => Ok(None),
            "true" | "1" | "on" => Self::device("stub").map(Some),
            _ => Self::device(text).map(Some),
        }
    }

    fn device(text: &str) -> Result<Setting, String> {
        let (mut addr, mut face, mut on_failure) = (None, None, None);
        let known = "vectors=N, addr=0xSLOT, face=auto|ioreq|shim|vfio-user or \
            on-failure=fail|continue";
        let device = Choice::parse(text, known, |key, value| {
            let wrong = |why: String| format!("{key}={value} {why}");
            match key {
                "addr" => addr = Some(value.parse().map_err(wrong)?),
                "face" => face = Some(value.parse().map_err(wrong)?),
                "on-failure" => on_failure = Some(value.parse().map_err(wrong)?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Setting {
            device,
            addr,
            face,
            on_failure,
        })
    }
}

/// What becomes of a VM whose server does not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// It does not start either.
    Fail,
    /// It starts without the device.
    Continue,
}

impl FromStr for OnFailure {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "fail" => Ok(OnFailure::Fail),
            "continue" => Ok(OnFailure::Continue),
            _ => Err("is not fail or continue".to_owned()),
        }
    }
}

/// A place on a PCI bus, as QEMU's `addr=` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    slot: u8,
    function: u8,
}

impl Address {
    /// 0xc: the first that none of XCP-ng's own devices takes.
    pub(super) const DEFAULT: Address = Address {
        slot: 0xc,
        function: 0,
    };
}

impl Address {
    /// 2 to 31.
    pub fn slot(self) -> u8 {
        self.slot
    }

    /// 0 to 7.
    pub fn function(self) -> u8 {
        self.function
    }
}

impl FromStr for Address {
    type Err = String;

    /// `0xSLOT` or `0xSLOT.FUNCTION`; slots 0 and 1 are the machine's own.
    fn from_str(text: &str) -> Result<Self, String> {
        let (slot, function) = text.split_once('.').unwrap_or((text, "0"));
        let digits = slot.strip_prefix("0x").filter(|digits| {
            (1..=2).contains(&digits.len()) && digits.bytes().all(|c| c.is_ascii_hexdigit())
        });
        let slot = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let function = match function.as_bytes() {
            [digit @ b'0'..=b'7'] => Some(digit - b'0'),
            _ => None,
        };
        match (slot, function) {
            (Some(slot @ 2..=0x1f), Some(function)) => Ok(Address { slot, function }),
            _ => Err("is not a PCI slot from 0x2 to 0x1f".to_owned()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.function {
            0 => write!(f, "{:#x}", self.slot),
            function => write!(f, "{:#x}.{function}", self.slot),
        }
    }
}

/// Untrusted text for a message: on one line and short.
pub(super) fn show(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(40)
        .flat_map(char::escape_default)
        .collect();
    if text.chars().nth(40).is_some() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::face::Face;

    #[test]
    fn no_device_has_four_spellings() {
        for value in ["", "false", "0", "off"] {
            assert!(Setting::parse(value.as_bytes()).unwrap().is_none());
        }
    }

    #[test]
    fn a_device_is_taken_with_what_it_asks_for() {
        for value in ["true", "1", "on", "stub"] {
            let setting = Setting::parse(value.as_bytes()).unwrap().unwrap();
            assert_eq!(setting.device.to_string(), "stub");
            assert!(setting.addr.is_none() && setting.on_failure.is_none());
            assert!(setting.face.is_none());
        }
        let all = b"stub,vectors=4,addr=0x1f,face=shim,on-failure=continue";
        let setting = Setting::parse(all).unwrap().unwrap();
        assert_eq!(setting.device.to_string(), "stub,vectors=4");
        assert_eq!(setting.addr.unwrap().to_string(), "0x1f");
        assert_eq!(setting.face, Some(Wanted::Only(Face::Shim)));
        assert_eq!(setting.on_failure, Some(OnFailure::Continue));
        let setting = Setting::parse(b"doorbell").unwrap().unwrap();
        assert_eq!(setting.device.to_string(), "doorbell");
    }

    #[test]
    fn what_is_wrong_is_named_on_one_short_line() {
        let wrong: [(&[u8], &str); 20] = [
            (b"yes please", "has a character"),
            (b"stub,vectors=\"4\"", "has a character"),
            (b"stub;reboot", "has a character"),
            (b"$(reboot)", "has a character"),
            (b"stub\nreboot", "has a character"),
            (b"stub\0", "has a character"),
            (b"stub,socket-path=/etc/passwd", "has a character"),
            (b"\xff\xfe", "has a character"),
            (b"gpu", "there is no device 'gpu'"),
            (b"TRUE", "there is no device 'TRUE'"),
            (b"stub,colour=red", "'colour=red' is not known"),
            (b"stub,fd=3", "'fd=3' is not known"),
            (b"stub,vectors", "is not KEY=VALUE"),
            (b"stub,", "is not KEY=VALUE"),
            (b"stub,vectors=0", "out of range"),
            (b"stub,vectors=65", "out of range"),
            (
                b"stub,vectors=99999999999999999999",
                "not a number of vectors",
            ),
            (b"stub,addr=1", "addr=1 is not a PCI slot"),
            (b"stub,on-failure=hang", "on-failure=hang is not"),
            (b"stub,face=best", "face=best is not auto, ioreq,"),
        ];
        for (value, why) in wrong {
            let error = Setting::parse(value).unwrap_err();
            assert!(error.contains(why), "{value:?}: {error}");
            assert!(
                error.bytes().all(|c| (b' '..=b'~').contains(&c)),
                "{error:?}"
            );
        }
        let error = Setting::parse(&vec![b'a'; 100_000]).unwrap_err();
        assert_eq!(error, "has 100000 bytes; write at most 256");
        let error = Setting::parse(b"doorbell,vectors=1").unwrap_err();
        assert!(error.contains("takes no vectors"), "{error}");
    }
}
