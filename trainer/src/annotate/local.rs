//! A large model of this machine: forward passes over the targets, several rows at a time.

use burn::module::Module;
use burn::tensor::{Device, activation};

use super::record::{CacheInfo, Record};
use crate::data::{Batch, Encoded};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{CausalLm, floats};

/// A large model that reads rows in its own vocabulary.
#[derive(Debug)]
pub struct LocalTeacher {
    large: CausalLm,
    k: usize,
    vocabulary: usize,
    device: Device,
}

impl LocalTeacher {
    /// A teacher that keeps its `k` likeliest tokens.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when `k` is not between 1 and the vocabulary.
    pub fn new(large: &CausalLm, k: usize, device: &Device) -> Result<Self> {
        let vocabulary = large.model.embed_tokens.weight.dims()[0];
        if k == 0 || k > vocabulary {
            return Err(Error::new(ErrorKind::Config, format!("top-k: {k} is outside 1..={vocabulary}")));
        }
        Ok(Self { large: large.valid(), k, vocabulary, device: device.clone() })
    }

    /// What a cache of this teacher's records says about itself.
    #[must_use]
    pub fn info(&self, tokenizer: [u8; 32], template: [u8; 32], flops_per_token: f64) -> CacheInfo {
        CacheInfo { k: self.k, vocabulary: self.vocabulary, tokenizer, template, flops_per_token }
    }

    /// Reads rows side by side.
    #[must_use]
    pub fn annotate(&self, rows: &[Encoded]) -> Vec<Record> {
        let batch = Batch::new(rows, &self.device);
        let hidden = self.large.hidden(batch.ids.clone());
        let [lines, sequence, width] = hidden.dims();
        let hidden = hidden.reshape([lines * sequence, width]).select(0, batch.positions.clone());
        let log_probabilities = activation::log_softmax(self.large.head(hidden), 1);
        let values = floats(log_probabilities.into_data());
        let mut tokens = values.chunks_exact(self.vocabulary);
        let read = |row: &Encoded| {
            let mut record =
                Record { key: row.key(), hits: vec![], top_ids: vec![], top_log_probabilities: vec![], answer: None };
            // The targets first: a zip that ends takes one more from what stands on its left.
            for (&target, values) in row.target.iter().zip(tokens.by_ref()) {
                let order = likeliest(values, self.k);
                record.hits.push(order.first() == Some(&target));
                record.top_log_probabilities.extend(order.iter().map(|&id| values[id as usize]));
                record.top_ids.extend(order);
            }
            record
        };
        rows.iter().map(read).collect()
    }
}

/// The `k` likeliest ids, likeliest first; equal ones in the order of their ids.
fn likeliest(log_probabilities: &[f32], k: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..log_probabilities.len() as u32).collect();
    let likelier = |a: &u32, b: &u32| {
        let (x, y) = (log_probabilities[*a as usize], log_probabilities[*b as usize]);
        y.total_cmp(&x).then(a.cmp(b))
    };
    if k < order.len() {
        order.select_nth_unstable_by(k - 1, likelier);
        order.truncate(k);
    }
    order.sort_unstable_by(likelier);
    order
}
