//! From a checkpoint to an ONNX graph and a bundle, and the proof that they agree.
#![forbid(unsafe_code)]

mod bundle;
mod canary;
mod error;
mod onnx;
mod quantize;
mod verify;

pub use bundle::{Export, ExportOptions, Progress, export, export_as, verify_checkpoint, write_policy};
pub use error::{Error, ErrorKind, Result};
pub use quantize::WeightFormat;
pub use verify::{Verification, verify};
