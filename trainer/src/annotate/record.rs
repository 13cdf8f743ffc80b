//! One annotated row, and what a whole cache says about itself.

use serde::{Deserialize, Serialize};

use crate::data::RowKey;

/// What the large model makes of one row.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Which row.
    pub key: RowKey,
    /// Whether its top-1 token is the target token, one for each target token of the small model.
    pub hits: Vec<bool>,
    /// Its likeliest token ids, `[targets, k]`.
    pub top_ids: Vec<u32>,
    /// Their log-probabilities in nats, `[targets, k]`.
    pub top_log_probabilities: Vec<f32>,
    /// Its own answer, if it was asked for one.
    pub answer: Option<String>,
}

/// What belongs to a whole cache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CacheInfo {
    /// Likeliest tokens per target token; 0 where only hits are known.
    pub k: usize,
    /// Entries of the vocabulary that the ids belong to; 0 without ids.
    pub vocabulary: usize,
    /// Digest of the small model's tokenizer.
    pub tokenizer: [u8; 32],
    /// Digest of the rest of the small model's prompt format.
    pub template: [u8; 32],
    /// Forward FLOPs of the large model per token; 0 if they are not known.
    pub flops_per_token: f64,
}
