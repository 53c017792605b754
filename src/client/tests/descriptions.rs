//! Regions, eventfds and interrupts as a server describes them.

use std::os::fd::AsFd;

use super::*;
use crate::protocol::{Area, IoEventFd, IoFds, RegionInfo, Shadow, needed_argsz};

fn region_info(areas: Vec<Area>) -> RegionInfo {
    RegionInfo {
        index: 2,
        readable: true,
        writeable: true,
        mappable: true,
        size: 0x3000,
        offset: 0,
        areas,
        read_only: Vec::new(),
    }
}

const AREA: Area = Area {
    offset: 0x1000,
    size: 0x1000,
};

#[test]
fn a_description_is_asked_for_again_with_the_room_it_needs() {
    let memory = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&memory, 0x3000).unwrap();
    let theirs = memory.try_clone().unwrap();
    let mut client = agreed(move |peer| {
        for _ in 0..2 {
            let header = peer.next().unwrap();
            let mut body = Vec::new();
            let argsz = needed_argsz(&peer.message.body).unwrap();
            region_info(vec![AREA]).encode(argsz, &mut body);
            let fds = [theirs.as_fd()];
            let fds = if body.len() > 32 { &fds[..] } else { &[] };
            peer.send_with(header.reply(), &body, fds);
        }
        peer.stay();
    });
    let region = client.region(2).unwrap();
    assert_eq!(region.areas(), [AREA]);
    let map = region.map(AREA).unwrap();
    assert!(map.write(0, b"seen"));
    let mut seen = [0; 4];
    rustix::io::pread(&memory, &mut seen, 0x1000).unwrap();
    assert_eq!(&seen, b"seen");
    assert!(map.read(0xffc, &mut seen) && !map.read(0xffd, &mut seen));
}

#[test]
fn a_part_that_is_not_offered_or_not_there_is_not_mapped() {
    let file = || {
        let memory = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memory, 0x1800).unwrap();
        Some(memory)
    };
    let outside = Area {
        offset: 0x2000,
        size: 0x2000,
    };
    let endless = Area {
        offset: u64::MAX,
        size: 2,
    };
    let region = Region::new(region_info(vec![AREA, outside, endless]), file());
    let nothing = Area { size: 0, ..AREA };
    let whole = Area {
        offset: 0,
        size: 0x3000,
    };
    for area in [AREA, outside, endless, nothing, whole] {
        let error = region.map(area).unwrap_err();
        assert!(matches!(error, ClientError::Unmappable { .. }), "{error}");
    }
    let bare = Region::new(region_info(Vec::new()), None);
    assert!(bare.map(AREA).is_err());
}

#[test]
fn a_read_only_area_is_mapped_for_reading_and_only_where_it_can_be() {
    let memory = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&memory, 0x3000).unwrap();
    rustix::io::pwrite(&memory, b"seen", 0x1000).unwrap();
    let outside = Area {
        offset: 0x2000,
        size: 0x2000,
    };
    let info = RegionInfo {
        mappable: false,
        read_only: vec![AREA, outside],
        ..region_info(Vec::new())
    };
    let region = Region::new(info, Some(memory));
    assert_eq!(region.areas(), []);
    let map = region.map(AREA).unwrap();
    let mut seen = [0; 4];
    assert!(map.read(0, &mut seen));
    assert_eq!(&seen, b"seen");
    // Not a store that kills us.
    assert!(!map.write(0, &seen));
    assert!(region.map(outside).is_err());
}

#[test]
fn a_description_that_never_fits_is_given_up() {
    for argsz in [33u32, 1 << 20, u32::MAX] {
        let mut client = agreed(move |peer| {
            while let Some(header) = peer.next() {
                let mut body = argsz.to_ne_bytes().to_vec();
                body.resize(32, 0);
                peer.send(header.reply(), &body);
            }
        });
        assert_ends!(client, client.region(0), ClientError::Argsz { .. });
    }
}

#[test]
fn a_description_of_something_else_is_not_believed() {
    let mut body = Vec::new();
    region_info(Vec::new()).encode(32, &mut body);
    let mut client = answered(body);
    let region = client.region(1);
    assert_ends!(client, region, ClientError::Mismatch { field: "index", .. });
    let mut client = answered(vec![0; 16]);
    assert_ends!(client, client.device_info(), ClientError::Malformed(_));
    let mut client = answered(vec![0; 15]);
    assert_ends!(client, client.irq_info(0), ClientError::Malformed(_));
}

#[test]
fn an_eventfd_that_did_not_come_is_an_error() {
    let sub_regions = vec![IoEventFd {
        offset: 0,
        size: 4,
        fd_index: 0,
        datamatch: None,
        shadow: None,
    }];
    let mut body = Vec::new();
    let index = 0;
    IoFds { index, sub_regions }.encode(1 << 12, &mut body);
    let mut client = answered(body);
    assert_ends!(client, client.io_fds(0), ClientError::Descriptor { .. });
}

#[test]
fn a_shadow_that_did_not_come_is_an_error() {
    let sub_regions = vec![IoEventFd {
        offset: 0,
        size: 4,
        fd_index: 0,
        datamatch: None,
        shadow: Some(Shadow {
            fd_index: 1,
            offset: 0,
        }),
    }];
    let mut client = agreed(move |peer| {
        for _ in 0..2 {
            let header = peer.next().unwrap();
            let mut body = Vec::new();
            let argsz = needed_argsz(&peer.message.body).unwrap();
            let io_fds = IoFds {
                index: 0,
                sub_regions: sub_regions.clone(),
            };
            io_fds.encode(argsz, &mut body);
            let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
            peer.send_with(header.reply(), &body, &[event.as_fd()]);
        }
        peer.stay();
    });
    let io_fds = client.io_fds(0);
    assert_ends!(client, io_fds, ClientError::Descriptor { index: 1, .. });
}
