//! What a cascade tells whoever listens: spans and events through `tracing`, counts through the `metrics` facade.
//!
//! Neither costs anything while nobody has installed a subscriber or a recorder, and neither ever holds a text.
//!
//! | span or event | level | fields |
//! | --- | --- | --- |
//! | span `answer`, one for each query | info | `origin`, `score`, `threshold`, `rule`, `reason`, `error` (a kind) |
//! | event `generated` | debug | `tokens`, `finish`, `timings` |
//! | event `a large model failed; the next is asked` | info | `kind`, `model` (its place) |
//! | event `the deferral rate has drifted` | warn | `expected`, `observed`, `queries` |
//! | event `the deferral rate is as expected again` | info | `expected`, `observed` |
//! | event `a prompt could not be queued`, `a cost could not be corrected` | warn | `error` |
//!
//! | metric | kind, unit | labels | what |
//! | --- | --- | --- | --- |
//! | [`QUERIES`] | counter | `origin` | answers, by who gave them |
//! | [`ERRORS`] | counter | `kind` | queries that ended in an error |
//! | [`DEFERRALS`] | counter | `reason` | queries that the device was unsure of |
//! | [`SCORE`] | histogram | | scores of the device's answers |
//! | [`SECONDS`] | histogram, seconds | `stage`: `local`, `cloud`, `total` | where the time went |
//! | [`CLOUD_TOKENS`] | counter, tokens | `direction`: `input`, `output` | what the cloud read and wrote |
//! | [`SAVED_TOKENS`] | counter, tokens | | what stopping early has spared, at most |
//! | [`COST`] | counter, millionths of the currency | | what the cloud has cost, if a budget knows |
//! | [`BREAKER`] | gauge: 0 closed, 1 half open, 2 open | | the breaker before the cloud |
//! | [`OUTBOX`] | gauge | | prompts that wait in the outbox |
//! | [`DEFERRAL_RATE`] | gauge | | share of the last 1000 queries that the device was unsure of |
//! | [`DRIFT`] | gauge: 0 or 1 | | whether that is far from the rate of the calibration |

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use margay_policy::guard::BreakerState;
use margay_policy::{Reason, Rule};
use metrics::{counter, gauge, histogram};
use tracing::{Instrument as _, Span, field};

use crate::answer::{Answer, Origin};
use crate::error::Result;

/// Answers, by who gave them.
pub const QUERIES: &str = "margay_queries_total";
/// Queries that ended in an error, by its kind.
pub const ERRORS: &str = "margay_query_errors_total";
/// Queries that the device was unsure of, by the reason.
pub const DEFERRALS: &str = "margay_deferrals_total";
/// Scores of the device's answers.
pub const SCORE: &str = "margay_score";
/// Where the time of a query went, by stage.
pub const SECONDS: &str = "margay_query_seconds";
/// Tokens that the cloud read and wrote.
pub const CLOUD_TOKENS: &str = "margay_cloud_tokens_total";
/// Tokens that stopping early has spared, at most.
pub const SAVED_TOKENS: &str = "margay_saved_tokens_total";
/// What the cloud has cost, in millionths of the currency.
pub const COST: &str = "margay_cloud_cost_micros_total";
/// The breaker before the cloud.
pub const BREAKER: &str = "margay_breaker_state";
/// Prompts that wait in the outbox.
pub const OUTBOX: &str = "margay_outbox_queued";
/// Share of the last queries that the device was unsure of.
pub const DEFERRAL_RATE: &str = "margay_deferral_rate";
/// Whether that is far from the rate of the calibration.
pub const DRIFT: &str = "margay_deferral_drift";

/// Queries that the deferral rate is of.
const WINDOW: usize = 1_000;

/// Queries without which no rate is held against the calibration's.
const ENOUGH: usize = 100;

/// How likely one look at queries like those of the calibration is to raise the alarm, at most.
const FALSE_ALARM: f64 = 1e-6;

/// Runs a query in its span, and writes down how it ended: facts about the answer, never its text or the prompt's.
pub(crate) async fn traced(query: impl Future<Output = Result<Answer>>) -> Result<Answer> {
    let span = tracing::info_span!(
        "answer",
        origin = field::Empty,
        score = field::Empty,
        threshold = field::Empty,
        rule = field::Empty,
        reason = field::Empty,
        error = field::Empty,
    );
    let outcome = query.instrument(span.clone()).await;
    match &outcome {
        Ok(answer) => {
            record(&span, answer);
            count(answer);
        }
        Err(error) => {
            span.record("error", field::debug(error.kind()));
            counter!(ERRORS, "kind" => format!("{:?}", error.kind())).increment(1);
        }
    }
    outcome
}

fn record(span: &Span, answer: &Answer) {
    span.record("origin", answer.origin.name());
    span.record("score", answer.score.map(|score| f64::from(score.value())));
    span.record("threshold", f64::from(answer.threshold.value()));
    span.record("rule", field::display::<Rule>(answer.rule));
    span.record("reason", answer.reason.map(Reason::as_str));
    span.record("error", answer.cloud_error.as_ref().map(|error| field::debug(error.kind())));
}

fn count(answer: &Answer) {
    counter!(QUERIES, "origin" => answer.origin.name()).increment(1);
    if let Some(reason) = answer.reason.filter(|_| answer.origin != Origin::Local || answer.cloud_error.is_some()) {
        counter!(DEFERRALS, "reason" => reason.as_str()).increment(1);
    }
    // A router's scores are of another kind.
    if let Some(score) = answer.score.filter(|_| answer.rule != Rule::Router) {
        histogram!(SCORE).record(f64::from(score.value()));
    }
    histogram!(SECONDS, "stage" => "local").record(answer.timings.local.as_secs_f64());
    histogram!(SECONDS, "stage" => "total").record(answer.timings.total.as_secs_f64());
    if let Some(cloud) = answer.timings.cloud {
        histogram!(SECONDS, "stage" => "cloud").record(cloud.as_secs_f64());
    }
    if let Some(usage) = answer.usage.cloud {
        counter!(CLOUD_TOKENS, "direction" => "input").increment(usage.input);
        counter!(CLOUD_TOKENS, "direction" => "output").increment(usage.output);
    }
    if let Some(cost) = answer.cost {
        counter!(COST).increment(cost.micros());
    }
    counter!(SAVED_TOKENS).increment(answer.saved_tokens);
}

/// Shows what the breaker lets through.
pub(crate) fn breaker(state: BreakerState) {
    gauge!(BREAKER).set(match state {
        BreakerState::Closed => 0.0,
        BreakerState::HalfOpen => 1.0,
        BreakerState::Open => 2.0,
    });
}

/// Shows how many prompts wait.
#[cfg(feature = "stores")]
pub(crate) fn outbox(queued: u64) {
    gauge!(OUTBOX).set(queued as f64);
}

/// Watches how often the device is unsure, against how often it was on the calibration data.
///
/// The alarm is a bound of Hoeffding's (1963): among n queries like those of the calibration, the rate is off by more than
/// sqrt(ln(2/d) / 2n) with a probability of d at most; d is one in a million. It says that today's queries are others: the
/// threshold's guarantee is for queries that no longer come.
#[derive(Debug)]
pub(crate) struct DeferralRate {
    expected: Option<f64>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    deferred: VecDeque<bool>,
    count: usize,
    drifted: bool,
}

impl DeferralRate {
    pub(crate) fn new(expected: Option<f64>) -> Self {
        Self { expected, seen: Mutex::default() }
    }

    /// One more verdict; whether the rate has drifted.
    pub(crate) fn observe(&self, deferred: bool) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.deferred.len() == WINDOW && seen.deferred.pop_front() == Some(true) {
            seen.count -= 1;
        }
        seen.deferred.push_back(deferred);
        seen.count += usize::from(deferred);
        let queries = seen.deferred.len();
        let observed = seen.count as f64 / queries as f64;
        gauge!(DEFERRAL_RATE).set(observed);
        let Some(expected) = self.expected.filter(|_| queries >= ENOUGH) else { return false };
        let margin = ((2.0 / FALSE_ALARM).ln() / (2.0 * queries as f64)).sqrt();
        let off = (observed - expected).abs();
        if !seen.drifted && off > margin {
            seen.drifted = true;
            tracing::warn!(expected, observed, queries, "the deferral rate has drifted");
        } else if seen.drifted && off < margin / 2.0 {
            seen.drifted = false;
            tracing::info!(expected, observed, "the deferral rate is as expected again");
        }
        gauge!(DRIFT).set(if seen.drifted { 1.0 } else { 0.0 });
        seen.drifted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One verdict in `of` is a deferral, `queries` times; whether the alarm is up at the end.
    fn observe(rate: &DeferralRate, queries: usize, one_in: usize) -> bool {
        (0..queries).fold(false, |_, query| rate.observe(query % one_in == 0))
    }

    #[test]
    fn a_rate_far_from_the_calibration_s_raises_the_alarm_until_it_is_back() {
        let rate = DeferralRate::new(Some(0.2));
        assert!(!observe(&rate, 5_000, 5));
        assert!(observe(&rate, 1_000, 2));
        assert!(observe(&rate, 500, 5), "half of the window is still off");
        assert!(!observe(&rate, 1_000, 5));
        assert!(observe(&rate, 1_000, usize::MAX), "too few are off too");
        assert!(!observe(&DeferralRate::new(None), 5_000, 1));
    }

    #[test]
    fn few_queries_raise_no_alarm() {
        let rate = DeferralRate::new(Some(0.0));
        assert!(!observe(&rate, ENOUGH - 1, 1));
        assert!(rate.observe(true));
    }
}
