//! What a decoder-only language model is made of, in the words of Hugging Face's `config.json`.
//! Trainer and exporter both read it; neither knows a model that is not described here.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// Dimensions of a Llama-style decoder: RMSNorm, rotary positions, SwiGLU, grouped-query attention. Qwen's families
/// add biases or norms inside attention.
///
/// Serialises to a `config.json` that Hugging Face transformers loads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Architecture {
    /// Family: `llama`, `qwen2` (biases on query, key and value) or `qwen3` (norms on query and key heads).
    pub model_type: String,
    /// Entries in the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the gated MLP.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key-value heads; divides the number of query heads.
    pub num_key_value_heads: usize,
    /// Width of one head, a multiple of 16.
    pub head_dim: usize,
    /// Longest sequence, in tokens.
    pub max_position_embeddings: usize,
    /// Added to the mean square under RMSNorm's root.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies were stretched to a longer context, if they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<Llama3Scaling>,
    /// Whether all four projections of attention have a bias (`llama` and `qwen3`; what `qwen2` has is fixed).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attention_bias: bool,
    /// Whether the output head is the embedding transposed.
    pub tie_word_embeddings: bool,
}

impl Architecture {
    /// A Llama-style architecture with square heads, a context of 64 tokens and a tied head.
    ///
    /// `kv_heads` key-value heads serve `heads` query heads of `hidden / heads` each.
    #[must_use]
    pub fn llama(
        vocabulary: usize,
        hidden: usize,
        intermediate: usize,
        layers: usize,
        heads: usize,
        kv_heads: usize,
    ) -> Self {
        Self {
            model_type: LLAMA.into(),
            vocab_size: vocabulary,
            hidden_size: hidden,
            intermediate_size: intermediate,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim: hidden.checked_div(heads).unwrap_or(0),
            max_position_embeddings: 64,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: None,
            attention_bias: false,
            tie_word_embeddings: true,
        }
    }

    /// Checks that the dimensions fit each other.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::new(ErrorKind::Config, message));
        if !FAMILIES.contains(&self.model_type.as_str()) {
            let known = FAMILIES.join("`, `");
            return refuse(format!("model_type: `{}` is not supported, only `{known}`", self.model_type));
        }
        for (name, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_position_embeddings),
        ] {
            if value == 0 || value > MAX_DIMENSION {
                return refuse(format!("{name}: {value} is outside 1..={MAX_DIMENSION}"));
            }
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return refuse(format!(
                "num_key_value_heads: {} does not divide num_attention_heads {}",
                self.num_key_value_heads, self.num_attention_heads
            ));
        }
        if !self.head_dim.is_multiple_of(HEAD_MULTIPLE) {
            return refuse(format!("head_dim: {} is not a multiple of {HEAD_MULTIPLE}", self.head_dim));
        }
        for (name, value) in [("rms_norm_eps", self.rms_norm_eps), ("rope_theta", self.rope_theta)] {
            if !(value.is_finite() && value > 0.0) {
                return refuse(format!("{name}: {value} is not a positive number"));
            }
        }
        self.rope_scaling.as_ref().map_or(Ok(()), Llama3Scaling::validate)
    }

    /// Whether the projections of query, key and value have a bias.
    #[must_use]
    pub fn input_bias(&self) -> bool {
        self.attention_bias || self.model_type == QWEN2
    }

    /// Whether attention's output projection has a bias.
    #[must_use]
    pub fn output_bias(&self) -> bool {
        self.attention_bias && self.model_type != QWEN2
    }

    /// Whether every query and key head is normed before it is turned.
    #[must_use]
    pub fn head_norms(&self) -> bool {
        self.model_type == QWEN3
    }

    /// Radians by which each pair of lanes turns from one position to the next, `[head / 2]`.
    #[must_use]
    pub fn rotary_frequencies(&self) -> Vec<f64> {
        let half = self.head_dim / 2;
        let plain = (0..half).map(|lane| self.rope_theta.powf(-(lane as f64) / half as f64));
        plain.map(|frequency| self.rope_scaling.as_ref().map_or(frequency, |s| s.stretch(frequency))).collect()
    }

    /// Width of all query heads together.
    #[must_use]
    pub fn query_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    #[must_use]
    pub fn key_value_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Weights of one layer that take part in a matrix product.
    fn layer_matrix(&self) -> usize {
        self.hidden_size * (2 * self.query_size() + 2 * self.key_value_size() + 3 * self.intermediate_size)
    }

    /// Number of trained parameters; a tied head is counted once.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let embeddings = self.vocab_size * self.hidden_size * if self.tie_word_embeddings { 1 } else { 2 };
        let norms = self.hidden_size * (2 * self.num_hidden_layers + 1);
        let head_norms = if self.head_norms() { 2 * self.head_dim } else { 0 };
        let input_biases = if self.input_bias() { self.query_size() + 2 * self.key_value_size() } else { 0 };
        let output_bias = if self.output_bias() { self.hidden_size } else { 0 };
        let layer = self.layer_matrix() + head_norms + input_biases + output_bias;
        (embeddings + norms + self.num_hidden_layers * layer) as u64
    }

    /// Forward FLOPs for one token: two per weight in a matrix product, the output head included.
    ///
    /// The product of queries with past keys is left out: it depends on the position and, at the lengths of
    /// a short prompt, stays under a few percent (Kaplan et al., arXiv 2001.08361, section 2.1).
    #[must_use]
    pub fn flops_per_token(&self) -> u64 {
        2 * (self.num_hidden_layers * self.layer_matrix() + self.vocab_size * self.hidden_size) as u64
    }
}

/// Llama 3's stretched rotary frequencies, `rope_type` `llama3`: long waves slow down by `factor`, short ones stay,
/// those in between are blended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename = "llama3")]
pub struct Llama3Scaling {
    /// How many times slower the longest waves turn.
    pub factor: f64,
    /// Waves longer than the original context divided by this slow down by the whole factor.
    pub low_freq_factor: f64,
    /// Waves shorter than the original context divided by this stay as they are.
    pub high_freq_factor: f64,
    /// Context of the training before the stretch, in tokens.
    pub original_max_position_embeddings: usize,
}

impl Llama3Scaling {
    fn validate(&self) -> Result<()> {
        let original = self.original_max_position_embeddings as f64;
        for (name, value) in [
            ("factor", self.factor),
            ("low_freq_factor", self.low_freq_factor),
            ("high_freq_factor", self.high_freq_factor),
            ("original_max_position_embeddings", original),
        ] {
            if !(value.is_finite() && value > 0.0) {
                let message = format!("rope_scaling.{name}: {value} is not a positive number");
                return Err(Error::new(ErrorKind::Config, message));
            }
        }
        if self.high_freq_factor <= self.low_freq_factor {
            let message = "rope_scaling.high_freq_factor: must be above low_freq_factor";
            return Err(Error::new(ErrorKind::Config, message));
        }
        Ok(())
    }

    /// Meta's formula, `apply_scaling` in `llama-models`.
    fn stretch(&self, frequency: f64) -> f64 {
        let turns = self.original_max_position_embeddings as f64 * frequency / std::f64::consts::TAU;
        let kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor);
        let kept = kept.clamp(0.0, 1.0);
        frequency * (kept + (1.0 - kept) / self.factor)
    }
}

const LLAMA: &str = "llama";
const QWEN2: &str = "qwen2";
const QWEN3: &str = "qwen3";
const FAMILIES: [&str; 3] = [LLAMA, QWEN2, QWEN3];

/// No dimension of a model that runs on a device comes near; a larger one is a mistake in the file.
const MAX_DIMENSION: usize = 1 << 24;

/// ONNX Runtime's fused attention takes heads in multiples of this many lanes only.
const HEAD_MULTIPLE: usize = 16;
