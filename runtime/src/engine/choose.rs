//! Choosing among given answers by their exact likelihood, with the prompt read once for all of them.

use std::time::Instant;

use margay_policy::{Aggregate, Decision, Policy, TokenSignals};
use serde::{Deserialize, Serialize};

use super::Engine;
use super::generation::{Timings, not_a_distribution};
use super::interrupt::Interrupt;
use super::options::Overflow;
use super::sequence::Sequence;
use crate::error::{Error, ErrorKind, Result};
use crate::request::{LocalOnly, Request};

/// Most answers to choose from: the longest label lists in use have a few hundred.
pub const MAX_CHOICES: usize = 4096;

/// How the likelihoods of answers are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChooseOptions {
    /// What an answer's log-likelihood is divided by.
    pub normalise: Normalise,
    /// Whether the answer must also end there: the likeliest stop token after it counts as its last token.
    pub with_stop_token: bool,
}

/// What an answer's log-likelihood is divided by, so that long and short ones can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Normalise {
    /// Nothing: the likelihood of the whole answer (`acc` of EleutherAI's lm-evaluation-harness).
    #[default]
    Not,
    /// Its number of tokens: the mean log-probability, Chow-average's score.
    Tokens,
    /// Its length in bytes of UTF-8, which does not depend on the tokenizer (`acc_norm` of the same).
    Bytes,
}

/// The likeliest of the given answers, and how likely each is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Choice {
    /// Index of the answer with the highest score, the first on a tie.
    pub best: usize,
    /// What the model says of each answer, in the order given.
    pub answers: Vec<ScoredAnswer>,
    /// What the policy says of the best one, if there was a policy: on its tokens' signals, as if the model had written it.
    pub decision: Option<Decision>,
    /// Number of ids in the prompt.
    pub prompt_tokens: usize,
    /// How many of them were known from earlier prompts and not computed again.
    pub cached_tokens: usize,
    /// Tokens of answers that were computed: common beginnings once, last tokens never.
    pub computed_tokens: usize,
    /// Where the time went; `decode` is for all answers together.
    pub timings: Timings,
}

/// How likely the model is to give one answer to the prompt.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ScoredAnswer {
    /// `sum log p(token | prompt, tokens before)`, in nats.
    pub log_likelihood: f64,
    /// The log-likelihood as [`Normalise`] says; what `best` is chosen by.
    pub score: f64,
    /// `exp(score)` as a share of that of all answers given.
    pub probability: f64,
    /// The answer's tokens.
    pub token_ids: Vec<u32>,
    /// Signals of each token, of the model's distribution over its whole vocabulary.
    pub signals: Vec<TokenSignals>,
}

impl Engine {
    /// Which of `answers` the model is likeliest to give to `request`, with the likelihood of each.
    ///
    /// An answer's tokens are those that follow the prompt's in the tokens of both texts together, or, if the tokenizer
    /// would join the two at the border, those of the answer alone. `max_tokens` and the request's sampling options do not matter here.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] if there is no answer, an empty one or more than [`MAX_CHOICES`]; else as
    /// [`Engine::generate`].
    pub fn choose<S: AsRef<str>>(
        &self,
        request: &Request,
        answers: &[S],
        options: &ChooseOptions,
        policy: Option<&Policy>,
    ) -> Result<Choice> {
        request.check()?;
        let refuse = |message: String| Err(Error::new(ErrorKind::InvalidRequest, message));
        if answers.is_empty() || answers.len() > MAX_CHOICES {
            return refuse(format!("there are {} answers to choose from, not 1 to {MAX_CHOICES}", answers.len()));
        }
        let started = Instant::now();
        let text = self.prompt_text(request)?;
        let prompt = self.prompt.encode_text(&text)?;
        self.check_not_empty(&prompt)?;
        let mut paths = Vec::with_capacity(answers.len());
        for (index, answer) in answers.iter().enumerate() {
            let ids = self.prompt.encode_continuation(&text, &prompt, answer.as_ref())?;
            if ids.is_empty() {
                return refuse(format!("answer {index} has no tokens"));
            }
            paths.push(ids);
        }
        let longest = paths.iter().map(Vec::len).max().unwrap_or(0);
        self.check_fits(prompt.len() + longest)?;
        let encoding = started.elapsed();

        let started = Instant::now();
        let mut turn = self.queue.turn(Some(request))?;
        let sequence = turn.sequence()?;
        let queue = started.elapsed();

        let started = Instant::now();
        let interrupt = Interrupt::of(request)?;
        let cached_tokens = sequence.resume(&prompt, longest)?;
        let mut walk = Walk {
            request,
            interrupt: &interrupt,
            stop_tokens: if options.with_stop_token { &self.manifest.prompt.stop_tokens } else { &[] },
            prompt: prompt.len(),
            signals: vec![Vec::new(); paths.len()],
            computed: 0,
        };
        // In the order of their tokens, answers that begin alike stand together.
        let mut order: Vec<(usize, &[u32])> = paths.iter().map(Vec::as_slice).enumerate().collect();
        order.sort_by(|a, b| a.1.cmp(b.1));
        let logits = sequence.finish(&prompt, interrupt.run()).map_err(|error| walk.interrupted(error))?;
        let prefill = encoding + started.elapsed();

        let started = Instant::now();
        walk.score_next(logits, &order, 0)?;
        walk.descend(sequence, &order, 0)?;
        let Walk { signals, computed, .. } = walk;
        drop(turn);
        let timings = Timings { queue, prefill, decode: started.elapsed() };

        let scored = scored(answers, paths, signals, options.normalise);
        let best = (0..scored.len()).rev().max_by(|a, b| scored[*a].score.total_cmp(&scored[*b].score)).unwrap_or(0);
        let decision = policy.map(|policy| {
            let mut seen = Aggregate::new();
            for signals in &scored[best].signals {
                seen.observe(*signals);
            }
            policy.decide(&seen, request.task.as_deref())
        });
        tracing::debug!(answers = scored.len(), computed, cached_tokens, ?timings, "chose");
        Ok(Choice {
            best,
            answers: scored,
            decision,
            prompt_tokens: prompt.len(),
            cached_tokens,
            computed_tokens: computed,
            timings,
        })
    }

    /// Chooses for a request that must not leave the device, as [`Engine::choose`] does.
    ///
    /// # Errors
    /// As [`Engine::choose`].
    pub fn choose_local_only<S: AsRef<str>>(
        &self,
        request: &LocalOnly<Request>,
        answers: &[S],
        options: &ChooseOptions,
        policy: Option<&Policy>,
    ) -> Result<Choice> {
        self.choose(request.inner(), answers, options, policy)
    }
}

/// A walk through the tree of all answers' tokens.
struct Walk<'a> {
    request: &'a Request,
    interrupt: &'a Interrupt,
    /// What may end an answer; empty if that is not asked.
    stop_tokens: &'a [u32],
    /// Length of the prompt.
    prompt: usize,
    /// Of each answer's tokens.
    signals: Vec<Vec<TokenSignals>>,
    computed: usize,
}

impl Walk<'_> {
    /// Scores the next token of `answers`, which agree in their first `depth` tokens, given the `logits` after those.
    fn score_next(&mut self, logits: &[f32], answers: &[(usize, &[u32])], depth: usize) -> Result<()> {
        for group in by_next(answers, depth) {
            match next(group, depth) {
                Some(token) => self.score(logits, group, token)?,
                // These answers end here.
                None => {
                    let logit = |id: u32| logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
                    let likelier = |a: &u32, b: &u32| logit(*a).total_cmp(&logit(*b));
                    if let Some(stop) = self.stop_tokens.iter().copied().max_by(likelier) {
                        self.score(logits, group, stop)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Computes and scores what follows the first `depth` tokens of `answers` and one more.
    fn descend(&mut self, sequence: &mut Sequence, answers: &[(usize, &[u32])], depth: usize) -> Result<()> {
        for group in by_next(answers, depth) {
            let Some(token) = next(group, depth) else { continue };
            if self.stop_tokens.is_empty() && group.iter().all(|(_, ids)| ids.len() == depth + 1) {
                continue;
            }
            self.request.check()?;
            sequence.truncate(self.prompt + depth)?;
            // The prompt and the longest answer fit, so nothing is ever forgotten.
            let appended = sequence.append(token, Overflow::Error, &mut 0, self.interrupt.run());
            let logits = appended.map_err(|error| self.interrupted(error))?;
            self.computed += 1;
            self.score_next(logits, group, depth + 1)?;
            self.descend(sequence, group, depth + 1)?;
        }
        Ok(())
    }

    fn score(&mut self, logits: &[f32], answers: &[(usize, &[u32])], token: u32) -> Result<()> {
        let signals = TokenSignals::from_logits(logits, token as usize).map_err(not_a_distribution)?;
        for (index, _) in answers {
            self.signals[*index].push(signals);
        }
        Ok(())
    }

    /// What ends a computation from outside has the better name for it.
    fn interrupted(&self, error: Error) -> Error {
        self.request.check().err().unwrap_or(error)
    }
}

/// The answers in groups that have the same token at `depth`, or none.
fn by_next<'a, 'b>(answers: &'b [(usize, &'a [u32])], depth: usize) -> impl Iterator<Item = &'b [(usize, &'a [u32])]> {
    answers.chunk_by(move |a, b| a.1.get(depth) == b.1.get(depth))
}

fn next(group: &[(usize, &[u32])], depth: usize) -> Option<u32> {
    group.first().and_then(|(_, ids)| ids.get(depth)).copied()
}

fn scored<S: AsRef<str>>(
    answers: &[S],
    paths: Vec<Vec<u32>>,
    signals: Vec<Vec<TokenSignals>>,
    normalise: Normalise,
) -> Vec<ScoredAnswer> {
    let mut scored: Vec<ScoredAnswer> = answers
        .iter()
        .zip(paths)
        .zip(signals)
        .map(|((answer, token_ids), signals)| {
            let log_likelihood: f64 = signals.iter().map(|signals| f64::from(signals.log_probability)).sum();
            let score = match normalise {
                Normalise::Not => log_likelihood,
                Normalise::Tokens => log_likelihood / signals.len() as f64,
                Normalise::Bytes => log_likelihood / answer.as_ref().len() as f64,
            };
            ScoredAnswer { log_likelihood, score, probability: 0.0, token_ids, signals }
        })
        .collect();
    let highest = scored.iter().map(|answer| answer.score).fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = scored.iter().map(|answer| (answer.score - highest).exp()).sum();
    for answer in &mut scored {
        answer.probability = (answer.score - highest).exp() / total;
    }
    scored
}
