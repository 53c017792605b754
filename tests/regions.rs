//! Regions: what they are, and what reads and writes of them do.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod wire;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};
use wire::device::{BAR0, BAR2, ID, Reg};
use wire::messages::{access, header, query, region_info, write};
use wire::{Client, Cmd, Served, bytes, errno_reply, memory, posted};

/// A region's reply without capabilities.
fn plain(argsz: u32, flags: u32, index: u32, size: u64) -> Vec<u8> {
    bytes![argsz, flags, index, 0u32, size, 0u64]
}

fn mmap(fd: OwnedFd, size: u64) -> MmapRegion<()> {
    let file = FileOffset::new(File::from(fd), 0);
    MmapRegion::from_file(file, usize::try_from(size).unwrap()).unwrap()
}

fn u32_at(client: &mut Client, region: u32, offset: u64) -> u32 {
    u32::from_le_bytes(client.read(region, offset, 4).try_into().unwrap())
}

#[test]
fn the_device_is_a_resettable_pci_function() {
    let served = Served::new();
    let mut client = served.client();
    let answer = bytes![16u32, 3u32, 9u32, 5u32];
    assert_eq!(client.done(Cmd::GetInfo, &query(16, 0)), answer);
    // libvfio-user's and the crate's clients say more.
    let room = [&query(32, 0)[..], &[0; 16]].concat();
    assert_eq!(client.done(Cmd::GetInfo, &room), answer);
    for body in [
        Vec::new(),
        query(15, 0),
        query(16, 0)[..15].to_vec(),
        [&query(16, 0)[..], &[0]].concat(),
    ] {
        client.refused(Cmd::GetInfo, &body, libc::EINVAL);
    }
}

#[test]
fn each_region_is_described() {
    let served = Served::new();
    let mut client = served.client();
    for (index, flags, size) in [
        (1, 0u32, 0),
        (2, 7, BAR2),
        (3, 0, 0),
        (4, 0, 0),
        (5, 0, 0),
        (6, 0, 0),
        (7, 3, 4096),
        (8, 0, 0),
    ] {
        let received = client.ask(Cmd::GetRegionInfo, &region_info(32, index));
        assert_eq!(received.body(), plain(32, flags, index, size));
        assert_eq!(received.fds.len(), usize::from(index == 2));
    }
    for index in [9, 100, u32::MAX] {
        client.refused(Cmd::GetRegionInfo, &region_info(32, index), libc::EINVAL);
    }
}

#[test]
fn a_region_that_is_mapped_in_part_lists_its_areas_if_there_is_room() {
    let served = Served::new();
    let mut client = served.client();
    for argsz in [32, 79] {
        let received = client.ask(Cmd::GetRegionInfo, &region_info(argsz, 0));
        assert_eq!(received.body(), plain(80, 7, 0, BAR0));
    }
    let mut whole = bytes![80u32, 15u32, 0u32, 32u32, BAR0, 0u64];
    whole.extend(bytes![1u16, 1u16, 0u32, 2u32, 0u32]);
    whole.extend(bytes![0x1000u64, 0x1000u64, 0x3000u64, 0x1000u64]);
    for argsz in [80, 81, u32::MAX] {
        let received = client.ask(Cmd::GetRegionInfo, &region_info(argsz, 0));
        assert_eq!(received.body(), whole);
        assert_eq!(received.fds.len(), 1);
    }
    let room = [&region_info(80, 0)[..], &[0; 48]].concat();
    assert_eq!(client.done(Cmd::GetRegionInfo, &room), whole);
}

#[test]
fn a_region_query_of_the_wrong_length_or_argsz_is_refused() {
    let served = Served::new();
    let mut client = served.client();
    for body in [
        Vec::new(),
        region_info(31, 0),
        region_info(32, 0)[..31].to_vec(),
        [&region_info(32, 0)[..], &[0]].concat(),
    ] {
        client.refused(Cmd::GetRegionInfo, &body, libc::EINVAL);
    }
    let file = memory(4096, &[]);
    let body = region_info(32, 0);
    client.refused_with(Cmd::GetRegionInfo, &body, &[file.as_fd()], libc::EINVAL);
}

#[test]
fn mapped_memory_is_the_same_through_messages() {
    let served = Served::new();
    let mut client = served.client();
    for (index, size, offsets) in [
        (0, BAR0, [0x1000, 0x1ffc, 0x3008]),
        (2, BAR2, [0, 0x1234, BAR2 - 4]),
    ] {
        let mut received = client.ask(Cmd::GetRegionInfo, &region_info(256, index));
        let mapped = mmap(received.fds.remove(0), size);
        let slice = mapped.as_volatile_slice();
        for (offset, value) in offsets.into_iter().zip(1u32..) {
            let at = usize::try_from(offset).unwrap();
            client.write(index, offset, &value.to_le_bytes());
            assert_eq!(slice.read_obj::<u32>(at).unwrap(), value);
            slice.write_obj(!value, at).unwrap();
            assert_eq!(u32_at(&mut client, index, offset), !value);
        }
    }
    // Between the areas there are no registers and no memory.
    client.write(0, 0x2000, &[0; 8]);
    assert_eq!(client.read(0, 0x1ff8, 16)[8..], [0xff; 8]);
}

#[test]
fn a_client_cannot_shrink_the_memory_that_it_maps() {
    let served = Served::new();
    let mut client = served.client();
    let mut received = client.ask(Cmd::GetRegionInfo, &region_info(32, 2));
    let file = File::from(received.fds.remove(0));
    assert!(file.set_len(0).is_err());
    assert_eq!(client.read(2, BAR2 - 4, 4), [0; 4]);
}

#[test]
fn doorbells_are_offered_and_reach_the_device_when_rung() {
    let served = Served::new();
    let mut client = served.client();
    let received = client.ask(Cmd::GetRegionIoFds, &query(4096, 0));
    let mut body = bytes![96u32, 0u32, 0u32, 2u32];
    body.extend(bytes![0x10u64, 4u64, 0u32, 0u32, 0u32, 0u32, 0u64]);
    body.extend(bytes![0x14u64, 4u64, 1u32, 0u32, 1u32, 0u32, 7u64]);
    assert_eq!(received.body(), body);
    let [bell, seven] = &received.fds[..] else {
        panic!("two descriptors expected");
    };
    rustix::io::write(bell, &bytes![3u64]).unwrap();
    assert_eq!((client.get(Reg::RINGS), client.get(Reg::LAST)), (3, 0));
    rustix::io::write(seven, &bytes![1u64]).unwrap();
    assert_eq!((client.get(Reg::RINGS), client.get(Reg::LAST)), (4, 7));
    // Other values still come as accesses.
    client.set(Reg::BELL_SEVEN, 8);
    assert_eq!((client.get(Reg::RINGS), client.get(Reg::LAST)), (5, 8));
}

#[test]
fn doorbells_without_room_are_counted_only() {
    let served = Served::new();
    let mut client = served.client();
    for argsz in [16, 95] {
        let received = client.ask(Cmd::GetRegionIoFds, &query(argsz, 0));
        assert_eq!(received.body(), bytes![96u32, 0u32, 0u32, 0u32]);
        assert!(received.fds.is_empty());
    }
    // A region without doorbells has none.
    for index in [1, 2, 7, 8] {
        let answer = client.done(Cmd::GetRegionIoFds, &query(96, index));
        assert_eq!(answer, bytes![16u32, 0u32, index, 0u32]);
    }
}

#[test]
fn a_query_for_doorbells_that_means_nothing_is_refused() {
    let served = Served::new();
    let mut client = served.client();
    for body in [
        query(15, 0),
        query(16, 9),
        query(16, u32::MAX),
        bytes![16u32, 1u32, 0u32, 0u32],
        query(16, 0)[..15].to_vec(),
        [&query(16, 0)[..], &[0]].concat(),
    ] {
        client.refused(Cmd::GetRegionIoFds, &body, libc::EINVAL);
    }
}

#[test]
fn doorbells_of_a_client_that_left_ring_no_more() {
    let served = Served::new();
    let mut client = served.client();
    let old = client.ask(Cmd::GetRegionIoFds, &query(4096, 0)).fds;
    drop(client);
    let mut client = served.client();
    let new = client.ask(Cmd::GetRegionIoFds, &query(4096, 0)).fds;
    rustix::io::write(&old[0], &bytes![5u64]).unwrap();
    assert_eq!(client.get(Reg::RINGS), 0);
    rustix::io::write(&new[0], &bytes![1u64]).unwrap();
    assert_eq!(client.get(Reg::RINGS), 1);
}

#[test]
fn config_space_is_sized_by_reading_back() {
    let served = Served::new();
    let mut client = served.client();
    assert_eq!(client.read(7, 0, 4), [0xf4, 0x1a, 0x19, 0x11]);
    let sizes = [0xffff_c000u32, 0, 0xffe0_000c, 0xffff_ffff, 0, 0, 0];
    let offsets = [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x30];
    for (offset, size) in offsets.into_iter().zip(sizes) {
        let before = client.read(7, offset, 4);
        client.write(7, offset, &[0xff; 4]);
        assert_eq!(u32_at(&mut client, 7, offset), size, "at {offset:#x}");
        client.write(7, offset, &before);
        assert_eq!(client.read(7, offset, 4), before);
    }
    // As QEMU does: 256 bytes at once, and no sizing.
    assert_eq!(client.read(7, 0, 256)[..4], [0xf4, 0x1a, 0x19, 0x11]);
    assert_eq!(client.read(7, 0, 4096).len(), 4096);
}

#[test]
fn config_space_links_its_capabilities() {
    let served = Served::new();
    let mut client = served.client();
    let config = client.read(7, 0, 256);
    let mut ids = Vec::new();
    let mut at = usize::from(config[0x34]);
    while at != 0 {
        ids.push(config[at]);
        at = usize::from(config[at + 1]);
    }
    // Power management, PCI Express, MSI, MSI-X.
    assert_eq!(ids, [0x01, 0x10, 0x05, 0x11]);
}

#[test]
fn accesses_of_every_width_reach_the_registers() {
    let served = Served::new();
    let mut client = served.client();
    client.write(0, 8, &[1, 2, 3, 4, 5, 6, 7, 8]);
    for width in 1..=8u32 {
        for offset in 8..=16 - u64::from(width) {
            let expected: Vec<u8> = (1..=8)
                .skip(usize::try_from(offset - 8).unwrap())
                .take(width as usize)
                .collect();
            assert_eq!(client.read(0, offset, width), expected);
        }
    }
    // A narrow write keeps the other bytes, and one of no register's width
    // is split.
    client.write(0, 9, &[0xaa]);
    client.write(0, 0xb, &[0xbb, 0xcc, 0xdd]);
    assert_eq!(client.read(0, 8, 8), [1, 0xaa, 3, 0xbb, 0xcc, 0xdd, 7, 8]);
    client.write(0, 0x4f, &[0x11, 0x22, 0x33, 0x44, 0x0f]);
    assert_eq!(client.read(0, 0x50, 4), [0x22, 0x33, 0x44, 0xf0]);
    // A write-only register takes its whole width only.
    client.write(0, 0x10, &[1]);
    client.write(0, 0x11, &[1, 1, 1]);
    assert_eq!(client.get(Reg::RINGS), 0);
    client.write(0, 0x10, &[9, 0, 0, 0, 7, 0, 0, 0]);
    assert_eq!((client.get(Reg::RINGS), client.get(Reg::LAST)), (2, 7));
}

#[test]
fn what_is_reserved_or_write_only_reads_as_all_ones() {
    let served = Served::new();
    let mut client = served.client();
    for (offset, count) in [
        (0x10, 4),
        (0x10, 1),
        (0x2c, 4),
        (0x5c, 8),
        (0x7ff, 1),
        (0x2000, 64),
    ] {
        assert_eq!(client.read(0, offset, count), vec![0xff; count as usize]);
        client.write(0, offset + 2, &[0; 1]);
    }
    // Writes of what is read-only are dropped.
    client.write(0, 0, &[0; 4]);
    assert_eq!(client.get(Reg::ID), u64::from(ID));
}

#[test]
fn a_whole_bar_is_read_at_once() {
    let served = Served::new();
    let mut client = served.client();
    let bar = client.read(0, 0, 0x4000);
    assert_eq!(bar[..4], ID.to_le_bytes());
    assert_eq!(bar[4..8], 0x1234_5678u32.to_le_bytes());
    // The MSI-X table after a reset: every vector masked (PCI 3.0 6.8.2.7).
    assert_eq!(
        bar[0x800..0x810],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]
    );
    assert_eq!(bar[0xa00..0xa10], [0xff; 16]);
    assert_eq!(bar[0xc00..0xc08], [0; 8]);
    assert_eq!(bar[0x1000..0x2000], [0; 0x1000]);
    assert_eq!(bar[0x2000..0x3000], [0xff; 0x1000]);
}

#[test]
fn the_msix_table_is_memory_and_the_pending_bits_are_not() {
    let served = Served::new();
    let mut client = served.client();
    let entry = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0, 0, 0];
    client.write(0, 0x9f0, &entry);
    assert_eq!(client.read(0, 0x9f0, 16), entry);
    client.write(0, 0xc00, &[0xff; 8]);
    assert_eq!(client.read(0, 0xc00, 8), [0; 8]);
}

#[test]
fn an_access_outside_its_region_is_refused() {
    let served = Served::new();
    let mut client = served.client();
    for (region, offset, count) in [
        (0, BAR0, 1),
        (0, BAR0 - 1, 2),
        (0, u64::from(u32::MAX), 4),
        (0, 1 << 32, 4),
        (0, u64::MAX - 4, 4),
        (0, u64::MAX - 3, 4),
        (0, u64::MAX, 1),
        (1, 0, 1),
        (2, BAR2 - 3, 4),
        (3, 0, 4),
        (5, 0, 4),
        (6, 0, 4),
        (7, 4096, 1),
        (7, 4093, 4),
        (8, 0, 1),
        (9, 0, 4),
        (u32::MAX, 0, 4),
        (0, 0, 0x4001),
    ] {
        let body = access(region, offset, count);
        client.refused(Cmd::RegionRead, &body, libc::EINVAL);
        let body = [&body[..], &vec![0; count as usize]].concat();
        client.refused(Cmd::RegionWrite, &body, libc::EINVAL);
    }
}

#[test]
fn an_access_of_the_wrong_count_is_refused() {
    let served = Served::new();
    let mut client = served.client();
    client.refused(Cmd::RegionRead, &access(0, 0, 0), libc::EINVAL);
    client.refused(Cmd::RegionRead, &access(0, 0, u32::MAX), libc::EINVAL);
    client.refused(Cmd::RegionRead, &write(0, 0, &[0]), libc::EINVAL);
    client.refused(Cmd::RegionWrite, &access(0, 4, 0), libc::EINVAL);
    for (count, data) in [(4u32, 3usize), (4, 5), (u32::MAX, 4), (1, 0)] {
        let body = [&access(0, 4, count)[..], &vec![0; data]].concat();
        client.refused(Cmd::RegionWrite, &body, libc::EINVAL);
    }
    for length in 0..16 {
        let body = &access(0, 4, 4)[..length];
        client.refused(Cmd::RegionRead, body, libc::EINVAL);
        client.refused(Cmd::RegionWrite, body, libc::EINVAL);
    }
    assert_eq!(client.get(Reg::SCRATCH), 0x1234_5678);
    let file = memory(4096, &[]);
    let fds = [file.as_fd()];
    client.refused_with(Cmd::RegionRead, &access(0, 0, 4), &fds, libc::EINVAL);
    let body = write(0, 4, &[1; 4]);
    client.refused_with(Cmd::RegionWrite, &body, &fds, libc::EINVAL);
    assert_eq!(client.get(Reg::SCRATCH), 0x1234_5678);
}

#[test]
fn several_writes_are_done_in_order() {
    let served = Served::new();
    let mut client = served.client();
    let body = bytes![
        4u64, 4u64, 0u32, 4u32, 1u64, 4u64, 0u32, 1u32, 2u64, 0x10u64, 0u32, 4u32, 3u64, 0u64,
        2u32, 8u32, 4u64
    ];
    assert_eq!(client.done(Cmd::WriteMulti, &body), bytes![4u64]);
    assert_eq!(client.get(Reg::SCRATCH), 2);
    assert_eq!(client.get(Reg::LAST), 3);
    assert_eq!(client.read(2, 0, 8), bytes![4u64]);
    client.send(&posted(1, Cmd::WriteMulti, &body));
    assert_eq!(client.get(Reg::RINGS), 2);
    // As many as a message holds.
    let count = ((1u64 << 20) + 8) / 24;
    let mut many = bytes![count];
    for _ in 0..count {
        many.extend(bytes![0x10u64, 0u32, 4u32, 3u64]);
    }
    assert_eq!(client.done(Cmd::WriteMulti, &many), bytes![count]);
    assert_eq!(client.get(Reg::RINGS), 2 + count);
}

#[test]
fn several_writes_of_which_one_is_wrong_do_nothing() {
    let served = Served::new();
    let mut client = served.client();
    let good = bytes![4u64, 0u32, 4u32, 9u64];
    for (offset, region, count) in [
        (4u64, 0u32, 0u32),
        (4, 0, 9),
        (4, 0, u32::MAX),
        (u64::MAX, 0, 1),
        (BAR0, 0, 1),
        (BAR0 - 1, 0, 2),
        (0, 9, 4),
        (0, 1, 4),
    ] {
        let bad = bytes![offset, region, count, 0u64];
        let body = [&bytes![2u64][..], &good, &bad].concat();
        client.refused(Cmd::WriteMulti, &body, libc::EINVAL);
    }
    for body in [
        Vec::new(),
        bytes![0u64],
        bytes![1u64],
        [&bytes![0u64][..], &good].concat(),
        [&bytes![2u64][..], &good].concat(),
        [&bytes![u64::MAX][..], &good].concat(),
        [&bytes![1u64][..], &good, &[0]].concat(),
        [&bytes![1u64][..], &good[..23]].concat(),
    ] {
        client.refused(Cmd::WriteMulti, &body, libc::EINVAL);
    }
    assert_eq!(client.get(Reg::SCRATCH), 0x1234_5678);
}

#[test]
fn a_refused_read_is_as_long_as_the_read_would_have_been() {
    let served = Served::new();
    let client = served.client();
    let body = access(0, BAR0 - 2, 4);
    client.send(&[&header(5, 9, 32, 0)[..], &body].concat());
    let padding = [&body[..], &[0xff; 4]].concat();
    let expected = errno_reply(5, 9, libc::EINVAL, &padding);
    assert_eq!(client.receive().bytes, expected);
}
