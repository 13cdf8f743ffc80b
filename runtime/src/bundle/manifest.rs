//! `manifest.json`: what a bundle says about itself. Types only; reading and checking are in the module above.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The manifest schema this version writes and reads.
pub const SCHEMA: u32 = 1;

/// A bundle's table of contents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this file's form, [`SCHEMA`].
    pub schema: u32,
    /// A name for people, e.g. `clinc150-small-cat-xent`.
    pub name: String,
    /// What the graph computes.
    pub model: Model,
    /// How a conversation becomes token ids, and where an answer ends.
    pub prompt: Prompt,
    /// A short greedy decode that every device must reproduce before the bundle serves.
    pub canary: Canary,
    /// Every file of the bundle but this one, sorted by path.
    pub files: Vec<FileEntry>,
    /// SPDX expression for the weights.
    pub licence: String,
    /// Who made the bundle from what: free key-value facts for people.
    pub provenance: BTreeMap<String, String>,
}

/// The ONNX graph and its dimensions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Path of the ONNX graph inside the bundle; its weights lie beside it as external data.
    pub graph: String,
    /// Path of the Hugging Face `tokenizer.json` inside the bundle.
    pub tokenizer: String,
    /// Family of the architecture, e.g. `llama`.
    pub architecture: String,
    /// How weights are stored, e.g. `f32`.
    pub quantization: String,
    /// What the graph is made of, which decides how key-values pass from step to step.
    #[serde(default, skip_serializing_if = "Operators::are_fused")]
    pub operators: Operators,
    /// Whether the graph has the input `targets` and the output `log_probabilities`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scoring: bool,
    /// Number of entries in the vocabulary, the last axis of `logits`.
    pub vocabulary_size: usize,
    /// Longest sequence (prompt and answer together), in tokens.
    pub context_length: usize,
    /// Number of decoder layers, so of `past_key_values.{i}.key` and `.value`.
    pub layers: usize,
    /// Number of key-value heads, the second axis of a past tensor.
    pub key_value_heads: usize,
    /// Width of one head, the last axis of a past tensor.
    pub head_size: usize,
    /// Forward FLOPs for one token: two per weight that takes part in a matrix product.
    pub flops_per_token: u64,
    /// Number of trained parameters.
    pub parameters: u64,
}

/// The operators of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operators {
    /// ONNX Runtime's own where they are faster. Past and present key-values may be one buffer.
    #[default]
    Fused,
    /// ONNX's standard set alone, for providers that know no other. Present key-values are the past ones with the new behind.
    Standard,
}

impl Operators {
    fn are_fused(&self) -> bool {
        *self == Self::Fused
    }
}

impl fmt::Display for Operators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fused => "fused",
            Self::Standard => "standard",
        })
    }
}

impl FromStr for Operators {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = [Self::Fused, Self::Standard].into_iter().find(|operators| operators.to_string() == text);
        found.ok_or_else(|| format!("`{text}` is not one of fused, standard"))
    }
}

/// Text to ids, and back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// Jinja chat template over `messages` (`role`, `content`) and `add_generation_prompt`, as Hugging Face defines it.
    pub chat_template: String,
    /// The texts that the template calls `bos_token`, `eos_token` and so on; a name it reads and does not find is an error.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub special_tokens: BTreeMap<String, String>,
    /// Ids that end an answer.
    pub stop_tokens: Vec<u32>,
}

/// Golden vector: the greedy continuation of `prompt` and the logits that begin it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// Token ids of the prompt.
    pub prompt: Vec<u32>,
    /// Token ids of the greedy continuation.
    pub continuation: Vec<u32>,
    /// The trainer's logits after the prompt, for the first few ids of the vocabulary.
    pub logits: Vec<f32>,
    /// Largest absolute difference from `logits` that still counts as equal.
    pub tolerance: f32,
}

/// One file of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Path inside the bundle, `/` between components, never absolute, never `..`.
    pub path: String,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 of the content, 64 lower-case hexadecimal digits.
    pub sha256: String,
}
