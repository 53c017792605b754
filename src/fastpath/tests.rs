//! Both halves over real shared memory.

use std::fs::File;
use std::mem::offset_of;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags};

use super::layout::{Control, Entry, Slot};
use super::*;

/// A device of 16 bytes in region 0, and what was posted or written to it.
#[derive(Debug, Default)]
struct Device {
    bytes: [u8; 16],
    writes: Vec<u64>,
}

impl Device {
    fn range(region: u32, offset: u64, count: usize) -> Result<std::ops::Range<usize>, u32> {
        let start = usize::try_from(offset).map_err(|_| 22u32)?;
        let end = start.checked_add(count).ok_or(22u32)?;
        if region == 0 && end <= 16 {
            Ok(start..end)
        } else {
            Err(22)
        }
    }
}

impl Handler for Device {
    fn read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), u32> {
        assert!((1..=8).contains(&data.len()));
        data.copy_from_slice(&self.bytes[Device::range(region, offset, data.len())?]);
        Ok(())
    }

    fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), u32> {
        assert!((1..=8).contains(&data.len()));
        self.bytes[Device::range(region, offset, data.len())?].copy_from_slice(data);
        self.writes.push(offset);
        Ok(())
    }
}

struct Pair {
    serving: Serving,
    memfd: File,
    requesters: Vec<Requester>,
    poster: Poster,
    device: Device,
}

fn pair(slots: u16, ring: u32) -> Pair {
    let layout = Layout::new(slots, ring).unwrap();
    let (serving, fds) = Serving::new(layout).unwrap();
    let memfd = File::from(fds[0].try_clone().unwrap());
    let (requesters, poster) = open(layout, fds).unwrap();
    let device = Device::default();
    Pair {
        serving,
        memfd,
        requesters,
        poster,
        device,
    }
}

impl Pair {
    /// An access of the first requester, served.
    fn access(&mut self, access: Option<Access>) -> Result<u64, u32> {
        self.requesters[0].begin(&access.unwrap());
        assert_eq!(self.requesters[0].answer(), None);
        self.serving.serve(&mut self.device).unwrap();
        let answer = self.requesters[0].answer().unwrap();
        assert_eq!(self.requesters[0].answer(), None);
        answer
    }

    fn put(&self, at: usize, bytes: &[u8]) {
        self.memfd.write_all_at(bytes, at as u64).unwrap();
    }

    fn get(&self, at: usize) -> u64 {
        let mut word = [0; 8];
        self.memfd.read_exact_at(&mut word, at as u64).unwrap();
        u64::from_le_bytes(word)
    }
}

fn is_readable(fd: impl AsFd) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now)) == Ok(1)
}

#[test]
fn values_of_every_size_go_there_and_back() {
    let mut pair = pair(1, 4);
    for count in 1..=8 {
        let data: Vec<u8> = (0xf0..0xff).take(count).collect();
        assert_eq!(pair.access(Access::write(0, 3, &data)), Ok(0));
        let mut word = [0; 8];
        word[..count].copy_from_slice(&data);
        let read = pair.access(Access::read(0, 3, count));
        assert_eq!(read, Ok(u64::from_le_bytes(word)));
    }
}

#[test]
fn what_the_pages_cannot_carry_is_no_access() {
    assert_eq!(Access::read(0, 0, 0), None);
    assert_eq!(Access::read(0, 0, 9), None);
    assert_eq!(Access::read(0x1_0000, 0, 4), None);
    assert_eq!(Access::write(0, 0, &[]), None);
    assert_eq!(Access::write(0, 0, &[0; 9]), None);
    assert_eq!(Access::write(0x1_0000, 0, &[0]), None);
    let far = Access::read(0xffff, u64::MAX, 8).unwrap();
    assert_eq!(
        (far.region(), far.offset(), far.count()),
        (0xffff, u64::MAX, 8)
    );
}

#[test]
fn a_handlers_errno_is_the_answer_and_nothing_else_happens() {
    let mut pair = pair(1, 4);
    assert_eq!(pair.access(Access::read(1, 0, 4)), Err(22));
    assert_eq!(pair.access(Access::write(0, 13, &[1; 4])), Err(22));
    assert_eq!(pair.access(Access::read(0, u64::MAX, 8)), Err(22));
    assert_eq!(pair.access(Access::read(0, 0, 4)), Ok(0));
}

#[test]
fn a_read_pushes_what_was_posted_and_the_order_stays() {
    let mut pair = pair(2, 8);
    for offset in 0..8 {
        assert!(pair.poster.post(&Access::write(0, offset, &[7]).unwrap()));
    }
    assert!(
        !pair.poster.post(&Access::write(0, 0, &[7]).unwrap()),
        "it is full"
    );
    assert_eq!(pair.access(Access::write(0, 8, &[7])), Ok(0));
    assert_eq!(pair.device.writes, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert!(pair.poster.post(&Access::write(0, 9, &[7]).unwrap()));
    assert!(
        !pair.poster.post(&Access::read(0, 0, 1).unwrap()),
        "no post"
    );
    assert_eq!(pair.serving.drain(&mut pair.device), Ok(1));
    assert_eq!(pair.device.writes.last(), Some(&9));
}

#[test]
fn a_bad_posted_write_is_dropped() {
    let mut pair = pair(1, 4);
    assert!(pair.poster.post(&Access::write(5, 0, &[7]).unwrap()));
    assert_eq!(pair.serving.serve(&mut pair.device), Ok(1));
    assert!(pair.device.writes.is_empty());
}

#[test]
fn who_sleeps_is_woken_and_who_is_awake_is_not() {
    let mut pair = pair(1, 4);
    let read = Access::read(0, 0, 1).unwrap();
    pair.requesters[0].begin(&read);
    assert!(!is_readable(pair.serving.wake_fd()));
    assert_eq!(pair.serving.sleep(|| panic!("there is work")), None::<()>);
    pair.serving.serve(&mut pair.device).unwrap();
    assert!(!is_readable(pair.requesters[0].wake_fd()));
    assert_eq!(
        pair.requesters[0].sleep(|| panic!("it is there")),
        None::<()>
    );
    assert_eq!(pair.requesters[0].answer(), Some(Ok(0)));
    assert!(pair.serving.falls_asleep());
    pair.requesters[0].begin(&read);
    assert!(is_readable(pair.serving.wake_fd()));
    pair.serving.wakes_up();
    let (serving, device) = (&mut pair.serving, &mut pair.device);
    let served = pair.requesters[0].sleep(|| serving.serve(device));
    assert_eq!(served, Some(Ok(1)));
    assert!(!is_readable(pair.requesters[0].wake_fd()), "it was emptied");
    assert_eq!(pair.requesters[0].answer(), Some(Ok(0)));
}

#[test]
fn a_server_that_sleeps_often_can_always_be_woken() {
    let mut pair = pair(1, 4);
    let write = Access::write(0, 0, &[1]).unwrap();
    for _ in 0..2000 {
        assert!(pair.serving.falls_asleep());
        assert!(pair.poster.post(&write));
        assert!(is_readable(pair.serving.wake_fd()));
        pair.serving.wakes_up();
        assert_eq!(pair.serving.serve(&mut pair.device), Ok(1));
    }
    assert!(pair.serving.sleeps < 64);
}

#[test]
fn two_threads_and_a_server_lose_nothing() {
    let Pair {
        mut serving,
        requesters,
        poster,
        mut device,
        ..
    } = pair(2, 4);
    let poster = std::sync::Mutex::new(poster);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                if serving.serve(&mut device).unwrap() == 0 {
                    let fd = serving.wake_fd().try_clone_to_owned().unwrap();
                    let soon = Timespec {
                        tv_sec: 0,
                        tv_nsec: 1_000_000,
                    };
                    serving.sleep(|| poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&soon)));
                }
            }
        });
        let clients: Vec<_> = (0u64..)
            .zip(requesters)
            .map(|(number, mut requester)| {
                let poster = &poster;
                scope.spawn(move || {
                    let mut access = |access: Access| {
                        requester.begin(&access);
                        loop {
                            if let Some(answer) = requester.answer() {
                                return answer.unwrap();
                            }
                            let fd = requester.wake_fd().try_clone_to_owned().unwrap();
                            requester.sleep(|| poll(&mut [PollFd::new(&fd, PollFlags::IN)], None));
                        }
                    };
                    for turn in 0..300u32 {
                        let write = Access::write(0, 8 * number, &turn.to_le_bytes()).unwrap();
                        if !poster.lock().unwrap().post(&write) {
                            access(write);
                        }
                        let read = access(Access::read(0, 8 * number, 4).unwrap());
                        assert_eq!(read, u64::from(turn));
                    }
                })
            })
            .collect();
        for client in clients {
            client.join().unwrap();
        }
        is_over.store(true, Ordering::Release);
        server.join().unwrap();
    });
    assert_eq!(device.writes.len(), 600);
}

#[test]
fn a_tail_beyond_the_ring_is_a_fault() {
    for tail in [5u32, 0x8000_0000, u32::MAX] {
        let mut pair = pair(1, 4);
        pair.put(128, &tail.to_le_bytes());
        assert!(pair.serving.has_work());
        let fault = pair.serving.serve(&mut pair.device).unwrap_err();
        assert_eq!(
            fault,
            Fault::Overrun {
                tail,
                head: 0,
                ring: 4
            }
        );
        assert_eq!(fault.errno(), libc::EPROTO);
        assert!(pair.device.writes.is_empty());
    }
}

#[test]
fn nonsense_in_a_slot_is_answered_einval_once() {
    let mut pair = pair(1, 4);
    // No operation, a third one, no bytes, nine, a region beyond.
    let nonsense = [0x04_00u64, 0x04_03, 0x00_01, 0x09_01, 0xff_02, 0x0001_0401];
    for (sequence, what) in (1u64..).zip(nonsense) {
        pair.put(SLOTS_AT, &(what << 32 | sequence).to_le_bytes());
        assert_eq!(pair.serving.serve(&mut pair.device), Ok(1));
        assert_eq!(pair.get(SLOTS_AT + 32), 22 << 32 | sequence);
        assert_eq!(pair.serving.serve(&mut pair.device), Ok(0));
    }
    assert!(pair.device.writes.is_empty());
}

#[test]
fn a_server_that_lies_gives_a_client_wrong_answers_at_worst() {
    let mut pair = pair(1, 4);
    pair.requesters[0].begin(&Access::read(0, 0, 2).unwrap());
    // More than was asked for.
    pair.put(SLOTS_AT + 40, &[0xff; 8]);
    pair.put(SLOTS_AT + 32, &1u64.to_le_bytes());
    assert_eq!(pair.requesters[0].answer(), Some(Ok(0xffff)));
    // An answer that nobody asked for.
    pair.put(SLOTS_AT + 32, &2u64.to_le_bytes());
    assert_eq!(pair.requesters[0].answer(), None);
    // A head that was never there is a full ring.
    for _ in 0..4 {
        assert!(pair.poster.post(&Access::write(0, 0, &[0]).unwrap()));
    }
    for head in [5u32, 0x8000_0000, u32::MAX] {
        pair.put(256, &head.to_le_bytes());
        assert!(!pair.poster.post(&Access::write(0, 0, &[0]).unwrap()));
    }
}

/// As many as a round may carry out, whatever is written meanwhile.
fn most(layout: Layout) -> u32 {
    let slots = u32::from(layout.slots());
    layout.ring() * (slots + 1) + slots
}

#[test]
fn random_bytes_at_any_time_harm_nobody() {
    let layout = Layout::new(2, 8).unwrap();
    let seed = std::env::var("SHARED_MMIO_SEED").map_or(0x5eed, |seed| seed.parse().unwrap());
    println!("SHARED_MMIO_SEED={seed}");
    let mut faults = 0;
    for round in 0..40u64 {
        let mut pair = pair(2, 8);
        let memfd = pair.memfd.try_clone().unwrap();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = seed + round;
                while !is_over.load(Ordering::Relaxed) {
                    // xorshift64*
                    random ^= random >> 12;
                    random ^= random << 25;
                    random ^= random >> 27;
                    let word = random.wrapping_mul(0x2545_f491_4f6c_dd1d);
                    let at = (random >> 3) % 160;
                    let plain = word & 0x0000_0fff_0fff_ffff;
                    // Seldom a tail: it ends the session.
                    if at != 16 || random.is_multiple_of(64) {
                        memfd.write_all_at(&plain.to_le_bytes(), 8 * at).unwrap();
                    }
                }
            });
            for _ in 0..2000 {
                match pair.serving.serve(&mut pair.device) {
                    Ok(count) => assert!(count <= most(layout)),
                    Err(Fault::Overrun { .. }) => {
                        faults += 1;
                        break;
                    }
                }
                pair.serving.sleep(|| ());
                pair.requesters[0].begin(&Access::read(0, 0, 4).unwrap());
                let _ = pair.requesters[0].answer();
                pair.requesters[0].sleep(|| ());
                pair.poster.post(&Access::write(0, 0, &[1]).unwrap());
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }
    println!("{faults} sessions ended by a fault");
}

#[test]
fn a_client_refuses_what_is_no_shared_memory() {
    let layout = Layout::new(1, 4).unwrap();
    let fds = || Serving::new(layout).unwrap().1;
    let memfd = |size: usize, seals: SealFlags| {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memfd = rustix::fs::memfd_create("test", flags).unwrap();
        rustix::fs::ftruncate(&memfd, size as u64).unwrap();
        rustix::fs::fcntl_add_seals(&memfd, seals).unwrap();
        memfd
    };
    let with = |fd| {
        let mut fds = fds();
        fds[0] = fd;
        open(layout, fds).map(|_| ()).unwrap_err()
    };
    let size = layout.size();
    assert!(matches!(
        with(memfd(size, SealFlags::GROW)),
        OpenError::Unsealed
    ));
    assert!(matches!(
        with(tempfile::tempfile().unwrap().into()),
        OpenError::Unsealed
    ));
    let small = with(memfd(size - 1, SealFlags::SHRINK));
    assert!(matches!(small, OpenError::Small { .. }));
    let mut few = fds();
    few.pop();
    assert!(matches!(
        open(layout, few),
        Err(OpenError::Count { got: 2, needed: 3 })
    ));
    assert!(matches!(open(layout, vec![]), Err(OpenError::Count { .. })));
    let mut wrong = fds();
    wrong[2] = memfd(8, SealFlags::empty());
    assert!(matches!(
        open(layout, wrong),
        Err(OpenError::NoSocket { index: 1 })
    ));
}

#[test]
fn the_memory_can_neither_shrink_nor_grow() {
    let pair = pair(1, 4);
    assert!(pair.memfd.set_len(0).is_err());
    assert!(pair.memfd.set_len(1 << 20).is_err());
    assert!(rustix::fs::fcntl_add_seals(&pair.memfd, SealFlags::WRITE).is_err());
}

#[test]
fn counters_and_sequences_wrap() {
    let mut pair = pair(1, 4);
    let start = u32::MAX - 4;
    (pair.poster.tail, pair.poster.head) = (start, start);
    pair.serving.ring.head = start;
    pair.put(128, &start.to_le_bytes());
    pair.put(256, &start.to_le_bytes());
    pair.requesters[0].sequence = start;
    pair.serving.slots[0].taken = start;
    pair.put(SLOTS_AT, &start.to_le_bytes());
    for turn in 0..3 {
        for offset in 0..4 {
            assert!(
                pair.poster
                    .post(&Access::write(0, offset, &[turn]).unwrap())
            );
        }
        assert!(!pair.poster.post(&Access::write(0, 0, &[turn]).unwrap()));
        let expected = u32::from_le_bytes([turn; 4]);
        assert_eq!(pair.access(Access::read(0, 0, 4)), Ok(expected.into()));
        assert_eq!(pair.access(Access::read(0, 1, 1)), Ok(turn.into()));
    }
    assert_eq!(pair.device.writes.len(), 12);
}

/// The rows of the specification's layout: where a field is, and its name.
fn specified() -> Vec<(usize, String)> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/shared-mmio.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let at = cells.next()?.parse().ok()?;
        matches!(cells.next()?, "u32" | "u64").then_some(())?;
        Some((at, cells.next()?.trim_matches('`').to_owned()))
    });
    rows.collect()
}

#[test]
fn the_specification_has_the_layout_of_the_code() {
    let code = [
        (offset_of!(Control, server_sleeps), "server_sleeps"),
        (offset_of!(Control, tail), "tail"),
        (offset_of!(Control, head), "head"),
        (offset_of!(Slot, request), "request"),
        (offset_of!(Slot, offset), "offset"),
        (offset_of!(Slot, value), "value"),
        (offset_of!(Slot, client_sleeps), "client_sleeps"),
        (offset_of!(Slot, answer), "answer"),
        (offset_of!(Slot, result), "result"),
        (offset_of!(Entry, offset), "entry.offset"),
        (offset_of!(Entry, value), "entry.value"),
        (offset_of!(Entry, what), "entry.what"),
    ];
    let code = code.map(|(at, field)| (at, field.to_owned()));
    assert_eq!(specified(), code);
}

#[test]
fn a_layout_is_checked() {
    assert_eq!(Layout::new(0, 4), None);
    assert_eq!(Layout::new(65, 4), None);
    assert_eq!(Layout::new(1, 0), None);
    assert_eq!(Layout::new(1, 3), None);
    assert_eq!(Layout::new(1, 1 << 17), None);
    let ours = Layout::new(1, RING).unwrap();
    assert_eq!((ours.fds(), ours.ring_at(), ours.size()), (3, 640, 12288));
    let largest = Layout::new(MAX_SLOTS, MAX_RING).unwrap();
    assert_eq!(
        largest.size(),
        (512 + 128 * 64 + 32 * (1usize << 16)).next_multiple_of(4096)
    );
}
