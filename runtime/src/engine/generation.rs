//! The decode loop: one token after the other, each with its signals, until something ends the answer.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use margay_policy::{Decision, Monitor, Policy, Progress, SignalError, TokenSignals};

use super::Engine;
use super::alternatives::{Alternative, likeliest};
use super::decoding::Decoding;
use super::interrupt::Interrupt;
use super::options::Overflow;
use super::prompt::PromptFormat;
use super::sampling::{Sampler, fresh_seed};
use super::sequence::slid;
use super::stop::{Passed, StopStrings};
use crate::error::{Error, ErrorKind, Result};
use crate::request::{LocalOnly, Request};

/// One token that the model chose, handed to the caller as soon as it is known. All texts together are the answer's.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Token<'a> {
    /// The token's id.
    pub id: u32,
    /// The text that is certain with this token: empty while a character's bytes are still coming or a stop string may be.
    pub text: &'a str,
    /// What the model's own distribution said about it, before any sampling option or constraint.
    pub signals: &'a TokenSignals,
    /// The likeliest tokens in its place, see [`Alternative`].
    pub alternatives: &'a [Alternative],
    /// Whether it is the stop token that ended the answer: no part of it, but text that was held back may come with it.
    pub is_stop: bool,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Finish {
    /// The model wrote a stop token.
    Stop,
    /// The model wrote one of the request's stop strings.
    StopString {
        /// Its place in [`GenerateOptions::stop`](crate::GenerateOptions::stop).
        index: usize,
    },
    /// The constraint is met, and nothing may follow.
    Complete,
    /// The request's `max_tokens` were written.
    Length,
    /// The policy saw that this answer will be deferred whatever comes.
    EarlyDeferral,
    /// The caller's callback broke off.
    Caller,
}

impl Finish {
    /// The name in traces and files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::StopString { .. } => "stop-string",
            Self::Complete => "complete",
            Self::Length => "length",
            Self::EarlyDeferral => "early-deferral",
            Self::Caller => "caller",
        }
    }
}

/// What the model wrote, and how sure it was.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Generation {
    /// The answer, without stop token, special tokens, and stop string with what follows it.
    pub text: String,
    /// Ids of the answer, without the stop token. Those of a stop string are among them.
    pub token_ids: Vec<u32>,
    /// Signals of every token the model chose, in order, from its own distribution: before sampling options and constraints.
    /// The stop token is one of them: ending here was the model's choice too, and its confidence in it counts.
    pub signals: Vec<TokenSignals>,
    /// The likeliest tokens in each place, in the order of `signals`; empty unless
    /// [`GenerateOptions::alternatives`](crate::GenerateOptions::alternatives) asks for some.
    pub alternatives: Vec<Vec<Alternative>>,
    /// What the policy says, if there was one.
    pub decision: Option<Decision>,
    /// Why the answer ended.
    pub finish: Finish,
    /// Number of ids in the prompt.
    pub prompt_tokens: usize,
    /// How many of them were known from earlier prompts and not computed again.
    pub cached_tokens: usize,
    /// Tokens of prompt or answer that the model no longer saw at the end, see [`Overflow::Slide`].
    pub forgotten_tokens: usize,
    /// Tokens that an early deferral spared, at most: the room up to `max_tokens`.
    pub saved_tokens: usize,
    /// Where the random numbers began, if any were drawn: the same seed gives the same answer again.
    pub seed: Option<u64>,
    /// Where the time went.
    pub timings: Timings,
}

/// Where the time of one generation went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timings {
    /// Waiting for requests that came before.
    pub queue: Duration,
    /// The prompt: template, tokenizer, and the pass that fills the cache and gives the first logits.
    pub prefill: Duration,
    /// Everything after the first logits.
    pub decode: Duration,
}

impl Engine {
    /// Answers `request` as its options say: greedily unless told otherwise.
    ///
    /// Every token's signals go to `policy`'s monitor, which may end the answer early, and to `on_token`, which may
    /// too. Requests from several threads take turns, or decode side by side (see
    /// [`DeviceOptions::batch`](crate::DeviceOptions::batch)); `on_token` must not ask the same engine.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] if the template refuses the conversation, an option is out of its range or `max_tokens`
    /// is 0; [`ErrorKind::ContextOverflow`] if prompt and `max_tokens` do not fit the context and nothing may be forgotten;
    /// [`ErrorKind::QueueFull`]; [`ErrorKind::Memory`]; [`ErrorKind::Deadline`] and [`ErrorKind::Cancelled`] within one
    /// decode step, or one node of the graph; [`ErrorKind::Inference`].
    pub fn generate(
        &self,
        request: &Request,
        policy: Option<&Policy>,
        on_token: &mut dyn FnMut(Token<'_>) -> ControlFlow<()>,
    ) -> Result<Generation> {
        request.check()?;
        let (options, max_tokens) = (&request.options, request.max_tokens);
        options.check()?;
        if max_tokens == 0 {
            return Err(Error::new(ErrorKind::InvalidRequest, "an answer of 0 tokens was asked for"));
        }
        let started = Instant::now();
        let (prompt, mut forgotten_tokens) = self.fitted_prompt(request)?;
        let mut guide = options.constraint.as_ref().map(|constraint| self.guides.guide(constraint)).transpose()?;
        let encoding = started.elapsed();

        let started = Instant::now();
        let mut decoding = Decoding::begin(self, request)?;
        let queue = started.elapsed();

        let started = Instant::now();
        let interrupt = Interrupt::of(request)?;
        // What ends a computation from outside has the better name for it.
        let interrupted = |error: Error| request.check().err().unwrap_or(error);
        let cached_tokens = decoding.resume(&prompt, max_tokens)?;
        let mut logits = decoding.finish(&prompt, interrupt.run()).map_err(interrupted)?;
        let prefill = encoding + started.elapsed();

        let started = Instant::now();
        let seed = (!options.sampling.is_greedy()).then(|| options.sampling.seed.unwrap_or_else(fresh_seed));
        let mut sampler = Sampler::new(options.sampling, seed.unwrap_or(0));
        sampler.observe(&prompt);
        let mut monitor = policy
            .map(|policy| Monitor::new(policy, request.task.as_deref(), u32::try_from(max_tokens).unwrap_or(u32::MAX)));
        let stop_tokens = if options.ignore_stop_tokens { &[] } else { &*self.manifest.prompt.stop_tokens };
        let mut text = AnswerText::new(&self.prompt, &options.stop);
        let (mut token_ids, mut all_signals, mut all_alternatives) = (Vec::new(), Vec::new(), Vec::new());
        let finish = loop {
            request.check()?;
            let id = match &mut guide {
                None => sampler.choose(logits, None)?,
                Some(guide) => {
                    let allowed = guide.allowed()?;
                    sampler.choose(logits, Some(&|id| allowed.contains(id)))?
                }
            };
            let signals = TokenSignals::from_logits(logits, id as usize).map_err(not_a_distribution)?;
            all_signals.push(signals);
            let alternatives = likeliest(logits, options.alternatives, id, &signals);
            let doomed = monitor.as_mut().is_some_and(|monitor| monitor.observe(signals) == Progress::Stop);
            if stop_tokens.contains(&id) {
                let rest = text.finish(&token_ids)?;
                let token =
                    Token { id, text: &rest.text, signals: &signals, alternatives: &alternatives, is_stop: true };
                let _nothing_follows = on_token(token);
                all_alternatives.extend((options.alternatives > 0).then_some(alternatives));
                break rest.stop.map_or(Finish::Stop, |index| Finish::StopString { index });
            }
            token_ids.push(id);
            let complete = guide.as_mut().map_or(Ok(false), |guide| guide.accept(id))?;
            let ended = match () {
                () if doomed => Some(Finish::EarlyDeferral),
                () if complete => Some(Finish::Complete),
                () if token_ids.len() == max_tokens => Some(Finish::Length),
                () => None,
            };
            let mut piece = text.push(id)?;
            if ended.is_some() && piece.stop.is_none() {
                let rest = text.finish(&token_ids)?;
                piece.text.push_str(&rest.text);
                piece.stop = rest.stop;
            }
            let token = Token { id, text: &piece.text, signals: &signals, alternatives: &alternatives, is_stop: false };
            let broken_off = on_token(token).is_break();
            all_alternatives.extend((options.alternatives > 0).then_some(alternatives));
            if let Some(index) = piece.stop {
                break Finish::StopString { index };
            }
            if broken_off {
                break Finish::Caller;
            }
            if let Some(ended) = ended {
                break ended;
            }
            sampler.observe(&[id]);
            let appended = decoding.append(id, &mut forgotten_tokens, interrupt.run());
            logits = appended.map_err(interrupted)?;
        };
        drop(decoding);
        let timings = Timings { queue, prefill, decode: started.elapsed() };
        let saved_tokens = if finish == Finish::EarlyDeferral { max_tokens - token_ids.len() } else { 0 };
        tracing::debug!(tokens = token_ids.len(), cached_tokens, finish = finish.name(), ?timings, "generated");
        Ok(Generation {
            text: text.shown,
            token_ids,
            signals: all_signals,
            alternatives: all_alternatives,
            decision: monitor.map(|monitor| monitor.decide()),
            finish,
            prompt_tokens: prompt.len(),
            cached_tokens,
            forgotten_tokens,
            saved_tokens,
            seed,
            timings,
        })
    }

    /// Answers a request that must not leave the device, as [`Engine::generate`] does: an engine has no way out.
    ///
    /// # Errors
    /// As [`Engine::generate`].
    pub fn generate_local_only(
        &self,
        request: &LocalOnly<Request>,
        policy: Option<&Policy>,
        on_token: &mut dyn FnMut(Token<'_>) -> ControlFlow<()>,
    ) -> Result<Generation> {
        self.generate(request.inner(), policy, on_token)
    }

    /// The request's prompt as far as it fits the context, and how many tokens were left out of it.
    fn fitted_prompt(&self, request: &Request) -> Result<(Vec<u32>, usize)> {
        let prompt = self.prompt.encode_text(&self.prompt_text(request)?)?;
        self.check_not_empty(&prompt)?;
        let context = self.manifest.model.context_length;
        if request.options.overflow == Overflow::Error {
            self.check_fits(prompt.len().saturating_add(request.max_tokens))?;
        } else if prompt.len() >= context {
            let window = slid(&prompt, context, request.options.overflow)?;
            let forgotten = prompt.len() - window.len();
            return Ok((window, forgotten));
        }
        Ok((prompt, 0))
    }
}

/// The text of an answer as it grows.
struct AnswerText<'a> {
    prompt: &'a PromptFormat,
    decode: Box<dyn FnMut(u32) -> Result<Option<String>> + 'a>,
    stops: StopStrings<'a>,
    /// What the tokens said so far, the held back included.
    decoded: String,
    /// What the caller has seen.
    shown: String,
}

/// Text that may be shown, and the stop string behind it.
struct Piece {
    text: String,
    stop: Option<usize>,
}

impl<'a> AnswerText<'a> {
    fn new(prompt: &'a PromptFormat, stops: &'a [String]) -> Self {
        let (decoded, shown) = (String::new(), String::new());
        Self { prompt, decode: Box::new(prompt.decode_stream()), stops: StopStrings::new(stops), decoded, shown }
    }

    /// What is certain with one more token.
    fn push(&mut self, id: u32) -> Result<Piece> {
        let text = (self.decode)(id)?.unwrap_or_default();
        self.decoded.push_str(&text);
        Ok(self.show(text))
    }

    /// What was held back, now that `ids` are all.
    fn finish(&mut self, ids: &[u32]) -> Result<Piece> {
        let whole = self.prompt.decode(ids)?;
        let mut piece = self.show(whole.strip_prefix(&*self.decoded).unwrap_or_default().to_owned());
        if piece.stop.is_none() {
            let held = self.stops.finish();
            self.shown.push_str(&held);
            piece.text.push_str(&held);
        }
        Ok(piece)
    }

    fn show(&mut self, text: String) -> Piece {
        let piece = match self.stops.push(text) {
            Passed::On(text) => Piece { text, stop: None },
            Passed::Stopped { text, index } => Piece { text, stop: Some(index) },
        };
        self.shown.push_str(&piece.text);
        piece
    }
}

pub(super) fn not_a_distribution(error: SignalError) -> Error {
    Error::new(ErrorKind::Inference, "the model's logits are no distribution").with_source(error)
}

/// Index of the largest logit, the lowest on a tie.
pub(super) fn argmax(logits: &[f32]) -> Result<u32> {
    let mut best = 0;
    for (index, logit) in logits.iter().enumerate() {
        if logit.is_nan() {
            return Err(Error::new(ErrorKind::Inference, format!("the logit of id {index} is not a number")));
        }
        if *logit > logits[best] {
            best = index;
        }
    }
    // The vocabulary has at most 2^24 entries.
    Ok(best as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_lowest_id_and_not_a_number_to_nobody() {
        assert_eq!(argmax(&[-1.0, 3.0, 3.0, 2.0]).unwrap(), 1);
        assert_eq!(argmax(&[f32::NEG_INFINITY, f32::NEG_INFINITY]).unwrap(), 0);
        assert_eq!(argmax(&[f32::INFINITY, f32::MAX]).unwrap(), 0);
        for logits in [[f32::NAN, 1.0], [1.0, f32::NAN]] {
            assert_eq!(argmax(&logits).unwrap_err().kind(), ErrorKind::Inference);
        }
    }
}
