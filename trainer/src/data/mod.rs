//! Task data: rows found in files of several forms, mixed, split by a stable hash, encoded and put into batches.
//!
//! `trainer/DATA.md` describes the files.

mod batch;
mod corpus;
mod example;
mod mixture;
mod prompt;
mod source;
mod split;

pub use batch::{Batch, Batches, Encoded, EncodedCorpus, RowKey, Rows};
pub use corpus::{BadRowReport, Corpus, DataSet, Indexed};
pub use example::{Example, Message, read_jsonl};
pub use mixture::Mixture;
pub use prompt::{PromptFormat, PromptStyle};
pub use source::{Columns, Format, Source};
pub use split::{Fold, Split, split_by_hash};
