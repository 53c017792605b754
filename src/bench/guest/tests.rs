//! On a tree of plain files that looks like sysfs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use super::{Address, Place, Target, Wanted, guest};
use crate::bench::{Bench, Pinning, Plan, Quiet, Row, Section};

const STUB: &str = "0000:00:04.0";
const EDU: &str = "0000:00:05.0";
const OTHER: &str = "0000:00:06.0";

/// Answers accesses to memory (PCI 3.0 6.2.2).
const MEMORY: u16 = 2;

struct Sysfs(tempfile::TempDir);

impl Sysfs {
    /// With a stub, an edu and another function.
    fn new() -> Self {
        let sysfs = Sysfs(tempfile::tempdir().unwrap());
        sysfs.add(STUB, 0x1af4, 0x1111, 0x1200, MEMORY);
        sysfs.add(EDU, 0x1234, 0x11e8, 0x00ff, MEMORY);
        sysfs.add(OTHER, 0x8086, 0x100e, 0x0200, MEMORY);
        sysfs
    }

    fn path(&self, function: &str, name: &str) -> PathBuf {
        let devices = self.0.path().join("bus/pci/devices");
        devices.join(function).join(name)
    }

    fn add(&self, function: &str, vendor: u16, device: u16, class: u16, command: u16) {
        let write = |name: &str, bytes: &[u8]| fs::write(self.path(function, name), bytes).unwrap();
        fs::create_dir_all(self.path(function, "")).unwrap();
        let mut config = [0; 64];
        config[0..2].copy_from_slice(&vendor.to_le_bytes());
        config[2..4].copy_from_slice(&device.to_le_bytes());
        config[4..6].copy_from_slice(&command.to_le_bytes());
        config[10..12].copy_from_slice(&class.to_le_bytes());
        write("config", &config);
        write("vendor", format!("{vendor:#06x}\n").as_bytes());
        write("device", format!("{device:#06x}\n").as_bytes());
        write("enable", b"0\n");
        let line =
            |start: u64, end: u64, flags: u64| format!("{start:#018x} {end:#018x} {flags:#018x}\n");
        let resources = [
            line(0xfea0_0000, 0xfea0_0fff, 0x4_0200),
            line(0xc000, 0xc01f, 0x4_0101),
            line(0, 0, 0),
            line(0xfea0_1040, 0xfea0_105f, 0x4_0200),
        ];
        write("resource", resources.concat().as_bytes());
        write("resource0", &[0; 0x1000]);
        write("resource3", &[0; 0x1000]);
    }

    fn bind(&self, function: &str, driver: &str) {
        let driver = format!("../../../bus/pci/drivers/{driver}");
        symlink(driver, self.path(function, "driver")).unwrap();
    }

    fn text(&self, function: &str, name: &str) -> String {
        fs::read_to_string(self.path(function, name)).unwrap()
    }

    fn wanted(&self, address: &str) -> Wanted {
        Wanted {
            sysfs: self.0.path().to_owned(),
            place: place(address, 0, None),
            floor: None,
            write: false,
            force: false,
        }
    }
}

fn place(address: &str, bar: u8, offset: Option<u64>) -> Place {
    Place {
        address: address.parse::<Address>().unwrap(),
        bar,
        offset,
    }
}

fn refused(wanted: &Wanted) -> String {
    let trouble = Target::open(wanted).expect_err("opened");
    let text = trouble.to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

fn measure(wanted: &Wanted) -> Section {
    measure_target(&Target::open(wanted).unwrap())
}

fn measure_target(target: &Target) -> Section {
    let plan = Plan {
        runs: 2,
        slices: 2,
        slice: Duration::from_micros(100),
        ..Plan::quick(Pinning::choose().unwrap())
    };
    let mut sections = Bench::new(plan, &Quiet).in_runs(|bench| vec![guest(bench, target)]);
    sections.remove(0)
}

fn names(section: &Section) -> Vec<&str> {
    section.rows.iter().map(|row| row.name.as_str()).collect()
}

fn row<'a>(section: &'a Section, name: &str) -> &'a Row {
    let found = section.rows.iter().find(|row| row.name == name);
    found.unwrap_or_else(|| panic!("no {name}: {section:?}"))
}

#[test]
fn a_stub_is_read_and_written_in_all_widths_beside_edu() {
    let sysfs = Sysfs::new();
    let section = measure(&sysfs.wanted(STUB));
    let expected = [
        "guest.timer",
        "guest.floor.config",
        "guest.floor.read",
        "guest.floor.write",
        "guest.floor.write-read",
        "guest.config.4",
        "guest.read.1",
        "guest.read.2",
        "guest.read.4",
        "guest.read.8",
        "guest.write.1",
        "guest.write.2",
        "guest.write.4",
        "guest.write.8",
        "guest.write-read.4",
    ];
    assert_eq!(names(&section), expected);
    assert!(section.gaps.is_empty(), "{:?}", section.gaps);
    assert!(section.rows.iter().all(|row| row.partial.is_none()));
    let floor = |name| row(&section, name).floor.as_deref();
    assert_eq!(floor("guest.read.8"), Some("guest.floor.read"));
    assert_eq!(floor("guest.config.4"), Some("guest.floor.config"));
    assert_eq!(floor("guest.write.1"), Some("guest.floor.write"));
    assert!(row(&section, "guest.read.4").ratio.is_some());
}

#[test]
fn what_was_in_the_registers_is_there_afterwards() {
    let sysfs = Sysfs::new();
    let bytes: Vec<u8> = (0..0x1000_u16).map(|n| n.to_le_bytes()[0]).collect();
    fs::write(sysfs.path(STUB, "resource0"), &bytes).unwrap();
    measure(&sysfs.wanted(STUB));
    assert_eq!(fs::read(sysfs.path(STUB, "resource0")).unwrap(), bytes);
}

#[test]
fn without_edu_the_floor_is_the_clock() {
    let sysfs = Sysfs::new();
    fs::remove_dir_all(sysfs.path(EDU, "")).unwrap();
    let section = measure(&sysfs.wanted(STUB));
    assert_eq!(
        row(&section, "guest.read.4").floor.as_deref(),
        Some("guest.timer")
    );
    assert_eq!(section.gaps[0].what, "guest.floor");
    assert!(section.gaps[0].why.contains("--floor-bdf"));
}

#[test]
fn another_function_is_only_read_unless_writes_are_asked_for() {
    let sysfs = Sysfs::new();
    let wanted = Wanted {
        place: place(OTHER, 0, Some(8)),
        ..sysfs.wanted(OTHER)
    };
    let section = measure(&wanted);
    assert!(
        !names(&section)
            .iter()
            .any(|name| name.starts_with("guest.write"))
    );
    assert!(
        section.gaps[0].why.contains("--write"),
        "{:?}",
        section.gaps
    );
    let section = measure(&Wanted {
        write: true,
        ..wanted
    });
    row(&section, "guest.write.4");
    assert!(section.gaps.is_empty());
}

#[test]
fn widths_that_do_not_fit_an_offset_are_gaps() {
    let sysfs = Sysfs::new();
    let section = measure(&Wanted {
        place: place(OTHER, 0, Some(0xffc)),
        ..sysfs.wanted(OTHER)
    });
    row(&section, "guest.read.4");
    assert_eq!(section.gaps[0].what, "guest.read.8");
    assert!(
        section.gaps[0]
            .why
            .contains("beyond the BAR's 0x1000 bytes")
    );
}

#[test]
fn a_small_bar_begins_within_its_page() {
    let sysfs = Sysfs::new();
    let mut bytes = [0; 0x1000];
    bytes[0x50] = 1;
    fs::write(sysfs.path(OTHER, "resource3"), bytes).unwrap();
    let wanted = Wanted {
        place: place(OTHER, 3, Some(0x10)),
        ..sysfs.wanted(OTHER)
    };
    let target = Target::open(&wanted).unwrap();
    let register = target.subject.register(crate::device::Width::U8).unwrap();
    assert_eq!(register.read(), 1);
    drop((register, target));
    let beyond = Wanted {
        place: place(OTHER, 3, Some(0x20)),
        ..wanted
    };
    assert!(refused(&beyond).contains("beyond the BAR's 0x20 bytes"));
}

#[test]
fn a_register_of_an_unknown_device_must_be_named() {
    let sysfs = Sysfs::new();
    let said = refused(&sysfs.wanted(OTHER));
    assert!(said.contains("--offset"), "{said}");
    // Nor is another BAR of the stub known.
    let said = refused(&Wanted {
        place: place(STUB, 3, None),
        ..sysfs.wanted(STUB)
    });
    assert!(said.contains("--offset"), "{said}");
}

#[test]
fn what_is_not_there_is_said() {
    let sysfs = Sysfs::new();
    assert!(refused(&sysfs.wanted("00:07.0")).starts_with("0000:00:07.0: no such"));
    let bar = |bar| Wanted {
        place: place(OTHER, bar, Some(0)),
        ..sysfs.wanted(OTHER)
    };
    assert!(refused(&bar(1)).contains("I/O ports"));
    assert!(refused(&bar(2)).contains("does not have it"));
    assert!(refused(&bar(5)).contains("no such BAR"));
    fs::remove_file(sysfs.path(OTHER, "resource0")).unwrap();
    assert!(refused(&bar(0)).contains("does not offer it"));
    fs::remove_dir_all(sysfs.0.path().join("bus")).unwrap();
    assert!(refused(&sysfs.wanted(STUB)).contains("no Linux with PCI"));
}

#[test]
fn a_function_with_a_driver_is_left_alone_unless_forced() {
    let sysfs = Sysfs::new();
    sysfs.bind(STUB, "vgpu");
    let wanted = sysfs.wanted(STUB);
    let said = refused(&wanted);
    assert!(
        said.contains("the driver vgpu") && said.contains("--force"),
        "{said}"
    );
    assert_eq!(sysfs.text(STUB, "enable"), "0\n");
    assert!(
        Target::open(&Wanted {
            force: true,
            ..wanted
        })
        .is_ok()
    );
}

#[test]
fn a_function_is_put_back_to_how_it_was() {
    let sysfs = Sysfs::new();
    let target = Target::open(&sysfs.wanted(STUB)).unwrap();
    assert_eq!(sysfs.text(STUB, "enable"), "1\n");
    assert_eq!(sysfs.text(EDU, "enable"), "1\n");
    // As the kernel would have it.
    let mut config = fs::read(sysfs.path(STUB, "config")).unwrap();
    config[4] = 0x06;
    fs::write(sysfs.path(STUB, "config"), &config).unwrap();
    drop(target);
    assert_eq!(sysfs.text(STUB, "enable"), "0\n");
    assert_eq!(sysfs.text(EDU, "enable"), "0\n");
    assert_eq!(fs::read(sysfs.path(STUB, "config")).unwrap()[4], 0x02);
}

#[test]
fn a_function_that_somebody_uses_stays_enabled() {
    let sysfs = Sysfs::new();
    fs::write(sysfs.path(STUB, "enable"), "2\n").unwrap();
    drop(Target::open(&sysfs.wanted(STUB)).unwrap());
    assert_eq!(sysfs.text(STUB, "enable"), "2\n");
}

#[test]
fn a_function_that_does_not_answer_is_said_and_put_back() {
    let sysfs = Sysfs::new();
    sysfs.add(STUB, 0x1af4, 0x1111, 0x1200, 0);
    assert!(refused(&sysfs.wanted(STUB)).contains("Mem-"));
    assert_eq!(sysfs.text(STUB, "enable"), "0\n");
}

#[test]
fn a_function_that_goes_away_ends_its_rows() {
    let sysfs = Sysfs::new();
    let target = Target::open(&sysfs.wanted(STUB)).unwrap();
    // All ones, as where nothing is.
    fs::write(sysfs.path(STUB, "config"), [0xff; 64]).unwrap();
    let section = measure_target(&target);
    // What is left is the floor.
    assert!(
        names(&section)
            .iter()
            .all(|name| name.starts_with("guest.floor"))
    );
    assert!(
        section
            .gaps
            .iter()
            .any(|gap| gap.why.contains("was removed"))
    );
}

#[test]
fn memory_that_is_taken_away_ends_its_rows() {
    let sysfs = Sysfs::new();
    let target = Target::open(&sysfs.wanted(STUB)).unwrap();
    fs::write(sysfs.path(STUB, "resource0"), []).unwrap();
    let section = measure_target(&target);
    assert!(section.gaps.iter().any(|gap| gap.why.contains("SIGBUS")));
    assert!(
        !names(&section)
            .iter()
            .any(|name| name.starts_with("guest.read"))
    );
}
