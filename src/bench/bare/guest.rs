//! The guest: its code, the table that tells it what to do, and what it
//! leaves in its memory. `guest.s` is the code.
//!
//! It begins as firmware, for who has none, or as a program in an ELF file.
#![allow(
    unsafe_code,
    reason = "the guest's code is assembled into this program's data"
)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::bench::Trouble;

/// How much memory the guest has.
pub(in crate::bench) const MEMORY: u64 = 128 << 20;

/// What it writes to `isa-debug-exit`, at port 0xf4.
pub(in crate::bench) const EXIT_VALUE: i32 = 0x2a;

/// Accesses of a sample of [`Operation::Reads`] and [`Operation::Writes`].
pub(in crate::bench) const BATCH: u32 = 16;

/// Where its code is, and how large; the table follows.
const CODE: u64 = 0x10_0000;
const CODE_SIZE: usize = 0x400;
/// Whether it waits.
const HOLD: u64 = CODE + CODE_SIZE as u64 + 16;
/// Where the rows are, and how large each is.
const ROWS: u32 = 0x10_0420;
const ROW_SIZE: u32 = 32;

/// Where it begins in [`Task::program`], and how large that is.
const ENTRY: u64 = CODE + 0x1000;
const ENTRY_SIZE: usize = 0x60;

/// QEMU takes firmware in pieces of so many bytes.
const FIRMWARE_SIZE: usize = 0x1_0000;
/// How many of them are not empty: the last.
const FIRMWARE_CODE: usize = 0x100;

/// Where its results are: status, culprit, calibration, its end, next record.
const RESULTS: u64 = 0x100_0000;
const RESULTS_SIZE: usize = 64;
/// From the results to the first record.
const RECORDS: u64 = RESULTS + RESULTS_SIZE as u64;
/// Of a record, in words of 4 bytes: row, samples, counter (2), value.
const RECORD_HEADER: u64 = 5;

/// The frequency of ACPI's PM timer, in Hz.
const PM_TIMER: f64 = 3_579_545.0;

// It is x86's, whatever this program was built for; but only here is there an
// assembler for it.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(include_str!("guest.s"), options(att_syntax));

/// The guest's code, its entry's and its firmware's; empty if this program has
/// none.
#[cfg(target_arch = "x86_64")]
fn code() -> [&'static [u8]; 3] {
    unsafe extern "C" {
        #[link_name = "vgpu_stub_bench_guest"]
        static GUEST: [u8; CODE_SIZE];
        #[link_name = "vgpu_stub_bench_entry"]
        static ENTRY: [u8; ENTRY_SIZE];
        #[link_name = "vgpu_stub_bench_firmware"]
        static FIRMWARE: [u8; FIRMWARE_CODE];
    }
    // SAFETY: `guest.s` fills exactly so many bytes after these labels, in a
    // section that nobody writes.
    unsafe { [&GUEST, &ENTRY, &FIRMWARE] }
}

#[cfg(not(target_arch = "x86_64"))]
fn code() -> [&'static [u8]; 3] {
    [&[]; 3]
}

/// The firmware, for `-bios`; `None` if this program has none.
pub(in crate::bench) fn firmware() -> Option<Vec<u8>> {
    let [_, _, code] = code();
    let mut image = vec![0; FIRMWARE_SIZE - code.len()];
    image.extend(code);
    (!code.is_empty()).then_some(image)
}

/// What a row does to its register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(in crate::bench) enum Operation {
    /// Nothing: there is no register.
    Nothing = 0,
    /// To the hypervisor and back, by CPUID: there is no register either.
    Exit = 1,
    /// One read of 4 bytes.
    Read = 2,
    /// One write of 4 bytes; the last one writes 1.
    Write = 3,
    /// [`BATCH`] reads.
    Reads = 4,
    /// [`BATCH`] writes.
    Writes = 5,
    /// One read of 4 bytes of configuration space, through its two ports; the
    /// target's offset is there, and its BAR is not looked at.
    Config = 6,
}

impl Operation {
    /// How many accesses a sample is.
    pub(in crate::bench) fn batch(self) -> u32 {
        match self {
            Operation::Reads | Operation::Writes => BATCH,
            _ => 1,
        }
    }
}

/// A register of a device on bus 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench) struct Target {
    /// The function's vendor and device id.
    pub(in crate::bench) id: (u16, u16),
    /// Which of those with this id, from 0.
    pub(in crate::bench) nth: u32,
    /// The BAR's number.
    pub(in crate::bench) bar: u32,
    /// The offset of 4 bytes in the BAR.
    pub(in crate::bench) offset: u32,
}

/// What the guest shall do.
#[derive(Debug)]
pub(in crate::bench) struct Task {
    /// For each row, what and where; the target of nothing is not looked at.
    pub(in crate::bench) rows: Vec<(Operation, Option<Target>)>,
    /// Slices of each row.
    pub(in crate::bench) slices: u32,
    /// Ticks that a slice should take.
    pub(in crate::bench) goal: u32,
    /// Whether it waits, when it has found its devices, for
    /// [`Memory::release`].
    pub(in crate::bench) hold: bool,
}

impl Task {
    /// The most samples in a slice: so many that all fit.
    fn most(&self) -> u32 {
        let slices = self.rows.len() as u64 * u64::from(self.slices);
        // One more, as a slice is not kept while its size is sought.
        let words = (MEMORY - RECORDS) / 4 / (slices + 1);
        let samples = words.saturating_sub(RECORD_HEADER).max(1);
        // Within the memory, which 32 bits address.
        1 << samples.ilog2().min(17)
    }

    /// The code with its table; `None` if this program has none.
    fn image(&self) -> Option<Vec<u8>> {
        let mut image = code()[0].to_vec();
        if image.is_empty() {
            return None;
        }
        let rows = u32::try_from(self.rows.len()).ok()?;
        let mut word = |word: u32| image.extend(word.to_le_bytes());
        let end = ROWS + rows * ROW_SIZE;
        let head = [self.slices.max(1), self.goal, self.most(), end];
        let hold = [u32::from(self.hold), 0, 0, 0];
        head.into_iter().chain(hold).for_each(&mut word);
        for (operation, target) in &self.rows {
            let row = target.map_or([0; 4], |target| {
                let (vendor, device) = target.id;
                let id = u32::from(device) << 16 | u32::from(vendor);
                // PCI 3.0, 6.1: BARs are at 0x10 and after.
                [id, target.nth, 0x10 + 4 * target.bar, target.offset]
            });
            let rest = [*operation as u32, 0, 0, 0];
            row.into_iter().chain(rest).for_each(&mut word);
        }
        Some(image)
    }

    /// The code with its table as an ELF file of one segment, for a loader that
    /// enters it in flat protected mode; `None` if this program has none, or
    /// there are more rows than have room.
    pub(in crate::bench) fn program(&self) -> Option<Vec<u8>> {
        // ELF 1.2, 1-3 and 2-2: a header, one program header, then what they
        // are about.
        const HEADER: u32 = 52;
        const PROGRAM_HEADER: u32 = 32;
        const RWX: u32 = 7;
        let [code, entry] = [CODE, ENTRY].map(|at| u32::try_from(at).unwrap_or_default());
        let mut image = self.image()?;
        let padding = usize::try_from(ENTRY - CODE).ok()?;
        if image.len() > padding {
            return None;
        }
        image.resize(padding, 0);
        image.extend(self::code()[1]);
        let size = u32::try_from(image.len()).ok()?;
        let start = HEADER + PROGRAM_HEADER;
        let mut file = b"\x7fELF\x01\x01\x01".to_vec();
        file.resize(16, 0);
        // i386, executable; version, entry, program headers; no sections, no
        // flags; the headers' sizes, one program header.
        let header = [3 << 16 | 2, 1, entry, HEADER, 0, 0];
        let sizes = [PROGRAM_HEADER << 16 | HEADER, 1, 0];
        let segment = [1, start, code, code, size, size, RWX, 1];
        let words = header.into_iter().chain(sizes).chain(segment);
        file.extend(words.flat_map(u32::to_le_bytes));
        file.extend(image);
        Some(file)
    }
}

impl Task {
    /// Why a guest that ended so could not do it.
    pub(in crate::bench) fn explain(&self, status: Status) -> Trouble {
        let missing = |row: usize, what: &str| {
            let target = self.rows.get(row).and_then(|row| row.1);
            let Some(target) = target else {
                return Trouble("the guest failed in a row of its own".to_owned());
            };
            let (vendor, device) = target.id;
            Trouble(format!(
                "the guest sees no {what} {vendor:04x}:{device:04x}"
            ))
        };
        match status {
            Status::NoDevice(row) => missing(row, "device"),
            Status::NoBar(row) => missing(row, "memory BAR of"),
            Status::Nonsense(word) => Trouble(format!("the guest wrote {word:#x} as its status")),
            Status::Absent => Trouble("the guest did not begin".to_owned()),
            Status::Working => Trouble("the guest ended early".to_owned()),
            Status::Done => Trouble("the guest did all".to_owned()),
        }
    }
}

/// How the guest ended, or where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench) enum Status {
    /// It did not begin.
    Absent,
    /// It is at work.
    Working,
    /// It did all.
    Done,
    /// It found no such device for this row.
    NoDevice(usize),
    /// The device of this row has no such memory BAR, or a larger one than it
    /// has room for.
    NoBar(usize),
    /// It wrote something else.
    Nonsense(u32),
}

/// What a guest has measured in one slice.
#[derive(Debug, PartialEq)]
pub(in crate::bench) struct Record {
    /// The number of the row.
    pub(in crate::bench) row: usize,
    /// The counter at the beginning.
    pub(in crate::bench) counter: u64,
    /// What the register held at the end.
    pub(in crate::bench) value: u32,
    /// The samples in ticks of its counter; all ones is more than can be told.
    pub(in crate::bench) samples: Vec<u32>,
}

/// Where a guest's memory is, for those who look at it.
pub(in crate::bench) trait Ram {
    /// Reads all of `bytes` at a guest address.
    fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<()>;
    /// Writes all of `bytes` at a guest address.
    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()>;
}

impl Ram for &File {
    fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.read_exact_at(bytes, at)
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }
}

/// The guest's memory, seen from here.
#[derive(Debug)]
pub(in crate::bench) struct Memory<R>(pub(in crate::bench) R);

impl<R: Ram> Memory<R> {
    /// Puts the guest in place; false if this program has none.
    pub(in crate::bench) fn load(&self, task: &Task) -> io::Result<bool> {
        let image = task.image();
        image.map_or(Ok(false), |image| self.0.write(&image, CODE).and(Ok(true)))
    }

    /// Makes sure that nothing looks like a result yet.
    pub(in crate::bench) fn clear(&self) -> io::Result<()> {
        self.0.write(&[0; RESULTS_SIZE], RESULTS)
    }

    /// How many accesses each row of a guest that is done took in all, from
    /// the first on.
    pub(in crate::bench) fn taken(&self, task: &Task) -> io::Result<Vec<u32>> {
        const TAKEN: usize = 7;
        const ROW_WORDS: usize = ROW_SIZE as usize / 4;
        let words = self.words(ROWS.into(), task.rows.len() * ROW_WORDS)?;
        Ok(words.chunks(ROW_WORDS).map(|row| row[TAKEN]).collect())
    }

    fn words(&self, at: u64, count: usize) -> io::Result<Vec<u32>> {
        let mut bytes = vec![0; count * 4];
        self.0.read(&mut bytes, at)?;
        let words = bytes.as_chunks::<4>().0.iter();
        Ok(words.map(|&word| u32::from_le_bytes(word)).collect())
    }

    /// Whether the guest has found its devices and waits, or would have.
    pub(in crate::bench) fn is_held(&self) -> io::Result<bool> {
        Ok(self.words(RESULTS + 16, 1)?[0] != 0)
    }

    /// Lets it begin.
    pub(in crate::bench) fn release(&self) -> io::Result<()> {
        self.0.write(&[0; 4], HOLD)
    }

    /// How far the guest is.
    pub(in crate::bench) fn status(&self) -> io::Result<Status> {
        let words = self.words(RESULTS, 2)?;
        let row = words[1] as usize;
        Ok(match words[0] {
            0 => Status::Absent,
            1 => Status::Working,
            2 => Status::Done,
            3 => Status::NoDevice(row),
            4 => Status::NoBar(row),
            other => Status::Nonsense(other),
        })
    }

    /// What the guest says that a tick of its counter is, in nanoseconds;
    /// `None` if it has no second clock to compare with.
    pub(in crate::bench) fn tick(&self) -> io::Result<Option<f64>> {
        let words = self.words(RESULTS + 8, 2)?;
        let (ticks, pm_ticks) = (f64::from(words[0]), f64::from(words[1]));
        Ok((words[0] != 0 && words[1] != 0).then(|| pm_ticks / PM_TIMER * 1e9 / ticks))
    }

    /// All records of a guest that is done. Nothing that it wrote is trusted:
    /// a record that does not fit ends the list with an error.
    pub(in crate::bench) fn records(&self, task: &Task) -> io::Result<Vec<Record>> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let end = u64::from(self.words(RESULTS + 16, 1)?[0]);
        if end > MEMORY {
            return Err(wrong("its records end outside its memory"));
        }
        let (mut at, mut records) = (RECORDS, Vec::new());
        while at < end {
            let head = self.words(at, 5)?;
            let row = head[0] as usize;
            at += 4 * RECORD_HEADER;
            if row >= task.rows.len() || head[1] > task.most() {
                return Err(wrong("a record of no row, or with too many samples"));
            }
            let samples = self.words(at, head[1] as usize)?;
            at += 4 * u64::from(head[1]);
            records.push(Record {
                row,
                counter: u64::from(head[3]) << 32 | u64::from(head[2]),
                value: head[4],
                samples,
            });
        }
        Ok(records)
    }
}

/// A duration in ticks of so many nanoseconds; at most what fits.
pub(in crate::bench) fn ticks(duration: Duration, nanoseconds: f64) -> u32 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    // A float becomes the nearest value of the range.
    let ticks = (duration.as_secs_f64() * 1e9 / nanoseconds) as u32;
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> Task {
        let target = Target {
            id: (0x1af4, 0x1111),
            nth: 1,
            bar: 2,
            offset: 0xc,
        };
        Task {
            rows: vec![
                (Operation::Nothing, None),
                (Operation::Writes, Some(target)),
            ],
            slices: 3,
            goal: 1000,
            hold: true,
        }
    }

    /// Memory with these words in the place of the results.
    fn memory(words: &[u32]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(MEMORY).unwrap();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        file.write_all_at(&bytes, RESULTS).unwrap();
        file
    }

    #[test]
    fn the_table_is_behind_the_code() {
        let image = task().image().unwrap();
        let word = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap());
        assert_eq!(word(CODE_SIZE), 3);
        assert_eq!(word(CODE_SIZE + 12), ROWS + 2 * ROW_SIZE);
        assert_eq!(image.len(), CODE_SIZE + 32 + 64);
        let row = CODE_SIZE + 32 + 32;
        let expected = [0x1111_1af4, 1, 0x18, 0xc, 5];
        assert_eq!([0, 4, 8, 12, 16].map(|at| word(row + at)), expected);
    }

    #[test]
    fn as_a_program_it_is_entered_behind_its_table() {
        let program = task().program().unwrap();
        let word = |at: usize| u32::from_le_bytes(program[at..at + 4].try_into().unwrap());
        let (header, segment) = (52, 84);
        // e_entry, p_vaddr, p_filesz.
        let [entry, address, size] = [24, header + 8, header + 16].map(word);
        assert_eq!(program.len(), segment + size as usize);
        // cli, then lgdtl.
        let at = segment + (entry - address) as usize;
        assert_eq!(program[at..at + 3], [0xfa, 0x0f, 0x01]);
        assert_eq!(word(segment + CODE_SIZE), 3);
        let many = Task {
            rows: vec![(Operation::Nothing, None); 100],
            ..task()
        };
        assert_eq!(many.program(), None);
    }

    #[test]
    fn the_firmware_is_at_the_end_of_its_image() {
        let firmware = firmware().unwrap();
        assert_eq!(firmware.len(), FIRMWARE_SIZE);
        // A near jump, at the place where the processor begins.
        assert_eq!(firmware[FIRMWARE_SIZE - 16], 0xe9);
    }

    #[test]
    fn as_many_samples_as_fit_are_the_most() {
        let slices = 2 * 3 + 1;
        let words = |most: u64| slices * (most + RECORD_HEADER);
        let most = u64::from(task().most());
        assert!(4 * words(most) <= MEMORY - RECORDS);
        let many = Task {
            slices: u32::MAX,
            ..task()
        };
        assert_eq!(many.most(), 1);
    }

    #[test]
    fn records_are_read_and_lies_are_errors() {
        let header = |end: u32| [vec![2, 0, 5, 6, end], vec![0; 11]].concat();
        let start = u32::try_from(RECORDS).unwrap();
        let record = [1, 2, 0x10, 1, 77, 5, u32::MAX];
        let good = memory(&[header(start + 28), record.to_vec()].concat());
        let found = Memory(&good).records(&task()).unwrap();
        assert_eq!(
            found,
            [Record {
                row: 1,
                counter: 0x1_0000_0010,
                value: 77,
                samples: vec![5, u32::MAX],
            }]
        );
        assert_eq!(Memory(&good).status().unwrap(), Status::Done);

        let no_row = [2, 0, 0, 0, 0];
        let too_many = [1, u32::MAX, 0, 0, 0];
        for (end, record) in [
            (start + 28, no_row),
            (start + 28, too_many),
            (u32::MAX, [0; 5]),
        ] {
            let bad = memory(&[header(end), record.to_vec()].concat());
            assert!(Memory(&bad).records(&task()).is_err());
        }
    }

    #[test]
    fn a_guest_without_a_second_clock_says_no_tick() {
        assert_eq!(Memory(&memory(&[2, 0, 0, 0])).tick().unwrap(), None);
        let tick = Memory(&memory(&[2, 0, 40_000_000, 71_591])).tick().unwrap();
        assert!((tick.unwrap() - 0.5).abs() < 1e-4);
    }
}
