//! Margay for Kotlin, Swift and Python: the same bundle, engine, cascade and cloud as in Rust, with `async` where the language
//! has it and a call that waits beside each. UniFFI makes all three from what is exported here.

mod answer;
mod bundle;
mod cascade;
mod cloud;
mod engine;
mod error;
mod listener;
mod request;

pub use self::answer::{Answer, Origin, Tokens};
pub use self::bundle::{Bundle, BundleOptions};
pub use self::cascade::{
    AnswerStream, BlockingStream, Cascade, CascadeOptions, OnCloudFailure, StreamEvent, StreamMode,
};
pub use self::cloud::{Cloud, CloudOptions, Dialect, Redaction, Redactor, TokenProvider};
pub use self::engine::{Choice, DeviceOptions, Engine, Generation, Normalise, ProviderPolicy, ScoredAnswer, Verdict};
pub use self::error::{CallbackError, MargayError};
pub use self::listener::{Token, TokenListener};
pub use self::request::{Cancel, Message, Request, Sampling};

uniffi::setup_scaffolding!();

/// The version of the library, e.g. `0.1.0`.
#[uniffi::export]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}
