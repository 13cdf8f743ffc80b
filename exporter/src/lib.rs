//! From a checkpoint to an ONNX graph and a bundle, and the proof that they agree.
#![forbid(unsafe_code)]

mod bundle;
mod error;
mod onnx;
mod verify;

pub use bundle::{ExportOptions, export, write_policy};
pub use error::{Error, ErrorKind, Result};
pub use verify::{Verification, verify};
