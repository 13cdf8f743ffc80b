//! A token bucket: a budget that refills at a steady rate and can be saved up to a limit.

use core::num::NonZeroU64;

/// A budget in whole units of the caller's choice (requests, tokens, millionths of a currency), refilled over time.
///
/// Integers only: over any time the refill is exact, however often it is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBucket {
    capacity: u64,
    refill: u64,
    period_ms: NonZeroU64,
    level: u64,
    /// Refill that is not a whole unit yet, in units / `period_ms`.
    fraction: u64,
    updated: u64,
}

impl TokenBucket {
    /// A full bucket of `capacity` units at time `now`, refilled with `refill` units every `period_ms`
    /// milliseconds, evenly.
    #[must_use]
    pub const fn new(capacity: u64, refill: u64, period_ms: NonZeroU64, now: u64) -> Self {
        Self { capacity, refill, period_ms, level: capacity, fraction: 0, updated: now }
    }

    /// The same bucket with `level` units in it, at most its capacity: what was left when it was last written down.
    #[must_use]
    pub fn with_level(mut self, level: u64) -> Self {
        self.level = level.min(self.capacity);
        self
    }

    /// Takes `cost` units if there are as many; whether it did.
    #[must_use]
    pub fn take(&mut self, cost: u64, now: u64) -> bool {
        self.refill(now);
        match self.level.checked_sub(cost) {
            Some(rest) => {
                self.level = rest;
                true
            }
            None => false,
        }
    }

    /// Puts back units that were taken and not spent.
    pub fn put_back(&mut self, units: u64) {
        self.level = self.level.saturating_add(units).min(self.capacity);
    }

    /// Units there are now.
    #[must_use]
    pub fn level(&mut self, now: u64) -> u64 {
        self.refill(now);
        self.level
    }

    /// Milliseconds until `cost` units can be taken; `None` if never.
    #[must_use]
    pub fn wait_ms(&mut self, cost: u64, now: u64) -> Option<u64> {
        self.refill(now);
        let missing = u128::from(cost.saturating_sub(self.level));
        if missing == 0 {
            return Some(0);
        }
        if cost > self.capacity || self.refill == 0 {
            return None;
        }
        let needed = missing * u128::from(self.period_ms.get()) - u128::from(self.fraction);
        u64::try_from(needed.div_ceil(u128::from(self.refill))).ok()
    }

    fn refill(&mut self, now: u64) {
        let elapsed = now.saturating_sub(self.updated);
        self.updated = self.updated.max(now);
        let period = u128::from(self.period_ms.get());
        let gained = u128::from(elapsed) * u128::from(self.refill) + u128::from(self.fraction);
        let level = u128::from(self.level) + gained / period;
        match u64::try_from(level) {
            Ok(level) if level < self.capacity => {
                self.level = level;
                self.fraction = (gained % period) as u64; // below period_ms, which is a u64
            }
            _ => {
                self.level = self.capacity;
                self.fraction = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bucket(capacity: u64, refill: u64, period_ms: u64) -> TokenBucket {
        TokenBucket::new(capacity, refill, NonZeroU64::new(period_ms).unwrap(), 0)
    }

    #[test]
    fn it_gives_what_it_has_and_refills() {
        let mut bucket = bucket(10, 2, 1_000);
        assert!(bucket.take(7, 0));
        assert!(!bucket.take(4, 0), "three are left");
        assert_eq!(bucket.wait_ms(4, 0), Some(500));
        assert!(!bucket.take(4, 499));
        assert!(bucket.take(4, 500));
        bucket.put_back(99);
        assert_eq!(bucket.level(500), 10, "never above its capacity");
        assert_eq!(bucket.wait_ms(11, 500), None, "more than it ever holds");
        assert_eq!(bucket.level(0), 10, "a tick that runs backwards");
    }

    #[test]
    fn a_bucket_without_refill_is_a_plain_budget() {
        let mut bucket = bucket(u64::MAX, 0, 1).with_level(5);
        assert!(bucket.take(5, 0));
        assert_eq!(bucket.level(u64::MAX), 0);
        assert_eq!(bucket.wait_ms(1, u64::MAX), None);
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut bucket = bucket(u64::MAX, u64::MAX, u64::MAX);
        assert!(bucket.take(u64::MAX, 0));
        assert_eq!(bucket.level(7), 7, "one unit a millisecond");
        assert_eq!(bucket.wait_ms(u64::MAX, 7), Some(u64::MAX - 7));
        assert_eq!(bucket.level(u64::MAX), u64::MAX);
    }

    proptest! {
        /// Looking often loses nothing: the level depends on the time passed alone.
        #[test]
        fn refill_is_exact(
            refill in 0..50_u64,
            period_ms in 1..50_u64,
            steps in prop::collection::vec(0..40_u64, 0..50),
        ) {
            let mut bucket = bucket(u64::MAX, refill, period_ms).with_level(0);
            let mut now = 0;
            for step in steps {
                now += step;
                prop_assert_eq!(bucket.level(now), now * refill / period_ms);
            }
        }

        /// The wait is the shortest one that suffices.
        #[test]
        fn the_wait_is_exact(
            capacity in 1..100_u64,
            refill in 1..50_u64,
            period_ms in 1..50_u64,
            cost in 1..100_u64,
            now in 0..99_u64,
        ) {
            let mut bucket = bucket(capacity, refill, period_ms).with_level(0);
            match bucket.wait_ms(cost, now) {
                None => prop_assert!(cost > capacity),
                Some(wait) => {
                    prop_assert!(wait == 0 || !bucket.clone().take(cost, now + wait - 1));
                    prop_assert!(bucket.take(cost, now + wait));
                }
            }
        }
    }
}
