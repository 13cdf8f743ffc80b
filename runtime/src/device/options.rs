//! What the model may use of the device.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::library::Library;
use super::provider::Provider;
use crate::error::{Error, ErrorKind};

/// Most requests that wait for an engine, unless told otherwise.
pub const DEFAULT_QUEUE: usize = 64;

/// Most sequences that may decode side by side: beyond it, a step is as slow as so many after each other.
pub const MAX_BATCH: usize = 64;

/// Most bytes of keys and values kept of prompts' common beginnings, unless told otherwise: some 700 tokens of a model with 30
/// layers and 3 key-value heads.
pub const DEFAULT_PREFIX_CACHE_BYTES: usize = 32 << 20;

/// What the model may use of the device. The default is the CPU, with a thread for each core.
///
/// ```
/// use margay::DeviceOptions;
/// use margay::device::{EpPolicy, Provider};
///
/// let options = DeviceOptions {
///     providers: vec![Provider::OpenVino],
///     policy: EpPolicy::Auto,
///     threads: Some(2),
///     ..DeviceOptions::default()
/// };
/// ```
#[derive(Debug, Clone)]
pub struct DeviceOptions {
    /// ONNX Runtime; `None` is the one already loaded, else the one that
    /// [`Locate::find`](super::library::Locate::find) finds.
    pub library: Option<Library>,
    /// Execution providers, the most wanted first. The CPU need not be named: it takes what no other does.
    pub providers: Vec<Provider>,
    /// What happens with a provider that is missing, fails or is slow.
    pub policy: EpPolicy,
    /// Libraries of providers that are not part of ONNX Runtime's own, by absolute path, e.g. that of the Python package
    /// `onnxruntime-ep-openvino`.
    pub plugins: Vec<(Provider, PathBuf)>,
    /// Options of a provider in its own words, beside those that it is given anyway.
    pub provider_options: Vec<(Provider, String, String)>,
    /// Threads that compute one step; `None` is one for each core.
    pub threads: Option<usize>,
    /// Most bytes for weights, key-value buffers and prefix cache together; `None` is no cap. What ONNX Runtime needs for
    /// itself comes on top.
    pub memory_cap: Option<u64>,
    /// Where providers keep compiled models between starts, and where it is noted that a model answered its canary; `None`
    /// compiles and decodes the canary at every start.
    pub cache_dir: Option<PathBuf>,
    /// Requests that may wait for their turn; one more is [`ErrorKind::QueueFull`](crate::ErrorKind::QueueFull).
    pub queue: usize,
    /// Requests that [`Engine::generate`](crate::Engine::generate) answers side by side, 1 to [`MAX_BATCH`]: their sequences
    /// decode together, a token of each in one step, and prompts are read in between, piece by piece. 1 is one after the other.
    /// More than one takes a bundle of fused operators on the CPU, and memory for one sequence more than these; with a cap every
    /// one has the same share of it.
    pub batch: usize,
    /// Most bytes of keys and values kept of prompts' common beginnings, beside the last sequence's own; `Some(0)` keeps only
    /// that. `None` computes every prompt from its first token: the same request then gives the same logits to the last bit
    /// whatever was asked before.
    pub prefix_cache: Option<usize>,
    /// Count the graph's nodes by provider, from a profile of the canary. Always done for providers other than the CPU.
    pub count_nodes: bool,
    /// Leave the graph for Margay's own operators aside, even where this processor knows them.
    pub portable: bool,
}

/// What happens with a provider that is missing, fails or is slow. What happened is in [`Report::attempts`](super::Report::attempts).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EpPolicy {
    /// Loading fails unless the first provider named is there, runs some of the graph, and answers the canary.
    Require,
    /// The first provider that is there and answers the canary; the CPU if none does.
    #[default]
    Prefer,
    /// Every provider named, or, if none is, every one that is compiled in but NNAPI, is tried beside the CPU; the one that
    /// answers the canary fastest is used.
    Auto,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        Self {
            library: None,
            providers: Vec::new(),
            policy: EpPolicy::default(),
            plugins: Vec::new(),
            provider_options: Vec::new(),
            threads: None,
            memory_cap: None,
            cache_dir: None,
            queue: DEFAULT_QUEUE,
            batch: 1,
            prefix_cache: Some(DEFAULT_PREFIX_CACHE_BYTES),
            count_nodes: false,
            portable: false,
        }
    }
}

impl fmt::Display for EpPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Require => "require",
            Self::Prefer => "prefer",
            Self::Auto => "auto",
        })
    }
}

impl FromStr for EpPolicy {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self, Error> {
        match word {
            "require" => Ok(Self::Require),
            "prefer" => Ok(Self::Prefer),
            "auto" => Ok(Self::Auto),
            _ => Err(Error::new(ErrorKind::InvalidRequest, format!("`{word}` is none of require, prefer, auto"))),
        }
    }
}
