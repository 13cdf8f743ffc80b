//! What a decoder-only language model is made of, in the words of Hugging Face's `config.json`.
//! Trainer and exporter both read it; neither knows a model that is not described here.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// Dimensions of a Llama-style decoder: RMSNorm, rotary positions, SwiGLU, grouped-query attention. Qwen's families
/// add biases or norms inside attention; Gemma's norms both ends of a branch, and most of its layers see only a window.
///
/// Serialises to a `config.json` that Hugging Face transformers loads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Architecture {
    /// Family: `llama`, `qwen2` (biases on query, key and value), `qwen3` (norms on query and key heads) or
    /// `gemma3_text` (GeGLU, four norms in a layer that scale by one plus their weight, scaled embeddings).
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
    /// Scores of attention are divided by the square root of this; without it, of the head's width.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_pre_attn_scalar: Option<f64>,
    /// Longest sequence, in tokens.
    pub max_position_embeddings: usize,
    /// Added to the mean square under RMSNorm's root.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies were stretched to a longer context, if they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<Llama3Scaling>,
    /// Layers that see a window of the latest keys only, if there are any.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub sliding: Option<SlidingLayers>,
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
            query_pre_attn_scalar: None,
            max_position_embeddings: 64,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: None,
            sliding: None,
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
        let local_base = self.sliding.as_ref().map(|sliding| ("rope_local_base_freq", sliding.rope_theta));
        let scalar = self.query_pre_attn_scalar.map(|scalar| ("query_pre_attn_scalar", scalar));
        let always = [("rms_norm_eps", self.rms_norm_eps), ("rope_theta", self.rope_theta)];
        for (name, value) in always.into_iter().chain(local_base).chain(scalar) {
            if !(value.is_finite() && value > 0.0) {
                return refuse(format!("{name}: {value} is not a positive number"));
            }
        }
        if let Some(SlidingLayers { width, layer_types, .. }) = &self.sliding {
            if *width == 0 || *width > MAX_DIMENSION {
                return refuse(format!("sliding_window: {width} is outside 1..={MAX_DIMENSION}"));
            }
            if layer_types.len() != self.num_hidden_layers {
                let count = layer_types.len();
                return refuse(format!("layer_types: has {count} entries for {} layers", self.num_hidden_layers));
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
        self.model_type == QWEN3 || self.model_type == GEMMA3
    }

    /// Whether what attention and the MLP add to the residual stream is normed too. The norm before the MLP is then
    /// `pre_feedforward_layernorm`, and `post_attention_layernorm` stands where its name says.
    #[must_use]
    pub fn sandwich_norms(&self) -> bool {
        self.model_type == GEMMA3
    }

    /// What a norm adds to its stored weight before it scales by it.
    #[must_use]
    pub fn norm_offset(&self) -> f32 {
        if self.model_type == GEMMA3 { 1.0 } else { 0.0 }
    }

    /// What the token embedding is multiplied by where it enters the residual stream; a tied head uses it as it is.
    #[must_use]
    pub fn embedding_scale(&self) -> Option<f32> {
        (self.model_type == GEMMA3).then(|| (self.hidden_size as f32).sqrt())
    }

    /// What the MLP's gate passes through.
    #[must_use]
    pub fn activation(&self) -> Activation {
        if self.model_type == GEMMA3 { Activation::GeluTanh } else { Activation::Silu }
    }

    /// What the product of a query and a key is multiplied by.
    #[must_use]
    pub fn attention_scale(&self) -> f64 {
        self.query_pre_attn_scalar.unwrap_or(self.head_dim as f64).sqrt().recip()
    }

    /// How many of the latest keys a layer sees, the position's own included; `None` is all of them.
    #[must_use]
    pub fn window(&self, layer: usize) -> Option<usize> {
        let sliding = self.sliding.as_ref()?;
        (sliding.layer_types.get(layer) == Some(&LayerType::Sliding)).then_some(sliding.width)
    }

    /// Radians by which each pair of lanes turns from one position to the next, `[head / 2]`, in layers that see all keys.
    #[must_use]
    pub fn rotary_frequencies(&self) -> Vec<f64> {
        let stretch = |frequency| self.rope_scaling.as_ref().map_or(frequency, |s| s.stretch(frequency));
        self.frequencies(self.rope_theta).map(stretch).collect()
    }

    /// The same in layers with a window, if there are any.
    #[must_use]
    pub fn local_rotary_frequencies(&self) -> Option<Vec<f64>> {
        self.sliding.as_ref().map(|sliding| self.frequencies(sliding.rope_theta).collect())
    }

    fn frequencies(&self, base: f64) -> impl Iterator<Item = f64> {
        let half = self.head_dim / 2;
        (0..half).map(move |lane| base.powf(-(lane as f64) / half as f64))
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
        let layer_norms = if self.sandwich_norms() { 4 } else { 2 };
        let norms = self.hidden_size * (layer_norms * self.num_hidden_layers + 1);
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

/// The gate's nonlinearity in an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(x)`: SwiGLU.
    Silu,
    /// GELU by its approximation with the hyperbolic tangent: GeGLU.
    GeluTanh,
}

/// Layers that see the latest keys only, between others that see all (Gemma 3, arXiv 2503.19786, section 2.1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlidingLayers {
    /// Keys that such a layer sees, the position's own included.
    #[serde(rename = "sliding_window")]
    pub width: usize,
    /// What each layer sees, first to last.
    pub layer_types: Vec<LayerType>,
    /// Base of the rotary frequencies in layers with a window, which stretching leaves as they are.
    #[serde(rename = "rope_local_base_freq")]
    pub rope_theta: f64,
}

/// What a layer's attention sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LayerType {
    /// All keys up to the position's own.
    #[serde(rename = "full_attention")]
    Full,
    /// The latest of them.
    #[serde(rename = "sliding_attention")]
    Sliding,
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

pub(crate) const LLAMA: &str = "llama";
pub(crate) const QWEN2: &str = "qwen2";
pub(crate) const QWEN3: &str = "qwen3";
pub(crate) const GEMMA3: &str = "gemma3_text";
const FAMILIES: [&str; 4] = [LLAMA, QWEN2, QWEN3, GEMMA3];

/// No dimension of a model that runs on a device comes near; a larger one is a mistake in the file.
const MAX_DIMENSION: usize = 1 << 24;

/// ONNX Runtime's fused attention takes heads in multiples of this many lanes only.
const HEAD_MULTIPLE: usize = 16;
