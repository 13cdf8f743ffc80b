//! From logits to one token: the processors of [`Sampling`], then the likeliest token or a draw.
//!
//! All arithmetic is in plain `f32` and `f64` with `libm`'s functions, so that a seed means the same everywhere.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::generation::argmax;
use super::options::Sampling;
use crate::error::{Error, ErrorKind, Result};

/// How many of the likeliest candidates are put in order at first, when only the top of them may be needed.
const FIRST_SORTED: usize = 256;

/// Chooses the tokens of one answer.
pub(super) struct Sampler {
    sampling: Sampling,
    random: ChaCha8Rng,
    /// Ids whose logits are penalised: one bit for each of the vocabulary.
    seen: Vec<u64>,
    /// Logits after the repetition penalty.
    penalised: Vec<f32>,
    candidates: Vec<Candidate>,
}

/// A token that may be chosen, with its processed logit and its weight, `exp(logit - largest)`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    id: u32,
    logit: f32,
    weight: f32,
}

impl Sampler {
    /// A sampler that draws with `seed`.
    pub(super) fn new(sampling: Sampling, seed: u64) -> Self {
        let random = ChaCha8Rng::seed_from_u64(seed);
        Self { sampling, random, seen: Vec::new(), penalised: Vec::new(), candidates: Vec::new() }
    }

    /// Counts `ids` as said before, for the repetition penalty.
    pub(super) fn observe(&mut self, ids: &[u32]) {
        if self.sampling.repetition_penalty == 1.0 {
            return;
        }
        for id in ids {
            let word = *id as usize / 64;
            if word >= self.seen.len() {
                self.seen.resize(word + 1, 0);
            }
            self.seen[word] |= 1 << (id % 64);
        }
    }

    /// The next token, given the model's `logits` of shape `[vocabulary]`; only `allowed` ones, if it says.
    pub(super) fn choose(&mut self, logits: &[f32], allowed: Option<&dyn Fn(u32) -> bool>) -> Result<u32> {
        if self.sampling.is_greedy() && allowed.is_none() && self.seen.is_empty() {
            return argmax(logits);
        }
        self.process(logits, allowed)?;
        if self.sampling.is_greedy() {
            // In order of id, so the first of the largest is the lowest.
            let mut best = self.candidates[0];
            for candidate in &self.candidates {
                if candidate.logit > best.logit {
                    best = *candidate;
                }
            }
            return Ok(best.id);
        }
        Ok(self.draw())
    }

    /// Leaves in `candidates` the tokens that may be chosen, at least one.
    fn process(&mut self, logits: &[f32], allowed: Option<&dyn Fn(u32) -> bool>) -> Result<()> {
        if let Some(index) = logits.iter().position(|logit| logit.is_nan()) {
            return Err(Error::new(ErrorKind::Inference, format!("the logit of id {index} is not a number")));
        }
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.sampling;
        self.penalise(logits);
        let logits = if self.seen.is_empty() { logits } else { &self.penalised };
        let temperature = if temperature == 0.0 { 1.0 } else { temperature };
        self.candidates.clear();
        self.candidates.extend(
            (0_u32..)
                .zip(logits)
                .filter(|(id, _)| allowed.is_none_or(|allowed| allowed(*id)))
                .map(|(id, logit)| Candidate { id, logit: logit / temperature, weight: 0.0 }),
        );
        if self.candidates.is_empty() {
            return Err(Error::new(ErrorKind::Inference, "the constraint leaves no token to choose"));
        }
        if self.sampling.is_greedy() {
            return Ok(());
        }
        if let Some(k) = top_k {
            self.keep_top(k);
        }
        let total = self.weigh();
        if let Some(p) = top_p {
            self.keep_probable(p, total);
        }
        if let Some(p) = min_p {
            // The largest weight is 1.
            self.candidates.retain(|candidate| candidate.weight >= p);
        }
        Ok(())
    }

    /// Leaves the logits with the repetition penalty in `penalised`, if anything is penalised.
    fn penalise(&mut self, logits: &[f32]) {
        if self.seen.is_empty() {
            return;
        }
        let penalty = self.sampling.repetition_penalty;
        self.penalised.clear();
        self.penalised.extend_from_slice(logits);
        for (word, mut bits) in self.seen.iter().copied().enumerate() {
            while bits != 0 {
                if let Some(logit) = self.penalised.get_mut(word * 64 + bits.trailing_zeros() as usize) {
                    *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
                }
                bits &= bits - 1;
            }
        }
    }

    /// Drops what is less likely than the `k`-th likeliest.
    fn keep_top(&mut self, k: usize) {
        if k >= self.candidates.len() {
            return;
        }
        let (_, last, _) = self.candidates.select_nth_unstable_by(k - 1, likelier);
        let last = last.logit;
        self.candidates.retain(|candidate| candidate.logit >= last);
        // A selection's order is the library's own: draws must not depend on it.
        self.candidates.sort_unstable_by(likelier);
    }

    /// Fills in the weights and returns their sum.
    fn weigh(&mut self) -> f64 {
        let largest = self.candidates.iter().map(|candidate| candidate.logit).fold(f32::NEG_INFINITY, f32::max);
        let mut total = 0.0;
        for candidate in &mut self.candidates {
            candidate.weight = if candidate.logit == largest { 1.0 } else { libm::expf(candidate.logit - largest) };
            total += f64::from(candidate.weight);
        }
        total
    }

    /// Drops the tail: what is not needed for the likeliest to have `p` together. `total` is the sum of all weights.
    fn keep_probable(&mut self, p: f32, total: f64) {
        // As transformers sums from the least likely upwards: the tail whose probability is at most 1 - p goes.
        let tail = (1.0 - f64::from(p)) * total;
        let mut sorted = FIRST_SORTED;
        loop {
            let count = self.candidates.len();
            if sorted < count {
                self.candidates.select_nth_unstable_by(sorted - 1, likelier);
            }
            let head = sorted.min(count);
            self.candidates[..head].sort_unstable_by(likelier);
            let mut rest = total;
            for (index, candidate) in self.candidates[..head].iter().enumerate() {
                // `rest` is the weight of this candidate and all that are less likely.
                if index > 0 && rest <= tail {
                    self.candidates.truncate(index);
                    return;
                }
                rest -= f64::from(candidate.weight);
            }
            if head == count {
                return;
            }
            sorted = sorted.saturating_mul(4);
        }
    }

    /// Draws one of the candidates in proportion to their weights.
    fn draw(&mut self) -> u32 {
        let total: f64 = self.candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
        // 53 random bits: a multiple of 2^-53 below one.
        let mut left = (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64 * total;
        for candidate in &self.candidates {
            left -= f64::from(candidate.weight);
            if left < 0.0 {
                return candidate.id;
            }
        }
        // Rounding left a crumb: it belongs to the last that has any weight.
        self.candidates.iter().rev().find(|candidate| candidate.weight > 0.0).map_or(0, |candidate| candidate.id)
    }
}

/// The likelier first, the lower id on a tie.
fn likelier(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// A seed that nobody chose, from the keys that the standard library randomises its hash tables with.
pub(super) fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(std::time::Instant::now().elapsed())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// What transformers' logits processors make of some logits; `fixtures/make_sampling.py`.
    #[derive(Deserialize)]
    struct Fixture {
        logits: Vec<Vec<f32>>,
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        logits: usize,
        seen: Vec<u32>,
        sampling: Sampling,
        /// Probabilities of the tokens left, by id.
        probabilities: Vec<(u32, f64)>,
    }

    #[test]
    fn processed_probabilities_are_those_of_transformers() {
        let fixture: Fixture = serde_json::from_str(include_str!("../../tests/fixtures/sampling.json")).unwrap();
        assert!(fixture.cases.len() >= 60);
        for (number, case) in fixture.cases.iter().enumerate() {
            let mut sampler = Sampler::new(case.sampling, 0);
            sampler.observe(&case.seen);
            sampler.process(&fixture.logits[case.logits], None).unwrap();
            let total: f64 = sampler.candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
            let mut ours: Vec<(u32, f64)> =
                sampler.candidates.iter().map(|c| (c.id, f64::from(c.weight) / total)).collect();
            ours.sort_by_key(|(id, _)| *id);
            let mut theirs = case.probabilities.clone();
            let logits = &fixture.logits[case.logits];
            if (1..logits.len()).any(|at| logits[..at].contains(&logits[at])) {
                // Which of several equal tokens stays is not defined; how many do is.
                ours.sort_by(|a, b| a.1.total_cmp(&b.1));
                theirs.sort_by(|a, b| a.1.total_cmp(&b.1));
                assert_eq!(ours.len(), theirs.len(), "case {number}: {:?}", case.sampling);
            } else {
                let ids = |list: &[(u32, f64)]| list.iter().map(|(id, _)| *id).collect::<Vec<_>>();
                assert_eq!(ids(&ours), ids(&theirs), "case {number}: {:?}", case.sampling);
            }
            for ((id, ours), (_, theirs)) in ours.iter().zip(&theirs) {
                let error = (ours - theirs).abs();
                assert!(error <= 2e-6 * theirs + 1e-9, "case {number}, id {id}: {ours} instead of {theirs}");
            }
        }
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits: Vec<f32> = [0.1_f32, 0.2, 0.3, 0.4].map(f32::ln).to_vec();
        let mut sampler = Sampler::new(Sampling { temperature: 1.0, ..Sampling::default() }, 11);
        let mut counts = [0_u32; 4];
        for _ in 0..20_000 {
            counts[sampler.choose(&logits, None).unwrap() as usize] += 1;
        }
        // Pearson's statistic with 3 degrees of freedom: above 16.3 once in a thousand seeds, and this seed is fixed.
        let expected = [2000.0, 4000.0, 6000.0, 8000.0];
        let chi: f64 = counts.iter().zip(expected).map(|(n, e)| (f64::from(*n) - e).powi(2) / e).sum();
        assert!(chi < 16.3, "{counts:?}");
    }

    #[test]
    fn a_seed_gives_the_same_tokens_for_ever() {
        let logits: Vec<f32> = (0..1000).map(|i| (i * 7919 % 1000) as f32 / 200.0).collect();
        let draw = |seed, sampling| {
            let mut sampler = Sampler::new(sampling, seed);
            [(); 8].map(|()| sampler.choose(&logits, None).unwrap())
        };
        let plain = Sampling { temperature: 1.0, ..Sampling::default() };
        let narrow = Sampling { top_k: Some(50), top_p: Some(0.9), ..plain };
        assert_eq!(draw(7, plain), draw(7, plain));
        assert_ne!(draw(7, plain), draw(8, plain));
        // Golden: what this very code drew when it was written. ChaCha8's stream and libm are the same everywhere.
        assert_eq!(draw(7, plain), [162, 173, 704, 729, 601, 359, 87, 852]);
        let mut likeliest: Vec<usize> = (0..logits.len()).collect();
        likeliest.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        assert!(draw(7, narrow).iter().all(|id| likeliest[..50].contains(&(*id as usize))));
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals_and_obeys_mask_and_penalty() {
        let greedy = |penalty| Sampler::new(Sampling { repetition_penalty: penalty, ..Sampling::default() }, 0);
        let logits = [1.0, 3.0, 3.0, -1.0];
        assert_eq!(greedy(1.0).choose(&logits, None).unwrap(), 1);
        assert_eq!(greedy(1.0).choose(&logits, Some(&|id| id != 1)).unwrap(), 2);
        let mut penalised = greedy(2.0);
        penalised.observe(&[1]);
        assert_eq!(penalised.choose(&logits, None).unwrap(), 2);
        penalised.observe(&[2]);
        assert_eq!(penalised.choose(&logits, None).unwrap(), 1, "1.5 and 1.5 against 1");
        assert_eq!(greedy(1.0).choose(&logits, Some(&|_| false)).unwrap_err().kind(), ErrorKind::Inference);
        let mut sampler = Sampler::new(Sampling { temperature: 1.0, ..Sampling::default() }, 0);
        assert_eq!(sampler.choose(&[0.0, f32::NAN], None).unwrap_err().kind(), ErrorKind::Inference);
    }
}
