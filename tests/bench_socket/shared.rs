//! The rows of shared memory, and what is beside them.

use std::path::Path;

use vgpu_stub::bench::{Pinning, Section, shared};

use super::{children, names, program, tiny};

fn measured(pinning: Pinning, program: &Path) -> Vec<Section> {
    tiny(pinning).in_runs(|bench| shared(bench, program))
}

#[test]
fn shared_memory_has_its_rows_beside_a_cache_line_or_eventfds() {
    let pinning = Pinning::choose().unwrap();
    let sections = measured(pinning, program());
    let placements = ["spin", "two", "same"];
    assert_eq!(sections.len(), placements.len());
    for (section, placement) in sections.iter().zip(placements) {
        if placement != "same" && pinning.other.is_none() {
            assert_eq!(section.gaps.len(), 1);
            continue;
        }
        assert!(section.gaps.is_empty(), "{:?}", section.gaps);
        let spins = placement == "spin";
        let mut expected = Vec::new();
        for (access, floor, stub) in [
            ("read", true, true),
            ("write", true, true),
            ("sustained", spins, true),
            // Who spins has no CPU time of its work alone.
            ("server-cpu", false, !spins),
            ("read-back", spins, true),
        ] {
            let servers = [("floor", floor), ("stub", stub)];
            for (server, _) in servers.iter().filter(|(_, there)| *there) {
                expected.push(format!("shared.{placement}.{access}.{server}"));
            }
        }
        assert_eq!(names(section), expected);
        for row in &section.rows {
            assert_eq!(row.partial, None, "{}", row.name);
            assert_eq!(row.runs.len(), 2, "{}", row.name);
            assert_eq!(row.ratio.is_some(), row.floor.is_some(), "{}", row.name);
            assert_eq!(row.what.starts_with("floor: "), row.name.ends_with("floor"));
        }
    }
    assert_eq!(children(), "");
}

#[test]
fn a_second_cpu_that_is_missing_is_a_gap() {
    let pinning = Pinning {
        other: None,
        ..Pinning::choose().unwrap()
    };
    let sections = measured(pinning, program());
    let gaps: Vec<usize> = sections.iter().map(|section| section.gaps.len()).collect();
    assert_eq!(gaps, [1, 1, 0]);
}

#[test]
fn a_program_that_serves_nothing_is_a_gap() {
    for section in measured(Pinning::choose().unwrap(), Path::new("/bin/true")) {
        assert!(section.rows.is_empty());
        // It may leave sooner or later, in one run and the other.
        assert!(!section.gaps.is_empty(), "{section:?}");
    }
}
