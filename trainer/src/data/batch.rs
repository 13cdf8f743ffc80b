//! From rows to padded batches of similar length in a seeded order.

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use sha2::{Digest, Sha256};

use super::{Corpus, Example, Mixture, PromptFormat};
use crate::data::prompt::PromptStyle;
use crate::error::Result;
use crate::model::Segments;
use crate::tokenizer::Tokenizer;

/// An example as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The prompt with its marks; never trained on.
    pub prompt: Vec<u32>,
    /// The answer with its end; every one of these is a training target.
    pub target: Vec<u32>,
}

impl Encoded {
    /// Encodes examples for a tokenizer of ours, in order. A prompt too long for `context` loses its middle; the target
    /// never loses anything.
    ///
    /// # Errors
    /// [`ErrorKind::Data`](crate::ErrorKind::Data) naming the row whose target alone does not fit,
    /// [`ErrorKind::Tokenizer`](crate::ErrorKind::Tokenizer) when a text cannot be encoded.
    pub fn all(examples: &[Example], tokenizer: &Tokenizer, context: usize) -> Result<Vec<Self>> {
        let format = PromptFormat::of_tokenizer(tokenizer.clone(), PromptStyle::Chat, None)?;
        examples.iter().map(|example| format.encode(example, context)).collect()
    }

    /// Length in tokens, prompt and target.
    pub(crate) fn len(&self) -> usize {
        self.prompt.len() + self.target.len()
    }

    /// What this row is known by in an annotation cache: the first half of SHA-256 over its ids.
    #[must_use]
    pub fn key(&self) -> RowKey {
        let mut hash = Sha256::new();
        for part in [&self.prompt, &self.target] {
            hash.update((part.len() as u32).to_le_bytes());
            part.iter().for_each(|id| hash.update(id.to_le_bytes()));
        }
        let digest: [u8; 32] = hash.finalize().into();
        let (first, _) = digest.split_at(16);
        RowKey(first.try_into().unwrap_or_default())
    }
}

/// Digest of an encoded row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey(pub [u8; 16]);

/// Rows that can be counted, compared in length and encoded, wherever they are.
pub trait Rows: Sync {
    /// How many.
    fn count(&self) -> usize;

    /// Length of a row, in any unit: rows of similar length go into one batch.
    fn length(&self, row: usize) -> usize;

    /// The row as token ids.
    ///
    /// # Errors
    /// Those of reading and encoding it, naming the row.
    fn encoded(&self, row: usize) -> Result<Encoded>;

    /// What the row is called in an error.
    fn name(&self, row: usize) -> String {
        format!("row {row}")
    }
}

impl Rows for [Encoded] {
    fn count(&self) -> usize {
        self.len()
    }

    fn length(&self, row: usize) -> usize {
        self[row].len()
    }

    fn encoded(&self, row: usize) -> Result<Encoded> {
        Ok(self[row].clone())
    }
}

impl Rows for Vec<Encoded> {
    fn count(&self) -> usize {
        self.as_slice().count()
    }

    fn length(&self, row: usize) -> usize {
        self.as_slice().length(row)
    }

    fn encoded(&self, row: usize) -> Result<Encoded> {
        self.as_slice().encoded(row)
    }
}

/// The rows of files, each read and encoded when it is asked for.
#[derive(Debug)]
pub struct EncodedCorpus<'a> {
    /// The rows.
    pub corpus: &'a Corpus,
    /// How they are encoded.
    pub format: &'a PromptFormat,
    /// Longest sequence, in tokens.
    pub context: usize,
}

impl Rows for EncodedCorpus<'_> {
    fn count(&self) -> usize {
        self.corpus.len()
    }

    fn length(&self, row: usize) -> usize {
        self.corpus.bytes(row)
    }

    fn encoded(&self, row: usize) -> Result<Encoded> {
        self.format.encode(&self.corpus.example(row)?, self.context)
    }

    fn name(&self, row: usize) -> String {
        self.corpus.place(row)
    }
}

/// Some sequences side by side, padded on the right.
#[derive(Debug)]
pub struct Batch {
    /// Token ids `[batch, sequence]`. The last target token is left out: nothing follows it.
    pub ids: Tensor<2, Int>,
    /// Indices into the flattened `[batch x sequence]` of the positions that predict a target token, row by row.
    pub positions: Tensor<1, Int>,
    /// The target tokens `[targets]` that those positions should predict.
    pub targets: Vec<u32>,
    /// How many target tokens each row has.
    pub lengths: Vec<usize>,
    /// Where each position's own row begins, if several rows share a sequence.
    pub segments: Option<Segments>,
}

impl Batch {
    /// Puts rows side by side on a device.
    #[must_use]
    pub fn new(rows: &[Encoded], device: &Device) -> Self {
        let places: Vec<(usize, usize)> = (0..rows.len()).map(|row| (row, 0)).collect();
        Self::laid_out(rows, &places, None, device)
    }

    /// Puts rows one behind the other into as few sequences as first fit finds, none longer than the longest row.
    /// No row sees another, and each counts its positions from zero.
    #[must_use]
    pub fn packed(rows: &[Encoded], device: &Device) -> Self {
        let length = |row: usize| rows[row].len() - 1;
        let capacity = (0..rows.len()).map(length).max().unwrap_or(0);
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|&row| std::cmp::Reverse(length(row)));
        let mut filled: Vec<usize> = Vec::new();
        let mut places = vec![(0, 0); rows.len()];
        for row in order {
            let line = filled.iter().position(|used| used + length(row) <= capacity).unwrap_or(filled.len());
            if line == filled.len() {
                filled.push(0);
            }
            places[row] = (line, filled[line]);
            filled[line] += length(row);
        }
        let mut starts: Vec<usize> = (0..filled.len() * capacity).map(|position| position % capacity.max(1)).collect();
        for (row, &(line, at)) in places.iter().enumerate() {
            starts[line * capacity + at..][..length(row)].fill(at);
        }
        let segments = (filled.len() < rows.len()).then_some(Segments { sequence: capacity, starts });
        Self::laid_out(rows, &places, segments, device)
    }

    /// `places` has line and offset of each row.
    fn laid_out(rows: &[Encoded], places: &[(usize, usize)], segments: Option<Segments>, device: &Device) -> Self {
        let lines = places.iter().map(|&(line, _)| line + 1).max().unwrap_or(0);
        let ends = rows.iter().zip(places).map(|(row, &(_, at))| at + row.len() - 1);
        let sequence = ends.max().unwrap_or(0);
        let mut ids = vec![0_i64; lines * sequence];
        let (mut positions, mut targets, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for (row, &(line, at)) in rows.iter().zip(places) {
            let start = line * sequence + at;
            let tokens = row.prompt.iter().chain(&row.target[..row.target.len() - 1]);
            for (slot, &token) in ids[start..].iter_mut().zip(tokens) {
                *slot = i64::from(token);
            }
            let first = start + row.prompt.len() - 1;
            positions.extend((first..first + row.target.len()).map(|position| position as i64));
            targets.extend_from_slice(&row.target);
            lengths.push(row.target.len());
        }
        let count = positions.len();
        Self {
            ids: Tensor::from_data(TensorData::new(ids, [lines, sequence]), device),
            positions: Tensor::from_data(TensorData::new(positions, [count]), device),
            targets,
            lengths,
            segments,
        }
    }
}

/// The order of one epoch: rows shuffled by a seed, sorted by length inside windows so that padding is
/// short, cut into batches, and the batches shuffled again.
#[derive(Debug)]
pub struct Batches(Vec<Vec<usize>>);

impl Batches {
    /// The batches of one epoch of a mixture. The same seed and epoch give the same order.
    #[must_use]
    pub fn epoch(data: &dyn Rows, mixture: &Mixture, batch_size: usize, seed: u64, epoch: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ epoch.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut rows = mixture.epoch(seed, epoch);
        rows.shuffle(&mut rng);
        for window in rows.chunks_mut(batch_size * WINDOW) {
            window.sort_by_key(|&row| data.length(row));
        }
        let mut batches: Vec<Vec<usize>> = rows.chunks(batch_size).map(<[usize]>::to_vec).collect();
        batches.shuffle(&mut rng);
        Self(batches)
    }

    /// Rows in their own order, for reading rather than training.
    #[must_use]
    pub fn in_order(rows: usize, batch_size: usize) -> Self {
        let rows: Vec<usize> = (0..rows).collect();
        Self(rows.chunks(batch_size).map(<[usize]>::to_vec).collect())
    }
}

/// How many batches share one sort by length.
const WINDOW: usize = 16;

impl IntoIterator for Batches {
    type Item = Vec<usize>;
    type IntoIter = std::vec::IntoIter<Vec<usize>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> Vec<Encoded> {
        (0..50).map(|n| Encoded { prompt: vec![1; 2 + n % 7], target: vec![5, 6, 2] }).collect()
    }

    fn ints<const D: usize>(tensor: &Tensor<D, Int>) -> Vec<i64> {
        tensor.to_data().iter::<i64>().collect()
    }

    #[test]
    fn an_epoch_has_every_row_once_and_depends_on_seed_and_epoch_alone() {
        let whole = Mixture::whole(50);
        let order =
            |seed, epoch| Batches::epoch(&data(), &whole, 8, seed, epoch).into_iter().flatten().collect::<Vec<_>>();
        let mut rows = order(1, 0);
        assert_eq!(rows, order(1, 0));
        assert_ne!(rows, order(1, 1));
        assert_ne!(rows, order(2, 0));
        rows.sort_unstable();
        assert_eq!(rows, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn positions_point_at_the_tokens_before_their_targets() {
        let data = [
            Encoded { prompt: vec![0, 7, 1], target: vec![8, 2] },
            Encoded { prompt: vec![0, 1], target: vec![9, 10, 2] },
        ];
        let batch = Batch::new(&data, &Device::flex());
        assert_eq!(ints(&batch.ids), [0, 7, 1, 8, 0, 1, 9, 10]);
        assert_eq!(ints(&batch.positions), [2, 3, 5, 6, 7]);
        assert_eq!(batch.targets, [8, 2, 9, 10, 2]);
        assert_eq!(batch.lengths, [2, 3]);
    }

    #[test]
    fn packing_puts_short_rows_behind_each_other() {
        let data = [
            Encoded { prompt: vec![3, 1], target: vec![2] },
            Encoded { prompt: vec![4, 5, 6, 7, 1], target: vec![8, 2] },
            Encoded { prompt: vec![9, 9, 1], target: vec![8, 2] },
        ];
        let batch = Batch::packed(&data, &Device::flex());
        assert_eq!(ints(&batch.ids), [4, 5, 6, 7, 1, 8, 9, 9, 1, 8, 3, 1]);
        assert_eq!(ints(&batch.positions), [11, 4, 5, 8, 9]);
        assert_eq!(batch.segments.unwrap().starts, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 4]);
        assert!(Batch::packed(&data[..1], &Device::flex()).segments.is_none());
    }
}
