//! Answers that must look like something: whatever the toy would rather say, the text is valid, and its signals are the model's.
#![cfg(feature = "constrained")]
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

mod common;

use std::ops::ControlFlow;

use common::{Expected, engine};
use margay::policy::{Policy, Rule, Threshold};
use margay::{Constraint, ErrorKind, Finish, GenerateOptions, Generation, Request, Sampling};
use serde_json::{Value, json};

fn request(constraint: Constraint, sampling: Sampling) -> Request {
    let options = GenerateOptions { constraint: Some(constraint), sampling, ..GenerateOptions::default() };
    Request::messages(Expected::read().messages).max_tokens(200).options(options)
}

fn run(request: &Request) -> Generation {
    let mut streamed = String::new();
    let generation = engine()
        .generate(request, None, &mut |token| {
            streamed.push_str(token.text);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(generation.text, streamed);
    generation
}

#[test]
fn a_json_schema_is_kept_whatever_is_drawn() {
    let schema = json!({
        "type": "object",
        "properties": {
            "intent": {"enum": ["weather", "alarm"]},
            "sure": {"type": "boolean"},
            "count": {"type": "integer", "minimum": 1, "maximum": 12}
        },
        "required": ["intent", "sure", "count"],
        "additionalProperties": false
    });
    for seed in 0..12 {
        let sampling = Sampling { temperature: 1.5, seed: Some(seed), ..Sampling::default() };
        let generation = run(&request(Constraint::JsonSchema(schema.clone()), sampling));
        assert!(matches!(generation.finish, Finish::Complete | Finish::Stop), "{generation:?}");
        let value: Value = serde_json::from_str(&generation.text).unwrap();
        assert!(["weather", "alarm"].contains(&value["intent"].as_str().unwrap()));
        assert!(value["sure"].is_boolean());
        assert!((1..=12).contains(&value["count"].as_i64().unwrap()));
        assert_eq!(value.as_object().unwrap().len(), 3);
    }
}

#[test]
fn a_regular_expression_is_matched_whole_and_signals_are_the_models_own() {
    let generation = run(&request(Constraint::Regex("[a-c]{2}🐈(x|yz)+!".into()), Sampling::default()));
    let text = generation.text.as_str();
    assert!(regex::Regex::new("^[a-c]{2}🐈(x|yz)+!$").unwrap().is_match(text), "{text}");
    // The log-probability of each token is that under the whole vocabulary: the same logits give the same without a constraint.
    let mut ids = engine().encode_prompt(&Expected::read().messages).unwrap();
    for (id, signals) in generation.token_ids.iter().zip(&generation.signals) {
        let logits = engine().logits(&ids).unwrap();
        let expected = margay::policy::TokenSignals::from_logits(&logits, *id as usize).unwrap();
        assert!((signals.log_probability - expected.log_probability).abs() < 1e-4);
        assert!((signals.entropy - expected.entropy).abs() < 1e-4);
        ids.push(*id);
    }
    // So a policy sees how little the model wanted to say this.
    let policy = Policy::new(Rule::ChowAverage, Threshold::new(-0.5).unwrap());
    let forced = request(Constraint::Regex("qqqqqqqqqqqqqqqqqqqq".into()), Sampling::default());
    let deferred = engine().generate(&forced, Some(&policy), &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(!deferred.decision.unwrap().verdict.is_keep());
}

#[test]
fn a_constraint_that_makes_no_sense_is_refused() {
    for constraint in [Constraint::Regex("(".into()), Constraint::JsonSchema(json!({"type": "nonsense"}))] {
        let error = engine()
            .generate(&request(constraint, Sampling::default()), None, &mut |_| ControlFlow::Continue(()))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
    }
}
