//! Policies in JSON: what is written is read back, what is malformed is refused by name.
#![cfg(feature = "serde")]

use margay_policy::{Percent, Policy, Reason, Rule, Threshold, Verdict};

fn read(json: &str) -> Result<Policy<2>, String> {
    serde_json::from_str(json).map_err(|error| error.to_string())
}

#[test]
fn a_policy_is_read_back() {
    let rule = Rule::Quantile(Percent::new(10).unwrap());
    let policy: Policy<2> = Policy::new(rule, Threshold::new(-0.5).unwrap())
        .with_task("alarm", Threshold::DEFER_ALL)
        .unwrap()
        .with_task("wetter in \"Köln\"", Threshold::new(-0.1).unwrap())
        .unwrap();
    let json = serde_json::to_string(&policy).unwrap();
    assert_eq!(json, r#"{"rule":{"quantile":10},"default":-0.5,"tasks":{"alarm":"inf","wetter in \"Köln\"":-0.1}}"#);
    assert_eq!(read(&json).unwrap(), policy);
}

#[test]
fn learned_rules_are_read_back() {
    for rule in [
        r#"{"linear":{"intercept":2.5,"weights":{"quantile-10":0.5,"chow-average":-1.25}}}"#,
        r#"{"calibrated":{"linear":{"intercept":0.0,"weights":{"chow-sum":1.0}},"map":{"scores":[-1.5,0.0],"values":[0.25,0.9]}}}"#,
        r#"{"benefit":{"small":{"intercept":1.0,"weights":{"minimum":1.0}},"large":{"intercept":0.1,"weights":{"mean-margin":3.0}}}}"#,
    ] {
        let json = format!(r#"{{"rule":{rule},"default":-0.5,"tasks":{{}}}}"#);
        let policy = read(&json).unwrap();
        assert_eq!(serde_json::to_string(&policy).unwrap(), json);
    }
}

#[test]
fn malformed_learned_rules_are_refused_by_name() {
    let weights = |weights: &str| format!(r#"{{"linear": {{"intercept": 0, "weights": {weights}}}}}"#);
    let many: Vec<String> = (0..17).map(|level| format!("\"quantile-{level}\": 1")).collect();
    let map = |map: &str| {
        format!(r#"{{"calibrated": {{"linear": {{"intercept": 0, "weights": {{"minimum": 1}}}}, "map": {map}}}}}"#)
    };
    for (rule, complaint) in [
        (weights("{}"), "needs a feature"),
        (weights(r#"{"minimum": 1, "minimum": 2}"#), "feature `minimum` has two weights"),
        (weights(r#"{"minimm": 1}"#), "`minimm` is no feature"),
        (weights(r#"{"quantile-101": 1}"#), "`quantile-101` is no feature"),
        (weights(&format!("{{{}}}", many.join(","))), "more than 16 features"),
        (map(r#"{"scores": [0, 1], "values": [0.5]}"#), "as many values as scores"),
        (map(r#"{"scores": [0, 1], "values": [0.5, 0.25]}"#), "must have rising scores"),
        (map(r#"{"scores": [], "values": []}"#), "a map a knot"),
    ] {
        let error = read(&format!(r#"{{"rule": {rule}, "default": 0}}"#)).unwrap_err();
        assert!(error.contains(complaint), "{rule}: {error}");
    }
    // With some of its features serde_json refuses the number itself, with others the rule does.
    let beyond = weights(r#"{"minimum": 1e39}"#);
    assert!(read(&format!(r#"{{"rule": {beyond}, "default": 0}}"#)).is_err());
}

#[test]
fn tasks_may_be_left_out() {
    let policy = read(r#"{"rule": "chow-average", "default": "-inf"}"#).unwrap();
    assert_eq!(policy, Policy::new(Rule::ChowAverage, Threshold::KEEP_ALL));
}

#[test]
fn malformed_policies_are_refused_by_name() {
    let long = "x".repeat(33);
    let long = format!(r#"{{"rule": "minimum", "default": 0, "tasks": {{"{long}": 0}}}}"#);
    for (json, complaint) in [
        (r#"{"rule": "minimum", "default": 0, "tasks": {"a": 1, "a": 2}}"#, "task `a` has two thresholds"),
        (r#"{"rule": "minimum", "default": 0, "tasks": {"a": 1, "b": 2, "c": 3}}"#, "more than 2 tasks"),
        (r#"{"rule": "minimum", "default": 0, "tasks": {"": 1}}"#, "name is empty"),
        (long.as_str(), "33 bytes is longer than 32"),
        (r#"{"rule": "minimum", "default": 0, "taks": {}}"#, "unknown field `taks`"),
        (r#"{"rule": "minimum"}"#, "missing field `default`"),
        (r#"{"rule": "chow", "default": 0}"#, "unknown variant `chow`"),
        (r#"{"rule": {"quantile": 101}, "default": 0}"#, "from 0 to 100 per cent"),
        (r#"{"rule": "minimum", "default": "nan"}"#, "expected a number, \"-inf\" or \"inf\""),
    ] {
        let error = read(json).unwrap_err();
        assert!(error.contains(complaint), "{json}: {error}");
    }
}

#[test]
fn reasons_are_the_same_words_in_json_and_in_logs() {
    use Reason::*;
    let of_answers = [LowConfidence, EarlyLowConfidence, Routed, NoTokens, Unscorable];
    for reason in of_answers.into_iter().chain([Offline, BreakerOpen, OverBudget, LocalOnly]) {
        assert_eq!(serde_json::to_string(&reason).unwrap(), format!("\"{reason}\""));
    }
    assert_eq!(serde_json::to_string(&Verdict::Defer(Offline)).unwrap(), r#"{"defer":"offline"}"#);
    assert_eq!(Verdict::Defer(LowConfidence).without_cloud(LocalOnly), Verdict::Abstain(LocalOnly));
    assert_eq!(Verdict::Keep.without_cloud(LocalOnly), Verdict::Keep);
}
