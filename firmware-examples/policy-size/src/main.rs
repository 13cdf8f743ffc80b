//! The whole deferral policy and nothing else, so that the size of this program bounds the size of the policy.
//!
//! A policy in its compact form, signals, a monitor and all guards, fed with what no compiler can foresee.
#![no_std]
#![no_main]

use core::hint::black_box;
use core::num::{NonZeroU32, NonZeroU64};

use margay_policy::guard::{CircuitBreaker, Connectivity, Gate, PrivacyClass, TokenBucket};
use margay_policy::{Monitor, Policy, Progress, QuantileTracker, TokenSignals, Verdict};

/// `{"rule": {"mlp": ...}}` or any other: which one is not known to the compiler, so all of them are here.
static POLICY: &[u8] = &[1, 4, 10, 0, 0, 0, 0xbf, 1, 2, b't', b'v', 0, 0, 0x80, 0xff, 0];

board::main!(run);

fn run() -> bool {
    decide().is_some_and(Verdict::is_keep)
}

fn decide() -> Option<Verdict> {
    let policy: Policy<4> = Policy::from_postcard(black_box(POLICY)).ok()?;
    let mut monitor = Monitor::new(&policy, black_box(Some("tv")), black_box(8));
    let floats = black_box([0.5_f32, 3.25, -1.0, 0.0]);
    let bytes = black_box([5_i8, 32, -10, 0]);
    for signals in [TokenSignals::from_logits(&floats, 1), TokenSignals::from_int8_logits(&bytes, black_box(0.1), 1)] {
        if monitor.observe(signals.ok()?) == Progress::Stop {
            break;
        }
    }
    let decision = monitor.decide();
    let mut tracker = QuantileTracker::new(decision.threshold, black_box(0.2), 0.05).ok();
    if let (Some(tracker), Some(score)) = (&mut tracker, decision.score) {
        tracker.observe(score);
        black_box(tracker.threshold());
    }
    let few = black_box(NonZeroU32::MIN);
    let mut gate = Gate {
        connectivity: Connectivity::new(few, few, black_box(1_000)),
        breaker: CircuitBreaker::new(few, black_box(1_000)),
        budget: TokenBucket::new(black_box(10), 1, NonZeroU64::MIN, 0),
    };
    gate.connectivity.report(black_box(true), 0);
    gate.breaker.fail(black_box(0));
    gate.breaker.succeed();
    Some(match gate.permit(black_box(PrivacyClass::MayLeave), 1, black_box(5)) {
        Ok(()) => decision.verdict,
        Err(reason) => decision.verdict.without_cloud(reason),
    })
}
