//! Rules learned from recorded outcomes: what to score a query by, and what a score means as a probability.
//!
//! Everything here is convex or has a closed form and is solved to rounding: the same rows give the same rule, on any
//! number of threads. Fit on one split, choose the threshold on a second, score on a third.

mod calibration;
mod deployed;
mod logistic;
mod prompts;
mod router;
mod rule;

pub use calibration::{Calibrator, Spread};
pub use deployed::score_recorded;
pub use margay_policy::MAX_ROUTER_BITS;
pub use prompts::Prompts;
pub use router::{DeployedRouter, ROUTER_BITS, Route, Router};
pub use rule::{LearnedRule, LinearRule};
