//! The decoder as an ONNX graph: one graph for prefill and decode, past and present key-values.
//!
//! Inputs `input_ids` and `attention_mask` (int64, `[batch, sequence]` and `[batch, total]`) and per layer
//! `past_key_values.{i}.{key,value}` (`[batch, kv heads, past, head]`); outputs `logits` (`[batch, 1, vocabulary]`, of
//! the last position) and `present.{i}.{key,value}`. Node names follow the checkpoint's module paths.

use margay_trainer::{Architecture, Weights};

use super::build::{Dim, GraphBuilder, MICROSOFT, float, int};
use super::external::ExternalData;
use super::proto::tensor_proto::DataType;
use super::proto::{ModelProto, TensorProto};
use crate::error::{Error, ErrorKind, Result};

/// Writes the weights to `data` and returns the graph that refers to them.
pub(crate) fn decoder_graph(a: &Architecture, weights: &Weights, data: &mut ExternalData) -> Result<ModelProto> {
    let mut writer = Writer { graph: GraphBuilder::new("decoder"), weights, data, a };
    writer.interface();
    let lengths = writer.lengths();
    let rotary = writer.rotary_tables()?;

    let embedding = writer.matrix("model.embed_tokens.weight", [a.vocab_size, a.hidden_size])?;
    let mut x = writer.graph.node("embed_tokens", "Gather", &[&embedding, "input_ids"], vec![]);
    for layer in 0..a.num_hidden_layers {
        x = writer.layer(layer, &x, &lengths, &rotary)?;
    }

    // Norm and head see the last position only: decode needs no other, and prefill would pay for all.
    let (from, to) =
        (writer.graph.integers("last.from", &[1], &[-1]), writer.graph.integers("last.to", &[1], &[i64::MAX]));
    let axis = writer.graph.integers("axis.sequence", &[1], &[1]);
    let last = writer.graph.node("last", "Slice", &[&x, &from, &to, &axis], vec![]);
    let normed = writer.norm("norm", &last)?;
    let rows = writer.graph.node("last.rows", "Squeeze", &[&normed, &axis], vec![]);
    // Gemm takes the head as it lies, `[vocabulary, hidden]`: a tied one is the embedding itself, stored once.
    let head = if a.tie_word_embeddings {
        embedding
    } else {
        writer.matrix("lm_head.weight", [a.vocab_size, a.hidden_size])?
    };
    let scores = writer.graph.node("lm_head", "Gemm", &[&rows, &head], vec![int("transB", 1)]);
    writer.graph.custom("logits", "", "Unsqueeze", &[&scores, &axis], &["logits"], vec![]);
    Ok(writer.graph.model())
}

struct Writer<'a> {
    graph: GraphBuilder,
    weights: &'a Weights,
    data: &'a mut ExternalData,
    a: &'a Architecture,
}

/// Names of the values by which attention knows how long the sequences are.
struct Lengths {
    /// Index of each sequence's last key, int32 `[batch]`.
    last_key: String,
    /// Longest sequence, past included, int32 scalar.
    total: String,
}

/// Names of the rotary tables, `[context, head / 2]`.
struct Rotary {
    cos: String,
    sin: String,
}

impl Writer<'_> {
    fn interface(&mut self) {
        use Dim::{Fixed, Named};
        let (batch, a) = (Named("batch"), self.a);
        self.graph.input("input_ids", DataType::Int64, &[batch, Named("sequence")]);
        self.graph.input("attention_mask", DataType::Int64, &[batch, Named("total_sequence")]);
        self.graph.output("logits", DataType::Float, &[batch, Fixed(1), Fixed(a.vocab_size)]);
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

    fn lengths(&mut self) -> Lengths {
        let g = &mut self.graph;
        let to_int32 = || vec![int("to", DataType::Int32 as i64)];
        let axis = g.integers("attention_mask.axis", &[1], &[1]);
        let one = g.integers("attention_mask.one", &[], &[1]);
        let keys = g.node("attention_mask.keys", "ReduceSum", &["attention_mask", &axis], vec![int("keepdims", 0)]);
        let last = g.node("attention_mask.last", "Sub", &[&keys, &one], vec![]);
        let last_key = g.node("attention_mask.last_key", "Cast", &[&last], to_int32());
        let shape = g.node("attention_mask.shape", "Shape", &["attention_mask"], vec![]);
        let total = g.node("attention_mask.length", "Gather", &[&shape, &one], vec![]);
        let total = g.node("attention_mask.total", "Cast", &[&total], to_int32());
        Lengths { last_key, total }
    }

    /// Cosines and sines of every position, in the layout that turns halves rather than pairs.
    fn rotary_tables(&mut self) -> Result<Rotary> {
        let (context, half) = (self.a.max_position_embeddings, self.a.head_dim / 2);
        let angle = |index: usize| {
            let (position, lane) = (index / half, index % half);
            position as f64 * self.a.rope_theta.powf(-(lane as f64) / half as f64)
        };
        let cos: Vec<f32> = (0..context * half).map(|index| angle(index).cos() as f32).collect();
        let sin: Vec<f32> = (0..context * half).map(|index| angle(index).sin() as f32).collect();
        for (name, values) in [("rotary.cos", cos), ("rotary.sin", sin)] {
            let tensor = self.data.append(name, &[context, half], &values)?;
            self.initializer(tensor);
        }
        Ok(Rotary { cos: "rotary.cos".into(), sin: "rotary.sin".into() })
    }

    /// One block: `x + attention(norm(x))`, then `x + mlp(norm(x))`.
    fn layer(&mut self, layer: usize, x: &str, lengths: &Lengths, rotary: &Rotary) -> Result<String> {
        let a = self.a;
        let at = |name: &str| format!("layers.{layer}.{name}");

        let normed = self.norm(&at("input_layernorm"), x)?;
        let query = self.linear(&at("self_attn.q_proj"), &normed, a.hidden_size, a.query_size())?;
        let key = self.linear(&at("self_attn.k_proj"), &normed, a.hidden_size, a.key_value_size())?;
        let value = self.linear(&at("self_attn.v_proj"), &normed, a.hidden_size, a.key_value_size())?;
        let attention = at("self_attn");
        let past = ["key", "value"].map(|part| format!("past_key_values.{layer}.{part}"));
        let present = ["key", "value"].map(|part| format!("present.{layer}.{part}"));
        self.graph.custom(
            &attention,
            MICROSOFT,
            "GroupQueryAttention",
            &[&query, &key, &value, &past[0], &past[1], &lengths.last_key, &lengths.total, &rotary.cos, &rotary.sin],
            &[&attention, &present[0], &present[1]],
            vec![
                int("num_heads", a.num_attention_heads as i64),
                int("kv_num_heads", a.num_key_value_heads as i64),
                float("scale", 1.0 / (a.head_dim as f32).sqrt()),
                int("do_rotary", 1),
                int("rotary_interleaved", 0),
            ],
        );
        let attended = self.linear(&at("self_attn.o_proj"), &attention, a.query_size(), a.hidden_size)?;
        let x = self.graph.node(&at("self_attn.residual"), "Add", &[x, &attended], vec![]);

        let normed = self.norm(&at("post_attention_layernorm"), &x)?;
        let gate = self.linear(&at("mlp.gate_proj"), &normed, a.hidden_size, a.intermediate_size)?;
        let up = self.linear(&at("mlp.up_proj"), &normed, a.hidden_size, a.intermediate_size)?;
        let sigmoid = self.graph.node(&at("mlp.sigmoid"), "Sigmoid", &[&gate], vec![]);
        let silu = self.graph.node(&at("mlp.silu"), "Mul", &[&gate, &sigmoid], vec![]);
        let gated = self.graph.node(&at("mlp.gated"), "Mul", &[&silu, &up], vec![]);
        let down = self.linear(&at("mlp.down_proj"), &gated, a.intermediate_size, a.hidden_size)?;
        Ok(self.graph.node(&at("mlp.residual"), "Add", &[&x, &down], vec![]))
    }

    /// RMSNorm of the module `name`, named as in the checkpoint.
    fn norm(&mut self, name: &str, x: &str) -> Result<String> {
        let scale = self.tensor(&format!("model.{name}.weight"), &[self.a.hidden_size])?;
        let tensor = self.data.append(&format!("{name}.weight"), &[self.a.hidden_size], &scale)?;
        let scale = self.initializer(tensor);
        let attributes = vec![int("axis", -1), float("epsilon", self.a.rms_norm_eps as f32)];
        Ok(self.graph.node(name, "RMSNormalization", &[x, &scale], attributes))
    }

    /// Product with the weights of the module `name`, laid out `[inputs, outputs]` as MatMul takes them.
    fn linear(&mut self, name: &str, x: &str, inputs: usize, outputs: usize) -> Result<String> {
        let values = self.tensor(&format!("model.{name}.weight"), &[outputs, inputs])?;
        let mut transposed = Vec::with_capacity(values.len());
        for input in 0..inputs {
            transposed.extend((0..outputs).map(|output| values[output * inputs + input]));
        }
        let tensor = self.data.append(&format!("{name}.weight"), &[inputs, outputs], &transposed)?;
        let weight = self.initializer(tensor);
        Ok(self.graph.node(name, "MatMul", &[x, &weight], vec![]))
    }

    /// A matrix as it lies in the checkpoint.
    fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<String> {
        let values = self.tensor(name, &shape)?;
        let tensor = self.data.append(name, &shape, &values)?;
        Ok(self.initializer(tensor))
    }

    fn initializer(&mut self, tensor: TensorProto) -> String {
        let name = tensor.name.clone().unwrap_or_default();
        self.graph.initializer(tensor);
        name
    }

    /// Values of one tensor of the checkpoint, which must have the shape that the architecture gives it.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (found, values) = self.weights.tensor(name)?;
        if found != shape {
            let message = format!("{name} has the shape {found:?}, the architecture says {shape:?}");
            return Err(Error::new(ErrorKind::Checkpoint, message));
        }
        Ok(values)
    }
}
