//! `manifest.json`: what a bundle says about itself. What must hold of it is in `check.rs`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::digest::{self, ModelDigest};
use super::{MANIFEST_FILE, MAX_MANIFEST_BYTES, POLICY_FILE, VARIANTS_FOLDER, check, malformed, parse, unique};
use crate::error::Result;

/// The manifest schema this version writes and reads. A field that a reader does not know is an error: none is skipped.
pub const SCHEMA: u32 = 1;

/// A bundle's table of contents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this file's form, [`SCHEMA`].
    pub schema: u32,
    /// A name for people, e.g. `clinc150-small-cat-xent`.
    pub name: String,
    /// [`ModelDigest::compute`] of this manifest, for programs that do not compute it. Must be right if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_digest: Option<ModelDigest>,
    /// What the graph computes.
    pub model: Model,
    /// How a conversation becomes token ids, and where an answer ends.
    pub prompt: Prompt,
    /// A short greedy decode that every device must reproduce before the bundle serves.
    pub canary: Canary,
    /// More golden vectors, for a verification that takes its time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub golden: Vec<Golden>,
    /// What was measured of the model, before and after its weights were quantized.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measurements: Vec<Measurement>,
    /// The same model in other forms, for devices that run those faster. Which one is loaded is up to the runtime.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<Variant>,
    /// Every file of the bundle but this one and its signatures, sorted by path.
    pub files: Vec<FileEntry>,
    /// SPDX expression for the weights.
    pub licence: String,
    /// Who made the bundle from what: free key-value facts for people.
    #[serde(deserialize_with = "unique::map")]
    pub provenance: BTreeMap<String, String>,
}

impl Manifest {
    /// Reads the content of a `manifest.json` and checks everything that can be checked without the files.
    ///
    /// # Errors
    /// [`ErrorKind::Bundle`](crate::ErrorKind::Bundle) naming the field; [`ErrorKind::Digest`](crate::ErrorKind::Digest)
    /// if it states the digest of another model.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(malformed(format!("{MANIFEST_FILE} is longer than {MAX_MANIFEST_BYTES} bytes")));
        }
        let manifest = parse(Path::new(MANIFEST_FILE), bytes)?;
        check::manifest(&manifest)?;
        Ok(manifest)
    }

    /// The manifest of one variant on its own: what the bundle would say if this were the only form of the model.
    ///
    /// `None` if there is no variant of that name.
    #[must_use]
    pub fn variant(&self, name: &str) -> Option<Self> {
        let variant = self.variants.iter().find(|variant| variant.name == name)?;
        let mut own = self.clone();
        own.model.graph.clone_from(&variant.graph);
        own.model.own_graph = None;
        own.model.quantization.clone_from(&variant.quantization);
        (own.model.operators, own.model.scoring) = (variant.operators, variant.scoring);
        own.canary = variant.canary.clone();
        own.files.retain(|entry| digest::is_of_model(&entry.path, &variant.graph));
        (own.model_digest, own.golden, own.measurements, own.variants) = (None, vec![], vec![], vec![]);
        Some(own)
    }

    /// Whether a program parses the file, rather than computing with the numbers in it.
    pub(super) fn reads(&self, path: &str) -> bool {
        let graphs =
            self.variants.iter().map(|variant| &variant.graph).chain([&self.model.graph, &self.model.tokenizer]);
        graphs.chain(&self.model.own_graph).any(|read| read == path) || path.ends_with(POLICY_FILE)
    }
}

/// The ONNX graph and its dimensions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Path of the ONNX graph inside the bundle; its weights lie beside it as external data.
    pub graph: String,
    /// Path of the same graph over the same weights with Margay's own operators, for processors that they know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_graph: Option<String>,
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
    #[serde(default, deserialize_with = "unique::map", skip_serializing_if = "BTreeMap::is_empty")]
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

/// Golden vector: the most likely next tokens at chosen positions of a sequence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// The text that the tokenizer turns into `ids`, without a template and without special tokens of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Token ids of the sequence.
    pub ids: Vec<u32>,
    /// The trainer's logits at some of its positions, ascending.
    pub positions: Vec<GoldenPosition>,
    /// Largest absolute difference from those logits that still counts as equal.
    pub tolerance: f32,
    /// What follows the sequence when the most likely token is taken each time, as far as none of them is in doubt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub greedy: Option<Greedy>,
}

/// A greedy continuation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Greedy {
    /// Its token ids.
    pub ids: Vec<u32>,
    /// What the tokenizer makes of them, without special tokens.
    pub text: String,
}

/// The trainer's largest logits after one position of a [`Golden`] sequence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenPosition {
    /// Index into the sequence's ids; the logits are those after that id.
    pub position: usize,
    /// Token ids and their logits, the largest first.
    pub top: Vec<(u32, f32)>,
}

/// One quantity on one data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    /// What was measured, e.g. `perplexity`, `accuracy`.
    pub quantity: String,
    /// Name of the data.
    pub data: String,
    /// SHA-256 of the data's file, 64 lower-case hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_sha256: Option<String>,
    /// What the number is a mean over: target tokens of a perplexity, rows of an accuracy.
    pub sample_size: u64,
    /// With the checkpoint's own weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<f64>,
    /// With the weights in the bundle.
    pub after: f64,
}

/// The model in another form: a graph that one kind of device runs faster, e.g. in half precision or compiled ahead.
///
/// Its files lie in `variants/NAME/`, and no other form of the model uses them. It computes other logits than the
/// bundle's own graph, so it has its own canary, its own digest ([`Manifest::variant`]) and, in
/// `variants/NAME/policy.json`, its own thresholds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Unique in the bundle, e.g. `gpu-f16`; the name of its folder.
    pub name: String,
    /// What it is for.
    pub device: DeviceKind,
    /// Execution providers that can run it, the preferred one first, by their names in lower case, e.g. `qnn`.
    pub providers: Vec<String>,
    /// What a device must be besides, in the provider's own terms, e.g. `soc` of a context that was compiled for one.
    #[serde(default, deserialize_with = "unique::map", skip_serializing_if = "BTreeMap::is_empty")]
    pub requires: BTreeMap<String, String>,
    /// Path of its ONNX graph inside the bundle.
    pub graph: String,
    /// How its weights are stored, e.g. `f16`.
    pub quantization: String,
    /// What its graph is made of.
    #[serde(default, skip_serializing_if = "Operators::are_fused")]
    pub operators: Operators,
    /// Whether its graph has the input `targets` and the output `log_probabilities`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scoring: bool,
    /// What it must reproduce before it serves.
    pub canary: Canary,
}

impl Variant {
    /// Where its files are: `variants/NAME/`.
    #[must_use]
    pub fn folder(&self) -> String {
        format!("{VARIANTS_FOLDER}{}/", self.name)
    }
}

/// A kind of processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// The central processor.
    Cpu,
    /// A graphics processor.
    Gpu,
    /// A processor for neural networks.
    Npu,
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
