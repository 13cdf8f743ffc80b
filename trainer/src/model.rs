//! The decoder as Burn modules. Field names follow Hugging Face's parameter names, so that a checkpoint
//! needs no renaming: `model.layers.0.self_attn.q_proj.weight` is the same path here.

use burn::module::Module;
use burn::nn::{Embedding, Linear, RmsNorm};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData, activation};

use crate::architecture::{Activation, Architecture};
use crate::error::Result;
use crate::parameters::{Drawn, Parameters, Projection};

/// A decoder-only language model with its output head.
#[derive(Module, Debug)]
pub struct CausalLm {
    /// Embedding, layers, last norm.
    pub model: Decoder,
    /// Output head `[hidden, vocabulary]`; absent when it is the embedding transposed.
    pub lm_head: Option<Linear>,
    /// What a forward pass needs and no weight shows.
    #[module(skip)]
    architecture: Architecture,
}

/// The decoder below the head.
#[derive(Module, Debug)]
pub struct Decoder {
    /// Token embedding `[vocabulary, hidden]`.
    pub embed_tokens: Embedding,
    /// Blocks, first to last.
    pub layers: Vec<Layer>,
    /// Norm before the head.
    pub norm: RmsNorm,
}

/// One pre-norm transformer block.
#[derive(Module, Debug)]
pub struct Layer {
    /// Norm before attention.
    pub input_layernorm: RmsNorm,
    /// Grouped-query attention.
    pub self_attn: Attention,
    /// Norm before the MLP; in families with sandwich norms, of what attention adds.
    pub post_attention_layernorm: RmsNorm,
    /// Norm before the MLP, in families with sandwich norms.
    pub pre_feedforward_layernorm: Option<RmsNorm>,
    /// SwiGLU or GeGLU.
    pub mlp: Mlp,
    /// Norm of what the MLP adds, in families with sandwich norms.
    pub post_feedforward_layernorm: Option<RmsNorm>,
}

/// Grouped-query attention with rotary positions.
#[derive(Module, Debug)]
pub struct Attention {
    /// `[hidden, query heads x head]`.
    pub q_proj: Linear,
    /// `[hidden, key-value heads x head]`.
    pub k_proj: Linear,
    /// `[hidden, key-value heads x head]`.
    pub v_proj: Linear,
    /// `[query heads x head, hidden]`.
    pub o_proj: Linear,
    /// Norm of each query head, in families that have it.
    pub q_norm: Option<RmsNorm>,
    /// Norm of each key head, in families that have it.
    pub k_norm: Option<RmsNorm>,
}

/// Gated MLP: `down(activation(gate(x)) * up(x))`.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[hidden, intermediate]`.
    pub gate_proj: Linear,
    /// `[hidden, intermediate]`.
    pub up_proj: Linear,
    /// `[intermediate, hidden]`.
    pub down_proj: Linear,
}

impl CausalLm {
    /// A model with random weights: normal with deviation `1/sqrt(fan in)`, residual outputs scaled down by
    /// `1/sqrt(2 x layers)`. The same seed gives the same weights on every device.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`] when the architecture contradicts itself.
    pub fn random(architecture: &Architecture, seed: u64, device: &Device) -> Result<Self> {
        Self::assemble(architecture, &mut Drawn::new(seed, device))
    }

    /// Puts the modules together from their parameters.
    pub(crate) fn assemble(a: &Architecture, from: &mut dyn Parameters) -> Result<Self> {
        a.validate()?;
        let (hidden, inner, eps) = (a.hidden_size, a.intermediate_size, a.rms_norm_eps);
        let size = |inputs, outputs| Projection { inputs, outputs };
        let residual = 1.0 / (2.0 * a.num_hidden_layers as f64).sqrt();
        let neutral = 1.0 - a.norm_offset();
        let mut layers = Vec::with_capacity(a.num_hidden_layers);
        for layer in 0..a.num_hidden_layers {
            let at = |name: &str| format!("model.layers.{layer}.{name}");
            let (queries, keys) = (size(hidden, a.query_size()), size(hidden, a.key_value_size()));
            let head_norm = |from: &mut dyn Parameters, name: &str| {
                a.head_norms().then(|| from.norm(&at(name), a.head_dim, eps, neutral)).transpose()
            };
            let sandwich_norm = |from: &mut dyn Parameters, name: &str| {
                a.sandwich_norms().then(|| from.norm(&at(name), hidden, eps, neutral)).transpose()
            };
            layers.push(Layer {
                input_layernorm: from.norm(&at("input_layernorm"), hidden, eps, neutral)?,
                self_attn: Attention {
                    q_proj: from.linear(&at("self_attn.q_proj"), queries, a.input_bias(), 1.0)?,
                    k_proj: from.linear(&at("self_attn.k_proj"), keys, a.input_bias(), 1.0)?,
                    v_proj: from.linear(&at("self_attn.v_proj"), keys, a.input_bias(), 1.0)?,
                    o_proj: from.linear(
                        &at("self_attn.o_proj"),
                        size(a.query_size(), hidden),
                        a.output_bias(),
                        residual,
                    )?,
                    q_norm: head_norm(from, "self_attn.q_norm")?,
                    k_norm: head_norm(from, "self_attn.k_norm")?,
                },
                post_attention_layernorm: from.norm(&at("post_attention_layernorm"), hidden, eps, neutral)?,
                pre_feedforward_layernorm: sandwich_norm(from, "pre_feedforward_layernorm")?,
                mlp: Mlp {
                    gate_proj: from.linear(&at("mlp.gate_proj"), size(hidden, inner), false, 1.0)?,
                    up_proj: from.linear(&at("mlp.up_proj"), size(hidden, inner), false, 1.0)?,
                    down_proj: from.linear(&at("mlp.down_proj"), size(inner, hidden), false, residual)?,
                },
                post_feedforward_layernorm: sandwich_norm(from, "post_feedforward_layernorm")?,
            });
        }
        let embed_tokens = from.embedding("model.embed_tokens", a.vocab_size, hidden)?;
        let lm_head = if a.tie_word_embeddings {
            None
        } else {
            Some(from.linear("lm_head", size(hidden, a.vocab_size), false, 1.0)?)
        };
        Ok(Self {
            model: Decoder { embed_tokens, layers, norm: from.norm("model.norm", hidden, eps, neutral)? },
            lm_head,
            architecture: a.clone(),
        })
    }

    /// Hidden states after the last norm, `[batch, sequence, hidden]`, for token ids `[batch, sequence]`.
    ///
    /// Attention is causal: padding on the right changes nothing to its left.
    #[must_use]
    pub fn hidden(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.hidden_watched(ids, None, &mut Unwatched)
    }

    /// [`CausalLm::hidden`] with somebody watching. With `segments`, rows that share a sequence do not see each other.
    pub(crate) fn hidden_watched(
        &self,
        ids: Tensor<2, Int>,
        segments: Option<&Segments>,
        watch: &mut dyn Watch,
    ) -> Tensor<3> {
        let positions = self.positions(ids.dims()[1], segments, &ids.device());
        let mut x = watch.branch(self.embedded(ids));
        for layer in 0..self.model.layers.len() {
            x = self.layer(layer, x, &positions, watch);
        }
        self.normed(x)
    }

    /// What layers know about the positions of a sequence of this length.
    pub(crate) fn positions(&self, sequence: usize, segments: Option<&Segments>, device: &Device) -> Positions {
        Positions::new(sequence, segments, &self.architecture, device)
    }

    /// What the first layer reads, `[batch, sequence, hidden]`.
    pub(crate) fn embedded(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let x = self.model.embed_tokens.forward(ids);
        match self.architecture.embedding_scale() {
            Some(scale) => x.mul_scalar(scale),
            None => x,
        }
    }

    /// What a layer makes of its input, `[batch, sequence, hidden]`.
    pub(crate) fn layer(&self, layer: usize, x: Tensor<3>, positions: &Positions, watch: &mut dyn Watch) -> Tensor<3> {
        let local = self.architecture.window(layer).and(positions.local.as_ref());
        self.model.layers[layer].forward(x, local.unwrap_or(&positions.global), &self.architecture, watch)
    }

    /// What the head reads, `[batch, sequence, hidden]`.
    pub(crate) fn normed(&self, x: Tensor<3>) -> Tensor<3> {
        norm(&self.model.norm, x, &self.architecture)
    }

    /// Logits `[rows, vocabulary]` for hidden states `[rows, hidden]`.
    #[must_use]
    pub fn head(&self, hidden: Tensor<2>) -> Tensor<2> {
        match &self.lm_head {
            Some(head) => head.forward(hidden),
            None => hidden.matmul(self.model.embed_tokens.weight.val().transpose()),
        }
    }

    /// Logits of one sequence of token ids: one row of the vocabulary's length for each position.
    #[must_use]
    pub fn logits(&self, ids: &[u32]) -> Vec<Vec<f32>> {
        let device = self.model.norm.gamma.device();
        let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        let length = ids.len();
        let hidden = self.hidden(Tensor::from_data(TensorData::new(ids, [1, length]), &device));
        let logits = self.head(hidden.squeeze_dim(0));
        let vocabulary = logits.dims()[1];
        floats(logits.into_data()).chunks_exact(vocabulary).map(<[f32]>::to_vec).collect()
    }

    /// What the model says of each of `ids` from the index `from` on, given those before it; nothing of the very first one.
    #[must_use]
    pub fn score(&self, ids: &[u32], from: usize) -> Vec<TargetScore> {
        let (device, from) = (self.model.norm.gamma.device(), from.max(1));
        let inputs: Vec<i64> = ids.iter().take(ids.len().saturating_sub(1)).map(|&id| i64::from(id)).collect();
        let Some(targets) = ids.get(from..).filter(|targets| !targets.is_empty()) else { return vec![] };
        let length = inputs.len();
        let hidden = self.hidden(Tensor::from_data(TensorData::new(inputs, [1, length]), &device)).squeeze_dim::<2>(0);
        let mut scores = Vec::with_capacity(targets.len());
        for (rows, targets) in targets.chunks(ROWS_OF_LOGITS).enumerate() {
            let begin = from - 1 + rows * ROWS_OF_LOGITS;
            let logits = self.head(hidden.clone().narrow(0, begin, targets.len()));
            let vocabulary = logits.dims()[1];
            for (row, &target) in floats(logits.into_data()).chunks_exact(vocabulary).zip(targets) {
                let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f32 = row.iter().map(|logit| (logit - largest).exp()).sum();
                let own = row[target as usize];
                scores.push(TargetScore { log_probability: own - largest - sum.ln(), first: argmax(row) == target });
            }
        }
        scores
    }
}

/// Positions whose logits are in memory at once.
const ROWS_OF_LOGITS: usize = 128;

/// What a model says of a token before it sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TargetScore {
    /// Its log-probability, nats.
    pub log_probability: f32,
    /// Whether no other token is more likely.
    pub first: bool,
}

/// What a forward pass shows on its way to whoever wants to see or change it.
pub(crate) trait Watch {
    /// May change the embedding and what every residual branch adds; training drops units there.
    fn branch(&mut self, x: Tensor<3>) -> Tensor<3> {
        x
    }

    /// Sees what projections are multiplied with, `[batch, sequence, inputs]`.
    fn input(&mut self, _: Input, _: &Tensor<3>) {}
}

/// The inputs that projections of a layer share, and the head's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    Attention,
    AttentionOutput,
    Mlp,
    MlpOutput,
    Head,
}

/// A forward pass that nobody watches.
pub(crate) struct Unwatched;

impl Watch for Unwatched {}

/// The token that a row of logits prefers; the lowest id wins a tie.
#[must_use]
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, value) in logits.iter().enumerate() {
        if *value > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// Reads a tensor of floats, whatever the backend stores.
pub(crate) fn floats(data: TensorData) -> Vec<f32> {
    data.iter::<f32>().collect()
}

/// RMSNorm, with the family's offset of the weight.
fn norm<const D: usize>(norm: &RmsNorm, x: Tensor<D>, a: &Architecture) -> Tensor<D> {
    if a.norm_offset() == 0.0 {
        return norm.forward(x);
    }
    let root = (x.clone().square().mean_dim(D - 1) + norm.epsilon).sqrt();
    (x / root) * (norm.gamma.val() + a.norm_offset()).unsqueeze()
}

impl Layer {
    /// Adds what attention and the MLP make of `[batch, sequence, hidden]`, each seen by whoever watches.
    fn forward(&self, x: Tensor<3>, see: &Sight, a: &Architecture, watch: &mut dyn Watch) -> Tensor<3> {
        let mut attended = self.self_attn.forward(norm(&self.input_layernorm, x.clone(), a), see, a, watch);
        if a.sandwich_norms() {
            attended = norm(&self.post_attention_layernorm, attended, a);
        }
        let x = x + watch.branch(attended);
        let before = self.pre_feedforward_layernorm.as_ref().unwrap_or(&self.post_attention_layernorm);
        let mut mixed = self.mlp.forward(norm(before, x.clone(), a), a.activation(), watch);
        if let Some(after) = &self.post_feedforward_layernorm {
            mixed = norm(after, mixed, a);
        }
        x + watch.branch(mixed)
    }
}

impl Attention {
    /// Causal self-attention over `[batch, sequence, hidden]`.
    fn forward(&self, x: Tensor<3>, see: &Sight, a: &Architecture, watch: &mut dyn Watch) -> Tensor<3> {
        watch.input(Input::Attention, &x);
        let [batch, sequence, _] = x.dims();
        let (heads, kv_heads, head_dim) = (a.num_attention_heads, a.num_key_value_heads, a.head_dim);
        let split = |x: Tensor<3>, heads: usize| x.reshape([batch, sequence, heads, head_dim]).swap_dims(1, 2);
        let normed = |weights: &Option<RmsNorm>, x| match weights {
            Some(weights) => norm(weights, x, a),
            None => x,
        };
        let q = split(self.q_proj.forward(x.clone()), heads);
        let k = split(self.k_proj.forward(x.clone()), kv_heads);
        let q = see.rotate(normed(&self.q_norm, q));
        let k = see.rotate(normed(&self.k_norm, k));
        let v = split(self.v_proj.forward(x), kv_heads);
        // Query heads that share a key-value head become further rows of one product: nothing is repeated.
        let group = heads / kv_heads;
        let q = q.reshape([batch, kv_heads, group * sequence, head_dim]);
        let scores = q.matmul(k.transpose()).mul_scalar(a.attention_scale());
        let scores = scores.reshape([batch, heads, sequence, sequence]) + see.mask.clone();
        let weights = activation::softmax(scores, 3).reshape([batch, kv_heads, group * sequence, sequence]);
        let mixed = weights.matmul(v).reshape([batch, heads, sequence, head_dim]);
        let mixed = mixed.swap_dims(1, 2).reshape([batch, sequence, heads * head_dim]);
        watch.input(Input::AttentionOutput, &mixed);
        self.o_proj.forward(mixed)
    }
}

impl Mlp {
    fn forward(&self, x: Tensor<3>, activation: Activation, watch: &mut dyn Watch) -> Tensor<3> {
        watch.input(Input::Mlp, &x);
        let gate = self.gate_proj.forward(x.clone());
        let gate = match activation {
            Activation::Silu => activation::silu(gate),
            Activation::GeluTanh => activation::gelu_approximate(gate),
        };
        let gated = gate * self.up_proj.forward(x);
        watch.input(Input::MlpOutput, &gated);
        self.down_proj.forward(gated)
    }
}

/// Where the rows of packed sequences begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segments {
    /// Length of every sequence.
    pub sequence: usize,
    /// For each position of `[batch x sequence]`, at which position of its sequence its row begins.
    pub starts: Vec<usize>,
}

/// What the layers of a model know about positions.
pub(crate) struct Positions {
    /// Layers that see all keys.
    global: Sight,
    /// Layers with a window, if there are any.
    local: Option<Sight>,
}

impl Positions {
    fn new(sequence: usize, segments: Option<&Segments>, a: &Architecture, device: &Device) -> Self {
        let sight = |frequencies: &[f64], window| match segments {
            Some(segments) => Sight::packed(segments, a.head_dim, frequencies, window, device),
            None => Sight::new(sequence, a.head_dim, frequencies, window, device),
        };
        Self {
            global: sight(&a.rotary_frequencies(), None),
            local: a.sliding.as_ref().zip(a.local_rotary_frequencies()).map(|(s, f)| sight(&f, Some(s.width))),
        }
    }
}

/// How a position sees others: rotary cosines and sines, and the mask of attention. The first axis is 1, or the batch where
/// sequences are packed.
struct Sight {
    /// `[1, 1, sequence, head]`.
    cos: Tensor<4>,
    /// `[1, 1, sequence, head]`, the first half negated, so that one product with the swapped halves is enough.
    sin: Tensor<4>,
    /// `[1, 1, sequence, sequence]`: zero where a position may look, minus a lot where it may not.
    mask: Tensor<4>,
}

impl Sight {
    /// Rotary positions as Su et al. (arXiv 2104.09864) define and Hugging Face lays them out: halves, not pairs.
    fn new(sequence: usize, head: usize, frequencies: &[f64], window: Option<usize>, device: &Device) -> Self {
        let [cos, sin] = rotary(0..sequence, head, frequencies);
        let table = |values| Tensor::from_data(TensorData::new(values, [1, 1, sequence, head]), device);
        let later = Tensor::<2, Bool>::tril_mask([sequence, sequence], 0, device);
        let mut mask = Tensor::<2>::zeros([sequence, sequence], device).mask_fill(later, MASKED);
        if let Some(window) = window.filter(|window| *window < sequence) {
            // True below the diagonal that is `window` positions back, and on it.
            let earlier = Tensor::<2, Bool>::triu_mask([sequence, sequence], 1 - window as i64, device);
            mask = mask.mask_fill(earlier, MASKED);
        }
        Self { cos: table(cos), sin: table(sin), mask: mask.unsqueeze() }
    }

    /// Every row from position zero, blind to the others of its sequence.
    fn packed(segments: &Segments, head: usize, frequencies: &[f64], window: Option<usize>, device: &Device) -> Self {
        let Segments { sequence, starts } = segments;
        let batch = starts.len() / sequence;
        let [cos, sin] = rotary(starts.iter().enumerate().map(|(at, start)| at % sequence - start), head, frequencies);
        let table = |values| Tensor::from_data(TensorData::new(values, [batch, 1, *sequence, head]), device);
        let mut mask = vec![MASKED; starts.len() * sequence];
        for (at, &start) in starts.iter().enumerate() {
            let position = at % sequence;
            let first = window.map_or(start, |window| start.max((position + 1).saturating_sub(window)));
            mask[at * sequence..][first..=position].fill(0.0);
        }
        let mask = Tensor::from_data(TensorData::new(mask, [batch, 1, *sequence, *sequence]), device);
        Self { cos: table(cos), sin: table(sin), mask }
    }

    /// Turns `[batch, heads, sequence, head]` by its positions.
    fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        let halves = x.clone().chunk(2, 3);
        let swapped = Tensor::cat(halves.into_iter().rev().collect(), 3);
        x * self.cos.clone() + swapped * self.sin.clone()
    }
}

/// Cosines and sines of positions, `[positions, head]`.
fn rotary(positions: impl Iterator<Item = usize>, head: usize, frequencies: &[f64]) -> [Vec<f32>; 2] {
    let half = head / 2;
    let (mut cos, mut sin) = (Vec::new(), Vec::new());
    for position in positions {
        for lane in 0..head {
            let angle = position as f64 * frequencies[lane % half];
            cos.push(angle.cos() as f32);
            sin.push(if lane < half { -angle.sin() } else { angle.sin() } as f32);
        }
    }
    [cos, sin]
}

/// Added to a score that must not count; finite, so that a softmax over it stays finite.
const MASKED: f32 = -1e9;
