//! `DEVICE_FEATURE` and migration data, which wait for devices that can save
//! their state.

mod wire;

use std::os::fd::AsFd;

use wire::{Cmd, Served, bytes, memory};

const GET: u32 = 1 << 16;
const SET: u32 = 1 << 17;
const PROBE: u32 = 1 << 18;

#[test]
fn features_are_not_supported() {
    let served = Served::new();
    let mut client = served.client();
    // Migration, migration device state, DMA logging start, stop, report.
    for feature in [1u32, 2, 6, 7, 8, 0xffff] {
        for flags in [GET, SET, PROBE, PROBE | GET, PROBE | SET, PROBE | GET | SET] {
            let body = bytes![16u32, feature | flags, 0u64];
            client.refused(Cmd::Feature, &body, libc::ENOTSUP);
            client.refused(Cmd::Feature, &body[..8], libc::ENOTSUP);
        }
    }
}

#[test]
fn a_feature_that_means_nothing_is_refused() {
    let served = Served::new();
    let mut client = served.client();
    for body in [
        Vec::new(),
        bytes![8u32],
        bytes![8u32, 1u32],
        bytes![8u32, 1u32 | GET | SET],
        bytes![8u32, 1u32 | GET | 1 << 19],
        bytes![8u32, 1u32 | GET | 1 << 31],
        bytes![7u32, 1u32 | GET],
    ] {
        client.refused(Cmd::Feature, &body, libc::EINVAL);
    }
    let file = memory(4096, &[]);
    let body = bytes![8u32, 1u32 | GET];
    client.refused_with(Cmd::Feature, &body, &[file.as_fd()], libc::EINVAL);
}

#[test]
fn migration_data_is_not_supported() {
    let served = Served::new();
    let mut client = served.client();
    for size in [0u32, 1, u32::MAX] {
        client.refused(Cmd::MigDataRead, &bytes![8u32, size], libc::ENOTSUP);
    }
    let data = [&bytes![12u32, 4u32][..], &[1; 4]].concat();
    client.refused(Cmd::MigDataWrite, &data, libc::ENOTSUP);
    client.refused(Cmd::MigDataWrite, &bytes![8u32, 0u32], libc::ENOTSUP);
}

#[test]
fn migration_data_of_the_wrong_length_is_refused() {
    let served = Served::new();
    let mut client = served.client();
    for body in [
        Vec::new(),
        bytes![7u32, 0u32],
        bytes![8u32],
        bytes![8u32, 0u32, 0u8],
    ] {
        client.refused(Cmd::MigDataRead, &body, libc::EINVAL);
    }
    for body in [
        Vec::new(),
        bytes![7u32, 0u32],
        bytes![12u32, 4u32, 0u8],
        bytes![12u32, u32::MAX, 0u32],
        bytes![8u32, 0u32, 0u8],
    ] {
        client.refused(Cmd::MigDataWrite, &body, libc::EINVAL);
    }
}
