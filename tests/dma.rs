//! `DMA_MAP` and `DMA_UNMAP`: what is accepted, what is refused, and what a
//! device reaches through it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod wire;

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use wire::device::{Reg, result};
use wire::messages::{FILE_IO, MMAP, READABLE, WRITEABLE, map, unmap, unmap_all};
use wire::{Client, Cmd, Served, bytes, eventfd, memory, seal, wrong_kinds};

const BOTH: u32 = READABLE | WRITEABLE;

/// Has the device read 8 bytes, and returns its RESULT and VALUE.
fn reads(client: &mut Client, address: u64) -> (u64, u64) {
    client.set(Reg::ADDRESS, address);
    client.set(Reg::VALUE, 0);
    client.set(Reg::GO, 1);
    (client.get(Reg::RESULT), client.get(Reg::VALUE))
}

/// Has the device write 8 bytes, and returns its RESULT.
fn writes(client: &mut Client, address: u64, value: u64) -> u64 {
    client.set(Reg::ADDRESS, address);
    client.set(Reg::VALUE, value);
    client.set(Reg::GO, 2);
    client.get(Reg::RESULT)
}

fn at(file: &File, offset: u64) -> u64 {
    let mut value = [0; 8];
    file.read_exact_at(&mut value, offset).unwrap();
    u64::from_le_bytes(value)
}

#[test]
fn the_device_reads_and_writes_a_map_with_a_descriptor() {
    let served = Served::new();
    let mut client = served.client();
    for (flags, address) in [(BOTH, 0x10_0000), (BOTH | MMAP, 0x20_0000)] {
        let file = memory(0x3000, &[0x11; 0x3000]);
        let body = map(flags, 0x1000, address, 0x2000);
        let answer = client.done_with(Cmd::DmaMap, &body, &[file.as_fd()]);
        assert!(answer.is_empty());
        let expected = (result::DONE, 0x1111_1111_1111_1111);
        assert_eq!(reads(&mut client, address), expected);
        assert_eq!(writes(&mut client, address + 0x1ff8, 77), result::DONE);
        assert_eq!(at(&file, 0x2ff8), 77);
        assert_eq!(reads(&mut client, address + 0x1ffc).0, result::UNMAPPED);
    }
}

#[test]
fn the_device_reads_and_writes_a_map_by_file_io() {
    let served = Served::new();
    let mut client = served.client();
    let file = memory(0x3000, &[0x22; 0x3000]);
    // The offset of a file need not be a page's.
    let body = map(BOTH | FILE_IO, 0x801, 0x1000, 0x2000);
    client.done_with(Cmd::DmaMap, &body, &[file.as_fd()]);
    let expected = (result::DONE, 0x2222_2222_2222_2222);
    assert_eq!(reads(&mut client, 0x1003), expected);
    assert_eq!(writes(&mut client, 0x1007, 78), result::DONE);
    assert_eq!(at(&file, 0x808), 78);
}

#[test]
fn an_access_may_cross_from_one_map_into_the_next() {
    let served = Served::new();
    let mut client = served.client();
    let low = memory(0x1000, &[]);
    let high = memory(0x1000, &[]);
    client.map(&high, 0x2000, 0x1000);
    client.map(&low, 0x1000, 0x1000);
    let value = 0x1122_3344_5566_7788;
    assert_eq!(writes(&mut client, 0x1ffc, value), result::DONE);
    assert_eq!(at(&low, 0xff8), 0x5566_7788 << 32);
    assert_eq!(at(&high, 0), 0x1122_3344);
    assert_eq!(reads(&mut client, 0x1ffc), (result::DONE, value));
}

#[test]
fn the_device_is_held_to_what_a_map_allows() {
    let served = Served::new();
    let mut client = served.client();
    let file = memory(0x1000, &[]);
    for (flags, address) in [(0, 0), (MMAP, 0x1000), (FILE_IO, 0x2000)] {
        let body = map(READABLE | flags, 0, address, 0x1000);
        client.done_with(Cmd::DmaMap, &body, &[file.as_fd()]);
        assert_eq!(writes(&mut client, address, 1), result::DENIED);
        assert_eq!(reads(&mut client, address).0, result::DONE);
        client.done(Cmd::DmaUnmap, &unmap(address, 0x1000));
        let body = map(WRITEABLE | flags, 0, address, 0x1000);
        client.done_with(Cmd::DmaMap, &body, &[file.as_fd()]);
        assert_eq!(writes(&mut client, address, 1), result::DONE);
        assert_eq!(reads(&mut client, address).0, result::DENIED);
    }
    assert_eq!(reads(&mut client, 0x9000).0, result::UNMAPPED);
    assert_eq!(reads(&mut client, u64::MAX).0, result::UNMAPPED);
    assert_eq!(writes(&mut client, u64::MAX - 7, 1), result::UNMAPPED);
}

#[test]
fn a_map_over_another_is_refused() {
    let served = Served::new();
    let mut client = served.client();
    client.map_without(0x4000, 0x4000);
    for (address, size) in [
        (0x4000, 0x4000),
        (0x5000, 0x1000),
        (0x3000, 0x2000),
        (0x7000, 0x2000),
        (0, 0x10_0000),
    ] {
        client.refused(Cmd::DmaMap, &map(BOTH, 0, address, size), libc::EEXIST);
    }
    client.map_without(0x3000, 0x1000);
    client.map_without(0x8000, 0x1000);
}

#[test]
fn a_map_of_nothing_or_that_wraps_is_refused() {
    let served = Served::new();
    let mut client = served.client();
    let top = u64::MAX - 0xfff;
    for (offset, address, size) in [
        (0, 0, 0),
        (0, 0x1000, 0),
        (0, top, 0x1000),
        (0, 0x1000, u64::MAX),
        (top, 0, 0x1000),
        (u64::MAX, 0, 0x1000),
    ] {
        let body = map(BOTH, offset, address, size);
        client.refused(Cmd::DmaMap, &body, libc::EINVAL);
    }
    // The last page but one is fine.
    client.map_without(top - 0x1000, 0x1000);
}

#[test]
fn a_map_that_is_not_aligned_is_refused() {
    let served = Served::new();
    let mut client = served.client();
    let file = memory(0x4000, &[]);
    for (offset, address, size) in [(0, 1, 0x1000), (0, 0x800, 0x1000), (0, 0, 0x800), (0, 0, 1)] {
        let body = map(BOTH, offset, address, size);
        client.refused(Cmd::DmaMap, &body, libc::EINVAL);
        client.refused_with(Cmd::DmaMap, &body, &[file.as_fd()], libc::EINVAL);
    }
    let body = map(BOTH, 0x800, 0, 0x1000);
    client.refused_with(Cmd::DmaMap, &body, &[file.as_fd()], libc::EINVAL);
}

#[test]
fn a_map_with_flags_that_mean_nothing_is_refused() {
    let served = Served::new();
    let mut client = served.client();
    let file = memory(0x1000, &[]);
    for flags in [
        0,
        MMAP,
        FILE_IO,
        BOTH | MMAP | FILE_IO,
        BOTH | 16,
        1 << 31 | 1,
    ] {
        let body = map(flags, 0, 0, 0x1000);
        client.refused_with(Cmd::DmaMap, &body, &[file.as_fd()], libc::EINVAL);
    }
}

#[test]
fn a_map_of_the_wrong_length_or_argsz_is_refused() {
    let served = Served::new();
    let mut client = served.client();
    let body = map(BOTH, 0, 0, 0x1000);
    for length in 0..32 {
        client.refused(Cmd::DmaMap, &body[..length], libc::EINVAL);
    }
    client.refused(Cmd::DmaMap, &[&body[..], &[0]].concat(), libc::EINVAL);
    for argsz in [0u32, 31] {
        let body = [&bytes![argsz][..], &body[4..]].concat();
        client.refused(Cmd::DmaMap, &body, libc::EINVAL);
    }
}

#[test]
fn a_descriptor_that_is_no_file_is_refused() {
    let served = Served::new();
    let mut client = served.client();
    let mut kinds = wrong_kinds();
    kinds.push(("an eventfd", eventfd()));
    for (name, fd) in kinds {
        for flags in [BOTH, BOTH | MMAP, BOTH | FILE_IO] {
            println!("{name}, flags {flags}");
            let body = map(flags, 0, 0, 0x1000);
            client.refused_with(Cmd::DmaMap, &body, &[fd.as_fd()], libc::EINVAL);
        }
    }
}

#[test]
fn a_file_that_is_too_short_is_refused() {
    let served = Served::new();
    let mut client = served.client();
    let file = memory(0x1fff, &[]);
    for flags in [BOTH, BOTH | MMAP, BOTH | FILE_IO] {
        for (offset, size) in [
            (0, 0x2000),
            (0x1000, 0x1000),
            (0x1_0000, 0x1000),
            (0, 1 << 40),
        ] {
            let body = map(flags, offset, 0, size);
            client.refused_with(Cmd::DmaMap, &body, &[file.as_fd()], libc::EINVAL);
        }
        let body = map(flags, 0, 0x1000, 0x1000);
        client.done_with(Cmd::DmaMap, &body, &[file.as_fd()]);
        client.done(Cmd::DmaUnmap, &unmap_all());
    }
}

#[test]
fn a_file_that_cannot_be_written_is_refused_as_a_writeable_map() {
    let served = Served::new();
    let mut client = served.client();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("memory");
    std::fs::write(&path, [3; 0x1000]).unwrap();
    let file = File::open(&path).unwrap();
    let body = map(BOTH, 0, 0, 0x1000);
    client.refused_with(Cmd::DmaMap, &body, &[file.as_fd()], libc::EACCES);
    let body = map(READABLE, 0, 0, 0x1000);
    client.done_with(Cmd::DmaMap, &body, &[file.as_fd()]);
    assert_eq!(reads(&mut client, 0).1, 0x0303_0303_0303_0303);
    let only = OpenOptions::new().write(true).open(&path).unwrap();
    let body = map(READABLE, 0, 0x1000, 0x1000);
    client.refused_with(Cmd::DmaMap, &body, &[only.as_fd()], libc::EACCES);
    let sealed = memory(0x1000, &[]);
    seal(&sealed);
    let body = map(BOTH, 0, 0x1000, 0x1000);
    client.refused_with(Cmd::DmaMap, &body, &[sealed.as_fd()], libc::EPERM);
}

#[test]
fn a_file_that_cannot_be_written_fails_writes_by_file_io_one_by_one() {
    let served = Served::new();
    let mut client = served.client();
    let sealed = memory(0x1000, &[]);
    seal(&sealed);
    let body = map(BOTH | FILE_IO, 0, 0, 0x1000);
    client.done_with(Cmd::DmaMap, &body, &[sealed.as_fd()]);
    assert_eq!(writes(&mut client, 0, 1), result::GONE);
    assert_eq!(reads(&mut client, 0).0, result::DONE);
}

#[test]
fn descriptors_must_be_as_many_as_belong() {
    let served = Served::new();
    let mut client = served.client();
    let file = memory(0x1000, &[]);
    let body = map(BOTH, 0, 0, 0x1000);
    let two = [file.as_fd(), file.as_fd()];
    client.refused_with(Cmd::DmaMap, &body, &two, libc::EINVAL);
    client.refused_with(Cmd::DmaMap, &body, &[file.as_fd(); 253], libc::EINVAL);
    for flags in [BOTH | MMAP, BOTH | FILE_IO] {
        client.refused(Cmd::DmaMap, &map(flags, 0, 0, 0x1000), libc::EINVAL);
    }
}

#[test]
fn more_memory_than_a_process_has_room_for_is_refused() {
    let served = Served::new();
    let mut client = served.client();
    let huge = memory(1 << 62, &[]);
    for size in [1u64 << 62, 1 << 47, 1 << 46] {
        let body = map(BOTH, 0, 0, size);
        client.refused_with(Cmd::DmaMap, &body, &[huge.as_fd()], libc::ENOMEM);
    }
    // All maps together are bounded as well.
    client.map(&huge, 0, 1 << 43);
    let body = map(BOTH, 0, 1 << 43, 1 << 43);
    client.refused_with(Cmd::DmaMap, &body, &[huge.as_fd()], libc::ENOMEM);
    client.done(Cmd::DmaUnmap, &unmap(0, 1 << 43));
    client.map(&huge, 1 << 43, 1 << 43);
    // What is reached by messages or as a file takes no room.
    client.map_without(0, 1 << 43);
    let body = map(BOTH | FILE_IO, 0, 1 << 44, 1 << 60);
    client.done_with(Cmd::DmaMap, &body, &[huge.as_fd()]);
}

#[test]
fn an_unmap_matches_exactly_one_map() {
    let served = Served::new();
    let mut client = served.client();
    client.map_without(0x1000, 0x2000);
    client.map_without(0x3000, 0x1000);
    for (address, size) in [
        (0x1000, 0x1000),
        (0x2000, 0x1000),
        (0x1000, 0x3000),
        (0, 0x1000),
        (0x4000, 0x1000),
        (0x1001, 0x2000),
    ] {
        client.refused(Cmd::DmaUnmap, &unmap(address, size), libc::ENOENT);
    }
    let body = unmap(0x1000, 0x2000);
    assert_eq!(client.done(Cmd::DmaUnmap, &body), body);
    client.refused(Cmd::DmaUnmap, &body, libc::ENOENT);
    assert_eq!(reads(&mut client, 0x1000).0, result::UNMAPPED);
    assert_eq!(client.done(Cmd::DmaUnmap, &unmap_all()), unmap_all());
    client.refused(Cmd::DmaUnmap, &unmap(0x3000, 0x1000), libc::ENOENT);
    // Nothing at all is all there is.
    client.done(Cmd::DmaUnmap, &unmap_all());
}

#[test]
fn an_unmap_that_means_nothing_is_refused() {
    let served = Served::new();
    let mut client = served.client();
    client.map_without(0, 0x1000);
    for body in [
        unmap(0, 0),
        unmap(u64::MAX, 1),
        unmap(0x1000, u64::MAX),
        bytes![24u32, 4u32, 0u64, 0x1000u64],
        bytes![24u32, 2u32, 0u64, 0x1000u64],
        bytes![24u32, 2u32, 1u64, 0u64],
        bytes![23u32, 0u32, 0u64, 0x1000u64],
        bytes![24u32, 0u32, 0u64, 0x1000u64, 0u8],
        Vec::new(),
        unmap(0, 0x1000)[..23].to_vec(),
    ] {
        client.refused(Cmd::DmaUnmap, &body, libc::EINVAL);
    }
    let file = memory(0x1000, &[]);
    let body = unmap(0, 0x1000);
    client.refused_with(Cmd::DmaUnmap, &body, &[file.as_fd()], libc::EINVAL);
    client.done(Cmd::DmaUnmap, &body);
}

#[test]
fn an_unmap_that_wants_dirty_pages_is_not_supported() {
    let served = Served::new();
    let mut client = served.client();
    client.map_without(0, 0x1000);
    let bitmap = bytes![40u32, 1u32, 0u64, 0x1000u64, 4096u64, 8u64];
    client.refused(Cmd::DmaUnmap, &bitmap, libc::ENOTSUP);
    client.refused(Cmd::DmaUnmap, &bitmap[..24], libc::ENOTSUP);
    client.done(Cmd::DmaUnmap, &unmap(0, 0x1000));
}

#[test]
fn a_file_that_is_cut_short_later_fails_accesses_and_nothing_else() {
    let served = Served::new();
    let mut client = served.client();
    let file = memory(0x3000, &[9; 0x3000]);
    let other = memory(0x1000, &[8; 0x1000]);
    client.map(&file, 0, 0x3000);
    client.map(&other, 0x3000, 0x1000);
    file.set_len(0x1000).unwrap();
    assert_eq!(reads(&mut client, 0x2000).0, result::GONE);
    assert_eq!(writes(&mut client, 0x1000, 1), result::GONE);
    // What was there is not the client's memory any more either.
    assert_eq!(reads(&mut client, 0).0, result::GONE);
    assert_eq!(
        reads(&mut client, 0x3000),
        (result::DONE, u64::from_le_bytes([8; 8]))
    );
    client.in_step();
    // Mapped again at its full length, it works again.
    file.set_len(0x3000).unwrap();
    client.done(Cmd::DmaUnmap, &unmap(0, 0x3000));
    client.map(&file, 0, 0x3000);
    assert_eq!(reads(&mut client, 0x2000), (result::DONE, 0));
    assert_eq!(
        reads(&mut client, 0),
        (result::DONE, u64::from_le_bytes([9; 8]))
    );
}

#[test]
fn a_file_that_is_cut_short_later_fails_file_io_as_well() {
    let served = Served::new();
    let mut client = served.client();
    let file = memory(0x2000, &[]);
    let body = map(BOTH | FILE_IO, 0, 0, 0x2000);
    client.done_with(Cmd::DmaMap, &body, &[file.as_fd()]);
    file.set_len(0x1000).unwrap();
    assert_eq!(reads(&mut client, 0x1000).0, result::GONE);
    assert_eq!(reads(&mut client, 0).0, result::DONE);
}

#[test]
fn a_burst_of_maps_with_and_without_descriptors_keeps_each_its_own() {
    let served = Served::new();
    let mut client = served.client();
    let files: Vec<File> = (0..24u8).map(|n| memory(0x1000, &[n; 8])).collect();
    let mut ids = Vec::new();
    for (number, file) in (0u64..).zip(&files) {
        let body = map(BOTH, 0, number * 0x1000, 0x1000);
        let fds = [file.as_fd()];
        let with = if number % 3 == 1 { &[] } else { &fds[..] };
        ids.push(client.command(Cmd::DmaMap, &body, with));
        // The server takes all that there is behind a region access.
        if number % 5 == 0 {
            ids.push(client.command(Cmd::RegionRead, &wire::messages::access(0, 0, 4), &[]));
        }
    }
    for id in ids {
        let received = client.receive();
        assert_eq!((received.id(), received.flags()), (id, 1));
    }
    for number in (0..24u8).filter(|number| number % 3 != 1) {
        let expected = u64::from_le_bytes([number; 8]);
        let address = u64::from(number) * 0x1000;
        assert_eq!(reads(&mut client, address), (result::DONE, expected));
    }
}
