//! What the large model thinks of every training target, read once and kept on disk.
//!
//! The large model is teacher-forced over the targets: for each target token its own top-1 guess is compared with the
//! token, and its `k` likeliest tokens are kept with their log-probabilities. A row is found again by what it says,
//! not by where it stood: the same cache serves any subset, order or mixture of its rows.

pub mod align;
mod cache;
pub mod endpoint;
mod journal;
mod local;
mod record;

use std::path::Path;

use burn::tensor::Device;

use crate::data::{Encoded, RowKey, Rows};
use crate::error::{Error, ErrorKind, Result};
use crate::model::CausalLm;

pub use cache::Annotations;
pub use journal::{Journal, Spent};
pub use local::LocalTeacher;
pub use record::{CacheInfo, Record};

/// The annotations of one batch, aligned with its targets.
#[derive(Debug, Clone)]
pub struct TeacherBatch {
    /// Whether the large model's top-1 token is the target token, `[targets]`.
    pub hits: Vec<bool>,
    /// Likeliest token ids, `[targets, k]`.
    pub top_ids: Vec<u32>,
    /// Their log-probabilities in nats, `[targets, k]`.
    pub top_log_probabilities: Vec<f32>,
    /// Likeliest tokens per target; 0 where only hits are known.
    pub k: usize,
}

impl Annotations {
    /// Runs the large model over `data` and keeps its `k` likeliest tokens per target token.
    ///
    /// `progress` is told how many rows are done.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when `k` is not between 1 and the vocabulary.
    pub fn read_off(
        large: &CausalLm,
        data: &[Encoded],
        k: usize,
        batch_size: usize,
        device: &Device,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Self> {
        let teacher = LocalTeacher::new(large, k, device)?;
        let mut records = Vec::new();
        for rows in data.chunks(batch_size.max(1)) {
            records.extend(teacher.annotate(rows));
            progress(rows.len());
        }
        Self::from_records(&teacher.info([0; 32], [0; 32], 0.0), records)
    }

    /// Share of target tokens that the large model's top-1 guess hits.
    #[must_use]
    pub fn hit_rate(&self) -> f64 {
        let hits: usize = (0..self.rows()).map(|row| self.row_hits(row).filter(|&hit| hit).count()).sum();
        hits as f64 / self.tokens().max(1) as f64
    }

    /// Share of rows whose target tokens are all hit: exactly those that greedy decoding answers word for word.
    #[must_use]
    pub fn exact_match(&self) -> f64 {
        let right = (0..self.rows()).filter(|&row| self.row_hits(row).all(|hit| hit)).count();
        right as f64 / self.rows().max(1) as f64
    }

    /// The annotations of a batch's rows, in its order.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when a row was never annotated.
    pub fn batch(&self, rows: &[Encoded]) -> Result<TeacherBatch> {
        let mut batch = TeacherBatch { hits: vec![], top_ids: vec![], top_log_probabilities: vec![], k: self.k() };
        for row in rows {
            let at = self.find(row)?;
            batch.hits.extend(self.row_hits(at));
            self.row_tops(at, &mut batch.top_ids, &mut batch.top_log_probabilities);
        }
        Ok(batch)
    }

    /// Whether every row was annotated.
    ///
    /// # Errors
    /// Those of reading a row.
    pub fn belongs_to(&self, data: &dyn Rows) -> Result<bool> {
        for row in 0..data.count() {
            if self.find(&data.encoded(row)?).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What the large model itself answers to a row, if the cache has answers.
    #[must_use]
    pub fn answer(&self, row: &Encoded) -> Option<&str> {
        self.row_answer(self.lookup(row.key())?)
    }

    /// Whether the large model's greedy answer is the target word for word; `None` for a row that was never annotated.
    #[must_use]
    pub fn is_right(&self, row: &Encoded) -> Option<bool> {
        self.lookup(row.key()).map(|at| self.row_hits(at).all(|hit| hit))
    }

    fn find(&self, row: &Encoded) -> Result<usize> {
        let found = self.lookup(row.key()).filter(|&at| self.row_tokens(at) == row.target.len());
        found.ok_or_else(|| {
            let message = "the annotations were made for another data set, tokenizer or template: a row is not in them";
            Error::new(ErrorKind::Config, message)
        })
    }

    /// Which row has this key.
    fn lookup(&self, key: RowKey) -> Option<usize> {
        let (mut low, mut high) = (0, self.rows());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.key(middle).cmp(&key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(middle),
            }
        }
        None
    }

    /// Writes the cache: all of it or nothing. [`Annotations::open`] maps it.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        crate::files::write_atomically(path, self.bytes())
    }
}
