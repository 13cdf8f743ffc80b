//! An on-device language model runtime that knows when to ask the cloud.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use margay::policy::Verdict;
//! use margay::{Bundle, DeviceOptions, Engine, Request};
//!
//! let bundle = Bundle::open("clinc150.bundle")?; // every file verified, policy bound to the model
//! let engine = Engine::load(&bundle, DeviceOptions::default())?; // canary decoded
//! let policy = bundle.policy().map(|calibrated| &calibrated.policy);
//! let generation = engine.generate(&Request::user("wake me at six"), policy, &mut |token| {
//!     print!("{}", token.text);
//!     ControlFlow::Continue(())
//! })?;
//! match generation.decision.map(|decision| decision.verdict) {
//!     Some(Verdict::Defer(reason)) => println!(" ... better ask the large model: {reason}"),
//!     _ => println!(),
//! }
//! # Ok::<(), margay::Error>(())
//! ```
//!
//! ```text
//!  bundle folder            Engine::load              Engine::generate                            Verdict
//!  manifest.json  --------> graph on ONNX Runtime     messages -> chat template -> ids            Keep   -> the answer
//!  model.onnx + weights     tokenizer, template       prefill, then token by token:      ------>  Defer  -> the cloud
//!  tokenizer.json           canary: same logits       logits -> signals -> Monitor
//!  policy.json -----------------------------------------------------------^ (may stop early)
//! ```
//!
//! # Types
//! [`Bundle`] is a verified folder or archive; [`Slots`] are two of them, to update without a pause; [`Engine`] is a
//! bundle's model, loaded; [`Request`] is what a caller asks, with its [`Deadline`] and
//! [`Cancel`]; [`Generation`] is what the model wrote, with the signals of every token and the [`policy::Decision`] on it.
//! With the feature `cloud`, `Cascade` puts an engine and a large model under one deadline and gives one `Answer`;
//! [`LocalOnly`] is a request that its cloud half does not accept. In front of the large model stand, if wanted, a
//! `privacy::Redactor` and an `AuditLog`, in its client; a `stores::Budget`, around it; a `stores::Outbox`, beside it, for
//! when it cannot be reached. One [`Error`] type; programs look at its [`ErrorKind`].
//!
//! # ONNX Runtime
//! Its shared library is loaded at run time, see [`device::library`]: `ORT_DYLIB_PATH`, else the cache folder. One library,
//! version 1.24 or newer, per process.
//!
//! # Features
//! | feature | gives |
//! | --- | --- |
//! | `cloud` (default) | deferral over HTTPS: the modules `cloud`, `privacy` and `telemetry`, `Cascade`, `Answer` |
//! | `stores` | what survives a restart: the module `stores` with budgets and the outbox; implies `cloud` |
//! | `configuration` | the module `configuration`: `margay.toml`, and everything it describes; implies `stores` |
//! | `testing` | the module `testing`: a cloud that misbehaves on purpose and a clock that stands still |
//! | `fetch` | [`device::library`] can fetch ONNX Runtime with the Python package installer; for desktops and CI |
#![forbid(unsafe_code)]

pub mod bundle;
#[cfg(feature = "configuration")]
pub mod configuration;
pub mod device;
mod durable;
mod engine;
mod error;
mod request;
mod slots;
#[cfg(feature = "stores")]
pub mod stores;
#[cfg(feature = "cloud")]
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod tool;

#[cfg(feature = "cloud")]
mod answer;
#[cfg(feature = "cloud")]
mod cascade;
#[cfg(feature = "cloud")]
pub mod cloud;
#[cfg(feature = "cloud")]
pub mod privacy;

#[cfg(feature = "cloud")]
pub use answer::{Answer, AnswerTimings, Money, Origin, Ticket, Tokens, Usage};
pub use bundle::{Bundle, BundleOptions};
#[cfg(feature = "cloud")]
pub use cascade::{AnswerStream, BlockingStream, Cascade, CascadeBuilder, OnCloudFailure, Stream, StreamEvent, Update};
pub use engine::{DeviceOptions, Engine, Finish, Generation, GoldenReport, Report, Timings, Token};
pub use error::{Error, ErrorKind, Result};
pub use margay_policy as policy;
pub use request::{Cancel, CancelGuard, Deadline, LocalOnly, Message, Priority, Privacy, Request};
pub use slots::{Serving, Slots, SlotsOptions};
pub use tool::{Tool, ToolCall};
