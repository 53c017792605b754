//! The policy under a clock that only moves when it is told to.

use std::cell::Cell;

use super::*;

const MICROSECOND: u64 = 1_000;
const LONGEST: u64 = 100 * MICROSECOND;

/// A machine with a client that asks for something every now and then.
#[derive(Default)]
struct Machine {
    now: Cell<u64>,
    /// How long others run if they are let.
    others: Cell<u64>,
    gave_way: Cell<u32>,
    stepped_aside: Cell<u32>,
}

impl Clock for &Machine {
    fn now(&self) -> u64 {
        self.now.get()
    }

    fn give_way(&self) {
        self.gave_way.set(self.gave_way.get() + 1);
        self.pass(self.others.get());
    }

    fn step_aside(&self) {
        self.stepped_aside.set(self.stepped_aside.get() + 1);
    }
}

impl Machine {
    fn pass(&self, time: u64) {
        self.now.set(self.now.get() + time);
    }

    fn spin(&self, percent: u8) -> Spin<&Machine> {
        Spin::on(self, Mode::Adaptive(LONGEST), percent)
    }

    /// Waits for what comes in `gap` from now, with a look that takes 100 ns.
    /// Whether it slept, and how long it spun.
    fn wait(&self, spin: &mut Spin<&Machine>, gap: u64) -> (bool, u64) {
        let (began, due) = (self.now.get(), self.now.get() + gap);
        let look = || {
            self.pass(100);
            (self.now.get() >= due).then_some(())
        };
        let found = spin.look(look);
        let burnt = self.now.get() - began;
        if found.is_none() {
            spin.sleep(|| self.now.set(self.now.get().max(due) + 5 * MICROSECOND));
        }
        (found.is_none(), burnt)
    }
}

#[test]
fn a_stream_of_accesses_is_soon_served_without_a_sleep() {
    let machine = Machine::default();
    let mut spin = machine.spin(100);
    for gap in [MICROSECOND, 10 * MICROSECOND, 40 * MICROSECOND] {
        let sleeps = (0..100).filter(|_| machine.wait(&mut spin, gap).0).count();
        assert!(sleeps <= 3, "{sleeps} sleeps with {gap} ns between");
    }
}

#[test]
fn nothing_is_spun_for_what_comes_rarely() {
    let machine = Machine::default();
    let mut spin = machine.spin(100);
    for _ in 0..100 {
        machine.wait(&mut spin, 10 * MICROSECOND);
    }
    let gap = 1_000 * MICROSECOND;
    let burnt: u64 = (0..100).map(|_| machine.wait(&mut spin, gap).1).sum();
    assert!(burnt <= 2 * LONGEST + 100 * MICROSECOND, "{burnt} ns");
    assert_eq!(machine.wait(&mut spin, gap), (true, 0));
}

#[test]
fn the_window_is_never_longer_than_the_longest() {
    let machine = Machine::default();
    let mut spin = machine.spin(100);
    for gap in 0..400 {
        machine.wait(&mut spin, gap * MICROSECOND);
        assert!(spin.window <= LONGEST);
        machine.wait(&mut spin, (gap * 7919) % 200 * MICROSECOND);
        assert!(spin.window <= LONGEST);
    }
}

#[test]
fn a_first_access_does_not_spin() {
    let machine = Machine::default();
    assert_eq!(machine.wait(&mut machine.spin(100), 0), (true, 0));
}

#[test]
fn a_hole_in_the_spin_gives_the_cpu_up_and_longer_each_time() {
    let machine = Machine::default();
    let mut spin = machine.spin(100);
    let mut bars = Vec::new();
    for _ in 0..4 {
        while spin.window == 0 {
            machine.wait(&mut spin, 20 * MICROSECOND);
        }
        // Another thread runs for a time slice.
        let look = || {
            machine.pass(3_000 * MICROSECOND);
            None::<()>
        };
        assert_eq!(spin.look(look), None);
        let began = machine.now.get();
        while spin.window == 0 {
            machine.wait(&mut spin, 20 * MICROSECOND);
        }
        bars.push((machine.now.get() - began) / 1_000_000);
    }
    assert_eq!(bars, [1, 2, 4, 8]);
}

#[test]
fn a_hole_is_one_even_if_there_is_work_behind_it() {
    let machine = Machine::default();
    let mut spin = machine.spin(100);
    while spin.window == 0 {
        machine.wait(&mut spin, 20 * MICROSECOND);
    }
    let mut looks = 0;
    let look = || {
        looks += 1;
        machine.pass(if looks == 30 {
            3_000 * MICROSECOND
        } else {
            100
        });
        (looks == 30).then_some(())
    };
    spin.elsewhere_until = u64::MAX;
    assert_eq!(spin.look(look), Some(()));
    assert_eq!(machine.wait(&mut spin, MICROSECOND), (true, 0));
}

#[test]
fn who_is_in_the_way_tries_another_cpu_before_it_sleeps() {
    let machine = Machine::default();
    let mut spin = machine.spin(100);
    while spin.window == 0 {
        machine.wait(&mut spin, 20 * MICROSECOND);
    }
    let mut looks = 0;
    let look = || {
        looks += 1;
        let others_run = looks == 30;
        machine.pass(if others_run { 3_000 * MICROSECOND } else { 100 });
        (looks == 60).then_some(())
    };
    assert_eq!(spin.look(look), Some(()));
    assert_eq!(machine.stepped_aside.get(), 1);
    let (slept, looked) = machine.wait(&mut spin, MICROSECOND);
    assert!(!slept && looked > 0);
}

#[test]
fn who_was_just_woken_runs_soon() {
    let machine = Machine::default();
    let mut spin = machine.spin(100);
    machine.wait(&mut spin, 20 * MICROSECOND);
    for (gap, ways) in [(MICROSECOND, 0), (4 * MICROSECOND, 1)] {
        let before = machine.gave_way.get();
        machine.wait(&mut spin, gap);
        assert_eq!(machine.gave_way.get() - before, ways);
    }
}

#[test]
fn others_that_only_want_to_run_shortly_are_let_and_bar_nothing() {
    let machine = Machine::default();
    let mut spin = machine.spin(100);
    machine.others.set(MICROSECOND);
    for _ in 0..100 {
        machine.wait(&mut spin, 70 * MICROSECOND);
    }
    assert!(machine.gave_way.get() > 100);
    assert!(!machine.wait(&mut spin, 70 * MICROSECOND).0);
    machine.others.set(1_000 * MICROSECOND);
    spin.elsewhere_until = u64::MAX;
    assert!(machine.wait(&mut spin, 70 * MICROSECOND).0);
    assert_eq!(machine.wait(&mut spin, MICROSECOND), (true, 0));
}

#[test]
fn a_bar_is_forgotten_after_a_quiet_time() {
    let machine = Machine::default();
    let mut spin = machine.spin(100);
    assert!(spin.is_in_the_way(0, false));
    assert!(spin.is_in_the_way(0, false));
    assert_eq!(spin.bar, 2 * SHORTEST_BAR);
    machine.pass(30 * SHORTEST_BAR);
    machine.wait(&mut spin, MICROSECOND);
    assert_eq!(spin.bar, 0);
}

#[test]
fn no_more_than_the_budget_is_spent() {
    for percent in [5, 50] {
        for gap in [MICROSECOND, 40 * MICROSECOND] {
            let machine = Machine::default();
            let mut spin = machine.spin(percent);
            let mut burnt = 0;
            while machine.now.get() < 10 * SAVED_OVER {
                burnt += machine.wait(&mut spin, gap).1;
            }
            // What was saved before it began, and what a look is off by.
            let share = 100 * burnt / machine.now.get();
            let most = u64::from(percent) * 11 / 10 + 1;
            assert!(
                share <= most,
                "{share} % of {percent} % with {gap} ns between"
            );
            assert!(burnt > 0);
        }
    }
}

#[test]
fn never_and_always_do_not_look_at_the_clock() {
    struct None_;
    impl Clock for None_ {
        fn now(&self) -> u64 {
            0
        }
        fn give_way(&self) {
            panic!("nobody asked");
        }
        fn step_aside(&self) {
            panic!("nobody asked");
        }
    }
    let mut never = Spin::on(None_, Mode::Never, 0);
    assert_eq!(never.look(|| -> Option<()> { panic!("it looked") }), None);
    assert_eq!(never.sleep(|| 7), 7);
    assert_eq!(never.window, 0);
    let mut always = Spin::on(None_, Mode::Always, 100);
    let mut looks = 0;
    let found = always.look(|| {
        looks += 1;
        (looks == 100_000).then_some(looks)
    });
    assert_eq!(found, Some(100_000));
}

#[test]
fn a_process_with_one_cpu_does_not_spin() {
    // Of this thread only.
    std::thread::spawn(|| {
        let mut one = rustix::thread::CpuSet::new();
        let all = sched_getaffinity(None).unwrap();
        let first = (0..rustix::thread::CpuSet::MAX_CPU).find(|&cpu| all.is_set(cpu));
        one.set(first.unwrap());
        sched_setaffinity(None, &one).unwrap();
        let spin = Spin::adaptive(Duration::from_micros(100), 100);
        assert_eq!(spin.mode, Mode::Never);
    })
    .join()
    .unwrap();
}
