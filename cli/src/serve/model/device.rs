//! A small model: as many answers at a time as its engine decodes side by side, off the asynchronous threads.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use margay::bundle::CalibratedPolicy;
use margay::policy::{Aggregate, Policy, Verdict};
use margay::telemetry::{QUERIES, SCORE, SECONDS};
use margay::{Engine, Error, ErrorKind, Generation, Origin, Result, Token, Tokens};
use metrics::{counter, histogram};
use tokio::sync::{Semaphore, mpsc};

use super::cloud::driven;
use super::reply::{Account, BothTokens, Reply, Seconds, TokenText, of_device};
use super::{Piece, Pieces, Question};

/// An engine, and what it thinks of its answers.
#[derive(Debug, Clone)]
pub(super) struct Device {
    engine: Arc<Engine>,
    policy: Option<Arc<Policy>>,
    /// A permit for each answer that the engine decodes at once: who waits for one waits here, without a thread.
    turn: Arc<Semaphore>,
}

impl Device {
    pub(super) fn new(engine: Arc<Engine>, policy: Option<&CalibratedPolicy>) -> Self {
        let policy = policy.map(|calibrated| Arc::new(calibrated.policy.clone()));
        let turn = Arc::new(Semaphore::new(engine.batch()));
        Self { engine, policy, turn }
    }

    pub(super) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub(super) async fn answer(&self, question: Question) -> Result<Reply> {
        self.generate(question, None).await
    }

    pub(super) fn stream(&self, question: Question) -> Pieces {
        // Not bounded: a client that does not read must not hold up the others, and an answer is.
        let (sender, receiver) = mpsc::unbounded_channel();
        let device = self.clone();
        driven(receiver, Box::pin(async move { device.generate(question, Some(sender)).await }))
    }

    /// Dropped, it stops within one decode step.
    async fn generate(&self, question: Question, shown: Option<mpsc::UnboundedSender<Piece>>) -> Result<Reply> {
        let started = Instant::now();
        let Question { request, log_probabilities: named, .. } = question;
        let closed = |_| Error::new(ErrorKind::Inference, "the engine is shutting down");
        let waiting = Arc::clone(&self.turn).acquire_owned();
        let turn = match request.deadline.instant() {
            None => waiting.await,
            Some(until) => {
                let late = |_| Error::new(ErrorKind::Deadline, "the request's deadline has passed");
                tokio::time::timeout_at(until.into(), waiting).await.map_err(late)?
            }
        };
        let turn = turn.map_err(closed)?;
        let abandoned = request.cancel.drop_guard();
        let (engine, asked) = (Arc::clone(&self.engine), request.clone());
        let generating = tokio::task::spawn_blocking(move || {
            // Held until generation really is over, not merely until nobody waits for it.
            let _turn = turn;
            let (mut tokens, mut unnamed) = (named.then(Vec::new), Ok(()));
            let mut on_token = |token: Token<'_>| {
                let mut texts = Vec::new();
                if named && !token.is_stop {
                    match TokenText::of(&engine, token.id, token.signals, token.alternatives) {
                        Ok(text) => texts.push(text),
                        Err(error) => unnamed = Err(error),
                    }
                }
                if let Some(tokens) = &mut tokens {
                    tokens.extend(texts.iter().cloned());
                }
                let nothing = token.text.is_empty() && texts.is_empty();
                let heard = match &shown {
                    Some(shown) if !nothing => {
                        let (text, origin) = (token.text.to_owned(), Origin::Local.name());
                        shown.send(Piece::Text { text, origin, tokens: texts }).is_ok()
                    }
                    _ => true,
                };
                if heard && unnamed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            };
            // The answer stands whatever the policy says of it: nothing is stopped early.
            let generation = engine.generate(&asked, None, &mut on_token)?;
            unnamed.map(|()| (generation, tokens))
        });
        let failed = |error| Error::new(ErrorKind::Inference, "generation broke off").with_source(error);
        let (generation, tokens) = generating.await.map_err(failed)??;
        abandoned.disarm();
        let account = self.account(&generation, request.task.as_deref(), started);
        let (finish, used) = (of_device(generation.finish), account.usage.local);
        Ok(Reply { text: generation.text, tool_calls: Vec::new(), tokens, finish, used, account })
    }

    fn account(&self, generation: &Generation, task: Option<&str>, started: Instant) -> Account {
        let mut seen = Aggregate::new();
        generation.signals.iter().for_each(|signals| seen.observe(*signals));
        let decision = self.policy.as_ref().map(|policy| policy.decide(&seen, task));
        let total = started.elapsed().as_secs_f64();
        let score = decision.and_then(|decision| decision.score).map(|score| score.value());
        let threshold = decision.map(|decision| decision.threshold.value());
        let reason = decision.and_then(|decision| match decision.verdict {
            Verdict::Keep => None,
            Verdict::Defer(reason) | Verdict::Abstain(reason) => Some(reason.as_str()),
        });
        counter!(QUERIES, "origin" => Origin::Local.name()).increment(1);
        histogram!(SECONDS, "stage" => "local").record(total);
        histogram!(SECONDS, "stage" => "total").record(total);
        if let Some(score) = score {
            histogram!(SCORE).record(f64::from(score));
        }
        let (input, output) = (generation.prompt_tokens as u64, generation.token_ids.len() as u64);
        Account {
            origin: Origin::Local.name(),
            score,
            threshold: threshold.filter(|threshold| threshold.is_finite()),
            rule: self.policy.as_ref().map(|policy| policy.rule().to_string()),
            reason,
            model_digest: Some(self.engine.model_digest().to_string()),
            usage: BothTokens { local: Some(Tokens { input, output }), cloud: None },
            seconds: Seconds { local: Some(total), cloud: None, total },
            ..Account::default()
        }
    }
}
