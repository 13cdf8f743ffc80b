//! Guards decide before any generation whether the large model may be asked at all.
//!
//! They hold no clock: `now` is a monotonic tick in milliseconds from any origin, the same one for all calls.
//! A tick that runs backwards counts as no time passed.

mod breaker;
mod bucket;
mod connectivity;
mod gate;

pub use breaker::{BreakerState, CircuitBreaker};
pub use bucket::TokenBucket;
pub use connectivity::Connectivity;
pub use gate::{Gate, PrivacyClass};
