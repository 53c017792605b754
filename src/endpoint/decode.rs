//! Which addresses a function answers to, for faces that have to know: on
//! vfio-user the client keeps that to itself.

use super::Endpoint;
use crate::pci::spec::command;

/// A memory BAR that answers to guest addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodedBar {
    /// The BAR, 0 to 5: its region's number.
    pub number: u32,
    /// The guest address of its first byte, not 0.
    pub address: u64,
    /// Its size in bytes. The last byte's address does not wrap.
    pub size: u64,
}

impl Endpoint {
    /// The memory BARs that answer to guest addresses now: none unless the
    /// guest allows it in the Command register, and none at an address that
    /// was not given yet or that is all ones, by which a guest finds out the
    /// size (PCI 3.0 6.2.5.1).
    pub fn bars(&self) -> impl Iterator<Item = DecodedBar> {
        let is_on = self.command() & command::MEMORY_SPACE != 0;
        let bars = self.bars.iter().flatten().filter(move |_| is_on);
        bars.filter_map(|bar| {
            let number = bar.number();
            let address = self.config.bar_address(number as usize)?;
            let last = address.checked_add(bar.size - 1)?;
            let is_unset = address == 0 || last == u64::from(u32::MAX) || last == u64::MAX;
            (!is_unset).then_some(DecodedBar {
                number,
                address,
                size: bar.size,
            })
        })
    }

    /// The Command register; its bits are in
    /// [`spec::command`](crate::pci::spec::command).
    pub fn command(&self) -> u16 {
        self.config.command()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::{Kind, Options};
    use crate::endpoint::CONFIG_REGION;
    use crate::pci::spec::{BAR0, COMMAND};

    fn write(endpoint: &mut Endpoint, register: usize, value: u32) {
        let bytes = value.to_le_bytes();
        endpoint
            .write(CONFIG_REGION, register as u64, &bytes)
            .unwrap();
    }

    #[test]
    fn a_bar_answers_where_and_while_the_guest_says_so() {
        let stub = Kind::find("stub").unwrap().builder(Options::default());
        let mut endpoint = Endpoint::new(stub.unwrap()).unwrap();
        let at = |endpoint: &Endpoint| endpoint.bars().map(|bar| bar.address).next();
        write(&mut endpoint, BAR0, 0xf000_1000);
        assert_eq!(at(&endpoint), None);
        write(&mut endpoint, COMMAND, command::MEMORY_SPACE.into());
        assert_eq!(at(&endpoint), Some(0xf000_1000));
        for (written, decoded) in [
            (0, None),
            (u32::MAX, None),
            (0xffff_f000, None),
            (0xffff_e000, Some(0xffff_e000)),
            (0x1234, Some(0x1000)),
        ] {
            write(&mut endpoint, BAR0, written);
            assert_eq!(at(&endpoint), decoded, "{written:#x}");
        }
        write(&mut endpoint, COMMAND, 0);
        assert_eq!(at(&endpoint), None);
    }
}
