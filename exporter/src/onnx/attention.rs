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

/// How far each position turns queries and keys, in two parts that add up: whole strides, and the steps behind them.
pub(super) struct Turns {
    /// `[strides, head / 2]`.
    pub(super) strides: Rotary,
    /// `[STRIDE, head / 2]`.
    pub(super) steps: Rotary,
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
        let global = self.turns("rotary", &self.a.rotary_frequencies())?;
        let local = frequencies.map(|frequencies| self.turns("rotary.local", &frequencies)).transpose()?;
        Ok(match self.operators {
            Operators::Fused => Positions {
                reach: Reach::Fused(self.lengths()),
                global: self.rotary_tables("rotary", &global),
                local: local.map(|turns| self.rotary_tables("rotary.local", &turns)),
            },
            Operators::Standard => {
                let here = self.here();
                let window = self.a.sliding.as_ref().map(|sliding| sliding.width);
                Positions {
                    reach: Reach::Standard {
                        global: self.mask("mask", &here, None),
                        local: window.map(|window| self.mask("mask.local", &here, Some(window))),
                    },
                    global: self.rotary_rows("rotary", &global, &here),
                    local: local.map(|turns| self.rotary_rows("rotary.local", &turns, &here)),
                }
            }
        })
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

    /// The turns of a context's positions, in the layout that turns halves rather than pairs.
    fn turns(&mut self, name: &str, frequencies: &[f64]) -> Result<Turns> {
        let strides = self.a.max_position_embeddings.div_ceil(STRIDE);
        let mut table = |part: &str, count: usize, step: usize, of: fn(f64) -> f64| -> Result<String> {
            let positions = (0..count).map(|index| (index * step) as f64);
            let values = positions.flat_map(|at| frequencies.iter().map(move |turn| of(at * turn) as f32));
            let values: Vec<f32> = values.collect();
            let tensor = self.data.append(&format!("{name}.{part}"), &[count, frequencies.len()], &values)?;
            Ok(self.initializer(tensor))
        };
        Ok(Turns {
            strides: Rotary {
                cos: table("cos.strides", strides, STRIDE, f64::cos)?,
                sin: table("sin.strides", strides, STRIDE, f64::sin)?,
            },
            steps: Rotary {
                cos: table("cos.steps", STRIDE, 1, f64::cos)?,
                sin: table("sin.steps", STRIDE, 1, f64::sin)?,
            },
        })
    }

    /// Cosines and sines of two turns one after the other, by the addition theorems.
    pub(super) fn turned_twice(&mut self, name: &str, first: &Rotary, second: &Rotary) -> Rotary {
        let g = &mut self.graph;
        let mut times = |part: &str, a: &str, b: &str| g.node(&format!("{name}.{part}"), "Mul", &[a, b], vec![]);
        let (cos_cos, sin_sin) = (times("cos_cos", &first.cos, &second.cos), times("sin_sin", &first.sin, &second.sin));
        let (sin_cos, cos_sin) = (times("sin_cos", &first.sin, &second.cos), times("cos_sin", &first.cos, &second.sin));
        Rotary {
            cos: g.node(&format!("{name}.cos"), "Sub", &[&cos_cos, &sin_sin], vec![]),
            sin: g.node(&format!("{name}.sin"), "Add", &[&sin_cos, &cos_sin], vec![]),
        }
    }
}

/// Positions between two turns in the first table: both are small then, and whole tables would be megabytes.
pub(super) const STRIDE: usize = 64;
