//! The deferral decision of a model cascade: is the small model's answer good enough, or does the large one
//! take over?
//!
//! ```
//! use margay_policy::{Monitor, Policy, Progress, Rule, Threshold, TokenSignals, Verdict};
//!
//! let policy: Policy = Policy::new(Rule::ChowAverage, Threshold::new(-0.5)?);
//! let policy = policy.with_task("alarm", Threshold::new(-0.1)?)?;
//!
//! let mut monitor = Monitor::new(&policy, Some("alarm"), 32);
//! for (logits, token) in [([9.0, 1.0, 0.5], 0), ([0.2, 0.1, 6.5], 2)] {
//!     if monitor.observe(TokenSignals::from_logits(&logits, token)?) == Progress::Stop {
//!         break; // whatever else the small model writes, this answer will be deferred
//!     }
//! }
//! assert_eq!(monitor.decide().verdict, Verdict::Keep);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ```text
//!  logits of one token          all tokens so far              one number             the word
//!  [vocabulary]
//!       |                             |                           |                      |
//!  TokenSignals::from_logits -> Aggregate::observe -> Rule::score(&Aggregate) -> Policy::decide -> Decision
//!       \______________________________ Monitor: token by token, stops early ______________/
//! ```
//!
//! # Types
//! [`TokenSignals`] is what one token says, [`Aggregate`] what the answer says so far, in constant memory. A
//! [`Rule`], one [`Feature`] or learned from several, reads one [`Score`] off it; a [`Policy`] compares that with the [`Threshold`] of the task and
//! gives a [`Decision`] with its [`Verdict`]. A [`Monitor`] does all that while the answer is written and
//! says when going on is in vain. A [`QuantileTracker`] moves a threshold so that a wanted share is deferred. A [`Router`]
//! reads a [`Score`] off the prompt, before anything is generated. The guards in [`guard`] decide beforehand whether the
//! cloud may be asked at all.
//!
//! # The same verdict everywhere
//! The same signals give the same bits on x86-64, on Arm and on a microcontroller without a double-precision unit:
//! - Every result is a fixed sequence of integer operations and of IEEE 754 additions, subtractions,
//!   multiplications, divisions, conversions and comparisons, rounded to nearest; Rust never fuses a
//!   multiplication with an addition by itself. From a token's signals to the verdict it is `f32` and
//!   integers; only [`TokenSignals::from_logits`] (and its twin for 8-bit logits) uses `f64`, with sums in a stated order.
//! - `exp` is a polynomial written here. `ln` is `libm::log` in `f64`: a port of musl's, portable arithmetic
//!   that `libm` replaces by machine code on no target with IEEE arithmetic.
//! - No `max` or `min` whose sign of zero the language leaves open, and no NaN ever reaches a result.
//!
//! Twelve thousand streams with their score bits are kept with the tests; the host and an emulated Cortex-M4F
//! reproduce them. (32-bit x86 without SSE2 computes in 80 bits and is the one target that is left out.)
//!
//! # Features
//! | feature | gives |
//! | --- | --- |
//! | `serde` | policies, thresholds, signals and verdicts through serde, every field checked; still `no_std` |
//! | `postcard` | policies in a compact binary form, for flash; implies `serde`; still `no_std` |
//! | `std` | policies as JSON text; implies `serde` |
#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "std"))]
extern crate std;

pub mod guard;

mod aggregate;
#[cfg(feature = "postcard")]
mod compact;
mod feature;
#[cfg(feature = "std")]
mod json;
mod learned;
mod monitor;
mod policy;
mod quantiles;
mod router;
mod rule;
mod signals;
mod threshold;
mod tracker;
mod verdict;

pub use aggregate::Aggregate;
#[cfg(feature = "postcard")]
pub use compact::{COMPACT_VERSION, CompactError, MAX_COMPACT_BYTES};
pub use feature::Feature;
#[cfg(feature = "std")]
pub use json::{JsonError, MAX_JSON_BYTES};
pub use learned::{
    LearnedError, Linear, MAX_FEATURES, MAX_KNOTS, MAX_MLP_FEATURES, MAX_MLP_UNITS, Mlp, MlpUnit, PiecewiseLinear,
};
pub use monitor::{Monitor, Progress};
pub use policy::{EarlyBound, Policy, PolicyError, TaskName};
pub use quantiles::EXACT_TOKENS;
pub use router::{MAX_PROMPT_FEATURES, MAX_ROUTER_BITS, PromptFeatures, Router, RouterError};
pub use rule::{Percent, Rule, RuleError, Score};
pub use signals::{SignalError, TokenSignals};
pub use threshold::{Threshold, ThresholdError};
pub use tracker::{QuantileTracker, TrackerError};
pub use verdict::{Decision, Reason, Verdict};
