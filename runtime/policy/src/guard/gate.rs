//! All guards in a row, and the first one's reason.

use super::{BreakerState, CircuitBreaker, Connectivity, TokenBucket};
use crate::verdict::Reason;

/// Where an utterance may be answered. What is said in a runtime that has types for it is a type there; here it is what
/// the last step before the radio looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PrivacyClass {
    /// The large model may be asked.
    MayLeave,
    /// It must not leave the device.
    LocalOnly,
}

/// What stands before the large model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// The way there.
    pub connectivity: Connectivity,
    /// The service at its end.
    pub breaker: CircuitBreaker,
    /// What asking may cost.
    pub budget: TokenBucket,
}

impl Gate {
    /// Whether a request of this class and cost may go out now. If so its cost is taken from the budget.
    ///
    /// # Errors
    /// The reason for a verdict of abstention, in this order: [`Reason::LocalOnly`], [`Reason::Offline`],
    /// [`Reason::BreakerOpen`], [`Reason::OverBudget`].
    pub fn permit(&mut self, class: PrivacyClass, cost: u64, now: u64) -> Result<(), Reason> {
        if class == PrivacyClass::LocalOnly {
            return Err(Reason::LocalOnly);
        }
        if !self.connectivity.is_online() {
            return Err(Reason::Offline);
        }
        if self.breaker.state(now) == BreakerState::Open {
            return Err(Reason::BreakerOpen);
        }
        if !self.budget.take(cost, now) {
            return Err(Reason::OverBudget);
        }
        // Last, because it may let this request out as its one probe.
        if !self.breaker.permit(now) {
            self.budget.put_back(cost);
            return Err(Reason::BreakerOpen);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use core::num::{NonZeroU32, NonZeroU64};

    use super::*;

    #[test]
    fn the_first_guard_that_refuses_says_why() {
        let one = NonZeroU32::MIN;
        let mut gate = Gate {
            connectivity: Connectivity::new(one, one, 0),
            breaker: CircuitBreaker::new(one, 1_000),
            budget: TokenBucket::new(3, 0, NonZeroU64::MIN, 0),
        };
        let ask = |gate: &mut Gate, class, now| gate.permit(class, 1, now);
        assert_eq!(ask(&mut gate, PrivacyClass::LocalOnly, 0), Err(Reason::LocalOnly));
        assert_eq!(ask(&mut gate, PrivacyClass::MayLeave, 0), Ok(()));
        gate.breaker.fail(0);
        assert_eq!(ask(&mut gate, PrivacyClass::MayLeave, 999), Err(Reason::BreakerOpen));
        assert_eq!(ask(&mut gate, PrivacyClass::MayLeave, 1_000), Ok(()), "a probe");
        assert_eq!(ask(&mut gate, PrivacyClass::MayLeave, 1_001), Err(Reason::BreakerOpen), "one at a time");
        assert_eq!(gate.budget.level(1_001), 1, "what did not go out cost nothing");
        gate.breaker.succeed();
        gate.connectivity.report(false, 1_002);
        assert_eq!(ask(&mut gate, PrivacyClass::MayLeave, 1_002), Err(Reason::Offline));
        gate.connectivity.report(true, 1_003);
        assert_eq!(ask(&mut gate, PrivacyClass::MayLeave, 1_003), Ok(()));
        assert_eq!(ask(&mut gate, PrivacyClass::MayLeave, 1_004), Err(Reason::OverBudget));
    }
}
