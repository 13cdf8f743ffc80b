//! The sizes of a decoder's inputs and outputs, and whether a graph has them.

use std::ops::Range;

use ort::memory::Allocator;
use ort::session::Session;
use ort::value::{DynValue, Outlet, Tensor, TensorElementType, ValueType};

use super::session::inference;
use crate::bundle::manifest::Model;
use crate::error::{Error, ErrorKind, Result};

/// What the manifest says of the graph.
#[derive(Debug, Clone)]
pub(super) struct Dimensions {
    pub(super) vocabulary: usize,
    pub(super) context: usize,
    pub(super) layers: usize,
    pub(super) key_value_heads: usize,
    pub(super) head_size: usize,
    pub(super) scoring: bool,
}

impl Dimensions {
    pub(super) fn of(model: &Model) -> Self {
        Self {
            vocabulary: model.vocabulary_size,
            context: model.context_length,
            layers: model.layers,
            key_value_heads: model.key_value_heads,
            head_size: model.head_size,
            scoring: model.scoring,
        }
    }

    /// Numbers that the keys and values of one token are.
    pub(super) fn values_per_token(&self) -> usize {
        2 * self.layers * self.key_value_heads * self.head_size
    }

    pub(super) fn bytes_per_token(&self) -> u64 {
        (self.values_per_token() * size_of::<f32>()).max(1) as u64
    }

    /// Where in a tensor `[sequences, heads, room, head size]` the first `length` tokens of a sequence lie: one range for each
    /// head.
    pub(super) fn rows(
        &self,
        sequence: usize,
        room: usize,
        length: usize,
    ) -> impl Iterator<Item = Range<usize>> + use<> {
        let (heads, size) = (self.key_value_heads, self.head_size);
        let heads = sequence * heads..(sequence + 1) * heads;
        heads.map(move |head| head * room * size..(head * room + length) * size)
    }

    /// Copies the first `length` tokens of a sequence from one such tensor to another: tensor, sequence and room of each.
    pub(super) fn copy(
        &self,
        (from, sequence, room): (&[f32], usize, usize),
        (to, other, other_room): (&mut [f32], usize, usize),
        length: usize,
    ) {
        for (from_rows, to_rows) in self.rows(sequence, room, length).zip(self.rows(other, other_room, length)) {
            to[to_rows].copy_from_slice(&from[from_rows]);
        }
    }

    /// Key-values of no tokens.
    pub(super) fn empty(&self) -> Result<Vec<DynValue>> {
        let shape = [1, self.key_value_heads, 0, self.head_size];
        let empty = || Ok(Tensor::<f32>::new(&Allocator::default(), shape).map_err(inference)?.into_dyn());
        self.caches(past_name).map(|_| empty()).collect()
    }

    /// Names of all key and value caches, made of layer and part.
    pub(super) fn caches(&self, name: fn(usize, &str) -> String) -> impl Iterator<Item = String> + use<> {
        let layers = self.layers;
        (0..layers).flat_map(move |layer| ["key", "value"].map(|part| name(layer, part)))
    }

    /// Compares the graph's inputs and outputs with what the manifest says.
    pub(super) fn check(&self, session: &Session) -> Result<()> {
        use TensorElementType::{Float32, Int64};
        let (any, vocabulary) = (-1, self.vocabulary as i64);
        let cache = [any, self.key_value_heads as i64, any, self.head_size as i64];
        let caches = |name: fn(usize, &str) -> String| self.caches(name).map(|name| (name, Float32, cache.to_vec()));
        let row = |name: &str, element| (name.to_owned(), element, vec![any, any]);
        let inputs = [row("input_ids", Int64), row("attention_mask", Int64)];
        let outputs = [("logits".to_owned(), Float32, vec![any, any, vocabulary])];
        let targets = self.scoring.then(|| row("targets", Int64));
        let scores = self.scoring.then(|| row("log_probabilities", Float32));
        compare("input", session.inputs(), inputs.into_iter().chain(targets).chain(caches(past_name)))?;
        compare("output", session.outputs(), outputs.into_iter().chain(scores).chain(caches(present_name)))
    }
}

/// Every expected value is there with its type and dimensions (-1 agrees with any), and no other.
fn compare(
    kind: &str,
    actual: &[Outlet],
    expected: impl Iterator<Item = (String, TensorElementType, Vec<i64>)>,
) -> Result<()> {
    let refuse = |message: String| Err(Error::new(ErrorKind::Bundle, message));
    let mut count = 0;
    for (name, element, dimensions) in expected {
        count += 1;
        let Some(outlet) = actual.iter().find(|outlet| outlet.name() == name) else {
            return refuse(format!("the graph has no {kind} {name}, which the manifest implies"));
        };
        let agrees = match outlet.dtype() {
            ValueType::Tensor { ty, shape, .. } => {
                *ty == element
                    && shape.len() == dimensions.len()
                    && shape.iter().zip(&dimensions).all(|(a, b)| *a < 0 || *b < 0 || a == b)
            }
            _ => false,
        };
        if !agrees {
            return refuse(format!(
                "the graph's {kind} {name} is {}, the manifest implies {element} {dimensions:?}",
                outlet.dtype()
            ));
        }
    }
    if actual.len() != count {
        return refuse(format!("the graph has {} {kind}s, the manifest implies {count}", actual.len()));
    }
    Ok(())
}

pub(super) fn past_name(layer: usize, part: &str) -> String {
    format!("past_key_values.{layer}.{part}")
}

pub(super) fn present_name(layer: usize, part: &str) -> String {
    format!("present.{layer}.{part}")
}
