//! An on-device language model runtime that knows when to ask the cloud.
//!
//! ```
//! use std::ops::ControlFlow;
//! use margay::policy::Verdict;
//! use margay::{Bundle, Cancel, ChooseOptions, DeviceOptions, Engine, Request};
//!
//! # use margay::device::library::Locate;
//! # if Locate::from_environment().find().is_err() { return Ok(()) } // no ONNX Runtime, nothing to show
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/toy");
//! let bundle = Bundle::open(path)?; // every file verified, policy bound to the model
//! let engine = Engine::load(&bundle, DeviceOptions::default())?; // canary decoded
//! let policy = bundle.policy().map(|calibrated| &calibrated.policy);
//!
//! // An answer, streamed: each token with its text and how sure the model is of it.
//! let request = Request::user("wake me at six").max_tokens(8);
//! let generation = engine.generate(&request, policy, &mut |token| {
//!     print!("{}", token.text);
//!     ControlFlow::Continue(())
//! })?;
//! match generation.decision.map(|decision| decision.verdict) {
//!     Some(Verdict::Defer(reason)) => println!(" ... better ask the large model: {reason}"),
//!     _ => println!(),
//! }
//!
//! // One of given answers, by its exact likelihood; the prompt is known already.
//! let choice = engine.choose(&request, &["alarm", "weather"], &ChooseOptions::default(), policy)?;
//! println!("{:.0} % alarm", 100.0 * choice.answers[0].probability);
//! assert_eq!(choice.cached_tokens, choice.prompt_tokens - 1);
//!
//! // Stopped from anywhere, here from its own callback.
//! let cancel = Cancel::default();
//! let cancelled = engine.generate(&request.cancel(cancel.clone()), policy, &mut |_| {
//!     cancel.cancel();
//!     ControlFlow::Continue(())
//! });
//! assert!(cancelled.unwrap_err().is_cancelled());
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
//! [`Bundle`] is a verified folder or archive; [`Slots`] are two of them, to update without a pause; [`Engine`] is a bundle's
//! model, loaded on what [`DeviceOptions`] allow, with a [`Report`] of what it
//! runs on; [`Request`] is what a caller asks, with its [`GenerateOptions`], [`Deadline`] and [`Cancel`]; [`Generation`] is what
//! the model wrote, with the signals of every token and the [`policy::Decision`] on it; [`Choice`] is the likeliest of given
//! answers.
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
//! | `constrained` | answers that follow a JSON schema or a regular expression, see [`Constraint`] |
//! | `acl`, `coreml`, `cuda`, `directml`, `migraphx`, `nnapi`, `openvino`, `qnn`, `tensorrt`, `webgpu`, `xnnpack` | the execution provider of that name, see [`device::Provider`] |
//! | `configuration` | the module `configuration`: `margay.toml`, and everything it describes; implies `stores` |
//! | `testing` | the module `testing`: a cloud that misbehaves on purpose and a clock that stands still |
//! | `fetch` | [`device::library`] can fetch ONNX Runtime with the Python package installer; for desktops and CI |
#![deny(unsafe_code)] // one exception, which says why, in `device::library`

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
pub use answer::{Answer, AnswerTimings, AnswerToken, Money, Origin, Ticket, Tokens, Usage};
pub use bundle::{Bundle, BundleOptions};
#[cfg(feature = "cloud")]
pub use cascade::{AnswerStream, BlockingStream, Cascade, CascadeBuilder, OnCloudFailure, Stream, StreamEvent, Update};
pub use device::{DeviceOptions, Report};
pub use engine::{
    Alternative, Choice, ChooseOptions, Constraint, Engine, Finish, GenerateOptions, Generation, GoldenReport,
    MAX_ALTERNATIVES, MAX_CHOICES, MAX_CONSTRAINT_BYTES, MAX_STOP_STRING_BYTES, MAX_STOP_STRINGS, Normalise, Overflow,
    Sampling, ScoredAnswer, Timings, Token,
};
pub use error::{Error, ErrorKind, Result};
pub use margay_policy as policy;
pub use request::{Cancel, CancelGuard, Deadline, LocalOnly, Message, Priority, Privacy, Request};
pub use slots::{Serving, Slots, SlotsOptions};
pub use tool::{Tool, ToolCall};
