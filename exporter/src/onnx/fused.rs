//! Attention as ONNX Runtime's GroupQueryAttention, which turns, caches, masks and mixes in one node.

use super::attention::{Projected, Rotary, Turns};
use super::build::{MICROSOFT, float, int};
use super::decoder::Writer;
use super::proto::tensor_proto::DataType;

/// Names of the values by which GroupQueryAttention knows how long the sequences are.
pub(super) struct Lengths {
    /// Index of each sequence's last key, int32 `[batch]`.
    last_key: String,
    /// Longest sequence, past included, int32 scalar.
    total: String,
}

impl Writer<'_> {
    pub(super) fn lengths(&mut self) -> Lengths {
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

    /// Cosines and sines of every position, which GroupQueryAttention picks its own of. All is constant, so ONNX Runtime
    /// computes it once, when it loads the graph.
    pub(super) fn rotary_tables(&mut self, name: &str, Turns { strides, steps }: &Turns) -> Rotary {
        let one = self.graph.integers(&format!("{name}.one"), &[1], &[1]);
        let mut apart = |part: &str, table: &str| {
            self.graph.node(&format!("{name}.{part}.apart"), "Unsqueeze", &[table, &one], vec![])
        };
        let strides = Rotary { cos: apart("cos", &strides.cos), sin: apart("sin", &strides.sin) };
        let Rotary { cos, sin } = self.turned_twice(name, &strides, steps);
        let shape = self.graph.integers(&format!("{name}.shape"), &[2], &[-1, self.a.head_dim as i64 / 2]);
        let mut joined = |part: &str, table: &str| {
            self.graph.node(&format!("{name}.{part}.table"), "Reshape", &[table, &shape], vec![])
        };
        Rotary { cos: joined("cos", &cos), sin: joined("sin", &sin) }
    }

    pub(super) fn fused_attention(
        &mut self,
        layer: usize,
        Projected { query, key, value }: &Projected,
        Rotary { cos, sin }: &Rotary,
        Lengths { last_key, total }: &Lengths,
        window: Option<usize>,
    ) -> String {
        let name = format!("layers.{layer}.self_attn");
        let past = ["key", "value"].map(|part| format!("past_key_values.{layer}.{part}"));
        let present = ["key", "value"].map(|part| format!("present.{layer}.{part}"));
        let mut attributes = vec![
            int("num_heads", self.a.num_attention_heads as i64),
            int("kv_num_heads", self.a.num_key_value_heads as i64),
            float("scale", self.a.attention_scale() as f32),
            int("do_rotary", 1),
            int("rotary_interleaved", 0),
        ];
        attributes.extend(window.map(|window| int("local_window_size", window as i64)));
        self.graph.custom(
            &name,
            MICROSOFT,
            "GroupQueryAttention",
            &[query, key, value, &past[0], &past[1], last_key, total, cos, sin],
            &[&name, &present[0], &present[1]],
            attributes,
        );
        name
    }
}
