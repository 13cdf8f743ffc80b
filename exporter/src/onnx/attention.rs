//! Attention in the graph: projections, and between them what the operators allow, one fused node or standard ones.

use margay::bundle::manifest::Operators;

use super::decoder::Writer;
use super::fused::Lengths;
use super::standard::Mask;
use crate::error::Result;

/// What attention knows about where it is.
pub(super) struct Positions {
    reach: Reach,
    /// Of layers that see all keys.
    global: Rotary,
    /// Of layers with a window, if there are any.
    local: Option<Rotary>,
}

/// Which keys there are, as the operators want to know it.
enum Reach {
    Fused(Lengths),
    Standard {
        global: Mask,
        /// Of layers with a window, if there are any.
        local: Option<Mask>,
    },
}

/// Names of the cosines and sines that turn queries and keys: of every position of the context, `[context, head / 2]`, or
/// of those at hand, `[sequence, head / 2]`.
pub(super) struct Rotary {
    pub(super) cos: String,
    pub(super) sin: String,
}

/// Names of the values that a layer's attention works on, each `[batch, sequence, heads x head]`.
pub(super) struct Projected {
    pub(super) query: String,
    pub(super) key: String,
    pub(super) value: String,
}

impl Writer<'_> {
    pub(super) fn positions(&mut self) -> Result<Positions> {
        let frequencies = self.a.local_rotary_frequencies();
        let mut global = self.rotary_tables("rotary", &self.a.rotary_frequencies())?;
        let local = frequencies.map(|frequencies| self.rotary_tables("rotary.local", &frequencies));
        let mut local = local.transpose()?;
        let reach = match self.operators {
            Operators::Fused => Reach::Fused(self.lengths()),
            Operators::Standard => {
                let here = self.here();
                global = self.rotary_rows("rotary", &global, &here);
                local = local.map(|tables| self.rotary_rows("rotary.local", &tables, &here));
                let window = self.a.sliding.as_ref().map(|sliding| sliding.width);
                Reach::Standard {
                    global: self.mask("mask", &here, None),
                    local: window.map(|window| self.mask("mask.local", &here, Some(window))),
                }
            }
        };
        Ok(Positions { reach, global, local })
    }

    /// Attention of a layer over its normed input.
    pub(super) fn attention(&mut self, layer: usize, x: &str, positions: &Positions) -> Result<String> {
        let a = self.a;
        let at = |name: &str| format!("layers.{layer}.self_attn.{name}");
        let (queries, keys) = (a.query_size(), a.key_value_size());
        let query = self.linear(&at("q_proj"), x, [queries, a.hidden_size], a.input_bias())?;
        let query = self.head_norm(&at("q_norm"), query, a.num_attention_heads)?;
        let key = self.linear(&at("k_proj"), x, [keys, a.hidden_size], a.input_bias())?;
        let key = self.head_norm(&at("k_norm"), key, a.num_key_value_heads)?;
        let value = self.linear(&at("v_proj"), x, [keys, a.hidden_size], a.input_bias())?;
        let projected = Projected { query, key, value };
        let window = a.window(layer);
        let rotary = window.and(positions.local.as_ref()).unwrap_or(&positions.global);
        let attended = match &positions.reach {
            Reach::Fused(lengths) => self.fused_attention(layer, &projected, rotary, lengths, window),
            Reach::Standard { global, local } => {
                let mask = window.and(local.as_ref()).unwrap_or(global);
                self.standard_attention(layer, &projected, rotary, mask)
            }
        };
        self.linear(&at("o_proj"), &attended, [a.hidden_size, queries], a.output_bias())
    }

    /// Cosines and sines of every position, in the layout that turns halves rather than pairs.
    fn rotary_tables(&mut self, name: &str, frequencies: &[f64]) -> Result<Rotary> {
        let (context, half) = (self.a.max_position_embeddings, frequencies.len());
        let angle = |index: usize| (index / half) as f64 * frequencies[index % half];
        let cos: Vec<f32> = (0..context * half).map(|index| angle(index).cos() as f32).collect();
        let sin: Vec<f32> = (0..context * half).map(|index| angle(index).sin() as f32).collect();
        let mut table = |part: &str, values: &[f32]| -> Result<String> {
            let tensor = self.data.append(&format!("{name}.{part}"), &[context, half], values)?;
            Ok(self.initializer(tensor))
        };
        Ok(Rotary { cos: table("cos", &cos)?, sin: table("sin", &sin)? })
    }
}
