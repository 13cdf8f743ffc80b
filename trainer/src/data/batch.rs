//! From examples to token ids, and from ids to padded batches of similar length in a seeded order.

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::Example;
use crate::error::{Error, ErrorKind, Result};
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
    /// Encodes examples, in order. A prompt too long for `context` loses its middle; the target never loses anything.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] naming the row whose target alone does not fit, [`ErrorKind::Tokenizer`] when a text cannot be encoded.
    pub fn all(examples: &[Example], tokenizer: &Tokenizer, context: usize) -> Result<Vec<Self>> {
        examples
            .iter()
            .map(|example| {
                let mut prompt = tokenizer.prompt(&example.input)?;
                let target = tokenizer.answer(&example.target)?;
                let room = context.saturating_sub(target.len());
                if room < MIN_PROMPT {
                    let message = format!("{}: a target of {} tokens does not fit {context}", example.id, target.len());
                    return Err(Error::new(ErrorKind::Data, message));
                }
                if prompt.len() > room {
                    prompt.drain(room / 2..room / 2 + prompt.len() - room);
                }
                Ok(Self { prompt, target })
            })
            .collect()
    }

    fn len(&self) -> usize {
        self.prompt.len() + self.target.len()
    }
}

/// A prompt of at least its two marks must remain.
const MIN_PROMPT: usize = 2;

/// Some sequences side by side, padded on the right.
#[derive(Debug)]
pub struct Batch {
    /// Which rows of the data set these are.
    pub rows: Vec<usize>,
    /// Token ids `[batch, sequence]`. The last target token is left out: nothing follows it.
    pub ids: Tensor<2, Int>,
    /// Indices into the flattened `[batch x sequence]` of the positions that predict a target token, row by row.
    pub positions: Tensor<1, Int>,
    /// The target tokens `[targets]` that those positions should predict.
    pub targets: Vec<u32>,
    /// How many target tokens each row has.
    pub lengths: Vec<usize>,
}

impl Batch {
    /// Puts the named rows of `data` side by side on a device.
    #[must_use]
    pub fn new(data: &[Encoded], rows: Vec<usize>, device: &Device) -> Self {
        let chosen: Vec<&Encoded> = rows.iter().map(|&row| &data[row]).collect();
        let sequence = chosen.iter().map(|e| e.len() - 1).max().unwrap_or(0);
        let mut ids = vec![0_i64; chosen.len() * sequence];
        let (mut positions, mut targets, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for (row, example) in chosen.iter().enumerate() {
            let start = row * sequence;
            let tokens = example.prompt.iter().chain(&example.target[..example.target.len() - 1]);
            for (slot, &token) in ids[start..].iter_mut().zip(tokens) {
                *slot = i64::from(token);
            }
            let first = start + example.prompt.len() - 1;
            positions.extend((first..first + example.target.len()).map(|position| position as i64));
            targets.extend_from_slice(&example.target);
            lengths.push(example.target.len());
        }
        let count = positions.len();
        Self {
            ids: Tensor::from_data(TensorData::new(ids, [chosen.len(), sequence]), device),
            positions: Tensor::from_data(TensorData::new(positions, [count]), device),
            targets,
            lengths,
            rows,
        }
    }
}

/// The order of one epoch: rows shuffled by a seed, sorted by length inside windows so that padding is
/// short, cut into batches, and the batches shuffled again.
#[derive(Debug)]
pub struct Batches(Vec<Vec<usize>>);

impl Batches {
    /// The batches of one epoch. The same seed and epoch give the same order.
    #[must_use]
    pub fn epoch(data: &[Encoded], batch_size: usize, seed: u64, epoch: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ epoch.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut rows: Vec<usize> = (0..data.len()).collect();
        rows.shuffle(&mut rng);
        for window in rows.chunks_mut(batch_size * WINDOW) {
            window.sort_by_key(|&row| data[row].len());
        }
        let mut batches: Vec<Vec<usize>> = rows.chunks(batch_size).map(<[usize]>::to_vec).collect();
        batches.shuffle(&mut rng);
        Self(batches)
    }

    /// Rows in their own order, for reading rather than training.
    #[must_use]
    pub fn in_order(data: &[Encoded], batch_size: usize) -> Self {
        let rows: Vec<usize> = (0..data.len()).collect();
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

    #[test]
    fn an_epoch_has_every_row_once_and_depends_on_seed_and_epoch_alone() {
        let order = |seed, epoch| Batches::epoch(&data(), 8, seed, epoch).into_iter().flatten().collect::<Vec<_>>();
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
        let batch = Batch::new(&data, vec![0, 1], &Device::flex());
        assert_eq!(batch.ids.to_data().iter::<i64>().collect::<Vec<_>>(), [0, 7, 1, 8, 0, 1, 9, 10]);
        assert_eq!(batch.positions.to_data().iter::<i64>().collect::<Vec<_>>(), [2, 3, 5, 6, 7]);
        assert_eq!(batch.targets, [8, 2, 9, 10, 2]);
        assert_eq!(batch.lengths, [2, 3]);
    }
}
