//! How long to look for work before sleeping: as long as it recently paid off.
//!
//! What comes within the window is found without a sleep. The window grows
//! when it would have been worth it, and is halved when it was not, down to
//! nothing: who is idle sleeps. A CPU that somebody else wants is given up at
//! once, and for longer each time.

use std::hint;
use std::time::{Duration, Instant};

use rustix::thread::{sched_getaffinity, sched_getcpu, sched_setaffinity};

/// Looks before the first look at the clock: what comes at once costs none.
const LOOKS_AT_FIRST: u32 = 16;
/// Looks from one look at the clock to the next.
const LOOKS_PER_TICK: u32 = 8;
/// What a look takes before it is known, in nanoseconds.
const LOOK: u64 = 200;
/// Spins from one measuring of a look to the next.
const MEASURE_EACH: u8 = 63;
/// The smallest window but none, in nanoseconds: less than a sleep costs.
const SMALLEST: u64 = 2_000;
/// After so many nanoseconds of spinning, others may run: whoever was woken by
/// the last answer may wait for this very CPU. Then again after twice the time,
/// and at last after so many nanoseconds each.
const GIVE_WAY_FIRST: u64 = 2_000;
const GIVE_WAY_EACH: u64 = 20_000;
/// Of looks that take long, so many nanoseconds go without the clock.
const UNWATCHED: u64 = 1_000;
/// If others ran for so many nanoseconds, they had work to do.
const GIVEN_WAY: u64 = 10_000;
/// From one look at the clock to the next pass less nanoseconds than that,
/// unless somebody else had the CPU.
const HOLE: u64 = 50_000;
/// Who is in the way moves to another CPU at first; if it is in the way again
/// within so many nanoseconds, all are wanted.
const ELSEWHERE: u64 = 20_000_000;
/// How long not to spin after a hole, in nanoseconds: at first, and at most.
const SHORTEST_BAR: u64 = 1_000_000;
const LONGEST_BAR: u64 = 1_000_000_000;
/// What is saved up for spinning is of the last 100 ms.
const SAVED_OVER: u64 = 100_000_000;

/// The time, and a way to let others run: a test has its own.
pub trait Clock {
    /// Nanoseconds since some moment.
    fn now(&self) -> u64;
    /// Lets another thread have the CPU, if one waits for it.
    fn give_way(&self);
    /// Goes on on another CPU, if this thread may use one.
    fn step_aside(&self);
}

/// The kernel's clock.
#[derive(Clone, Copy, Debug)]
pub struct Monotonic(Instant);

impl Clock for Monotonic {
    #[inline]
    fn now(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn give_way(&self) {
        rustix::thread::sched_yield();
    }

    fn step_aside(&self) {
        let Ok(all) = sched_getaffinity(None) else {
            return;
        };
        let mut others = all;
        others.unset(sched_getcpu());
        // The scheduler wakes a thread beside the one that woke it, and leaves
        // it there while neither sleeps. If we may not move, we stay.
        if others.count() > 0 && sched_setaffinity(None, &others).is_ok() {
            let _ = sched_setaffinity(None, &all);
        }
    }
}

/// Spins before a sleep. Times are in nanoseconds.
#[derive(Debug)]
pub struct Spin<C = Monotonic> {
    clock: C,
    mode: Mode,
    /// How long to spin now.
    window: u64,
    /// How long it was spun in vain since something was found.
    spun: u64,
    /// What a look takes, about.
    per_look: u64,
    /// How many looks go without the clock.
    unwatched: u32,
    /// How long not to spin after the last hole, and until when.
    bar: u64,
    barred_until: u64,
    /// Until when it counts that we have moved to another CPU.
    elsewhere_until: u64,
    purse: Purse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Never,
    Always,
    /// At most so long at a time.
    Adaptive(u64),
}

/// What may be spent on spinning.
#[derive(Debug)]
struct Purse {
    /// Of one CPU's time; 100 is all of it.
    percent: u64,
    saved: u64,
    /// When it was filled last.
    at: u64,
    /// Spins until a look is measured again.
    measure_in: u8,
}

impl Purse {
    fn new(percent: u8, now: u64) -> Purse {
        let percent = u64::from(percent.min(100));
        Purse {
            percent,
            saved: SAVED_OVER * percent / 100,
            at: now,
            measure_in: 0,
        }
    }

    #[inline]
    fn is_unlimited(&self) -> bool {
        self.percent == 100
    }

    /// Whether a look should be measured.
    #[inline]
    fn is_due(&mut self) -> bool {
        if self.is_unlimited() {
            return false;
        }
        let is_due = self.measure_in == 0;
        self.measure_in = if is_due {
            MEASURE_EACH
        } else {
            self.measure_in - 1
        };
        is_due
    }

    fn fill(&mut self, now: u64) {
        let earned = now.saturating_sub(self.at).min(SAVED_OVER) * self.percent / 100;
        self.saved = (self.saved + earned).min(SAVED_OVER * self.percent / 100);
        self.at = now;
    }

    #[inline]
    fn spend(&mut self, time: u64) {
        self.saved = self.saved.saturating_sub(time);
    }
}

impl Spin {
    /// Whether it always sleeps at once.
    #[inline]
    pub fn is_never(&self) -> bool {
        self.mode == Mode::Never
    }

    /// Sleeps at once, always.
    pub fn never() -> Spin {
        Spin::on(Monotonic(Instant::now()), Mode::Never, 0)
    }

    /// Never sleeps.
    pub fn always() -> Spin {
        Spin::on(Monotonic(Instant::now()), Mode::Always, 100)
    }

    /// Spins while it pays off: up to `longest` at a time, and for at most
    /// `percent` of one CPU's time in the long run. A process that has one CPU
    /// sleeps at once: who could bring work has to run on it.
    pub fn adaptive(longest: Duration, percent: u8) -> Spin {
        let longest = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        let cpus = sched_getaffinity(None).map_or(1, |cpus| cpus.count());
        let mode = if cpus > 1 && longest > 0 && percent > 0 {
            Mode::Adaptive(longest)
        } else {
            Mode::Never
        };
        Spin::on(Monotonic(Instant::now()), mode, percent)
    }
}

impl<C: Clock> Spin<C> {
    fn on(clock: C, mode: Mode, percent: u8) -> Spin<C> {
        let now = clock.now();
        Spin {
            clock,
            mode,
            window: 0,
            spun: 0,
            per_look: LOOK,
            unwatched: LOOKS_AT_FIRST,
            bar: 0,
            barred_until: 0,
            elsewhere_until: 0,
            purse: Purse::new(percent, now),
        }
    }

    /// Looks again and again until `look` finds something. `None`: it is time
    /// to [`sleep`](Self::sleep), and if it was so from the beginning, `look`
    /// was not called.
    #[inline]
    pub fn look<T>(&mut self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        if self.mode == Mode::Always {
            loop {
                if let Some(found) = look() {
                    return Some(found);
                }
                hint::spin_loop();
            }
        }
        if self.window == 0 {
            return None;
        }
        // What a look takes is measured now and then, and only for the purse.
        let began = if self.purse.is_due() {
            Some(self.clock.now())
        } else {
            None
        };
        for looks in 1..=self.unwatched {
            if let Some(found) = look() {
                if let Some(began) = began {
                    self.measured(looks, self.clock.now().saturating_sub(began));
                }
                self.found(u64::from(looks) * self.per_look);
                return Some(found);
            }
            hint::spin_loop();
        }
        self.look_longer(look)
    }

    /// Sleeps by `wait`, and learns from how long that took.
    pub fn sleep<T>(&mut self, wait: impl FnOnce() -> T) -> T {
        let Mode::Adaptive(longest) = self.mode else {
            return wait();
        };
        let began = self.clock.now();
        let woken_by = wait();
        let now = self.clock.now();
        self.learn(longest, now, now.saturating_sub(began));
        woken_by
    }

    /// Looks with an eye on the clock, until the window is over.
    fn look_longer<T>(&mut self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let mut time = u64::from(self.unwatched) * self.per_look;
        let mut tick = self.clock.now();
        let mut give_way_at = GIVE_WAY_FIRST;
        let mut moved = false;
        while time < self.window {
            let most = self.unwatched.min(LOOKS_PER_TICK);
            for looks in 1..=most {
                if let Some(found) = look() {
                    // It may have come while somebody else had the CPU.
                    let now = self.clock.now();
                    if now.saturating_sub(tick) > HOLE {
                        self.is_in_the_way(now, !moved);
                        return Some(found);
                    }
                    self.found(time + u64::from(looks) * self.per_look);
                    return Some(found);
                }
                hint::spin_loop();
            }
            let now = self.clock.now();
            let passed = now.saturating_sub(tick);
            if passed > HOLE {
                if self.is_in_the_way(now, !moved) {
                    return None;
                }
                (moved, tick) = (true, self.clock.now());
                continue;
            }
            self.measured(most, passed);
            (time, tick) = (time + passed, now);
            if time >= give_way_at {
                self.clock.give_way();
                tick = self.clock.now();
                if tick - now > GIVEN_WAY {
                    if self.is_in_the_way(tick, !moved) {
                        return None;
                    }
                    (moved, tick) = (true, self.clock.now());
                }
                give_way_at = time + time.min(GIVE_WAY_EACH);
            }
        }
        self.spun = time;
        self.pay(time);
        None
    }

    fn measured(&mut self, looks: u32, time: u64) {
        self.per_look = (7 * self.per_look + time / u64::from(looks)) / 8;
        let unwatched = UNWATCHED / self.per_look.max(1);
        let unwatched = u32::try_from(unwatched).unwrap_or(u32::MAX);
        self.unwatched = unwatched.clamp(1, LOOKS_AT_FIRST);
    }

    /// It was worth it: more of it would have been, too.
    #[inline]
    fn found(&mut self, time: u64) {
        if let Mode::Adaptive(longest) = self.mode {
            self.window = self.window.max(2 * time).min(longest);
        }
        self.pay(time);
    }

    /// Takes the time out of the purse. An empty one ends the spinning until
    /// a sleep has filled it.
    #[inline]
    fn pay(&mut self, time: u64) {
        if self.purse.is_unlimited() {
            return;
        }
        self.purse.spend(time);
        if self.purse.saved < self.window {
            self.purse.fill(self.clock.now());
            if self.purse.saved < self.window {
                self.window = 0;
            }
        }
    }

    /// Somebody else wants the CPU: there may be another one. `true` if not:
    /// sleep, and do not spin for a while.
    #[cold]
    fn is_in_the_way(&mut self, now: u64, may_move: bool) -> bool {
        if may_move && now >= self.elsewhere_until {
            self.elsewhere_until = now + ELSEWHERE;
            self.clock.step_aside();
            return false;
        }
        self.bar = (2 * self.bar).clamp(SHORTEST_BAR, LONGEST_BAR);
        self.barred_until = now + self.bar;
        self.window = 0;
        true
    }

    /// What was waited for came after `slept`.
    fn learn(&mut self, longest: u64, now: u64, slept: u64) {
        let gap = self.spun + slept;
        self.spun = 0;
        self.purse.fill(now);
        if now > self.barred_until + 10 * self.bar {
            self.bar = 0;
        }
        let wanted = if gap <= longest {
            self.window.max(2 * gap).max(SMALLEST).min(longest)
        } else if self.window >= 2 * SMALLEST {
            self.window / 2
        } else {
            0
        };
        let may = now >= self.barred_until && self.purse.saved >= wanted;
        self.window = if may { wanted } else { 0 };
    }
}

#[cfg(test)]
mod tests;
