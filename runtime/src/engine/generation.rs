//! The decode loop: one token after the other, each with its signals, until something ends the answer.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use margay_policy::{Decision, Monitor, Policy, Progress, SignalError, TokenSignals};

use super::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::request::{LocalOnly, Request};

/// One token of an answer, handed to the caller as soon as it is known.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Token<'a> {
    /// The token's id.
    pub id: u32,
    /// The text that this token completes: empty while a character's bytes are still coming.
    pub text: &'a str,
    /// What the model's distribution said about it.
    pub signals: &'a TokenSignals,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Finish {
    /// The model wrote a stop token.
    Stop,
    /// The request's `max_tokens` were written.
    Length,
    /// The policy saw that this answer will be deferred whatever comes.
    EarlyDeferral,
    /// The caller's callback broke off.
    Caller,
}

/// What the model wrote, and how sure it was.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Generation {
    /// The answer, without stop token and special tokens.
    pub text: String,
    /// Ids of the answer, without the stop token.
    pub token_ids: Vec<u32>,
    /// Signals of every token the model chose, in order. The stop token is one of them: ending here was the
    /// model's choice too, and its confidence in it counts.
    pub signals: Vec<TokenSignals>,
    /// What the policy says, if there was one.
    pub decision: Option<Decision>,
    /// Why the answer ended.
    pub finish: Finish,
    /// Number of ids in the prompt.
    pub prompt_tokens: usize,
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
    /// Answers `request` greedily: the likeliest token each time, the lowest id on a tie.
    ///
    /// Every token's signals go to `policy`'s monitor, which may end the answer early, and to `on_token`, which may
    /// too. Requests from several threads take turns; `on_token` must not ask the same engine.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] if the template refuses the conversation or `max_tokens` is 0;
    /// [`ErrorKind::ContextOverflow`] if prompt and `max_tokens` do not fit the context; [`ErrorKind::Deadline`] and
    /// [`ErrorKind::Cancelled`] within one decode step; [`ErrorKind::Inference`].
    pub fn generate(
        &self,
        request: &Request,
        policy: Option<&Policy>,
        on_token: &mut dyn FnMut(Token<'_>) -> ControlFlow<()>,
    ) -> Result<Generation> {
        request.check()?;
        if request.max_tokens == 0 {
            return Err(Error::new(ErrorKind::InvalidRequest, "an answer of 0 tokens was asked for"));
        }
        let mut monitor = policy.map(|policy| {
            Monitor::new(policy, request.task.as_deref(), u32::try_from(request.max_tokens).unwrap_or(u32::MAX))
        });
        let started = Instant::now();
        let prompt = self.encode_prompt(&request.messages)?;
        self.check_ids(&prompt)?;
        self.check_fits(prompt.len().saturating_add(request.max_tokens))?;
        let encoding = started.elapsed();

        let started = Instant::now();
        let mut turn = self.turn(Some(request))?;
        let decoder = turn.decoder()?;
        let queue = started.elapsed();

        let started = Instant::now();
        decoder.start(prompt.len() + request.max_tokens)?;
        let mut logits = decoder.append(&prompt)?;
        let prefill = encoding + started.elapsed();

        let started = Instant::now();
        let mut stream = self.prompt.decode_stream();
        let mut token_ids = Vec::new();
        let mut all_signals = Vec::new();
        let finish = loop {
            request.check()?;
            let id = argmax(logits)?;
            let signals = TokenSignals::from_logits(logits, id as usize).map_err(not_a_distribution)?;
            all_signals.push(signals);
            let doomed = monitor.as_mut().is_some_and(|monitor| monitor.observe(signals) == Progress::Stop);
            if self.manifest.prompt.stop_tokens.contains(&id) {
                break Finish::Stop;
            }
            token_ids.push(id);
            let text = stream(id)?.unwrap_or_default();
            if on_token(Token { id, text: &text, signals: &signals }).is_break() {
                break Finish::Caller;
            }
            if doomed {
                break Finish::EarlyDeferral;
            }
            if token_ids.len() == request.max_tokens {
                break Finish::Length;
            }
            logits = decoder.append(&[id])?;
        };
        drop(turn);
        let timings = Timings { queue, prefill, decode: started.elapsed() };
        let text = self.prompt.decode(&token_ids)?;
        let decision = monitor.map(|monitor| monitor.decide());
        tracing::debug!(tokens = token_ids.len(), ?finish, ?timings, "generated");
        Ok(Generation { text, token_ids, signals: all_signals, decision, finish, prompt_tokens: prompt.len(), timings })
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
