//! Task data: examples read from JSON Lines, split by a stable hash, encoded and put into batches.

mod batch;
mod example;
mod split;

pub use batch::{Batch, Batches, Encoded};
pub use example::{Example, read_jsonl};
pub use split::{Split, split_by_hash};
