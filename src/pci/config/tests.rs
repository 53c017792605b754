use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::pci::fixture::{BAR0_4K, IDENTITY, MSI, MSIX, bar, with_bar, with_capabilities};
use crate::pci::{BarKind, Msi, spec};

/// One of everything: each kind of BAR and of capability.
fn full() -> ConfigSpace {
    let bars = [
        Some(BAR0_4K),
        Some(bar(BarKind::Memory64, 1 << 33)),
        None,
        Some(bar(BarKind::Io, 32)),
        None,
        None,
    ];
    let capabilities = [
        Capability::PowerManagement,
        Capability::PciExpress,
        Capability::Msix(MSIX),
        Capability::Msi(MSI),
        Capability::Vendor(b"vgpu".to_vec()),
    ];
    ConfigSpace::new(&IDENTITY, &bars, Some(InterruptPin::A), &capabilities).unwrap()
}

fn image(space: &ConfigSpace) -> Vec<u8> {
    let mut image = vec![0; space.size()];
    space.read(0, &mut image);
    image
}

fn read_u16(space: &ConfigSpace, offset: usize) -> u16 {
    let mut bytes = [0; 2];
    space.read(offset, &mut bytes);
    u16::from_le_bytes(bytes)
}

fn read_u32(space: &ConfigSpace, offset: usize) -> u32 {
    let mut bytes = [0; 4];
    space.read(offset, &mut bytes);
    u32::from_le_bytes(bytes)
}

/// A write that must not ask for anything.
fn write(space: &mut ConfigSpace, offset: usize, data: &[u8]) {
    assert_eq!(space.write(offset, data), ConfigEffects::default());
}

fn find(space: &ConfigSpace, id: u8) -> usize {
    let image = image(space);
    let mut offset = usize::from(image[CAPABILITIES_POINTER]);
    while image[offset] != id {
        offset = usize::from(image[offset + 1]);
        assert_ne!(offset, 0, "no capability {id:#x}");
    }
    offset
}

#[test]
fn the_header_is_laid_out_byte_by_byte() {
    let image = image(&with_capabilities(&[Capability::PowerManagement]).unwrap());
    #[rustfmt::skip]
    let expected = [
        0xf4, 0x1a, 0x11, 0x11, 0x00, 0x00, 0x10, 0x00, 0x01, 0x00, 0x00, 0x12, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xf4, 0x1a, 0x00, 0x11,
        0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0x00, 0x01, 0, 0,
        0x01, 0x00, 0x03, 0x00, 0x08, 0x00, 0x00, 0x00,
    ];
    assert_eq!(image[..expected.len()], expected);
    assert!(image[expected.len()..].iter().all(|byte| *byte == 0));
}

#[test]
fn config_space_is_extended_only_with_pci_express() {
    assert_eq!(with_capabilities(&[]).unwrap().size(), 256);
    let express = with_capabilities(&[Capability::PciExpress]).unwrap();
    assert_eq!(express.size(), 4096);
    assert_eq!(read_u32(&express, spec::extended::FIRST), 0);
}

#[test]
fn capabilities_are_chained_in_order_at_aligned_offsets() {
    let image = image(&full());
    let mut offset = usize::from(image[CAPABILITIES_POINTER]);
    let mut chain = Vec::new();
    while offset != 0 {
        chain.push((offset, image[offset]));
        offset = usize::from(image[offset + 1]);
    }
    let expected = [
        (0x40, 0x01),
        (0x48, 0x10),
        (0x84, 0x11),
        (0x90, 0x05),
        (0xa8, 0x09),
    ];
    assert_eq!(chain, expected);
    assert_eq!(&image[0xaa..0xaf], b"\x07vgpu");
}

#[test]
fn a_function_without_capabilities_has_no_list() {
    let space = with_capabilities(&[]).unwrap();
    assert_eq!(read_u16(&space, STATUS) & status::CAPABILITIES_LIST, 0);
    assert_eq!(read_u32(&space, CAPABILITIES_POINTER), 0);
}

#[test]
fn all_ones_written_to_a_bar_read_back_as_its_size() {
    let prefetchable = BarLayout {
        prefetchable: true,
        ..bar(BarKind::Memory64, 1 << 36)
    };
    let cases = [
        (bar(BarKind::Memory32, 16), 0xffff_fff0, 0),
        (bar(BarKind::Memory32, 4096), 0xffff_f000, 0),
        (bar(BarKind::Memory32, 1 << 31), 0x8000_0000, 0),
        (bar(BarKind::Memory64, 16), 0xffff_fff4, 0xffff_ffff),
        (bar(BarKind::Memory64, 1 << 32), 0x0000_0004, 0xffff_ffff),
        (bar(BarKind::Memory64, 1 << 63), 0x0000_0004, 0x8000_0000),
        (prefetchable, 0x0000_000c, 0xffff_fff0),
        (bar(BarKind::Io, 4), 0xffff_fffd, 0),
        (bar(BarKind::Io, 256), 0xffff_ff01, 0),
    ];
    for (layout, lower, upper) in cases {
        let mut space = with_bar(layout).unwrap();
        write(&mut space, spec::BAR0, &[0xff; 8]);
        assert_eq!(read_u32(&space, spec::BAR0), lower, "{layout:?}");
        assert_eq!(read_u32(&space, spec::BAR0 + 4), upper, "{layout:?}");
    }
}

#[test]
fn the_address_of_a_bar_leaves_out_its_flags() {
    let mut space = full();
    write(&mut space, spec::BAR0, &0xfebf_1fff_u32.to_le_bytes());
    write(&mut space, spec::BAR0 + 4, &0x6_0000_000f_u64.to_le_bytes());
    write(&mut space, spec::BAR0 + 12, &0xc03f_u32.to_le_bytes());
    assert_eq!(space.bar_address(0), Some(0xfebf_1000));
    assert_eq!(space.bar_address(1), Some(0x6_0000_0000));
    assert_eq!(space.bar_address(3), Some(0xc020));
    for absent in [2, 4, 5, 6, usize::MAX] {
        assert_eq!(space.bar_address(absent), None);
    }
}

#[test]
fn command_bits_are_writable_where_the_function_has_what_they_control() {
    let mut everything = full();
    write(&mut everything, COMMAND, &[0xff; 2]);
    assert_eq!(everything.command(), 0x0547);
    let mut nothing = ConfigSpace::new(&IDENTITY, &[None; 6], None, &[]).unwrap();
    write(&mut nothing, COMMAND, &[0xff; 2]);
    assert_eq!(nothing.command(), 0x0144);
}

#[test]
fn interrupt_status_follows_the_function_and_not_the_guest() {
    let mut space = full();
    space.set_interrupt_status(true);
    write(&mut space, STATUS, &[0xff; 2]);
    assert_eq!(read_u16(&space, STATUS), 0x0018);
    space.set_interrupt_status(false);
    assert_eq!(read_u16(&space, STATUS), 0x0010);
}

#[test]
fn status_errors_clear_where_a_one_is_written() {
    let mut space = full();
    space.registers.update_u16(STATUS, 0xf900, 0xf900);
    write(&mut space, STATUS, &0x8100_u16.to_le_bytes());
    assert_eq!(read_u16(&space, STATUS), 0x7810);
}

#[test]
fn the_interrupt_line_is_writable_and_the_pin_is_not() {
    let mut space = full();
    write(&mut space, INTERRUPT_LINE, &[11, 4]);
    assert_eq!(read_u16(&space, INTERRUPT_LINE), 0x010b);
}

#[test]
fn a_function_level_reset_is_reported_once_and_reads_zero() {
    let mut space = full();
    let control = find(&space, capability::PCI_EXPRESS) + express::DEVICE_CONTROL;
    let effects = space.write(control, &0x8810_u16.to_le_bytes());
    assert!(effects.function_level_reset);
    assert_eq!(read_u16(&space, control), 0x0810);
    assert!(space.write(control + 1, &[0x80]).function_level_reset);
    write(&mut space, control, &[0x00]);
}

#[test]
fn the_same_bit_elsewhere_is_no_function_level_reset() {
    let mut space = with_capabilities(&[Capability::PowerManagement]).unwrap();
    write(&mut space, 0, &[0xff; 256]);
}

#[test]
fn only_supported_power_states_can_be_entered() {
    let mut space = full();
    let control = find(&space, capability::POWER_MANAGEMENT) + pm::CONTROL;
    for (written, expected) in [(1, 8), (3, 0xb), (2, 0xb), (1, 0xb), (0, 8)] {
        write(&mut space, control, &[written, 0]);
        assert_eq!(read_u16(&space, control), expected, "state {written}");
    }
}

#[test]
fn msix_can_be_enabled_and_masked_and_not_moved() {
    let mut space = full();
    let msix = find(&space, capability::MSIX);
    write(&mut space, msix + spec::msix::CONTROL, &[0xff; 10]);
    assert_eq!(read_u16(&space, msix + spec::msix::CONTROL), 0xc00f);
    assert_eq!(read_u32(&space, msix + spec::msix::TABLE), 0x800);
    assert_eq!(read_u32(&space, msix + spec::msix::PBA), 0xc00);
}

#[test]
fn msi_registers_are_writable_up_to_the_pending_bits() {
    let mut space = full();
    let msi = find(&space, capability::MSI);
    write(&mut space, msi + spec::msi::CONTROL, &[0xff; 22]);
    assert_eq!(read_u16(&space, msi + spec::msi::CONTROL), 0x01f7);
    assert_eq!(read_u32(&space, msi + spec::msi::ADDRESS), 0xffff_fffc);
    assert_eq!(read_u32(&space, msi + spec::msi::ADDRESS_UPPER), u32::MAX);
    assert_eq!(read_u32(&space, msi + spec::msi::DATA_64), 0xffff);
    assert_eq!(read_u32(&space, msi + 16), 0xff, "eight mask bits");
    assert_eq!(read_u32(&space, msi + 20), 0, "pending bits");
}

#[test]
fn msi_without_masking_ends_after_the_data() {
    let msi = Msi {
        vectors: 1,
        per_vector_masking: false,
    };
    let mut space = with_capabilities(&[Capability::Msi(msi), Capability::PciExpress]).unwrap();
    write(&mut space, 0x40, &[0xff; 16]);
    assert_eq!(read_u16(&space, 0x42), 0x00f1);
    assert_eq!(read_u32(&space, 0x4c), 0xffff);
    assert_eq!(find(&space, capability::PCI_EXPRESS), 0x50);
}

#[test]
fn reads_beyond_the_end_are_all_ones() {
    let space = with_capabilities(&[]).unwrap();
    let mut data = [0; 4];
    space.read(254, &mut data);
    assert_eq!(data, [0, 0, 0xff, 0xff]);
    space.read(usize::MAX, &mut data);
    assert_eq!(data, [0xff; 4]);
}

proptest! {
    #[test]
    fn no_write_changes_a_read_only_bit_and_a_reset_restores_all(
        writes in vec((0_usize..4200, vec(any::<u8>(), 0..600)), 0..16),
    ) {
        let mut space = full();
        let (before, fixed) = (image(&space), space.fixed());
        for (offset, data) in &writes {
            let _ = space.write(*offset, data);
        }
        prop_assert_eq!(space.fixed(), fixed);
        let after = image(&space);
        // Said once more without the masks: identity, pin, list and MSI-X place.
        for range in [0..4, 8..12, 0x2c..0x38, 0x3d..0x44, 0x48..0x50, 0x88..0x92, 0xa8..4096] {
            prop_assert_eq!(&after[range.clone()], &before[range]);
        }
        space.reset();
        prop_assert_eq!(image(&space), before);
    }

    #[test]
    fn any_access_at_all_is_answered(
        offset in prop_oneof![0_usize..5000, any::<usize>()],
        data in vec(any::<u8>(), 0..5000),
    ) {
        let mut space = full();
        let _ = space.write(offset, &data);
        let mut read = data;
        space.read(offset, &mut read);
        let inside = space.size().saturating_sub(offset).min(read.len());
        prop_assert!(read[inside..].iter().all(|byte| *byte == 0xff));
    }

    #[test]
    fn a_write_does_the_same_in_one_piece_as_in_bytes(
        offset in 0_usize..300,
        data in vec(any::<u8>(), 0..16),
    ) {
        let (mut whole, mut pieces) = (full(), full());
        let effects = whole.write(offset, &data);
        let mut reset = false;
        for (at, byte) in data.iter().enumerate() {
            reset |= pieces.write(offset + at, &[*byte]).function_level_reset;
        }
        prop_assert_eq!(effects.function_level_reset, reset);
        prop_assert_eq!(image(&whole), image(&pieces));
    }
}
