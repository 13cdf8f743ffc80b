//! Choosing among answers, against the likelihoods that Hugging Face transformers computes (`fixtures/make_choices.py`).
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

mod common;

use std::fs;

use common::{Expected, engine, engine_of, fixtures};
use margay::policy::{Policy, Rule, Threshold, Verdict};
use margay::{Cancel, ChooseOptions, ErrorKind, GenerateOptions, Normalise, Request};
use serde::Deserialize;

const TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Case {
    prompt: String,
    answers: Vec<Answer>,
}

#[derive(Deserialize)]
struct Answer {
    answer: String,
    ids: Vec<u32>,
    log_probabilities: Vec<f64>,
    /// Log-probability of the stop token behind it.
    stop: f64,
}

fn cases() -> Vec<Case> {
    serde_json::from_slice(&fs::read(fixtures().join("choices.json")).unwrap()).unwrap()
}

fn texts(case: &Case) -> Vec<&str> {
    case.answers.iter().map(|answer| answer.answer.as_str()).collect()
}

fn options(normalise: Normalise, with_stop_token: bool) -> ChooseOptions {
    let mut options = ChooseOptions::default();
    (options.normalise, options.with_stop_token) = (normalise, with_stop_token);
    options
}

#[test]
fn likelihoods_are_those_of_transformers_however_they_are_normalised() {
    for case in cases() {
        for normalise in [Normalise::Not, Normalise::Tokens, Normalise::Bytes] {
            for with_stop in [false, true] {
                let choice = engine()
                    .choose(&Request::user(&case.prompt), &texts(&case), &options(normalise, with_stop), None)
                    .unwrap();
                let mut scores = Vec::new();
                for (ours, theirs) in choice.answers.iter().zip(&case.answers) {
                    assert_eq!(ours.token_ids, theirs.ids);
                    let mut each = theirs.log_probabilities.clone();
                    if with_stop {
                        each.push(theirs.stop);
                    }
                    assert_eq!(ours.signals.len(), each.len());
                    for (signals, expected) in ours.signals.iter().zip(&each) {
                        assert!((f64::from(signals.log_probability) - expected).abs() < TOLERANCE, "{}", theirs.answer);
                    }
                    let sum: f64 = each.iter().sum();
                    assert!((ours.log_likelihood - sum).abs() < TOLERANCE * each.len() as f64);
                    scores.push(match normalise {
                        Normalise::Tokens => sum / each.len() as f64,
                        Normalise::Bytes => sum / theirs.answer.len() as f64,
                        _ => sum,
                    });
                }
                let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap();
                assert_eq!(choice.best, best);
                let total: f64 = scores.iter().map(|score| score.exp()).sum();
                for (ours, score) in choice.answers.iter().zip(&scores) {
                    assert!((ours.probability - score.exp() / total).abs() < 1e-3);
                }
            }
        }
    }
}

#[test]
fn common_beginnings_are_computed_once_and_the_prompt_for_all() {
    let case = &cases()[0];
    let request = Request::user(&case.prompt);
    // An engine of its own: nobody else's prompts come between.
    let engine = engine_of(&fixtures().join("toy"));
    let choose = || engine.choose(&request, &texts(case), &ChooseOptions::default(), None).unwrap();
    let first = choose();
    // Every proper beginning of an answer is a node of the tree: each is computed once, and no leaf is.
    let mut beginnings: Vec<&[u32]> =
        case.answers.iter().flat_map(|answer| (1..answer.ids.len()).map(|length| &answer.ids[..length])).collect();
    let all = beginnings.len();
    beginnings.sort_unstable();
    beginnings.dedup();
    assert!(beginnings.len() < all);
    assert_eq!(first.computed_tokens, beginnings.len());
    let again = choose();
    assert_eq!(again.cached_tokens, again.prompt_tokens - 1);
    assert_eq!(again.best, first.best);
    // What the answers left in the cache is not seen by the next request.
    let expected = Expected::read();
    let logits = engine.logits(&expected.prompt).unwrap();
    for (ours, theirs) in logits.iter().zip(expected.logits.last().unwrap()) {
        assert!((ours - theirs).abs() < 1e-4);
    }
}

#[test]
fn the_policy_decides_on_the_best_answer_as_if_it_had_been_generated() {
    let case = &cases()[0];
    let request = Request::user(&case.prompt);
    let by = options(Normalise::Tokens, false);
    let engine = engine_of(&fixtures().join("toy"));
    let choose = |threshold: f64| {
        let policy = Policy::new(Rule::ChowAverage, Threshold::new(threshold as f32).unwrap());
        engine.choose(&request, &texts(case), &by, Some(&policy)).unwrap()
    };
    let score = choose(0.0).answers.iter().map(|answer| answer.score).fold(f64::NEG_INFINITY, f64::max);
    assert_eq!(choose(score - 1e-3).decision.unwrap().verdict, Verdict::Keep);
    let deferred = choose(score + 1e-3);
    assert!(matches!(deferred.decision.unwrap().verdict, Verdict::Defer(_)));
    assert!((f64::from(deferred.decision.unwrap().score.unwrap().value()) - score).abs() < 1e-4);
    let generated =
        engine.generate(&request.max_tokens(1), None, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    assert_eq!(generated.cached_tokens, generated.prompt_tokens - 1, "choosing and generating share the prompt");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let request = Request::user("hello");
    let choose = |request: &Request, answers: &[&str]| {
        engine().choose(request, answers, &ChooseOptions::default(), None).unwrap_err().kind()
    };
    assert_eq!(choose(&request, &[]), ErrorKind::InvalidRequest);
    assert_eq!(choose(&request, &["yes", ""]), ErrorKind::InvalidRequest);
    assert_eq!(choose(&request, &vec!["a"; margay::MAX_CHOICES + 1]), ErrorKind::InvalidRequest);
    assert_eq!(choose(&request, &[&"weather ".repeat(700)]), ErrorKind::ContextOverflow);
    let cancel = Cancel::default();
    cancel.cancel();
    assert_eq!(choose(&request.clone().cancel(cancel), &["yes"]), ErrorKind::Cancelled);
    let raw = request.options(GenerateOptions { raw_prompt: true, ..GenerateOptions::default() });
    let one = engine().choose(&raw, &[" yes"], &ChooseOptions::default(), None).unwrap();
    assert_eq!((one.best, one.answers[0].probability), (0, 1.0));
}
