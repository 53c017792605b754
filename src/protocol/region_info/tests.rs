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
        read_only: Vec::new(),
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
fn read_only_areas_are_a_capability_of_their_own() {
    let alone = RegionInfo {
        mappable: false,
        areas: Vec::new(),
        read_only: vec![Area {
            offset: 0x2000,
            size: 0x1000,
        }],
        ..sparse()
    };
    let body = bytes![
        64u32,
        0xbu32,
        2u32,
        32u32,
        0x4000u64,
        0x10_0000u64, // region
        0xff00u16,
        1u16,
        0u32,
        1u32,
        0u32, // capability
        0x2000u64,
        0x1000u64
    ];
    assert_eq!(encoded(&alone, 64), body);
    assert_eq!(RegionInfo::parse(&body), Ok(alone.clone()));
    let both = RegionInfo {
        read_only: alone.read_only,
        ..sparse()
    };
    let chained = encoded(&both, 112);
    assert_eq!(chained.len(), 112);
    // The first says where the second is, and that is the last.
    assert_eq!(chained[32..40], bytes![1u16, 1u16, 80u32]);
    assert_eq!(chained[80..88], bytes![0xff00u16, 1u16, 0u32]);
    assert_eq!(RegionInfo::parse(&chained), Ok(both));
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
