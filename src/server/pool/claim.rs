//! Who of a pool's threads has a device.

use std::sync::atomic::{AtomicU8, Ordering};

const FREE: u8 = 0;
const TAKEN: u8 = 1;
/// Taken, and there was a reason to take it since.
const WANTED: u8 = 2;

/// A device that one thread at a time has, and no reason to look at which is
/// lost while one has it.
#[derive(Debug, Default)]
pub(super) struct Claim(AtomicU8);

impl Claim {
    /// Takes the device. `false` if another thread has it: that one will look
    /// once more.
    pub(super) fn take(&self) -> bool {
        // Always a write, so that it is either before or after the one that
        // gives back.
        let before = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                Some(if state == FREE { TAKEN } else { WANTED })
            });
        before == Ok(FREE)
    }

    /// Gives it back. `false`, and the device is still taken, if there was a
    /// reason to look once more.
    pub(super) fn give_back(&self) -> bool {
        let (order, failed) = (Ordering::AcqRel, Ordering::Acquire);
        let given = self.0.compare_exchange(TAKEN, FREE, order, failed).is_ok();
        if !given {
            self.0.swap(TAKEN, Ordering::AcqRel);
        }
        given
    }

    /// Gives it back although there may have been a reason: the caller looks
    /// once more in any case.
    pub(super) fn leave(&self) {
        self.0.swap(FREE, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_given_back_only_when_nobody_wanted_it() {
        let claim = Claim::default();
        assert!(claim.take());
        assert!(claim.give_back());
        assert!(claim.take());
        assert!(!claim.take());
        assert!(!claim.take());
        assert!(!claim.give_back());
        assert!(!claim.take());
        assert!(!claim.give_back());
        assert!(claim.give_back());
        assert!(claim.take());
        assert!(!claim.take());
        claim.leave();
        assert!(claim.take());
        assert!(claim.give_back());
    }

    #[test]
    fn no_reason_is_lost_between_two_threads() {
        use std::sync::atomic::AtomicU32;

        const REASONS: u32 = 20_000;
        let claim = Claim::default();
        let (made, seen) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..REASONS {
                        made.fetch_add(1, Ordering::SeqCst);
                        if !claim.take() {
                            continue;
                        }
                        loop {
                            let all = made.load(Ordering::SeqCst);
                            seen.fetch_max(all, Ordering::SeqCst);
                            if claim.give_back() {
                                break;
                            }
                        }
                    }
                });
            }
        });
        assert_eq!(seen.into_inner(), 2 * REASONS);
    }
}
