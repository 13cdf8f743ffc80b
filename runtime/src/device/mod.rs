//! What the model runs on: ONNX Runtime's shared library and the execution providers inside it.

pub mod library;

mod build;
mod memory;
mod nodes;
mod options;
mod provider;
mod report;
mod trial;

mod cpu;

#[cfg(feature = "acl")]
mod acl;
#[cfg(feature = "coreml")]
mod coreml;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "directml")]
mod directml;
#[cfg(feature = "migraphx")]
mod migraphx;
#[cfg(feature = "nnapi")]
mod nnapi;
#[cfg(feature = "openvino")]
mod openvino;
#[cfg(feature = "qnn")]
mod qnn;
#[cfg(feature = "tensorrt")]
mod tensorrt;
#[cfg(feature = "webgpu")]
mod webgpu;
#[cfg(feature = "xnnpack")]
mod xnnpack;

pub use memory::peak_rss;
pub use options::{DEFAULT_PREFIX_CACHE_BYTES, DEFAULT_QUEUE, DeviceOptions, EpPolicy, MAX_BATCH};
pub use provider::{Available, Provider};
pub use report::{Attempt, Outcome, Report};

pub(crate) use build::{Settings, session};
pub(crate) use nodes::{count as count_nodes, profile_prefix};
pub(crate) use trial::{Running, choose_provider};
