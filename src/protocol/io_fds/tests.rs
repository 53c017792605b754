//! Tests of `io_fds`, by the bytes.

use super::*;

fn doorbells() -> IoFds {
    let any = IoEventFd {
        offset: 0x24,
        size: 4,
        fd_index: 0,
        datamatch: None,
        shadow: None,
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
fn with_a_shadow_each_entry_is_as_libvfio_user_has_it() {
    let mut bells = doorbells();
    bells.sub_regions[0].shadow = Some(Shadow {
        fd_index: 2,
        offset: 0x40,
    });
    let body = bytes![
        112u32, 0u32, 0u32, 2u32, // two entries of 48 bytes
        0x24u64, 4u64, 0u32, 2u32, 0u32, 2u32, 0x40u64, 0u64, // with a shadow
        0x28u64, 4u64, 1u32, 0u32, 1u32, 0u32, 0u64, 7u64 // without
    ];
    let mut out = Vec::new();
    bells.encode(112, &mut out);
    assert_eq!(out, body);
    assert_eq!(IoFds::parse(&body), Ok(bells.clone()));
    out.clear();
    bells.encode(111, &mut out);
    assert_eq!(out, bytes![112u32, 0u32, 0u32, 0u32]);
}

#[test]
fn sub_regions_of_another_type_or_a_later_length_are_understood() {
    let body = bytes![
        128u32, 0u32, 0u32, 2u32, // two entries of 56 bytes
        0x24u64, 4u64, 0u32, 1u32, 0u32, 0u32, 0u64, 0u64, 0u64, // ioregionfd
        0x28u64, 4u64, 1u32, 0u32, 1u32, 0u32, 0u64, 7u64, 0u64
    ];
    let found = IoFds::parse(&body).unwrap().sub_regions;
    assert_eq!(found, doorbells().sub_regions[1..]);
    // The specification's entries have no room for a shadow.
    let body = bytes![
        56u32, 0u32, 0u32, 1u32, 0x24u64, 4u64, 0u32, 2u32, 0u32, 0u32, 0u64
    ];
    assert!(IoFds::parse(&body).unwrap().sub_regions.is_empty());
}

#[test]
fn a_count_of_sub_regions_that_is_not_there_is_refused() {
    let mut body = bytes![56u32, 0u32, 0u32, 2u32];
    body.resize(56, 0);
    assert!(IoFds::parse(&body).is_err());
    assert!(IoFds::parse(&bytes![15u32, 0u32, 0u32, 0u32]).is_err());
    assert!(IoFds::parse(&body[..15]).is_err());
}
