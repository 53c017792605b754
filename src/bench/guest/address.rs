//! Where a function is on the bus.

use std::fmt;
use std::str::FromStr;

use crate::bench::Trouble;

/// The place of a PCI function as Linux writes it: `0000:00:04.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl FromStr for Address {
    type Err = Trouble;

    /// Reads `0000:00:04.0`, or `00:04.0` for domain 0, as `lspci` prints it.
    fn from_str(text: &str) -> Result<Self, Trouble> {
        parse(text).ok_or_else(|| {
            Trouble(format!(
                "{text} is no place of a PCI function; lspci -D prints them, like 0000:00:04.0"
            ))
        })
    }
}

fn parse(text: &str) -> Option<Address> {
    let (rest, function) = text.split_once('.')?;
    let mut parts = rest.rsplit(':');
    let device = number(parts.next()?, 2)?;
    let bus = number(parts.next()?, 2)?;
    let domain = parts.next().map_or(Some(0), |domain| number(domain, 8))?;
    let function = number(function, 1)?;
    // PCI 3.0 3.2.2.3.4: 32 devices with 8 functions.
    let fits = parts.next().is_none() && device < 32 && function < 8;
    fits.then_some(Address {
        domain,
        bus: u8::try_from(bus).ok()?,
        device: u8::try_from(device).ok()?,
        function: u8::try_from(function).ok()?,
    })
}

/// Up to so many hexadecimal digits and nothing else.
fn number(text: &str, digits: usize) -> Option<u32> {
    let plain = text.len() <= digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Address {
            domain,
            bus,
            device,
            function,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_with_and_without_its_domain() {
        for (text, expected) in [
            ("0000:00:04.0", "0000:00:04.0"),
            ("00:1F.7", "0000:00:1f.7"),
            ("4:0.1", "0000:04:00.1"),
            ("10000:e1:00.0", "10000:e1:00.0"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), expected);
        }
    }

    #[test]
    fn what_is_no_place_never_becomes_a_path() {
        for text in [
            "",
            "04",
            "00:04",
            "00:20.0",
            "00:04.8",
            "00:04.00",
            "100:00.0",
            "0:0:0:0.0",
            "../00:04.0",
            "+0:04.0",
            "00:04.0/",
            ":.0",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
