//! When something is sent again.

/// How long either side waits before it repeats itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// After the first time, in milliseconds. Then twice as long every time.
    pub first_ms: u32,
    /// Never longer than this, in milliseconds.
    pub longest_ms: u32,
    /// After the other side said that it is working on it, in milliseconds.
    pub accepted_ms: u32,
    /// An answer that was repeated so often without being received is repeated no more, unless its question comes again:
    /// the device is gone.
    pub repeats: u8,
}

/// A quarter of a second, then twice as long up to 8 seconds; 15 seconds for an answer; 20 repeats, two minutes.
impl Default for Timing {
    fn default() -> Self {
        Self { first_ms: 250, longest_ms: 8_000, accepted_ms: 15_000, repeats: 20 }
    }
}

/// Something that is sent again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) due: u64,
    pub(crate) sent: u8,
}

impl Schedule {
    /// To be sent now.
    pub(crate) fn now(now: u64) -> Self {
        Self { due: now, sent: 0 }
    }

    /// It was sent just now: the next time is later.
    pub(crate) fn sent(&mut self, timing: &Timing, now: u64) {
        let doublings = u32::from(self.sent).min(31);
        let wait = (u64::from(timing.first_ms) << doublings).min(u64::from(timing.longest_ms));
        self.due = now.saturating_add(wait.max(1));
        self.sent = self.sent.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_waits_twice_as_long_each_time_up_to_a_limit() {
        let timing = Timing { first_ms: 100, longest_ms: 1_000, ..Timing::default() };
        let mut schedule = Schedule::now(7);
        let mut now = schedule.due;
        let mut waits = [0; 6];
        for wait in &mut waits {
            schedule.sent(&timing, now);
            *wait = schedule.due - now;
            now = schedule.due;
        }
        assert_eq!(waits, [100, 200, 400, 800, 1_000, 1_000]);
        schedule.sent = u8::MAX;
        schedule.sent(&Timing { first_ms: 0, longest_ms: 0, ..timing }, now);
        assert_eq!(schedule.due, now + 1, "time passes even if nobody wants to wait");
    }
}
