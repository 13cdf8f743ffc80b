//! The device's half of a cascade: an engine and its policy, and no way out.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use margay_policy::{Aggregate, Decision, Policy, Reason, Rule, Verdict};

use super::outlet::Outlet;
use crate::answer::{Answer, AnswerTimings, AnswerToken, Origin, Tokens, Usage};
use crate::bundle::digest::ModelDigest;
use crate::cloud::Clock;
use crate::engine::{Engine, Finish, Generation};
use crate::error::{Error, ErrorKind, Result};
use crate::request::{LocalOnly, Request};

pub(super) struct Device {
    pub(super) engine: Arc<Engine>,
    pub(super) policy: Arc<Policy>,
    pub(super) clock: Arc<dyn Clock>,
}

/// What the device wrote, and what is to become of it.
#[derive(Clone)]
pub(super) struct Draft {
    pub(super) decision: Decision,
    text: String,
    tokens: Vec<AnswerToken>,
    finish: Finish,
    /// Whether the policy stopped it, so that the text is no whole answer.
    stopped_early: bool,
    usage: Tokens,
    saved_tokens: u64,
    took: Duration,
    started: Instant,
    clock: Arc<dyn Clock>,
    rule: Rule,
    model_digest: ModelDigest,
}

impl Device {
    /// Generates until the answer ends, or (to `stop_early`) is certain to be deferred. The text goes to `outlet` as it comes.
    pub(super) async fn draft(
        &self,
        request: &Request,
        stop_early: bool,
        outlet: Option<&Arc<Outlet>>,
    ) -> Result<Draft> {
        let started = self.clock.now();
        let policy = stop_early.then(|| Arc::clone(&self.policy));
        let generation = self.generate(request, policy, outlet).await?;
        Ok(self.judged(request, generation, started))
    }

    /// Generates the whole answer, sure or not, and judges it afterwards.
    pub(super) async fn answer(&self, request: LocalOnly<Request>, keep_unsure: bool) -> Result<Answer> {
        let draft = self.draft(request.inner(), false, None).await?;
        Ok(match draft.decision.verdict {
            Verdict::Keep => draft.into_answer(Origin::Local, None),
            Verdict::Abstain(reason) => draft.into_answer(Origin::Abstained, Some(reason)),
            Verdict::Defer(_) if keep_unsure => draft.into_answer(Origin::Local, Some(Reason::LocalOnly)),
            Verdict::Defer(_) => draft.into_answer(Origin::Abstained, Some(Reason::LocalOnly)),
        })
    }

    /// Makes a draft that was stopped early a whole answer, by generating again without the policy.
    pub(super) async fn complete(
        &self,
        request: &Request,
        draft: &mut Draft,
        outlet: Option<&Arc<Outlet>>,
    ) -> Result<()> {
        if draft.stopped_early {
            let started = self.clock.now();
            let mut generation = self.generate(request, None, outlet).await?;
            draft.usage.input += generation.prompt_tokens as u64;
            draft.usage.output += generation.token_ids.len() as u64;
            draft.took += self.clock.now() - started;
            (draft.saved_tokens, draft.stopped_early, draft.finish) = (0, false, generation.finish);
            draft.text = std::mem::take(&mut generation.text);
            draft.tokens = AnswerToken::of(generation);
        }
        Ok(())
    }

    /// Generates off the asynchronous threads; stops if nobody waits for it any more.
    async fn generate(
        &self,
        request: &Request,
        policy: Option<Arc<Policy>>,
        outlet: Option<&Arc<Outlet>>,
    ) -> Result<Generation> {
        let (engine, request, outlet) = (Arc::clone(&self.engine), request.clone(), outlet.cloned());
        let abandoned = request.cancel.drop_guard();
        let generating = tokio::task::spawn_blocking(move || {
            let mut written = String::new();
            engine.generate(&request, policy.as_deref(), &mut |token| {
                if let Some(outlet) = &outlet {
                    written.push_str(token.text);
                    outlet.reach(&written, Origin::Local);
                }
                ControlFlow::Continue(())
            })
        });
        let generation = generating.await;
        abandoned.disarm();
        generation.map_err(|error| Error::new(ErrorKind::Inference, "generation broke off").with_source(error))?
    }

    fn judged(&self, request: &Request, mut generation: Generation, started: Instant) -> Draft {
        let decision = generation.decision.unwrap_or_else(|| {
            let mut seen = Aggregate::new();
            for signals in &generation.signals {
                seen.observe(*signals);
            }
            self.policy.decide(&seen, request.task.as_deref())
        });
        let written = generation.token_ids.len();
        let stopped_early = generation.finish == Finish::EarlyDeferral && written < request.max_tokens;
        Draft {
            text: std::mem::take(&mut generation.text),
            finish: generation.finish,
            decision,
            stopped_early,
            usage: Tokens { input: generation.prompt_tokens as u64, output: written as u64 },
            saved_tokens: if stopped_early { (request.max_tokens - written) as u64 } else { 0 },
            took: self.clock.now() - started,
            started,
            clock: Arc::clone(&self.clock),
            rule: self.policy.rule(),
            model_digest: *self.engine.model_digest(),
            tokens: AnswerToken::of(generation),
        }
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("engine", &self.engine).field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Draft {
    /// The end of the query. The text is the device's if the origin is, else empty.
    pub(super) fn into_answer(self, origin: Origin, reason: Option<Reason>) -> Answer {
        let local = origin == Origin::Local;
        Answer {
            text: if local { self.text } else { String::new() },
            tokens: if local { self.tokens } else { Vec::new() },
            finish: local.then_some(self.finish),
            origin,
            score: self.decision.score,
            threshold: self.decision.threshold,
            rule: self.rule,
            reason,
            tool_calls: Vec::new(),
            finish_reason: None,
            cloud_error: None,
            ticket: None,
            usage: Usage { local: self.usage, cloud: None },
            cost: None,
            saved_tokens: self.saved_tokens,
            timings: AnswerTimings { local: self.took, cloud: None, total: self.clock.now() - self.started },
            attempts: 0,
            model_digest: self.model_digest,
        }
    }
}
