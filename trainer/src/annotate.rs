//! What the large model thinks of every training target, read once and kept on disk.
//!
//! The large model is teacher-forced over the targets: for each target token its own top-1 guess is compared
//! with the token, and its `k` likeliest tokens are kept with their log-probabilities.

use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, activation};
use sha2::{Digest, Sha256};

use crate::data::{Batch, Batches, Encoded};
use crate::error::{Error, ErrorKind, Result};
use crate::files::write_atomically;
use crate::model::{CausalLm, floats};

/// The large model's view of a data set, target token by target token in the order of its rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Annotations {
    /// Digest of the encoded data set that this belongs to.
    fingerprint: [u8; 32],
    /// How many likeliest tokens are kept per target token.
    k: usize,
    /// Where each row's target tokens begin; one more entry than rows.
    offsets: Vec<usize>,
    /// Whether the large model's top-1 token is the target token.
    hits: Vec<bool>,
    /// Likeliest token ids, `[targets, k]`, likeliest first.
    top_ids: Vec<u32>,
    /// Their log-probabilities in nats, `[targets, k]`.
    top_log_probabilities: Vec<f32>,
}

/// The annotations of one batch, aligned with its targets.
#[derive(Debug, Clone)]
pub struct TeacherBatch {
    /// Whether the large model's top-1 token is the target token, `[targets]`.
    pub hits: Vec<bool>,
    /// Likeliest token ids, `[targets, k]`.
    pub top_ids: Vec<u32>,
    /// Their log-probabilities in nats, `[targets, k]`.
    pub top_log_probabilities: Vec<f32>,
    /// Likeliest tokens per target.
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
        let vocabulary = large.model.embed_tokens.weight.dims()[0];
        if k == 0 || k > vocabulary {
            return Err(Error::new(ErrorKind::Config, format!("top-k: {k} is outside 1..={vocabulary}")));
        }
        let large = large.valid();
        let mut annotations = Self {
            fingerprint: fingerprint(data),
            k,
            offsets: vec![0],
            hits: Vec::new(),
            top_ids: Vec::new(),
            top_log_probabilities: Vec::new(),
        };
        for rows in Batches::in_order(data, batch_size) {
            let batch = Batch::new(data, rows, device);
            let hidden = large.hidden(batch.ids.clone());
            let [rows, sequence, width] = hidden.dims();
            let hidden = hidden.reshape([rows * sequence, width]).select(0, batch.positions.clone());
            let log_probabilities = activation::log_softmax(large.head(hidden), 1);
            let values = floats(log_probabilities.into_data());
            for (row, &target) in values.chunks_exact(vocabulary).zip(&batch.targets) {
                annotations.push(row, target);
            }
            for length in batch.lengths {
                let last = annotations.offsets.last().copied().unwrap_or(0);
                annotations.offsets.push(last + length);
            }
            progress(batch.rows.len());
        }
        Ok(annotations)
    }

    /// Keeps the `k` likeliest of one row; equal ones in the order of their ids.
    fn push(&mut self, log_probabilities: &[f32], target: u32) {
        let mut order: Vec<u32> = (0..log_probabilities.len() as u32).collect();
        let likelier = |a: &u32, b: &u32| {
            let (x, y) = (log_probabilities[*a as usize], log_probabilities[*b as usize]);
            y.total_cmp(&x).then(a.cmp(b))
        };
        if self.k < order.len() {
            order.select_nth_unstable_by(self.k - 1, likelier);
            order.truncate(self.k);
        }
        order.sort_unstable_by(likelier);
        self.hits.push(order.first() == Some(&target));
        self.top_log_probabilities.extend(order.iter().map(|&id| log_probabilities[id as usize]));
        self.top_ids.extend(order);
    }

    /// Share of target tokens that the large model's top-1 guess hits.
    #[must_use]
    pub fn hit_rate(&self) -> f64 {
        self.hits.iter().filter(|&&hit| hit).count() as f64 / self.hits.len().max(1) as f64
    }

    /// Share of rows whose target tokens are all hit: exactly those that greedy decoding answers word for word.
    #[must_use]
    pub fn exact_match(&self) -> f64 {
        let rows = self.offsets.windows(2);
        let right = rows.clone().filter(|pair| self.hits[pair[0]..pair[1]].iter().all(|&hit| hit)).count();
        right as f64 / rows.len().max(1) as f64
    }

    /// Number of target tokens.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.hits.len()
    }

    /// The annotations of a batch's rows, in its order.
    #[must_use]
    pub fn batch(&self, rows: &[usize]) -> TeacherBatch {
        let mut batch = TeacherBatch { hits: vec![], top_ids: vec![], top_log_probabilities: vec![], k: self.k };
        for &row in rows {
            let (from, to) = (self.offsets[row], self.offsets[row + 1]);
            batch.hits.extend_from_slice(&self.hits[from..to]);
            batch.top_ids.extend_from_slice(&self.top_ids[from * self.k..to * self.k]);
            batch.top_log_probabilities.extend_from_slice(&self.top_log_probabilities[from * self.k..to * self.k]);
        }
        batch
    }

    /// Whether these annotations were made for exactly this data set.
    #[must_use]
    pub fn belongs_to(&self, data: &[Encoded]) -> bool {
        self.fingerprint == fingerprint(data)
    }

    /// Writes the cache: all of it or nothing.
    ///
    /// Little-endian: `MARGAYAN`, version, k, rows, targets (u32 each), fingerprint (32 bytes), row lengths (u32),
    /// hits (one byte each), top ids (u32), top log-probabilities (f32).
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut bytes = MAGIC.to_vec();
        for number in [VERSION, self.k as u32, self.offsets.len() as u32 - 1, self.hits.len() as u32] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.fingerprint);
        bytes.extend(self.offsets.windows(2).flat_map(|pair| ((pair[1] - pair[0]) as u32).to_le_bytes()));
        bytes.extend(self.hits.iter().map(|&hit| u8::from(hit)));
        bytes.extend(self.top_ids.iter().flat_map(|id| id.to_le_bytes()));
        bytes.extend(self.top_log_probabilities.iter().flat_map(|value| value.to_le_bytes()));
        write_atomically(path, &bytes)
    }

    /// Reads a cache back.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the file cannot be read, [`ErrorKind::Checkpoint`] when it is not a whole cache.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(|e| Error::io("read", path, e))?;
        Self::parse(&bytes).ok_or_else(|| {
            Error::new(ErrorKind::Checkpoint, format!("{}: not a whole annotation cache", path.display()))
        })
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(MAGIC)?;
        let (version, k) = (take_u32(&mut rest)?, take_u32(&mut rest)? as usize);
        let (rows, targets) = (take_u32(&mut rest)? as usize, take_u32(&mut rest)? as usize);
        let fingerprint = *rest.split_off(..32)?.first_chunk()?;
        // The one length that a whole file can have; nothing is allocated before it is known to be right.
        let tail = targets.checked_mul(k)?.checked_mul(8)?.checked_add(targets)?.checked_add(rows.checked_mul(4)?)?;
        if version != VERSION || k == 0 || rest.len() != tail {
            return None;
        }
        let mut offsets = vec![0];
        for _ in 0..rows {
            offsets.push(offsets.last()? + take_u32(&mut rest)? as usize);
        }
        if *offsets.last()? != targets {
            return None;
        }
        let hits = rest.split_off(..targets)?.iter().map(|&byte| byte == 1).collect();
        let (ids, values) = rest.split_at(targets * k * 4);
        let words = |bytes: &[u8]| bytes.as_chunks::<4>().0.to_vec();
        Some(Self {
            fingerprint,
            k,
            offsets,
            hits,
            top_ids: words(ids).into_iter().map(u32::from_le_bytes).collect(),
            top_log_probabilities: words(values).into_iter().map(f32::from_le_bytes).collect(),
        })
    }
}

const MAGIC: &[u8; 8] = b"MARGAYAN";
const VERSION: u32 = 1;

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    rest.split_off(..4)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}

/// Digest of every id, with the borders between rows and between prompt and target.
fn fingerprint(data: &[Encoded]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for row in data {
        for part in [&row.prompt, &row.target] {
            hash.update((part.len() as u32).to_le_bytes());
            part.iter().for_each(|id| hash.update(id.to_le_bytes()));
        }
    }
    hash.finalize().into()
}
