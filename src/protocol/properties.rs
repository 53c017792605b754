//! Properties of the codec: what is encoded is parsed as itself, and no bytes
//! at all make a `parse` panic.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}

/// Start and length that do not overflow, the length at least 1.
fn range() -> impl Strategy<Value = (u64, u64)> {
    (1..=u64::MAX).prop_flat_map(|length| (0..=u64::MAX - length, Just(length)))
}

fn access(most: u32) -> impl Strategy<Value = RegionAccess> {
    (1..=most, any::<u32>()).prop_flat_map(|(count, region)| {
        (0..=u64::MAX - u64::from(count)).prop_map(move |offset| RegionAccess {
            offset,
            region,
            count,
        })
    })
}

fn capabilities() -> impl Strategy<Value = Capabilities> {
    let twin =
        (any::<bool>(), option::of(any::<u32>())).prop_map(|(supported, fd_index)| TwinSocket {
            supported,
            fd_index,
        });
    let migration = (option::of(1..=u64::MAX), option::of(any::<u64>())).prop_map(
        |(pgsize, max_bitmap_size)| Migration {
            pgsize,
            max_bitmap_size,
        },
    );
    let shared_mmio = (
        1..=u32::MAX,
        1..=u32::MAX,
        option::of(1..=u32::MAX),
        option::of(any::<u32>()),
    )
        .prop_map(|(version, slots, ring, fd_index)| SharedMmio {
            version,
            slots,
            ring,
            fd_index,
        });
    (
        option::of(any::<u32>()),
        option::of(1..=u32::MAX),
        option::of(1..=u32::MAX),
        option::of(1..=u64::MAX),
        option::of(twin),
        option::of(any::<bool>()),
        option::of(migration),
        option::of(shared_mmio),
    )
        .prop_map(
            |(fds, xfer, maps, pages, twin, multi, migration, shared_mmio)| Capabilities {
                read_only_areas: multi,
                shadow_doorbells: multi.map(|multi| !multi),
                max_msg_fds: fds,
                max_data_xfer_size: xfer,
                max_dma_maps: maps,
                pgsizes: pages,
                twin_socket: twin,
                write_multiple: multi,
                migration,
                shared_mmio,
            },
        )
}

/// Bytes that look like a payload: small integers, so that `argsz`, counts and
/// flags are often right, and then anything.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let small = prop_oneof![0..64u32, any::<u32>()];
    (vec(small, 0..24), vec(any::<u8>(), 0..40)).prop_map(|(words, tail)| {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend(tail);
        bytes
    })
}

proptest! {
    #[test]
    fn a_header_comes_back(
        id: u16, command: u16, size in 16..=u32::MAX, no_reply: bool,
        reply: bool, errno in option::of(any::<u32>()),
    ) {
        let kind = if reply { Kind::Reply } else { Kind::Command };
        let error = errno.filter(|_| reply);
        let header = Header { id, command, size, kind, no_reply, error };
        prop_assert_eq!(Header::parse(&header.encode()), Ok(header));
    }

    #[test]
    fn any_16_bytes_are_a_header_or_refused(bytes: [u8; 16]) {
        if let Ok(header) = Header::parse(&bytes) {
            prop_assert_eq!(Header::parse(&header.encode()), Ok(header));
        }
    }

    #[test]
    fn a_proposal_comes_back(major: u16, minor: u16, capabilities in capabilities()) {
        let proposal = Proposal { major, minor, capabilities };
        let body = encoded(|out| proposal.encode(out));
        prop_assert_eq!(Proposal::parse(&body), Ok(proposal));
    }

    #[test]
    fn a_map_comes_back(
        (address, size) in range(), offset: u64, access in 1..=3, extension in 0..=2,
    ) {
        let map = DmaMap {
            access: DmaAccess { read: access & 1 != 0, write: access & 2 != 0 },
            mmap: extension == 1,
            file_io: extension == 2,
            offset: offset.min(u64::MAX - size),
            address,
            size,
        };
        prop_assert_eq!(DmaMap::parse(&encoded(|out| map.encode(out))), Ok(map));
        let unmap = DmaUnmap::Range { address, size };
        prop_assert_eq!(DmaUnmap::parse(&encoded(|out| unmap.encode(out))), Ok(unmap));
    }

    #[test]
    fn a_transfer_comes_back(address in 0..u64::MAX / 2, data in vec(any::<u8>(), 0..40)) {
        let transfer = DmaTransfer { address, count: data.len() as u64 };
        let fixed = encoded(|out| transfer.encode(out));
        prop_assert_eq!(DmaTransfer::parse(&fixed), Ok(transfer));
        prop_assert_eq!(DmaTransfer::parse_write_reply(&fixed), Ok(Some(transfer)));
        let body = encoded(|out| DmaTransfer::encode_write(address, &data, out));
        prop_assert_eq!(DmaTransfer::parse_write(&body), Ok((transfer, &data[..])));
        prop_assert_eq!(DmaTransfer::parse_read_reply(&body), Ok((transfer, &data[..])));
    }

    #[test]
    fn device_and_interrupt_info_come_back(
        regions: u32, irqs: u32, index: u32, count: u32, flags: [bool; 5],
    ) {
        let [resettable, eventfd, maskable, automasked, noresize] = flags;
        let info = DeviceInfo { resettable, regions, irqs };
        prop_assert_eq!(DeviceInfo::parse(&encoded(|out| info.encode(out))), Ok(info));
        let info = IrqInfo { index, count, eventfd, maskable, automasked, noresize };
        prop_assert_eq!(IrqInfo::parse(&encoded(|out| info.encode(out))), Ok(info));
        let query = IrqInfoQuery { index };
        prop_assert_eq!(IrqInfoQuery::parse(&encoded(|out| query.encode(out))), Ok(query));
    }

    #[test]
    fn a_region_comes_back_whole_or_cut(
        index: u32, flags: [bool; 3], size: u64, offset: u64,
        areas in vec((any::<u64>(), any::<u64>()), 0..5),
        read_only in vec((any::<u64>(), any::<u64>()), 0..5), argsz in 32..300u32,
    ) {
        let [readable, writeable, mappable] = flags;
        let [areas, read_only] = [areas, read_only].map(|areas| {
            areas.into_iter().map(|(offset, size)| Area { offset, size }).collect()
        });
        let info = RegionInfo { index, readable, writeable, mappable, size, offset, areas, read_only };
        let body = encoded(|out| info.encode(argsz, out));
        let parsed = RegionInfo::parse(&body).unwrap();
        prop_assert_eq!(needed_argsz(&body), Some(info.full_size()));
        if info.full_size() <= argsz {
            prop_assert_eq!(body.len(), info.full_size() as usize);
            prop_assert_eq!(parsed, info);
        } else {
            prop_assert_eq!(body.len(), 32);
            prop_assert_eq!(parsed, RegionInfo { areas: Vec::new(), read_only: Vec::new(), ..info });
        }
        let query = RegionInfoQuery { index, argsz };
        prop_assert_eq!(RegionInfoQuery::parse(&encoded(|out| query.encode(out))), Ok(query));
    }

    #[test]
    fn eventfds_come_back_whole_or_not_at_all(
        index: u32, argsz in 16..300u32,
        subs in vec((any::<u64>(), any::<u64>(), any::<u32>(), option::of(any::<u64>())), 0..6),
        shadows in vec(option::of((any::<u32>(), any::<u64>())), 6),
    ) {
        let sub_regions = subs
            .into_iter()
            .zip(shadows)
            .map(|((offset, size, fd_index, datamatch), shadow)| {
                let shadow = shadow.map(|(fd_index, offset)| Shadow { fd_index, offset });
                IoEventFd { offset, size, fd_index, datamatch, shadow }
            })
            .collect();
        let fds = IoFds { index, sub_regions };
        let parsed = IoFds::parse(&encoded(|out| fds.encode(argsz, out))).unwrap();
        let whole = fds.full_size() <= argsz;
        prop_assert_eq!(parsed, if whole { fds } else { IoFds { index, sub_regions: Vec::new() } });
        let query = IoFdsQuery { index, argsz };
        prop_assert_eq!(IoFdsQuery::parse(&encoded(|out| query.encode(out))), Ok(query));
    }

    #[test]
    fn setting_interrupts_comes_back(
        index: u32, start in 0..1000u32, bools in vec(any::<u8>(), 1..20), action in 0..3usize, data in 0..3usize,
    ) {
        let action = [IrqAction::Mask, IrqAction::Unmask, IrqAction::Trigger][action];
        let data = [IrqData::None, IrqData::Bool(&bools), IrqData::EventFd][data];
        let count = u32::try_from(bools.len()).unwrap();
        let set = SetIrqs { index, start, count, action, data };
        let body = encoded(|out| set.encode(out));
        prop_assert_eq!(SetIrqs::parse(&body), Ok(set));
    }

    #[test]
    fn an_access_comes_back(access in access(100), byte: u8) {
        let fixed = encoded(|out| access.encode(out));
        prop_assert_eq!(RegionAccess::parse(&fixed), Ok(access));
        prop_assert_eq!(RegionAccess::parse_write_reply(&fixed), Ok(access));
        let data = vec![byte; access.count as usize];
        let body = [&fixed[..], &data].concat();
        prop_assert_eq!(RegionAccess::parse_write(&body), Ok((access, &data[..])));
        prop_assert_eq!(RegionAccess::parse_read_reply(&body), Ok((access, &data[..])));
    }

    #[test]
    fn several_writes_come_back(writes in vec((access(8), any::<[u8; 8]>()), 1..20)) {
        let body = encoded(|out| WriteMulti::encode_writes(&writes, out));
        let parsed = WriteMulti::parse(&body).unwrap();
        prop_assert_eq!(parsed.iter().collect::<Vec<_>>(), writes);
        prop_assert_eq!(encoded(|out| parsed.encode(out)), body);
    }

    #[test]
    fn features_and_migration_data_come_back(
        argsz in 8..=u32::MAX, index: u16, mode in 0..4usize, size: u32, data in vec(any::<u8>(), 0..40),
    ) {
        let (get, set, probe) =
            [(true, false, false), (false, true, false), (false, false, true), (true, true, true)][mode];
        let feature = Feature { argsz, index, get, set, probe, data: &data };
        let body = encoded(|out| feature.encode(out));
        prop_assert_eq!(Feature::parse(&body), Ok(feature));
        let read = MigDataRead { argsz, size };
        prop_assert_eq!(MigDataRead::parse(&encoded(|out| read.encode(out))), Ok(read));
        let data = MigData { data: &data };
        let body = encoded(|out| data.encode(out));
        prop_assert_eq!(MigData::parse(&body), Ok(data));
    }

    #[test]
    fn any_payload_is_a_request_or_refused_with_an_errno(body in payload(), max_data: u32) {
        for command in Command::ALL {
            match Request::parse(command, &body) {
                Ok(request) => prop_assert_eq!(request.command(), command),
                Err(refusal) => prop_assert!(refusal.errno() > 0),
            }
            let size = reply_size(command, &body, max_data);
            prop_assert!(size <= 32 + max_data as usize);
        }
    }

    #[test]
    fn any_payload_is_a_reply_or_refused(body in payload()) {
        let _ = RegionAccess::parse_read_reply(&body);
        let _ = RegionAccess::parse_write_reply(&body);
        let _ = WriteMultiReply::parse(&body);
        let _ = DeviceInfo::parse(&body);
        let _ = IrqInfo::parse(&body);
        let _ = RegionInfo::parse(&body);
        let _ = IoFds::parse(&body);
        let _ = DmaTransfer::parse(&body);
        let _ = DmaTransfer::parse_write(&body);
        let _ = DmaTransfer::parse_write_reply(&body);
        let _ = DmaTransfer::parse_read_reply(&body);
        let _ = needed_argsz(&body);
    }

    #[test]
    fn any_version_text_is_a_proposal_or_refused(text in ".{0,200}", nul: bool) {
        let mut body = bytes![0u16, 0u16];
        body.extend_from_slice(text.as_bytes());
        if nul {
            body.push(0);
        }
        let _ = Proposal::parse(&body);
    }

    #[test]
    fn any_value_of_a_known_key_is_taken_or_named(
        key in 0..7usize, value in r#"(-?[0-9]{1,25}(\.[0-9])?|true|null|"[a-z]{0,3}"|\{"supported":[a-z0-9]{1,5}\}|\[\]|\{\})"#,
    ) {
        let keys = ["max_msg_fds", "max_data_xfer_size", "max_dma_maps", "pgsizes",
            "twin_socket", "write_multiple", "migration"];
        let data = format!("{{\"capabilities\":{{\"{}\":{value}}}}}\0", keys[key]);
        let body = [&bytes![0u16, 0u16][..], data.as_bytes()].concat();
        if let Ok(proposal) = Proposal::parse(&body) {
            let again = encoded(|out| proposal.encode(out));
            prop_assert_eq!(Proposal::parse(&again), Ok(proposal));
        }
    }
}
