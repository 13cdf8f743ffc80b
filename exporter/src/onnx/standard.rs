//! Attention in ONNX's standard operators: turned by halves, cached by concatenation, masked by a sum, and mixed by two
//! products. Query heads that share a key-value head are further rows of one product, so that nothing is repeated.

use super::attention::{Projected, Rotary, STRIDE, Turns};
use super::build::{int, ints};
use super::decoder::Writer;
use super::proto::tensor_proto::DataType;

/// Names of the positions in one run of the graph.
pub(super) struct Here {
    /// Of the queries, `[sequence]`.
    queries: String,
    /// Of the keys, past included, `[total]`.
    keys: String,
}

/// Name of what is added to the scores, `[batch, 1, sequence, total]`: nothing, or a lot less than nothing.
pub(super) struct Mask(String);

impl Writer<'_> {
    pub(super) fn here(&mut self) -> Here {
        let g = &mut self.graph;
        let (zero, one) = (g.integers("positions.zero", &[], &[0]), g.integers("positions.one", &[], &[1]));
        let mut length = |name: &str, input: &str| {
            let shape = g.node(&format!("{name}.shape"), "Shape", &[input], vec![]);
            g.node(name, "Gather", &[&shape, &one], vec![])
        };
        let (new, total) = (length("positions.new", "input_ids"), length("positions.total", "attention_mask"));
        let past = g.node("positions.past", "Sub", &[&total, &new], vec![]);
        Here {
            queries: g.node("positions.queries", "Range", &[&past, &total, &one], vec![]),
            keys: g.node("positions.keys", "Range", &[&zero, &total, &one], vec![]),
        }
    }

    /// Cosines and sines of the queries' positions.
    pub(super) fn rotary_rows(&mut self, name: &str, Turns { strides, steps }: &Turns, here: &Here) -> Rotary {
        let g = &mut self.graph;
        let at = |part: &str| format!("{name}.{part}");
        let stride = g.integers(&at("stride"), &[], &[STRIDE as i64]);
        let whole = g.node(&at("whole"), "Div", &[&here.queries, &stride], vec![]);
        let rest = g.node(&at("rest"), "Mod", &[&here.queries, &stride], vec![]);
        let mut rows = |part: &str, table: &str, index: &str| g.node(&at(part), "Gather", &[table, index], vec![]);
        let strides =
            Rotary { cos: rows("whole.cos", &strides.cos, &whole), sin: rows("whole.sin", &strides.sin, &whole) };
        let steps = Rotary { cos: rows("rest.cos", &steps.cos, &rest), sin: rows("rest.sin", &steps.sin, &rest) };
        self.turned_twice(name, &strides, &steps)
    }

    /// A query sees keys up to its own position that are not padding and, with a window, not too far back.
    pub(super) fn mask(&mut self, name: &str, here: &Here, window: Option<usize>) -> Mask {
        let g = &mut self.graph;
        let at = |part: &str| format!("{name}.{part}");
        let (last, heads) = (g.integers(&at("last"), &[1], &[1]), g.integers(&at("heads"), &[2], &[1, 2]));
        let queries = g.node(&at("queries"), "Unsqueeze", &[&here.queries, &last], vec![]);
        let mut seen = g.node(&at("causal"), "LessOrEqual", &[&here.keys, &queries], vec![]);
        if let Some(window) = window {
            let width = g.integers(&at("window"), &[], &[window as i64]);
            let edge = g.node(&at("edge"), "Sub", &[&queries, &width], vec![]);
            let near = g.node(&at("near"), "Greater", &[&here.keys, &edge], vec![]);
            seen = g.node(&at("causal_and_near"), "And", &[&seen, &near], vec![]);
        }
        let text = g.node(&at("text"), "Cast", &["attention_mask"], vec![int("to", DataType::Bool as i64)]);
        let text = g.node(&at("text.keys"), "Unsqueeze", &[&text, &heads], vec![]);
        let seen = g.node(&at("seen"), "And", &[&seen, &text], vec![]);
        let (shown, hidden) = (g.number(&at("shown"), 0.0), g.number(&at("hidden"), HIDDEN));
        Mask(g.node(name, "Where", &[&seen, &shown, &hidden], vec![]))
    }

    pub(super) fn standard_attention(
        &mut self,
        layer: usize,
        projected: &Projected,
        rotary: &Rotary,
        Mask(mask): &Mask,
    ) -> String {
        let name = format!("layers.{layer}.self_attn");
        let at = |part: &str| format!("{name}.{part}");
        let (heads, kv_heads) = (self.a.num_attention_heads as i64, self.a.num_key_value_heads as i64);
        let (size, scale) = (self.a.head_dim as i64, self.a.attention_scale() as f32);
        let query = self.split_heads(&at("query"), &projected.query, heads);
        let query = self.rotate(&at("query"), &query, rotary);
        let key = self.split_heads(&at("key"), &projected.key, kv_heads);
        let key = self.rotate(&at("key"), &key, rotary);
        let value = self.split_heads(&at("value"), &projected.value, kv_heads);
        let key = self.extend_cache(layer, "key", &key);
        let value = self.extend_cache(layer, "value", &value);

        let g = &mut self.graph;
        // In a shape, zero keeps the dimension as it is.
        let grouped = g.integers(&at("grouped"), &[4], &[0, kv_heads, -1, size]);
        let ungrouped = g.integers(&at("ungrouped"), &[4], &[0, heads, -1, size]);
        let scale = g.number(&at("scale"), scale);
        let query = g.node(&at("query.scaled"), "Mul", &[&query, &scale], vec![]);
        let query = g.node(&at("query.grouped"), "Reshape", &[&query, &grouped], vec![]);
        let key = g.node(&at("key.transposed"), "Transpose", &[&key], vec![ints("perm", &[0, 1, 3, 2])]);
        let scores = g.node(&at("scores.grouped"), "MatMul", &[&query, &key], vec![]);
        let by_head = g.integers(&at("scores.by_head"), &[4], &[0, heads, -1, 0]);
        let by_group = g.integers(&at("scores.by_group"), &[4], &[0, kv_heads, -1, 0]);
        let scores = g.node(&at("scores"), "Reshape", &[&scores, &by_head], vec![]);
        let scores = g.node(&at("scores.masked"), "Add", &[&scores, mask], vec![]);
        let weights = g.node(&at("weights"), "Softmax", &[&scores], vec![int("axis", -1)]);
        let weights = g.node(&at("weights.grouped"), "Reshape", &[&weights, &by_group], vec![]);
        let mixed = g.node(&at("mixed.grouped"), "MatMul", &[&weights, &value], vec![]);
        let mixed = g.node(&at("mixed"), "Reshape", &[&mixed, &ungrouped], vec![]);
        let mixed = g.node(&at("mixed.by_position"), "Transpose", &[&mixed], vec![ints("perm", &[0, 2, 1, 3])]);
        let joined = g.integers(&at("joined"), &[3], &[0, 0, heads * size]);
        g.node(&name, "Reshape", &[&mixed, &joined], vec![])
    }

    /// `[batch, sequence, heads x head]` as `[batch, heads, sequence, head]`.
    fn split_heads(&mut self, name: &str, x: &str, heads: i64) -> String {
        let shape = self.graph.integers(&format!("{name}.heads"), &[4], &[0, 0, heads, self.a.head_dim as i64]);
        let x = self.graph.node(&format!("{name}.split"), "Reshape", &[x, &shape], vec![]);
        self.graph.node(&format!("{name}.by_head"), "Transpose", &[&x], vec![ints("perm", &[0, 2, 1, 3])])
    }

    /// Turns the halves of `[batch, heads, sequence, head]` by the rows of `rotary`.
    fn rotate(&mut self, name: &str, x: &str, Rotary { cos, sin }: &Rotary) -> String {
        let g = &mut self.graph;
        let at = |part: &str| format!("{name}.{part}");
        let halves = [at("first"), at("second")];
        let split = vec![int("axis", -1), int("num_outputs", 2)];
        g.custom(&at("halves"), "", "Split", &[x], &[&halves[0], &halves[1]], split);
        let mut times = |part: &str, half: usize, by: &str| g.node(&at(part), "Mul", &[&halves[half], by], vec![]);
        let (first_cos, first_sin) = (times("first.cos", 0, cos), times("first.sin", 0, sin));
        let (second_cos, second_sin) = (times("second.cos", 1, cos), times("second.sin", 1, sin));
        let first = g.node(&at("first.turned"), "Sub", &[&first_cos, &second_sin], vec![]);
        let second = g.node(&at("second.turned"), "Add", &[&second_cos, &first_sin], vec![]);
        g.node(&at("turned"), "Concat", &[&first, &second], vec![int("axis", -1)])
    }

    /// Past keys or values with the new ones behind.
    fn extend_cache(&mut self, layer: usize, part: &str, new: &str) -> String {
        let (past, present) = (format!("past_key_values.{layer}.{part}"), format!("present.{layer}.{part}"));
        let name = format!("layers.{layer}.self_attn.{part}.cached");
        self.graph.custom(&name, "", "Concat", &[&past, new], &[&present], vec![int("axis", 2)]);
        present
    }
}

/// Added to a score that must not count; finite, so that a softmax over it stays finite.
const HIDDEN: f32 = -1e9;
