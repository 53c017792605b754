//! The `vfio_user` crate as an independent peer: its client against our
//! server, and against its own server with our endpoint behind it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod wire;

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use vfio_bindings::bindings::vfio::vfio_region_info;
use vfio_user::{Client, IrqInfo, Server, ServerRegion};
use vgpu_stub::device::Register;
use vm_memory::{Bytes, MmapRegion, VolatileMemory};
use wire::device::{BAR0, BAR2, ID, Reg, result};
use wire::{PATIENCE, Served, eventfd, make, memory, rung};

/// Runs a test that must not wait for ever, as this client does after a reply
/// that is too short.
fn in_time(test: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let thread = thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    if ended.recv_timeout(PATIENCE) != Err(mpsc::RecvTimeoutError::Timeout) {
        thread.join().unwrap();
        return;
    }
    panic!("the client waits for ever");
}

fn get(client: &mut Client, register: Reg) -> u64 {
    let mut value = [0; 8];
    let row = register.row();
    let width = row.width.bytes() as usize;
    client
        .region_read(0, row.offset.into(), &mut value[..width])
        .unwrap();
    u64::from_le_bytes(value)
}

fn set(client: &mut Client, register: Reg, value: u64) {
    let row = register.row();
    let width = row.width.bytes() as usize;
    client
        .region_write(0, row.offset.into(), &value.to_le_bytes()[..width])
        .unwrap();
}

/// What both servers must do: registers, DMA, interrupts, reset.
fn works(client: &mut Client) {
    assert_eq!(get(client, Reg::ID), u64::from(ID));
    set(client, Reg::SCRATCH64, 0x1122_3344_5566_7788);
    assert_eq!(get(client, Reg::SCRATCH64), 0x1122_3344_5566_7788);
    let mut vendor = [0; 2];
    client.region_read(7, 0, &mut vendor).unwrap();
    assert_eq!(vendor, [0xf4, 0x1a]);

    let file = memory(0x2000, &[6; 0x2000]);
    client
        .dma_map(0x1000, 0x10_0000, 0x1000, file.as_raw_fd())
        .unwrap();
    set(client, Reg::ADDRESS, 0x10_0008);
    set(client, Reg::GO, 1);
    assert_eq!(get(client, Reg::VALUE), u64::from_le_bytes([6; 8]));
    client.dma_unmap(0x10_0000, 0x1000).unwrap();
    set(client, Reg::GO, 1);
    assert_eq!(get(client, Reg::RESULT), result::UNMAPPED);

    let events: Vec<OwnedFd> = (0..16).map(|_| eventfd()).collect();
    let fds: Vec<RawFd> = events.iter().map(AsRawFd::as_raw_fd).collect();
    client.set_irqs(2, 0x24, 0, 16, &fds).unwrap();
    set(client, Reg::RAISE, 15);
    assert_eq!(rung(&events[15]), 1);
    client.set_irqs(2, 0x09, 15, 1, &[]).unwrap();
    set(client, Reg::RAISE, 15);
    assert_eq!(rung(&events[15]), 0);
    client.set_irqs(2, 0x11, 15, 1, &[]).unwrap();
    assert_eq!(rung(&events[15]), 1);
    client.set_irqs(2, 0x21, 0, 0, &[]).unwrap();
    set(client, Reg::RAISE, 15);
    assert_eq!(rung(&events[15]), 0);

    client.reset().unwrap();
    assert_eq!(get(client, Reg::SCRATCH64), 0);
    assert_eq!(get(client, Reg::RESETS), 1);
}

#[test]
fn the_crates_client_works_with_our_server() {
    in_time(|| {
        let served = Served::new();
        let mut client = Client::new(&served.path("test")).unwrap();
        // It has this the wrong way round.
        assert!(!client.resettable());
        for (index, count) in [(0, 1), (1, 32), (2, 32), (3, 1), (4, 1)] {
            let info = client.get_irq_info(index).unwrap();
            assert_eq!((info.index, info.count), (index, count));
        }
        works(&mut client);
        client.shutdown().unwrap();
        // It may come again.
        let mut client = Client::new(&served.path("test")).unwrap();
        assert_eq!(get(&mut client, Reg::ID), u64::from(ID));
    });
}

#[test]
fn the_crates_client_maps_what_our_server_shares() {
    in_time(|| {
        let served = Served::new();
        let mut client = Client::new(&served.path("test")).unwrap();
        let sizes: Vec<u64> = (0..9)
            .map(|index| client.region(index).unwrap().size)
            .collect();
        assert_eq!(sizes, [BAR0, 0, BAR2, 0, 0, 0, 0, 4096, 0]);
        let sparse = &client.region(0).unwrap().sparse_areas;
        let areas: Vec<_> = sparse.iter().map(|area| (area.offset, area.size)).collect();
        assert_eq!(areas, [(0x1000, 0x1000), (0x3000, 0x1000)]);
        let shared = client.region(2).unwrap().file_offset.clone().unwrap();
        let mapped: MmapRegion<()> = MmapRegion::from_file(shared, 0x1000).unwrap();
        let slice = mapped.as_volatile_slice();
        slice.write_obj(0x55aa_u32, 8).unwrap();
        let mut read = [0; 4];
        client.region_read(2, 8, &mut read).unwrap();
        assert_eq!(u32::from_le_bytes(read), 0x55aa);
    });
}

#[test]
fn error_replies_do_not_hang_the_crates_client() {
    in_time(|| {
        let served = Served::new();
        let mut client = Client::new(&served.path("test")).unwrap();
        for length in [1, 4, 8, 1000] {
            let mut data = vec![0; length];
            client.region_read(0, BAR0, &mut data).unwrap();
            assert_eq!(data, vec![0xff; length]);
            client.region_write(1, 0, &data).unwrap();
            client.region_read(42, 0, &mut data).unwrap();
        }
        client.region_read(0, 0, &mut []).unwrap();
        client.dma_unmap(0x1000, 0x1000).unwrap();
        client.get_irq_info(9).unwrap();
        client.set_irqs(9, 0x21, 0, 1, &[]).unwrap();
        let event = eventfd();
        client.dma_map(0, 0, 0x1000, event.as_raw_fd()).unwrap();
        client
            .set_irqs(2, 0x24, 40, 1, &[event.as_raw_fd()])
            .unwrap();
        assert_eq!(get(&mut client, Reg::ID), u64::from(ID));
    });
}

/// What the crate's server wants to know of the test device.
fn crates_server(path: &Path) -> Server {
    let sizes = [BAR0, 0, BAR2, 0, 0, 0, 0, 4096, 0];
    let region = |(size, index): (u64, u32)| ServerRegion {
        region_info: vfio_region_info {
            argsz: 32,
            flags: 3,
            index,
            cap_offset: 0,
            size,
            offset: 0,
        },
        sparse_areas: Vec::new(),
        mmap_fd: None,
    };
    let irq = |(count, index)| IrqInfo {
        index,
        flags: 1,
        count,
    };
    let irqs = [1, 32, 32, 1, 1].into_iter().zip(0..).map(irq).collect();
    let regions = sizes.into_iter().zip(0..).map(region).collect();
    Server::new(path, true, irqs, regions).unwrap()
}

#[test]
fn our_endpoint_works_on_the_crates_server() {
    in_time(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let server = crates_server(&path);
        let serving = thread::spawn(move || server.run(&mut make("test")).unwrap());
        let mut client = Client::new(&path).unwrap();
        works(&mut client);
        drop(client);
        serving.join().unwrap();
    });
}

#[test]
fn our_endpoint_refuses_as_a_backend_what_it_refuses_as_a_server() {
    use vfio_user::{DmaMapFlags, DmaUnmapFlags, ServerBackend};

    let mut endpoint = make("test");
    let backend: &mut dyn ServerBackend = &mut endpoint;
    let errno = |outcome: std::io::Result<()>| outcome.unwrap_err().raw_os_error().unwrap();
    let mut data = [0; 4];
    assert_eq!(errno(backend.region_read(0, BAR0, &mut data)), libc::EINVAL);
    assert_eq!(errno(backend.region_write(9, 0, &data)), libc::EINVAL);
    let both = || DmaMapFlags::READ | DmaMapFlags::WRITE;
    for (address, size) in [(0, 0), (u64::MAX, 2), (1, 0x1000), (0, 1)] {
        let file = Some(memory(0x1000, &[]));
        let outcome = backend.dma_map(both(), 0, address, size, file);
        assert_eq!(errno(outcome), libc::EINVAL);
    }
    let short: Option<File> = Some(memory(0x800, &[]));
    assert_eq!(
        errno(backend.dma_map(both(), 0, 0, 0x1000, short)),
        libc::EINVAL
    );
    backend.dma_map(both(), 0, 0, 0x1000, None).unwrap();
    let again = backend.dma_map(both(), 0, 0, 0x1000, None);
    assert_eq!(errno(again), libc::EEXIST);
    let none = DmaUnmapFlags::empty;
    assert_eq!(errno(backend.dma_unmap(none(), 0, 0x2000)), libc::ENOENT);
    backend.dma_unmap(none(), 0, 0x1000).unwrap();
    backend.dma_unmap(DmaUnmapFlags::UNMAP_ALL, 0, 0).unwrap();
    for (index, flags, start, count) in [
        (5, 0x21, 0, 1),
        (2, 0x21, 32, 1),
        (2, 0x21, u32::MAX, 1),
        (2, 0, 0, 1),
        (2, 0x22, 0, 1),
    ] {
        let outcome = backend.set_irqs(index, flags, start, count, Vec::new());
        assert_eq!(errno(outcome), libc::EINVAL);
    }
    let files = vec![memory(0x1000, &[])];
    assert_eq!(errno(backend.set_irqs(2, 0x24, 0, 1, files)), libc::EINVAL);
    backend.reset().unwrap();
}
