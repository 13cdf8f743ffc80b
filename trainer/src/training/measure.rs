//! How good a model is at its task and at knowing when it is wrong, measured while it is trained.
//!
//! A greedy answer equals the target word for word exactly when every target token is the top-1 guess under teacher
//! forcing; only the other rows are decoded, from their first miss on.

use burn::tensor::{Device, Tensor, TensorData, activation};
use margay_evaluation::measures;
use margay_evaluation::outcome::Outcome;
use margay_evaluation::pairing::Pairing;
use serde::{Deserialize, Serialize};

use crate::annotate::Annotations;
use crate::data::{Batch, Corpus, Encoded, Example, PromptFormat};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{CausalLm, argmax, floats};

/// A measure that can tell the best checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Mean quality of the greedy answers; more is better.
    #[default]
    Quality,
    /// Mean negative log-probability of the target tokens, nats; less is better.
    Loss,
    /// AUROC of the confidence as a detector of right answers; more is better.
    Auroc,
    /// Area under the deferral curve; more is better. Needs the large model's annotations of the measured rows.
    Audc,
}

/// What an examination found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Measured {
    /// Rows measured.
    pub rows: usize,
    /// Mean negative log-probability of the target tokens, nats.
    pub loss: f64,
    /// Mean quality of the greedy answers, in [0, 1].
    pub quality: f64,
    /// AUROC of the mean log-probability of the answer (Chow-average) as a detector of right answers; `None` if all are
    /// right or none is.
    pub auroc: Option<f64>,
    /// Mean quality of the large model's answers; `None` if some row was not annotated.
    pub large_quality: Option<f64>,
    /// Area under the deferral curve.
    pub audc: Option<f64>,
    /// The same for deferring at random.
    pub audc_random: Option<f64>,
}

impl Measured {
    /// A number that is larger the better the model is; `None` where the measure is undefined.
    #[must_use]
    pub fn merit(&self, measure: Measure) -> Option<f64> {
        match measure {
            Measure::Quality => Some(self.quality),
            Measure::Loss => Some(-self.loss),
            Measure::Auroc => self.auroc,
            Measure::Audc => self.audc,
        }
    }
}

/// One row as a model answered it.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    /// The row.
    pub example: Example,
    /// The greedy answer.
    pub text: String,
    /// Mean log-probability of its tokens, its end included, nats.
    pub score: f64,
    /// Quality in [0, 1].
    pub quality: f64,
    /// Sum of the log-probabilities of the target's tokens.
    pub target_log_probability: f64,
    /// Tokens of the target.
    pub target_tokens: usize,
    /// Tokens of the prompt.
    pub tokens_in: usize,
    /// Tokens of the answer.
    pub tokens_out: usize,
    /// Quality of the large model's answer, if the row was annotated.
    pub large_quality: Option<f64>,
}

/// Puts the same rows to one model after the other.
#[derive(Debug)]
pub struct Examiner<'a> {
    rows: Vec<(Example, Encoded)>,
    format: &'a PromptFormat,
    annotations: Option<&'a Annotations>,
    batch_size: usize,
    longest: usize,
    device: &'a Device,
}

impl<'a> Examiner<'a> {
    /// Reads and encodes the rows to be measured on.
    ///
    /// # Errors
    /// Those of reading and encoding a row, naming it.
    pub fn new(
        corpus: &Corpus,
        format: &'a PromptFormat,
        context: usize,
        annotations: Option<&'a Annotations>,
        batch_size: usize,
        device: &'a Device,
    ) -> Result<Self> {
        let mut rows = Vec::with_capacity(corpus.len());
        for row in 0..corpus.len() {
            let example = corpus.example(row)?;
            let encoded = format.encode(&example, context);
            let encoded = encoded.map_err(|e| Error::new(e.kind(), format!("{}: {e}", corpus.place(row))))?;
            rows.push((example, encoded));
        }
        // Rows of similar length side by side; the order of the answers is that of the rows all the same.
        let longest = rows.iter().map(|(_, row)| row.target.len()).max().unwrap_or(0) + SLACK;
        Ok(Self { rows, format, annotations, batch_size, longest, device })
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// The model's greedy answers, in the order of the rows. `progress` is told how many are done.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`] when an answer cannot be decoded.
    pub fn answers(&self, model: &CausalLm, progress: &mut dyn FnMut(usize)) -> Result<Vec<Answered>> {
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        order.sort_by_key(|&row| self.rows[row].1.len());
        let mut answered = Vec::with_capacity(order.len());
        for rows in order.chunks(self.batch_size) {
            let batch: Vec<Encoded> = rows.iter().map(|&row| self.rows[row].1.clone()).collect();
            for (&row, said) in rows.iter().zip(self.decode(model, &batch)) {
                answered.push((row, self.judged(row, &said)?));
            }
            progress(rows.len());
        }
        answered.sort_by_key(|(row, _)| *row);
        Ok(answered.into_iter().map(|(_, answered)| answered).collect())
    }

    /// Examines a model.
    ///
    /// # Errors
    /// As [`Examiner::answers`]; [`ErrorKind::Data`] when two rows have the same id.
    pub fn measure(&self, model: &CausalLm) -> Result<Measured> {
        measured(&self.answers(model, &mut |_| {})?)
    }

    fn judged(&self, row: usize, said: &Said) -> Result<Answered> {
        let (example, encoded) = &self.rows[row];
        let end = said.ids.last().filter(|&&id| self.format.ends(id)).map_or(0, |_| 1);
        let text = self.format.answer(&said.ids[..said.ids.len() - end])?;
        let large_quality = self.annotations.and_then(|annotations| {
            let right = annotations.is_right(encoded)?;
            let quality = annotations.answer(encoded).map(|answer| example.quality(answer));
            Some(quality.unwrap_or(f64::from(u8::from(right))))
        });
        Ok(Answered {
            quality: example.quality(&text),
            example: example.clone(),
            text,
            score: said.log_probability / said.ids.len().max(1) as f64,
            target_log_probability: said.target_log_probability,
            target_tokens: encoded.target.len(),
            tokens_in: encoded.prompt.len(),
            tokens_out: said.ids.len(),
            large_quality,
        })
    }

    /// Greedy answers of one batch.
    fn decode(&self, model: &CausalLm, rows: &[Encoded]) -> Vec<Said> {
        let batch = Batch::new(rows, self.device);
        let hidden = model.hidden(batch.ids.clone());
        let [lines, sequence, width] = hidden.dims();
        let hidden = hidden.reshape([lines * sequence, width]).select(0, batch.positions.clone());
        let mut positions = log_probabilities(model, hidden).into_iter();
        let mut said: Vec<Said> = Vec::with_capacity(rows.len());
        for row in rows {
            let mut answer = Said::default();
            for &target in &row.target {
                let Some(values) = positions.next() else { break };
                let likely = f64::from(values.get(target as usize).copied().unwrap_or(f32::NEG_INFINITY));
                answer.target_log_probability += likely;
                if !answer.missed {
                    let best = argmax(&values);
                    answer.say(best, f64::from(values[best as usize]));
                    answer.missed = best != target;
                }
            }
            answer.done = !answer.missed || answer.ids.last().is_some_and(|&id| self.format.ends(id));
            said.push(answer);
        }
        while let Some(open) = self.open(&said) {
            let sequences: Vec<Vec<u32>> =
                open.iter().map(|&row| rows[row].prompt.iter().chain(&said[row].ids).copied().collect()).collect();
            for (&row, values) in open.iter().zip(self.next_tokens(model, &sequences)) {
                let best = argmax(&values);
                said[row].say(best, f64::from(values[best as usize]));
                said[row].done = self.format.ends(best);
            }
        }
        said
    }

    /// Answers that still go on.
    fn open(&self, said: &[Said]) -> Option<Vec<usize>> {
        let goes_on = |answer: &Said| !answer.done && answer.ids.len() < self.longest;
        let open: Vec<usize> = (0..said.len()).filter(|&row| goes_on(&said[row])).collect();
        (!open.is_empty()).then_some(open)
    }

    /// Log-probabilities of what follows each sequence.
    fn next_tokens(&self, model: &CausalLm, sequences: &[Vec<u32>]) -> Vec<Vec<f32>> {
        let longest = sequences.iter().map(Vec::len).max().unwrap_or(0);
        let mut ids = vec![0_i64; sequences.len() * longest];
        let mut last = Vec::with_capacity(sequences.len());
        for (row, sequence) in sequences.iter().enumerate() {
            let slots = ids[row * longest..].iter_mut();
            slots.zip(sequence).for_each(|(slot, &id)| *slot = i64::from(id));
            last.push((row * longest + sequence.len() - 1) as i64);
        }
        let shape = [sequences.len(), longest];
        let hidden = model.hidden(Tensor::from_data(TensorData::new(ids, shape), self.device));
        let width = hidden.dims()[2];
        let last = Tensor::from_data(TensorData::new(last, [sequences.len()]), self.device);
        log_probabilities(model, hidden.reshape([sequences.len() * longest, width]).select(0, last))
    }
}

/// Tokens that an answer may be longer than the longest target.
const SLACK: usize = 2;

/// An answer being decoded.
#[derive(Debug, Default)]
struct Said {
    ids: Vec<u32>,
    log_probability: f64,
    target_log_probability: f64,
    missed: bool,
    done: bool,
}

impl Said {
    fn say(&mut self, id: u32, log_probability: f64) {
        self.ids.push(id);
        self.log_probability += log_probability;
    }
}

/// `[rows, hidden]` to a row of the vocabulary's log-probabilities each.
fn log_probabilities(model: &CausalLm, hidden: Tensor<2>) -> Vec<Vec<f32>> {
    let values = activation::log_softmax(model.head(hidden), 1);
    let vocabulary = values.dims()[1];
    floats(values.into_data()).chunks_exact(vocabulary).map(<[f32]>::to_vec).collect()
}

/// Means, AUROC and, where every row has the large model's quality, the area under the deferral curve.
///
/// # Errors
/// [`ErrorKind::Data`] when two rows have the same id or there is none.
pub(crate) fn measured(answers: &[Answered]) -> Result<Measured> {
    let count = answers.len().max(1) as f64;
    let mean = |of: fn(&Answered) -> f64| answers.iter().map(of).sum::<f64>() / count;
    let scores: Vec<f64> = answers.iter().map(|answer| answer.score).collect();
    let right: Vec<bool> = answers.iter().map(|answer| answer.quality >= 0.5).collect();
    let tokens: usize = answers.iter().map(|answer| answer.target_tokens).sum();
    let large: Option<Vec<f64>> = answers.iter().map(|answer| answer.large_quality).collect();
    let large = large.filter(|large| !large.is_empty());
    let quality = mean(|answer| answer.quality);
    let large_quality = large.as_ref().map(|large| large.iter().sum::<f64>() / count);
    let audc = large.map(|_| area(answers)).transpose()?;
    Ok(Measured {
        rows: answers.len(),
        loss: -answers.iter().map(|answer| answer.target_log_probability).sum::<f64>() / tokens.max(1) as f64,
        quality,
        auroc: measures::auroc(&scores, &right),
        large_quality,
        audc,
        audc_random: large_quality.map(|large| measures::audc_random(quality, large)),
    })
}

fn area(answers: &[Answered]) -> Result<f64> {
    let mut rows = Vec::with_capacity(2 * answers.len());
    for (number, answer) in answers.iter().enumerate() {
        // The area does not depend on cost, and rows of several files may share an id.
        let query = format!("{number}/{}", answer.example.id);
        let mut small = Outcome::new(&query, "small", answer.quality);
        (small.score, small.flops) = (Some(answer.score), Some(0.0));
        let mut large = Outcome::new(&query, "large", answer.large_quality.unwrap_or(0.0));
        large.flops = Some(1.0);
        rows.extend([small, large]);
    }
    let pairing = Pairing::join(&rows, "small", "large");
    let pairing = pairing.map_err(|e| Error::new(ErrorKind::Data, format!("measuring: {e}")).with_source(e))?;
    Ok(measures::audc(&pairing.curve()))
}
