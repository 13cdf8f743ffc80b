//! The device's half of a cascade: an engine and its policy, and no way out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use margay_policy::{Aggregate, Decision, Reason, Rule, Verdict};

use super::model::{Model, Models};
use super::outlet::Outlet;
use crate::answer::{Answer, AnswerTimings, AnswerToken, Origin, Tokens, Usage};
use crate::cloud::Clock;
use crate::engine::{Finish, Generation};
use crate::error::Result;
use crate::request::{LocalOnly, Request};

pub(super) struct Device {
    pub(super) models: Models,
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
    /// Whose it is, and who goes on with it.
    model: Model,
}

impl Device {
    /// Generates until the answer ends, or (to `stop_early`) is certain to be deferred: what a router sends away is so before
    /// the first token. The text goes to `outlet` as it comes.
    pub(super) async fn draft(
        &self,
        request: &Request,
        stop_early: bool,
        outlet: Option<&Arc<Outlet>>,
    ) -> Result<Draft> {
        let (started, model) = (self.clock.now(), self.models.now()?);
        let routed = model.routed(request);
        if let Some(decision) = routed.filter(|_| stop_early) {
            request.check()?;
            return Ok(self.not_begun(request, model, decision, started));
        }
        let generation = model.generate(request, stop_early, outlet).await?;
        Ok(self.judged(request, model, routed, generation, started))
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
            let mut generation = draft.model.generate(request, false, outlet).await?;
            draft.usage.input += generation.prompt_tokens as u64;
            draft.usage.output += generation.token_ids.len() as u64;
            draft.took += self.clock.now() - started;
            (draft.saved_tokens, draft.stopped_early, draft.finish) = (0, false, generation.finish);
            draft.text = std::mem::take(&mut generation.text);
            draft.tokens = AnswerToken::of(generation);
        }
        Ok(())
    }

    /// What a router keeps from beginning.
    fn not_begun(&self, request: &Request, model: Model, decision: Decision, started: Instant) -> Draft {
        Draft {
            decision,
            text: String::new(),
            tokens: Vec::new(),
            finish: Finish::EarlyDeferral,
            stopped_early: true,
            usage: Tokens::default(),
            saved_tokens: request.max_tokens as u64,
            took: self.clock.now() - started,
            started,
            clock: Arc::clone(&self.clock),
            rule: Rule::Router,
            model,
        }
    }

    fn judged(
        &self,
        request: &Request,
        model: Model,
        routed: Option<Decision>,
        mut generation: Generation,
        started: Instant,
    ) -> Draft {
        let decision = routed.or(generation.decision).unwrap_or_else(|| {
            let mut seen = Aggregate::new();
            for signals in &generation.signals {
                seen.observe(*signals);
            }
            model.policy.policy.decide(&seen, request.task.as_deref())
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
            rule: if routed.is_some() { Rule::Router } else { model.policy.policy.rule() },
            model,
            tokens: AnswerToken::of(generation),
        }
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("models", &self.models).finish_non_exhaustive()
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
            model_digest: *self.model.engine.model_digest(),
        }
    }
}
