//! Tests of `region_info`, by the bytes.

use super::*;

fn bar() -> RegionInfo {
    RegionInfo {
        index: 2,
        readable: true,
        writeable: true,
        mappable: false,
        size: 0x4000,
        offset: 0,
        areas: Vec::new(),
    }
}

fn sparse() -> RegionInfo {
    let areas = vec![
        Area {
            offset: 0x1000,
            size: 0x1000,
        },
        Area {
            offset: 0x3000,
            size: 0x1000,
        },
    ];
    RegionInfo {
        mappable: true,
        offset: 0x10_0000,
        areas,
        ..bar()
    }
}

fn encoded(info: &RegionInfo, argsz: u32) -> Vec<u8> {
    let mut out = Vec::new();
    info.encode(argsz, &mut out);
    out
}

#[test]
fn a_query_is_32_bytes_with_the_index_at_8() {
    let body = bytes![32u32, 0u32, 7u32, 0u32, 0u64, 0u64];
    let expected = RegionInfoQuery {
        index: 7,
        argsz: 32,
    };
    assert_eq!(RegionInfoQuery::parse(&body), Ok(expected));
    let mut out = Vec::new();
    expected.encode(&mut out);
    assert_eq!(out, body);
}

#[test]
fn a_query_may_bring_its_whole_reply_buffer_but_no_more() {
    let mut body = bytes![80u32, 0u32, 7u32, 0u32, 0u64, 0u64];
    body.resize(80, 0);
    assert!(RegionInfoQuery::parse(&body).is_ok());
    body.push(0);
    let refusal = RegionInfoQuery::parse(&body).unwrap_err();
    assert!(matches!(refusal, Malformed::Long { most: 80, .. }));
    assert_eq!(refusal.errno(), libc::EINVAL);
}

#[test]
fn a_query_without_room_for_the_reply_is_refused() {
    let small = bytes![31u32, 0u32, 7u32, 0u32, 0u64, 0u64];
    for body in [&small[..], &small[..31], &[]] {
        let refusal = RegionInfoQuery::parse(body).unwrap_err();
        assert_eq!(refusal.errno(), libc::EINVAL);
    }
}

#[test]
fn a_plain_region_is_32_bytes() {
    let body = bytes![32u32, 3u32, 2u32, 0u32, 0x4000u64, 0u64];
    assert_eq!(encoded(&bar(), 32), body);
    assert_eq!(RegionInfo::parse(&body), Ok(bar()));
    assert!(RegionInfo::parse(&body[..31]).is_err());
}

#[test]
fn areas_are_a_sparse_mmap_capability() {
    let body = bytes![
        80u32,
        0xfu32,
        2u32,
        32u32,
        0x4000u64,
        0x10_0000u64, // region
        1u16,
        1u16,
        0u32,
        2u32,
        0u32, // capability
        0x1000u64,
        0x1000u64,
        0x3000u64,
        0x1000u64
    ];
    assert_eq!(encoded(&sparse(), 80), body);
    assert_eq!(RegionInfo::parse(&body), Ok(sparse()));
}

#[test]
fn a_reply_that_does_not_fit_is_cut_and_says_how_much_it_needs() {
    let cut = encoded(&sparse(), 79);
    let region = bytes![80u32, 0x7u32, 2u32, 0u32, 0x4000u64, 0x10_0000u64];
    assert_eq!(cut, region);
    assert_eq!(crate::protocol::needed_argsz(&cut), Some(80));
    let parsed = RegionInfo::parse(&cut).unwrap();
    assert!(parsed.areas.is_empty() && parsed.mappable);
}

#[test]
fn unknown_capabilities_are_skipped() {
    let body = bytes![
        72u32, 0xfu32, 2u32, 32u32, 0x4000u64, 0u64, // region
        99u16, 1u16, 40u32, // unknown
        1u16, 1u16, 0u32, 1u32, 0u32, 0x1000u64, 0x1000u64
    ];
    assert_eq!(RegionInfo::parse(&body).unwrap().areas.len(), 1);
}

#[test]
fn capabilities_that_loop_or_leave_the_reply_are_refused() {
    let with = |first: u32, next: u32, areas: u32| {
        bytes![
            48u32, 0xfu32, 2u32, first, 0x4000u64, 0u64, 1u16, 1u16, next, areas, 0u32
        ]
    };
    let wrong = [
        with(32, 32, 0),
        with(32, 39, 0),
        with(31, 0, 0),
        with(41, 0, 0),
        with(48, 0, 0),
        with(u32::MAX, 0, 0),
        with(32, 0, 1),
        with(32, 0, u32::MAX),
    ];
    for body in wrong {
        assert!(RegionInfo::parse(&body).is_err(), "{body:?}");
    }
    assert!(RegionInfo::parse(&with(32, 0, 0)).is_ok());
}

fn doorbells() -> IoFds {
    let any = IoEventFd {
        offset: 0x24,
        size: 4,
        fd_index: 0,
        datamatch: None,
    };
    let one = IoEventFd {
        offset: 0x28,
        fd_index: 1,
        datamatch: Some(7),
        ..any
    };
    IoFds {
        index: 0,
        sub_regions: vec![any, one],
    }
}

#[test]
fn an_io_fds_query_is_16_bytes_without_flags() {
    let body = bytes![96u32, 0u32, 3u32, 0u32];
    let expected = IoFdsQuery {
        index: 3,
        argsz: 96,
    };
    assert_eq!(IoFdsQuery::parse(&body), Ok(expected));
    let mut out = Vec::new();
    expected.encode(&mut out);
    assert_eq!(out, body);
    for body in [
        bytes![96u32, 1u32, 3u32, 0u32],
        bytes![15u32, 0u32, 3u32, 0u32],
        bytes![16u32, 0u32, 3u32, 0u32, 0u8],
        bytes![16u32, 0u32, 3u32],
    ] {
        assert_eq!(IoFdsQuery::parse(&body).unwrap_err().errno(), libc::EINVAL);
    }
}

#[test]
fn each_eventfd_takes_40_bytes() {
    let body = bytes![
        96u32, 0u32, 0u32, 2u32, // region
        0x24u64, 4u64, 0u32, 0u32, 0u32, 0u32, 0u64, // any value
        0x28u64, 4u64, 1u32, 0u32, 1u32, 0u32, 7u64 // one value
    ];
    let mut out = Vec::new();
    doorbells().encode(96, &mut out);
    assert_eq!(out, body);
    assert_eq!(IoFds::parse(&body), Ok(doorbells()));
}

#[test]
fn eventfds_that_do_not_fit_are_left_out() {
    let mut out = Vec::new();
    doorbells().encode(95, &mut out);
    assert_eq!(out, bytes![96u32, 0u32, 0u32, 0u32]);
    assert!(IoFds::parse(&out).unwrap().sub_regions.is_empty());
}

#[test]
fn sub_regions_of_another_type_or_a_later_length_are_understood() {
    let body = bytes![
        112u32, 0u32, 0u32, 2u32, // two entries of 48 bytes
        0x24u64, 4u64, 0u32, 1u32, 0u32, 0u32, 0u64, 0u64, // ioregionfd
        0x28u64, 4u64, 1u32, 0u32, 1u32, 0u32, 7u64, 0u64
    ];
    let found = IoFds::parse(&body).unwrap().sub_regions;
    assert_eq!(found, doorbells().sub_regions[1..]);
}

#[test]
fn a_count_of_sub_regions_that_is_not_there_is_refused() {
    let mut body = bytes![56u32, 0u32, 0u32, 2u32];
    body.resize(56, 0);
    assert!(IoFds::parse(&body).is_err());
    assert!(IoFds::parse(&bytes![15u32, 0u32, 0u32, 0u32]).is_err());
    assert!(IoFds::parse(&body[..15]).is_err());
}
