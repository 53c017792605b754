//! docs/doctor.md has every check.

use vgpu_stub::host::doctor::checks;

#[test]
fn every_check_is_in_its_groups_table() {
    let text = include_str!("../../docs/doctor.md");
    for (group, check) in checks() {
        assert!(text.contains(&format!("## {group}\n")), "{group}");
        let head = format!("| `{}` | {} |", check.id, check.looks_at);
        assert!(text.contains(&head), "{head}");
    }
    let rows = text.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, checks().count(), "a row that is no check's");
}

#[test]
fn ids_are_unique_and_say_their_group() {
    let mut ids: Vec<&str> = checks().map(|(_, check)| check.id).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all);
    assert!(ids.iter().all(|id| id.contains('.')));
}
