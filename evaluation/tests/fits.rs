//! Learned rules and calibrators against scikit-learn and scipy: `fixtures/fits.py` says how each value was made.

use margay_evaluation::ErrorKind;
use margay_evaluation::fit::{Calibrator, LearnedRule, MAX_ROUTER_BITS, Route, Router};
use margay_evaluation::outcome::Outcome;
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    rules: Vec<RuleCase>,
    calibrations: Vec<CalibrationCase>,
    routers: Vec<RouterCase>,
}

#[derive(Deserialize)]
struct RuleCase {
    signals: Vec<String>,
    values: Vec<Vec<f64>>,
    small: Vec<f64>,
    large: Vec<f64>,
    penalty: f64,
    post_hoc: Vec<f64>,
    benefit: Vec<f64>,
}

#[derive(Deserialize)]
struct CalibrationCase {
    name: String,
    score: Vec<f64>,
    right: Vec<bool>,
    at: Vec<f64>,
    platt: (f64, f64),
    isotonic: Vec<f64>,
    histogram: Vec<f64>,
    temperature: f64,
}

#[derive(Deserialize)]
struct RouterCase {
    prompts: Vec<String>,
    right: Vec<bool>,
    bits: u32,
    penalty: f64,
    scores: Vec<f64>,
}

fn fixture() -> serde_json::Result<Fixture> {
    serde_json::from_str(include_str!("fixtures/fits.json"))
}

fn assert_close(what: &str, ours: f64, theirs: f64) {
    assert!((ours - theirs).abs() <= 1e-8 * theirs.abs().max(1.0), "{what}: {ours}, reference {theirs}");
}

fn rows(case: &RuleCase, model: &str, quality: &[f64]) -> Vec<Outcome> {
    let row = |(at, quality): (usize, &f64)| {
        let signals = case.signals.iter().cloned().zip(case.values[at].iter().copied()).collect();
        Outcome { signals, ..Outcome::new(format!("q{at}"), model, *quality) }
    };
    quality.iter().enumerate().map(row).collect()
}

#[test]
fn learned_rules_equal_scikit_learn() {
    for case in fixture().unwrap().rules {
        let (small, large) = (rows(&case, "small", &case.small), rows(&case, "large", &case.large));
        let (small, large): (Vec<&Outcome>, Vec<&Outcome>) = (small.iter().collect(), large.iter().collect());
        let signals: Vec<&str> = case.signals.iter().map(String::as_str).collect();
        let post_hoc = LearnedRule::post_hoc(&small, &signals, case.penalty).unwrap();
        let benefit = LearnedRule::benefit(&small, &large, &signals, case.penalty).unwrap();
        for (at, row) in small.iter().enumerate() {
            assert_close("post-hoc rule", post_hoc.score(*row).unwrap(), case.post_hoc[at]);
            assert_close("benefit rule", benefit.score(*row).unwrap(), case.benefit[at]);
        }
        let json = serde_json::to_string(&benefit).unwrap();
        assert_eq!(serde_json::from_str::<LearnedRule>(&json).unwrap(), benefit);
    }
}

#[test]
fn calibrators_equal_scikit_learn_and_scipy() {
    for case in fixture().unwrap().calibrations {
        let platt = Calibrator::platt(&case.score, &case.right).unwrap();
        let Calibrator::Platt { slope, intercept } = platt else { panic!("{platt:?}") };
        assert_close(&case.name, slope, case.platt.0);
        assert_close(&case.name, intercept, case.platt.1);
        let isotonic = Calibrator::isotonic(&case.score, &case.right).unwrap();
        let histogram = Calibrator::histogram(&case.score, &case.right, 10).unwrap();
        for ((at, of_isotonic), of_histogram) in case.at.iter().zip(&case.isotonic).zip(&case.histogram) {
            assert_close(&format!("isotonic, {} at {at}", case.name), isotonic.probability(*at), *of_isotonic);
            assert_close(&format!("histogram, {} at {at}", case.name), histogram.probability(*at), *of_histogram);
        }
        let temperature = Calibrator::temperature(&case.score, &case.right).unwrap();
        let Calibrator::Temperature { temperature } = temperature else { panic!("{temperature:?}") };
        assert_close(&case.name, temperature, case.temperature);
        let json = serde_json::to_string(&isotonic).unwrap();
        assert_eq!(serde_json::from_str::<Calibrator>(&json).unwrap(), isotonic);
    }
}

#[test]
fn a_router_equals_scikit_learn_on_features_made_twice() {
    for case in fixture().unwrap().routers {
        let prompts: Vec<&str> = case.prompts.iter().map(String::as_str).collect();
        let router = Router::fit(&prompts, &case.right, case.bits, case.penalty).unwrap();
        for (prompt, expected) in prompts.iter().zip(&case.scores) {
            assert_close(prompt, router.score(prompt), *expected);
        }
        let json = serde_json::to_string(&router).unwrap();
        assert_eq!(serde_json::from_str::<Router>(&json).unwrap(), router);
        assert!(router.score("never seen").is_finite());
        let deployed = router.to_policy().unwrap();
        for prompt in &prompts {
            let score = deployed.score(prompt).unwrap().value();
            assert!((f64::from(score) - router.score(prompt)).abs() < 1e-4, "but for rounding");
        }
    }
}

#[test]
fn calibrators_at_their_ends() {
    let right = [false, false, true, true];
    let isotonic = Calibrator::isotonic(&[1.0, 2.0, 3.0, 4.0], &right).unwrap();
    assert_eq!([0.0, 2.0, 2.5, 3.0, 9.0].map(|at| isotonic.probability(at)), [0.0, 0.0, 0.5, 1.0, 1.0]);
    let backwards = Calibrator::isotonic(&[4.0, 3.0, 2.0, 1.0], &right).unwrap();
    assert_eq!(backwards.probability(1.0), 0.5, "one pool of all");
    let certain = Calibrator::platt(&[1.0, 2.0, 3.0, 4.0], &right).unwrap();
    assert!(certain.probability(4.0) < 1.0, "smoothed targets keep a perfect score finite");
    let kinds = |scores: &[f64], right: &[bool]| {
        let fits = [
            Calibrator::platt(scores, right),
            Calibrator::isotonic(scores, right),
            Calibrator::histogram(scores, right, 2),
            Calibrator::temperature(scores, right),
        ];
        fits.map(|fit| fit.err().map(|error| error.kind()))
    };
    let invalid = Some(ErrorKind::Invalid);
    assert_eq!(kinds(&[0.1, 0.2], &[true, true]), [invalid; 4], "one class");
    assert_eq!(kinds(&[], &[]), [invalid; 4]);
    assert_eq!(kinds(&[0.1, f64::NAN], &[true, false]), [invalid; 4]);
    assert_eq!(kinds(&[0.3, 0.3], &[true, false]), [invalid, None, None, invalid], "equal scores");
    assert_eq!(kinds(&[0.2, 0.8], &[false, true]), [None, None, None, invalid], "the colder the better");
    assert_eq!(kinds(&[1.2, 0.8], &[false, true])[3], invalid, "no probability");
    assert!(Calibrator::histogram(&[0.1, 0.2], &[true, false], 0).is_err());
}

#[test]
fn rules_at_their_ends() {
    let row = |signal: f64, same: f64, quality: f64| Outcome {
        signals: [("x".to_owned(), signal), ("same".to_owned(), same)].into(),
        ..Outcome::new(format!("{signal}"), "small", quality)
    };
    let rows = [row(1.0, 0.3, 0.0), row(2.0, 0.3, 1.0), row(3.0, 0.3, 0.0), row(4.0, 0.3, 1.0)];
    let rows: Vec<&Outcome> = rows.iter().collect();
    let with = LearnedRule::post_hoc(&rows, &["x", "same"], 0.5).unwrap();
    let without = LearnedRule::post_hoc(&rows, &["x"], 0.5).unwrap();
    for row in &rows {
        assert_close(
            "a signal that never changes says nothing",
            with.score(*row).unwrap(),
            without.score(*row).unwrap(),
        );
    }
    let error = LearnedRule::post_hoc(&rows, &["y"], 1.0).unwrap_err();
    assert_eq!((error.kind(), error.column()), (ErrorKind::MissingValue, Some("signal.y")));
    assert_eq!(without.score(&Outcome::new("q", "small", 1.0)).unwrap_err().kind(), ErrorKind::MissingValue);
    assert_eq!(LearnedRule::post_hoc(&rows, &[], 1.0).unwrap_err().kind(), ErrorKind::Invalid);
    for penalty in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(LearnedRule::post_hoc(&rows, &["x"], penalty).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(Router::fit(&["a", "b"], &[true, false], 4, penalty).unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert_eq!(LearnedRule::post_hoc(&[] as &[&Outcome], &["x"], 1.0).unwrap_err().kind(), ErrorKind::Invalid);
    let separable = [rows[0], rows[1]];
    assert!(LearnedRule::post_hoc(&separable, &["x"], 1e-6).is_ok(), "a penalty keeps a perfect rule finite");
    assert_eq!(LearnedRule::benefit(&rows, &rows[1..], &["x"], 1.0).unwrap_err().kind(), ErrorKind::MissingPair);
    for bits in [0, MAX_ROUTER_BITS + 1] {
        assert_eq!(Router::fit(&["a", "b"], &[true, false], bits, 1.0).unwrap_err().kind(), ErrorKind::Invalid);
    }
}

/// Prompts about five things, of which the small model knows nothing of two.
fn asked(queries: usize) -> (Vec<String>, Vec<bool>) {
    let things = ["lights", "timers", "music", "taxes", "poems"];
    let prompt = |query: usize| format!("please tell me about the {} in room {query}", things[query * 7 % 5]);
    ((0..queries).map(prompt).collect(), (0..queries).map(|query| query * 7 % 5 < 3 || query % 19 == 0).collect())
}

#[test]
fn a_route_sends_away_the_share_that_was_asked_and_what_is_hopeless_first() {
    let (prompts, right) = asked(2000);
    let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
    for share in [0.0, 0.2, 0.4] {
        let route = Route::fit(&prompts, &right, 1.0, share).unwrap();
        assert!((400..600).contains(&route.sample_size), "a quarter: {}", route.sample_size);
        assert!(route.deferral_rate <= share && route.deferral_rate > share - 0.02, "{}", route.deferral_rate);
        // On prompts that it has never seen, in rooms that there are not.
        let others: Vec<String> = asked(1000).0.iter().map(|prompt| format!("{prompt}00")).collect();
        let sent: Vec<bool> = others.iter().map(|prompt| route.sends_away(prompt)).collect();
        let rate = sent.iter().filter(|sent| **sent).count() as f64 / 1000.0;
        assert!((rate - share).abs() < 0.08, "{rate} where {share} was asked");
        let hopeless = |prompt: &String| prompt.contains("taxes") || prompt.contains("poems");
        assert!(others.iter().zip(&sent).all(|(prompt, sent)| !sent || hopeless(prompt)), "{share}");
    }
    assert_eq!(Route::fit(&prompts, &right, 1.0, 1.5).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(Route::fit(&["a", "b"], &[true, false], 1.0, 0.5).unwrap_err().kind(), ErrorKind::Invalid);
}
