//! From a checkpoint to an ONNX graph and a bundle, and the proof that they agree.
//!
//! ```no_run
//! use margay_exporter::{ExportOptions, WeightFormat, export_as};
//! use margay_trainer::Checkpoint;
//!
//! let checkpoint = Checkpoint::open("SmolLM2-135M-Instruct".as_ref())?;
//! let options = ExportOptions {
//!     name: "smollm2".into(),
//!     licence: "Apache-2.0".into(),
//!     provenance: Default::default(),
//!     golden_prompts: vec!["What is the capital of France?".into()],
//!     ..Default::default()
//! };
//! margay::device::library::Locate::from_environment().find()?.initialise()?;
//! let exported = export_as(&checkpoint, "smollm2.bundle".as_ref(), &options, WeightFormat::Int8, &mut |_| {})?;
//! println!("{}", exported.verification);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ```text
//! Checkpoint -> decoder graph + external data -+-> staging folder -> Bundle -> verify against the trainer -> in place
//!               (f32, f16, int8, int4 weights) |
//!               tokenizer, template, canary ---+
//! ```
//!
//! [`export`] writes floats, [`export_as`] any [`WeightFormat`]; [`verify`] and [`verify_checkpoint`] hold a bundle against
//! the model it came from; [`firmware`] makes Rust modules of intent classifiers; [`write_policy`] puts a calibrated policy into a bundle; [`sign`] vouches for one.

#![forbid(unsafe_code)]

mod bundle;
mod canary;
mod error;
pub mod firmware;
mod golden;
mod measure;
mod onnx;
mod policy;
mod quantize;
mod signing;
mod staging;
mod texts;
mod verify;

pub use bundle::{Export, ExportOptions, MeasureOptions, Progress, export, export_as, verify_checkpoint};
pub use error::{Error, ErrorKind, Result};
pub use margay::bundle::manifest::Operators;
pub use measure::Quality;
pub use policy::write_policy;
pub use quantize::{Method, WeightFormat};
pub use signing::{SecretKey, remove_signatures, sign};
pub use texts::{Text, calibration_texts, read_texts};
pub use verify::{Verification, verify};
