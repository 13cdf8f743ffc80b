//! Gradient descent, one utterance at a time. `exp` and `ln` are `libm`'s, so that a seed means the same on every machine.

use std::collections::{BTreeMap, BTreeSet};

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{IntentClassifier, IntentOptions, MAX_INTENTS};
use crate::data::Example;
use crate::error::{Error, ErrorKind, Result};

/// The buckets of an utterance's n-grams.
pub(super) fn buckets(utterance: &str, number: usize) -> Vec<usize> {
    let mut all = Vec::new();
    margay_intents::grams(utterance, |hash| all.push(hash as usize % number));
    all
}

pub(super) fn train(
    rows: &[Example],
    options: &IntentOptions,
    repeat: &BTreeMap<String, usize>,
    seed: u64,
    report: &mut dyn FnMut(usize, f64),
) -> Result<IntentClassifier> {
    let intents: BTreeSet<&str> = rows.iter().map(|row| row.target.as_str()).collect();
    if !(2..=MAX_INTENTS).contains(&intents.len()) {
        let message = format!("{} different targets; a classifier has 2 to {MAX_INTENTS} intents", intents.len());
        return Err(Error::new(ErrorKind::Data, message));
    }
    let index: BTreeMap<&str, usize> = intents.iter().enumerate().map(|(index, intent)| (*intent, index)).collect();
    let utterances: Vec<(Vec<usize>, usize)> =
        rows.iter().map(|row| (buckets(&row.input, options.buckets), index[row.target.as_str()])).collect();
    let mut order: Vec<usize> = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        order.extend(std::iter::repeat_n(at, repeat.get(&row.task).copied().unwrap_or(1)));
    }

    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let hidden = options.hidden;
    let mut uniform =
        |count: usize, bound: f32| -> Vec<f32> { (0..count).map(|_| random.random_range(-bound..bound)).collect() };
    let mut learner = Learner {
        classifier: IntentClassifier {
            hidden,
            embedding: uniform(options.buckets * hidden, 1.0 / hidden as f32),
            output: uniform(intents.len() * hidden, 1.0 / (hidden as f32).sqrt()),
            biases: vec![0.0; intents.len()],
            intents: intents.into_iter().map(str::to_owned).collect(),
        },
        units: vec![0.0; hidden],
        gradient: vec![0.0; hidden],
    };
    let steps = (order.len() * options.epochs) as f32;
    let mut step = 0.0;
    for epoch in 0..options.epochs {
        order.shuffle(&mut random);
        let mut loss = 0.0;
        for &at in &order {
            let (all, intent) = &utterances[at];
            let kept = all.iter().copied().filter(|_| random.random::<f32>() >= options.dropout);
            loss += f64::from(learner.step(&kept.collect::<Vec<_>>(), *intent, options.rate * (1.0 - step / steps)));
            step += 1.0;
        }
        let loss = loss / order.len().max(1) as f64;
        if !loss.is_finite() {
            let message = format!("the loss of epoch {} is {loss}: lower intents.rate", epoch + 1);
            return Err(Error::new(ErrorKind::Diverged, message));
        }
        report(epoch, loss);
    }
    Ok(learner.classifier)
}

struct Learner {
    classifier: IntentClassifier,
    units: Vec<f32>,
    /// Of the loss by the hidden units.
    gradient: Vec<f32>,
}

impl Learner {
    /// One step down the cross-entropy of one utterance; returns it, in nats.
    ///
    /// An n-gram's row moves by `rate / sqrt(N)` times its gradient times `N`: as far in long utterances as the mean over
    /// their n-grams lets it, and not further than in short ones.
    fn step(&mut self, buckets: &[usize], intent: usize, rate: f32) -> f32 {
        let Self { classifier, units, gradient } = self;
        let mut logits = classifier.forward(buckets, units);
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let target = logits[intent] - largest;
        logits.iter_mut().for_each(|logit| *logit = libm::expf(*logit - largest));
        let sum: f32 = logits.iter().sum();
        gradient.fill(0.0);
        let rows = classifier.output.chunks_exact_mut(classifier.hidden).zip(&mut classifier.biases);
        for (k, ((row, bias), share)) in rows.zip(&logits).enumerate() {
            let slope = share / sum - if k == intent { 1.0 } else { 0.0 };
            for ((weight, unit), gradient) in row.iter_mut().zip(&*units).zip(&mut *gradient) {
                if *unit > 0.0 {
                    *gradient += slope * *weight;
                    *weight -= rate * slope * unit;
                }
            }
            *bias -= rate * slope;
        }
        let pace = rate / (buckets.len().max(1) as f32).sqrt();
        for bucket in buckets {
            let row = &mut classifier.embedding[bucket * classifier.hidden..][..classifier.hidden];
            row.iter_mut().zip(&*gradient).for_each(|(weight, slope)| *weight -= pace * slope);
        }
        libm::logf(sum) - target
    }
}

#[cfg(test)]
pub(super) fn step_once(from: &IntentClassifier, buckets: &[usize], intent: usize, rate: f32) -> IntentClassifier {
    let hidden = from.hidden;
    let mut learner = Learner { classifier: from.clone(), units: vec![0.0; hidden], gradient: vec![0.0; hidden] };
    learner.step(buckets, intent, rate);
    learner.classifier
}
