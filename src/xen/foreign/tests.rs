use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Barrier, mpsc};

use rustix::fs::MemfdFlags;

use super::*;

const MEGABYTE: u64 = 1 << 20;

/// A guest of 8 MiB, some pages of which are not there.
struct FakeGuest {
    memory: OwnedFd,
    absent: Mutex<Vec<u64>>,
    /// The first page of each mapping so far.
    mapped: Mutex<Vec<u64>>,
    /// Told before a mapping is handed out, which then waits.
    pause: Mutex<Option<(mpsc::Sender<()>, Arc<Barrier>)>>,
}

impl FakeGuest {
    fn new(absent: &[u64]) -> Arc<Self> {
        let memory = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memory, 8 * MEGABYTE).unwrap();
        Arc::new(FakeGuest {
            memory,
            absent: Mutex::new(absent.to_vec()),
            mapped: Mutex::default(),
            pause: Mutex::default(),
        })
    }

    fn mapped(&self) -> Vec<u64> {
        std::mem::take(&mut self.mapped.lock().unwrap())
    }
}

impl MapGuest for FakeGuest {
    fn map_guest(&self, first: u64, pages: usize) -> Result<ForeignPages, XenError> {
        assert_eq!((first % 256, pages), (0, 256));
        self.mapped.lock().unwrap().push(first);
        let absent = self.absent.lock().unwrap().clone();
        let is_absent = |page| page >= 8 * 256 || absent.contains(&page);
        let errors = (first..).take(pages);
        let errors = errors.map(|page| if is_absent(page) { -libc::EINVAL } else { 0 });
        let mapped = ForeignPages::of_file(self.memory.as_fd(), first, errors.collect());
        if let Some((here, go_on)) = self.pause.lock().unwrap().take() {
            here.send(()).unwrap();
            go_on.wait();
        }
        Ok(mapped)
    }
}

fn read(memory: &GuestMemory, address: u64, length: usize) -> Result<Vec<u8>, DmaError> {
    let mut data = vec![0; length];
    memory.read(address, &mut data).map(|()| data)
}

#[test]
fn what_is_written_is_read_across_pages_and_chunks() {
    let guest = FakeGuest::new(&[]);
    let memory = GuestMemory::new(guest.clone());
    let data: Vec<u8> = (0..=255).cycle().take(0x0018_0000).collect();
    memory.write(0x000f_f001, &data).unwrap();
    assert_eq!(read(&memory, 0x000f_f001, data.len()).unwrap(), data);
    // 1, 2, 4 and 8 bytes, aligned and not.
    for (address, length) in [
        (0x10_0000, 1),
        (0x10_0001, 2),
        (0x10_0004, 4),
        (0x10_0003, 4),
    ] {
        let at = usize::try_from(address - 0x000f_f001).unwrap();
        assert_eq!(
            read(&memory, address, length).unwrap(),
            data[at..at + length]
        );
    }
    memory.write(0x20_0008, &[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    memory.write(0x20_000d, &[9, 9, 9, 9, 9, 9, 9, 9]).unwrap();
    memory.write(0x20_0009, &[10, 11, 12, 13]).unwrap();
    assert_eq!(
        read(&memory, 0x20_0008, 13).unwrap(),
        [1, 10, 11, 12, 13, 9, 9, 9, 9, 9, 9, 9, 9]
    );
    assert_eq!(guest.mapped(), [0, 256, 512]);
}

#[test]
fn what_is_no_ram_is_an_error_and_is_looked_for_again() {
    let guest = FakeGuest::new(&[3, 4]);
    let memory = GuestMemory::new(guest.clone());
    let unmapped = |address| Err(DmaError::Unmapped { address });
    assert_eq!(memory.write(0x2000, &[1; 0x1000]), Ok(()));
    assert_eq!(memory.write(0x2fff, &[1; 2]), unmapped(0x2fff));
    assert_eq!(
        read(&memory, 0x3000, 4),
        Err(DmaError::Unmapped { address: 0x3000 })
    );
    assert_eq!(guest.mapped(), [0, 0, 0]);
    // The guest gets a page.
    guest.absent.lock().unwrap().clear();
    assert_eq!(memory.write(0x3000, &[2; 4]), Ok(()));
    assert_eq!(memory.write(0x4000, &[2; 4]), Ok(()));
    assert_eq!(guest.mapped(), [0]);
}

#[test]
fn a_chunk_of_nothing_is_not_kept_and_addresses_end_somewhere() {
    let guest = FakeGuest::new(&[]);
    let memory = GuestMemory::new(guest.clone());
    for address in [8 * MEGABYTE, 0xfee0_0000, END - 4] {
        assert!(read(&memory, address, 4).is_err());
    }
    assert_eq!(guest.mapped().len(), 3);
    for address in [END, u64::MAX - 3, u64::MAX] {
        assert!(read(&memory, address, 4).is_err());
        assert!(memory.write(address, &[0; 8]).is_err());
    }
    assert!(guest.mapped().is_empty());
    assert!(memory.lock().chunks.is_empty());
}

#[test]
fn the_chunk_used_least_recently_makes_room() {
    let guest = FakeGuest::new(&[]);
    let memory = GuestMemory::with_limit(guest.clone(), 2);
    for megabyte in [0, 1, 0, 2, 0, 1, 2] {
        memory.write(megabyte * MEGABYTE, &[1]).unwrap();
    }
    assert_eq!(guest.mapped(), [0, 256, 512, 256, 512]);
    assert_eq!(memory.lock().chunks.len(), 2);
}

#[test]
fn what_is_forgotten_is_mapped_again() {
    let guest = FakeGuest::new(&[]);
    let memory = GuestMemory::new(guest.clone());
    memory.write(0, &[1]).unwrap();
    memory.forget();
    assert!(memory.lock().chunks.is_empty());
    assert_eq!(read(&memory, 0, 1).unwrap(), [1]);
    assert_eq!(guest.mapped(), [0, 0]);
}

#[test]
fn what_was_being_mapped_when_all_was_forgotten_is_not_kept() {
    let guest = FakeGuest::new(&[]);
    let memory = GuestMemory::new(guest.clone());
    let (here, is_here) = mpsc::channel();
    let go_on = Arc::new(Barrier::new(2));
    *guest.pause.lock().unwrap() = Some((here, go_on.clone()));
    std::thread::scope(|scope| {
        let access = scope.spawn(|| memory.write(0, &[1]));
        is_here.recv().unwrap();
        memory.forget();
        go_on.wait();
        assert_eq!(access.join().unwrap(), Ok(()));
    });
    assert!(memory.lock().chunks.is_empty());
}

#[test]
fn an_access_under_way_ends_before_its_mapping_does() {
    let guest = FakeGuest::new(&[]);
    let memory = GuestMemory::new(guest.clone());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4u64)
            .map(|thread| {
                let memory = &memory;
                scope.spawn(move || {
                    for round in 0..500u64 {
                        let address = thread * 8 + (round % 8) * MEGABYTE;
                        memory.write(address, &round.to_le_bytes()).unwrap();
                        let mut data = [0; 8];
                        memory.read(address, &mut data).unwrap();
                        assert_eq!(u64::from_le_bytes(data), round);
                    }
                })
            })
            .collect();
        while !threads
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
        {
            memory.forget();
        }
    });
}

#[test]
fn a_function_reaches_memory_only_as_a_bus_master_and_not_in_a_reset() {
    let guest = FakeGuest::new(&[]);
    let function = BusMaster::new(Arc::new(GuestMemory::new(guest.clone())));
    let denied = Err(DmaError::Denied { address: 16 });
    assert_eq!(function.write(16, &[1]), denied);
    assert_eq!(function.read(16, &mut [0]), denied);
    function.set_enabled(true);
    assert_eq!(function.write(16, &[1]), Ok(()));
    function.suspend(true);
    assert_eq!(function.read(16, &mut [0]), Err(DmaError::Reset));
    function.suspend(false);
    let mut data = [0];
    assert_eq!(function.read(16, &mut data), Ok(()));
    assert_eq!(data, [1]);
    function.set_enabled(false);
    assert_eq!(function.read(16, &mut data), denied);
    assert_eq!(guest.mapped(), [0]);
}
