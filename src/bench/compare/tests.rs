use super::super::output::sample::{self, Noise, row};
use super::*;

/// A floor and a row whose medians are these.
fn report(floor: &[f64], above: &[f64]) -> Report {
    let mut report = sample::small();
    let section = &mut report.sections[0];
    let mut noise = Noise(3);
    section.rows = vec![
        row("floor", "floor", None, floor, &mut noise),
        row("above", "above", Some("floor"), above, &mut noise),
    ];
    section.relate();
    report
}

fn compare_with(old: &[f64], new: &[f64]) -> Comparison {
    let floor = |n: usize| vec![1000.0; n];
    let old = report(&floor(old.len()), old);
    let new = report(&floor(new.len()), new);
    Comparison::of(&old, &new).unwrap()
}

fn above(comparison: &Comparison) -> &Compared {
    comparison
        .rows
        .iter()
        .find(|row| row.name == "above")
        .unwrap()
}

const BEFORE: [f64; 5] = [2000.0, 2020.0, 1990.0, 2010.0, 1980.0];

#[test]
fn a_report_is_neither_faster_nor_slower_than_itself() {
    let report = sample::large();
    let comparison = Comparison::of(&report, &report).unwrap();
    let tell = |row: &Compared| row.verdict == Verdict::CannotTell;
    assert!(comparison.rows.iter().all(tell), "{comparison}");
    assert_eq!(comparison.slower_than(0.0).count(), 0);
    // Without any spread, too.
    let comparison = compare_with(&[2e3; 3], &[2e3; 3]);
    assert!(comparison.rows.iter().all(tell), "{comparison}");
}

#[test]
fn a_fifth_more_is_slower_and_a_fifth_less_is_faster() {
    let slower = compare_with(&BEFORE, &BEFORE.map(|median| 1.2 * median));
    let change = above(&slower).change.unwrap();
    assert!((change.percent - 20.0).abs() < 0.1, "{change:?}");
    assert!(change.low > 15.0 && change.high < 25.0, "{change:?}");
    assert_eq!(above(&slower).verdict, Verdict::Slower);
    assert_eq!(slower.slower_than(10.0).count(), 1);
    assert_eq!(slower.slower_than(25.0).count(), 0);
    let faster = compare_with(&BEFORE, &BEFORE.map(|median| 0.8 * median));
    assert_eq!(above(&faster).verdict, Verdict::Faster);
    assert_eq!(faster.slower_than(10.0).count(), 0);
}

#[test]
fn noise_wider_than_the_difference_cannot_be_told() {
    let noisy = [1500.0, 3100.0, 2000.0, 2700.0, 2600.0];
    let comparison = compare_with(&BEFORE, &noisy);
    let row = above(&comparison);
    assert!(row.change.unwrap().percent > 10.0);
    assert_eq!(row.verdict, Verdict::CannotTell);
    assert_eq!(comparison.slower_than(10.0).count(), 0);
    assert_eq!(comparison.unknown(10.0).count(), 1);
}

#[test]
fn a_machine_that_slows_down_as_a_whole_makes_no_row_slower() {
    let old = report(&[1e3, 1.1e3, 0.9e3], &[2e3, 2.2e3, 1.8e3]);
    let new = report(&[2e3, 2.1e3, 1.9e3], &[4e3, 4.2e3, 3.8e3]);
    let comparison = Comparison::of(&old, &new).unwrap();
    assert_eq!(above(&comparison).verdict, Verdict::CannotTell);
    // The floor did slow down: this is said, and no more.
    assert_eq!(comparison.rows[0].of, Of::Time);
    assert_eq!(comparison.rows[0].verdict, Verdict::Slower);
    assert_eq!(comparison.slower_than(10.0).count(), 0);
}

#[test]
fn two_runs_tell_little_and_one_tells_nothing() {
    // One degree of freedom: 64 times the standard error.
    let comparison = compare_with(&[2000.0, 2000.0], &[2300.0, 2500.0]);
    assert_eq!(above(&comparison).verdict, Verdict::CannotTell);
    let comparison = compare_with(&[2000.0], &[4000.0, 4000.0]);
    assert_eq!(above(&comparison).change, None);
    assert_eq!(above(&comparison).verdict, Verdict::CannotTell);
    assert_eq!(comparison.unknown(10.0).count(), 1);
}

#[test]
fn rows_of_one_report_only_are_listed() {
    let (mut old, mut new) = (report(&BEFORE, &BEFORE), report(&BEFORE, &BEFORE));
    old.sections[0].rows[1].name = "gone".to_owned();
    new.sections[0].rows[1].name = "come".to_owned();
    let comparison = Comparison::of(&old, &new).unwrap();
    assert_eq!(comparison.only_old, ["gone"]);
    assert_eq!(comparison.only_new, ["come"]);
    new.sections[0].rows.remove(0);
    assert!(Comparison::of(&old, &new).is_err());
    old.sections[0].rows[0].runs.clear();
    assert!(Comparison::of(&old, &old.clone()).is_ok());
    old.sections[0].rows[1].runs.clear();
    assert!(Comparison::of(&old, &old.clone()).is_err());
}

#[test]
fn another_machine_is_a_warning() {
    let (old, mut new) = (report(&BEFORE, &BEFORE), report(&BEFORE, &BEFORE));
    new.machine.kernel = "7.0".to_owned();
    new.interrupted = true;
    let comparison = Comparison::of(&old, &new).unwrap();
    assert_eq!(
        comparison.warnings,
        [
            "another kernel: 6.18.1 x86_64, now 7.0",
            "the new report was interrupted"
        ]
    );
}

#[test]
fn it_reads_as_a_table() {
    let comparison = compare_with(&BEFORE, &BEFORE.map(|median| 1.2 * median));
    let shown = anstream::adapter::strip_str(&comparison.to_string()).to_string();
    let expected = "  above                                          2.000     2.400     +20 %   +18 to +22 %       slower\n";
    assert!(shown.contains(expected), "{shown}");
    assert!(
        shown.ends_with("\n1 slower, 0 faster, 1 of which this cannot be told\n"),
        "{shown}"
    );
}
