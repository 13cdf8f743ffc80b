//! The decoder as an ONNX graph: one graph for prefill and decode, past and present key-values.
//!
//! Inputs `input_ids`, `attention_mask` and `targets` (int64, `[batch, sequence]`, `[batch, total]`, `[batch, scored]`) and
//! per layer `past_key_values.{i}.{key,value}` (`[batch, kv heads, past, head]`); outputs `logits` (`[batch, 1, vocabulary]`,
//! of the last position), `log_probabilities` (`[batch, scored]`, of the targets at the last positions) and
//! `present.{i}.{key,value}`. Node names follow the checkpoint's module paths.

use std::collections::BTreeSet;

use margay::bundle::manifest::Operators;
use margay_trainer::{Activation, Architecture, Weights};

use super::attention::Positions;
use super::build::{Dim, GraphBuilder, float, int, text};
use super::external::ExternalData;
use super::matrix::Embedding;
use super::proto::tensor_proto::DataType;
use super::proto::{ModelProto, TensorProto};
use crate::error::Result;
use crate::quantize::{StoredMatrices, WeightFormat};

/// Writes the weights to `data` and returns the graph that refers to them. `written` hears of every finished layer.
pub(crate) fn decoder_graph(
    a: &Architecture,
    weights: &Weights,
    stored: &StoredMatrices,
    format: WeightFormat,
    operators: Operators,
    data: &mut ExternalData,
    written: &mut dyn FnMut(usize),
) -> Result<ModelProto> {
    let (graph, summed) = (GraphBuilder::new("decoder"), BTreeSet::new());
    let mut writer = Writer { graph, weights, stored, format, summed, operators, data, a };
    writer.interface();
    let positions = writer.positions()?;

    let (embedding, mut x) = writer.embedding()?;
    if let Some(scale) = a.embedding_scale() {
        let scale = writer.graph.number("embed_tokens.scale", scale);
        x = writer.graph.node("embed_tokens.scaled", "Mul", &[&x, &scale], vec![]);
    }
    for layer in 0..a.num_hidden_layers {
        x = writer.layer(layer, &x, &positions)?;
        written(layer + 1);
    }

    writer.outputs(&x, embedding)?;
    Ok(writer.graph.model())
}

/// A graph in the making, and the file that its weights go to.
pub(super) struct Writer<'a> {
    pub(super) graph: GraphBuilder,
    pub(super) weights: &'a Weights,
    pub(super) stored: &'a StoredMatrices,
    /// How matrices are stored that are not in blocks.
    pub(super) format: WeightFormat,
    /// Sums of blocks that are in the graph.
    pub(super) summed: BTreeSet<String>,
    pub(super) operators: Operators,
    pub(super) data: &'a mut ExternalData,
    pub(super) a: &'a Architecture,
}

impl Writer<'_> {
    fn interface(&mut self) {
        use Dim::{Fixed, Named};
        let (batch, a) = (Named("batch"), self.a);
        self.graph.input("input_ids", DataType::Int64, &[batch, Named("sequence")]);
        self.graph.input("attention_mask", DataType::Int64, &[batch, Named("total_sequence")]);
        self.graph.input("targets", DataType::Int64, &[batch, Named("scored")]);
        self.graph.output("logits", DataType::Float, &[batch, Fixed(1), Fixed(a.vocab_size)]);
        self.graph.output("log_probabilities", DataType::Float, &[batch, Named("scored")]);
        let cache = |length| [batch, Fixed(a.num_key_value_heads), Named(length), Fixed(a.head_dim)];
        for layer in 0..a.num_hidden_layers {
            for part in ["key", "value"] {
                let past = format!("past_key_values.{layer}.{part}");
                self.graph.input(&past, DataType::Float, &cache("past_sequence"));
                let present = format!("present.{layer}.{part}");
                self.graph.output(&present, DataType::Float, &cache("present_sequence"));
            }
        }
    }

    /// One block: `x + attention(norm(x))`, then `x + mlp(norm(x))`; with sandwich norms both branches are normed again.
    fn layer(&mut self, layer: usize, x: &str, positions: &Positions) -> Result<String> {
        let (at, sandwich) = (|name: &str| format!("layers.{layer}.{name}"), self.a.sandwich_norms());
        let normed = self.norm(&at("input_layernorm"), x)?;
        let mut attended = self.attention(layer, &normed, positions)?;
        if sandwich {
            attended = self.norm(&at("post_attention_layernorm"), &attended)?;
        }
        let x = self.graph.node(&at("self_attn.residual"), "Add", &[x, &attended], vec![]);

        let before = if sandwich { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
        let normed = self.norm(&at(before), &x)?;
        let mut mixed = self.mlp(layer, &normed)?;
        if sandwich {
            mixed = self.norm(&at("post_feedforward_layernorm"), &mixed)?;
        }
        Ok(self.graph.node(&at("mlp.residual"), "Add", &[&x, &mixed], vec![]))
    }

    /// `down(activation(gate(x)) * up(x))`.
    fn mlp(&mut self, layer: usize, x: &str) -> Result<String> {
        let at = |name: &str| format!("layers.{layer}.mlp.{name}");
        let (hidden, inner) = (self.a.hidden_size, self.a.intermediate_size);
        let gate = self.linear(&at("gate_proj"), x, [inner, hidden], false)?;
        let up = self.linear(&at("up_proj"), x, [inner, hidden], false)?;
        let opened = match self.a.activation() {
            Activation::Silu => {
                let sigmoid = self.graph.node(&at("sigmoid"), "Sigmoid", &[&gate], vec![]);
                self.graph.node(&at("silu"), "Mul", &[&gate, &sigmoid], vec![])
            }
            Activation::GeluTanh => self.graph.node(&at("gelu"), "Gelu", &[&gate], vec![text("approximate", "tanh")]),
        };
        let gated = self.graph.node(&at("gated"), "Mul", &[&opened, &up], vec![]);
        self.linear(&at("down_proj"), &gated, [hidden, inner], false)
    }

    /// Logits of the last position, and log-probabilities of the targets at the last positions, as many as there are.
    ///
    /// Norm and head see these positions only: decode needs but one, and prefill would pay for all. They stand in the
    /// graph once, because ONNX Runtime keeps a repacked copy of a matrix for every node that multiplies by it.
    fn outputs(&mut self, x: &str, embedding: Embedding) -> Result<()> {
        let g = &mut self.graph;
        let (sequence, one) = (g.integers("outputs.sequence", &[1], &[1]), g.integers("outputs.one", &[1], &[1]));
        let end = g.integers("outputs.end", &[1], &[i64::MAX]);
        let scored = g.node("outputs.scored", "Shape", &["targets"], vec![int("start", 1)]);
        let seen = g.node("outputs.seen", "Max", &[&scored, &one], vec![]);
        let from = g.node("outputs.from", "Neg", &[&seen], vec![]);
        let rows = g.node("outputs.rows", "Slice", &[x, &from, &end, &sequence], vec![]);
        let normed = self.norm("norm", &rows)?;
        let all = self.head(&normed, embedding)?;

        let g = &mut self.graph;
        let last = g.integers("outputs.last", &[1], &[-1]);
        g.custom("logits", "", "Slice", &[&all, &last, &end, &sequence], &["logits"], vec![]);
        // Without targets this begins behind the one row, and nothing is left to compute.
        let from = g.node("log_probabilities.from", "Sub", &[&seen, &scored], vec![]);
        let rows = g.node("log_probabilities.rows", "Slice", &[&all, &from, &end, &sequence], vec![]);
        let normalised = g.node("log_probabilities.normalised", "LogSoftmax", &[&rows], vec![int("axis", -1)]);
        let vocabulary = g.integers("log_probabilities.vocabulary", &[1], &[2]);
        let targets = g.node("log_probabilities.targets", "Unsqueeze", &["targets", &vocabulary], vec![]);
        let chosen =
            g.node("log_probabilities.chosen", "GatherElements", &[&normalised, &targets], vec![int("axis", 2)]);
        g.node("log_probabilities", "Squeeze", &[&chosen, &vocabulary], vec![]);
        Ok(())
    }

    /// RMSNorm of the module `name`, named as in the checkpoint.
    pub(super) fn norm(&mut self, name: &str, x: &str) -> Result<String> {
        self.norm_over(name, x, self.a.hidden_size)
    }

    fn norm_over(&mut self, name: &str, x: &str, size: usize) -> Result<String> {
        let mut scale = self.weights.tensor(&format!("model.{name}.weight"), &[size])?;
        scale.iter_mut().for_each(|weight| *weight += self.a.norm_offset());
        // Small enough to stand in the graph: a tensor beside it takes ONNX Runtime longer to open than to read.
        let scale = self.graph.floats(&format!("{name}.weight"), &[size], scale);
        let (g, epsilon) = (&mut self.graph, self.a.rms_norm_eps as f32);
        if self.operators == Operators::Fused {
            let attributes = vec![int("axis", -1), float("epsilon", epsilon)];
            return Ok(g.node(name, "RMSNormalization", &[x, &scale], attributes));
        }
        let at = |part: &str| format!("{name}.{part}");
        let (two, last) = (g.number(&at("two"), 2.0), g.integers(&at("last"), &[1], &[-1]));
        let epsilon = g.number(&at("epsilon"), epsilon);
        let squares = g.node(&at("squares"), "Pow", &[x, &two], vec![]);
        let mean = g.node(&at("mean"), "ReduceMean", &[&squares, &last], vec![]);
        let mean = g.node(&at("mean.positive"), "Add", &[&mean, &epsilon], vec![]);
        let root = g.node(&at("root"), "Sqrt", &[&mean], vec![]);
        let unit = g.node(&at("unit"), "Div", &[x, &root], vec![]);
        Ok(g.node(name, "Mul", &[&unit, &scale], vec![]))
    }

    /// RMSNorm of each head of `[batch, sequence, heads x head]`, in families that have it.
    pub(super) fn head_norm(&mut self, name: &str, x: String, heads: usize) -> Result<String> {
        if !self.a.head_norms() {
            return Ok(x);
        }
        let size = self.a.head_dim;
        // A zero keeps the dimension as it is.
        let split = self.graph.integers(&format!("{name}.heads"), &[4], &[0, 0, heads as i64, size as i64]);
        let joined = self.graph.integers(&format!("{name}.width"), &[3], &[0, 0, (heads * size) as i64]);
        let x = self.graph.node(&format!("{name}.split"), "Reshape", &[&x, &split], vec![]);
        let x = self.norm_over(name, &x, size)?;
        Ok(self.graph.node(&format!("{name}.joined"), "Reshape", &[&x, &joined], vec![]))
    }

    pub(super) fn initializer(&mut self, tensor: TensorProto) -> String {
        let name = tensor.name.clone().unwrap_or_default();
        self.graph.initializer(tensor);
        name
    }
}
