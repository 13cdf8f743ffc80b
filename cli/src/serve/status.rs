//! What the status page shows: rates, scores and verdicts of the last answers, without their texts.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use axum::http::StatusCode;
use margay::stores::{Budget, Period};
use serde::Serialize;

use super::model::Account;
use super::wire::{Refusal, unix_time};

/// The page: one file, with script and style in it.
pub(super) const PAGE: &str = include_str!("status.html");

/// Answers that rates and scores are of.
const WINDOW: usize = 1_000;

/// Verdicts that are shown one by one.
const LAST: usize = 20;

/// Bars of the histogram.
const BARS: usize = 24;

/// The answers of late.
#[derive(Default)]
pub(super) struct Status(Mutex<Recent>);

#[derive(Default)]
struct Recent {
    local: u64,
    cloud: u64,
    abstained: u64,
    answers: VecDeque<Verdict>,
}

/// One answer, without a word of it.
#[derive(Debug, Clone, Serialize)]
struct Verdict {
    /// Unix time, in seconds.
    at: u64,
    origin: &'static str,
    score: Option<f32>,
    threshold: Option<f32>,
    reason: Option<&'static str>,
    tokens: Option<u64>,
    seconds: f64,
    cost: Option<String>,
}

/// What `GET /status` says.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    model: String,
    since: u64,
    in_flight: usize,
    /// Requests that wait for the device.
    waiting: Option<usize>,
    /// Answers since the start, by who gave them.
    answers: Answers,
    /// How many of the last answers that were scored the device was unsure of.
    deferral: Deferral,
    scores: Option<Histogram>,
    pub(super) cost_today: Option<Cost>,
    last: Vec<Verdict>,
}

#[derive(Debug, Serialize)]
struct Answers {
    local: u64,
    cloud: u64,
    abstained: u64,
}

#[derive(Debug, Serialize)]
struct Deferral {
    unsure: usize,
    of: usize,
}

#[derive(Debug, Serialize)]
struct Histogram {
    low: f32,
    high: f32,
    counts: Vec<usize>,
    /// What the last score was held against.
    threshold: Option<f32>,
}

#[derive(Debug, Serialize)]
pub(super) struct Cost {
    money: String,
    tokens: u64,
}

impl Status {
    pub(super) fn note(&self, account: &Account) {
        let side = if account.origin == "cloud" { account.usage.cloud } else { account.usage.local };
        let verdict = Verdict {
            at: unix_time(),
            origin: account.origin,
            score: account.score,
            threshold: account.threshold,
            reason: account.reason,
            tokens: side.map(|tokens| tokens.output),
            seconds: account.seconds.total,
            cost: account.cost.clone(),
        };
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match account.origin {
            "local" => recent.local += 1,
            "cloud" => recent.cloud += 1,
            _ => recent.abstained += 1,
        }
        if recent.answers.len() == WINDOW {
            recent.answers.pop_front();
        }
        recent.answers.push_back(verdict);
    }

    pub(super) fn report(&self, model: &str, since: u64, in_flight: usize, waiting: Option<usize>) -> Report {
        let recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let scored = || recent.answers.iter().filter(|verdict| verdict.score.is_some());
        Report {
            model: model.to_owned(),
            since,
            in_flight,
            waiting,
            answers: Answers { local: recent.local, cloud: recent.cloud, abstained: recent.abstained },
            deferral: Deferral {
                unsure: scored().filter(|verdict| verdict.reason.is_some()).count(),
                of: scored().count(),
            },
            scores: Histogram::of(&recent.answers),
            cost_today: None,
            last: recent.answers.iter().rev().take(LAST).cloned().collect(),
        }
    }
}

impl Histogram {
    fn of(answers: &VecDeque<Verdict>) -> Option<Self> {
        let scores: Vec<f32> =
            answers.iter().filter_map(|verdict| verdict.score).filter(|score| score.is_finite()).collect();
        let low = scores.iter().copied().reduce(f32::min)?;
        let high = scores.iter().copied().reduce(f32::max)?;
        let mut counts = vec![0; BARS];
        for score in scores {
            let share = (score - low) / (high - low).max(f32::MIN_POSITIVE);
            counts[((share * BARS as f32) as usize).min(BARS - 1)] += 1;
        }
        Some(Self { low, high, counts, threshold: answers.iter().rev().find_map(|verdict| verdict.threshold) })
    }
}

/// What the budget says of today.
pub(super) async fn cost_today(budget: Budget) -> Result<Cost, Refusal> {
    let unknown = |_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the budget cannot be read");
    let spent = tokio::task::spawn_blocking(move || budget.spent(Period::Day, None)).await.map_err(unknown)??;
    Ok(Cost { money: spent.money.to_string(), tokens: spent.tokens })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_answers_that_were_scored() {
        let status = Status::default();
        let account =
            |origin, score, reason| Account { origin, score, reason, threshold: Some(-0.2), ..Account::default() };
        for account in [
            account("local", Some(-0.1), None),
            account("cloud", Some(-0.9), Some("low-confidence")),
            account("abstained", Some(-0.5), Some("offline")),
            account("cloud", None, Some("tools")),
        ] {
            status.note(&account);
        }
        let report = serde_json::to_value(status.report("m", 0, 0, None)).unwrap();
        assert_eq!(report["deferral"], serde_json::json!({"unsure": 2, "of": 3}));
        assert_eq!(report["answers"], serde_json::json!({"local": 1, "cloud": 2, "abstained": 1}));
        let counts = report["scores"]["counts"].as_array().unwrap();
        assert_eq!(
            (counts.len(), &counts[0], &counts[BARS / 2], &counts[BARS - 1]),
            (BARS, &1.into(), &1.into(), &1.into())
        );
        assert_eq!(report["last"][0]["reason"], "tools");
    }

    #[test]
    fn equal_scores_and_a_full_window_are_no_trouble() {
        let status = Status::default();
        for _ in 0..=WINDOW {
            status.note(&Account { origin: "local", score: Some(0.5), ..Account::default() });
        }
        let report = serde_json::to_value(status.report("m", 0, 0, None)).unwrap();
        assert_eq!((&report["deferral"]["of"], &report["scores"]["counts"][0]), (&WINDOW.into(), &WINDOW.into()));
        assert_eq!(report["last"].as_array().unwrap().len(), LAST);
    }
}
