//! Margay for C: bundle, engine, cascade and cloud behind opaque handles. `include/margay.h` is made from this crate and says
//! all that a C programmer needs.
//!
//! A handle is a number that is never used twice, so that one that was destroyed is refused instead of followed.
#![expect(unsafe_code, reason = "the other side of every function is C")]
#![expect(clippy::missing_safety_doc, reason = "the header says once, at its top, what holds for every pointer")]

#[cfg(feature = "cloud")]
mod answer;
mod bundle;
#[cfg(feature = "cloud")]
mod cascade;
mod choose;
#[cfg(feature = "cloud")]
mod cloud;
mod engine;
mod handle;
mod input;
#[cfg(feature = "cloud")]
mod redaction;
mod request;
mod status;
mod words;

#[cfg(feature = "cloud")]
pub use self::answer::*;
pub use self::bundle::*;
#[cfg(feature = "cloud")]
pub use self::cascade::*;
pub use self::choose::*;
#[cfg(feature = "cloud")]
pub use self::cloud::*;
pub use self::engine::*;
#[cfg(feature = "cloud")]
pub use self::redaction::*;
pub use self::request::*;
pub use self::status::*;
