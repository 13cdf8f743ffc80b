//! How a model was loaded, and on what it really runs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::provider::Provider;

/// How the model was loaded, and on what it runs.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Path of ONNX Runtime's library.
    pub library: PathBuf,
    /// ONNX Runtime's description of its own build.
    pub library_build: &'static str,
    /// The execution provider in use; the CPU takes what it leaves.
    pub provider: Provider,
    /// Whether the products of the graph are Margay's own operators.
    pub own_operators: bool,
    /// How many nodes of the optimised graph each provider ran, by ONNX Runtime's name of it; `None` if they were not counted.
    pub nodes: Option<BTreeMap<String, usize>>,
    /// Every provider that was tried, in order, and what came of it.
    pub attempts: Vec<Attempt>,
    /// Threads that compute one step.
    pub threads: usize,
    /// Requests that decode side by side.
    pub batch: usize,
    /// Time to load ONNX Runtime's library and to build the session in use; the tokenizer is read meanwhile.
    pub load: Duration,
    /// Time of the first canary, which is also what warms the session up; none if it is noted.
    pub warm_up: Duration,
    /// Whether the canary was not decoded, because a note in [`DeviceOptions::cache_dir`](super::DeviceOptions::cache_dir) says
    /// that this very model answered it with the same library, graph and threads on this processor.
    pub canary_noted: bool,
    /// Time of the canary once warm; `None` if no providers were compared.
    pub canary: Option<Duration>,
    /// Largest difference between the canary's logits and the manifest's, when it was decoded.
    pub canary_error: f32,
    /// Size of graph and weights on disk, in bytes; the weights are mapped.
    pub model_bytes: u64,
    /// Most memory that the process has had so far, in bytes; `None` where the system does not say.
    pub peak_rss: Option<u64>,
}

/// One provider that was tried.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Attempt {
    /// The provider.
    pub provider: Provider,
    /// What came of it.
    pub outcome: Outcome,
    /// Time to build its session, if it came to that.
    pub load: Option<Duration>,
    /// Time of the canary once warm, if it was measured.
    pub canary: Option<Duration>,
}

/// What came of a provider that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// The model runs on it.
    InUse,
    /// It ran the canary, but another one is faster.
    Slower,
    /// It is not there, did not take the graph, ran none of it, or did not answer the canary: why, in words.
    Dropped(String),
}
