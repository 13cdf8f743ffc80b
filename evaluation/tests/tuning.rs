//! Rational tuning against scipy: `fixtures/tuning.py` says how each value was made.

use margay_evaluation::fit::{Calibrator, Spread};
use margay_evaluation::tuning::{Expected, JointModel, Marginal, kendall_tau};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    calibration: Vec<Calibration>,
    tau: Vec<Tau>,
    mixture: Mixture,
    expected: Vec<Case>,
    tuned: Vec<Tuned>,
}

#[derive(Deserialize)]
struct Calibration {
    spread: Spread,
    scores: Vec<f64>,
    right: Vec<bool>,
    slope: f64,
    intercept: f64,
}

#[derive(Deserialize)]
struct Tau {
    first: Vec<f64>,
    second: Vec<f64>,
    tau: f64,
}

#[derive(Deserialize)]
struct Mixture {
    values: Vec<f64>,
    log_likelihood: f64,
}

#[derive(Deserialize)]
struct Case {
    model: JointModel,
    thresholds: Vec<f64>,
    expected: Expected,
}

#[derive(Deserialize)]
struct Tuned {
    model: JointModel,
    price: f64,
    loss: f64,
}

fn fixture() -> serde_json::Result<Fixture> {
    serde_json::from_str(include_str!("fixtures/tuning.json"))
}

#[test]
fn logistic_calibration_of_spread_log_probabilities_equals_scipy() {
    for case in fixture().unwrap().calibration {
        let found = Calibrator::log_probability(&case.scores, &case.right, case.spread).unwrap();
        let Calibrator::LogProbability { slope, intercept, .. } = found else { panic!("{found:?}") };
        // As exactly as scipy's minimiser stops.
        assert!((slope - case.slope).abs() < 1e-6, "{slope}, scipy {}", case.slope);
        assert!((intercept - case.intercept).abs() < 1e-6, "{intercept}, scipy {}", case.intercept);
        assert!((0.0..=1.0).contains(&found.probability(0.0)), "certainty is a confidence too");
    }
}

#[test]
fn kendalls_tau_equals_scipy() {
    for case in fixture().unwrap().tau {
        let found = kendall_tau(&case.first, &case.second).unwrap();
        assert!((found - case.tau).abs() < 1e-12, "{found}, scipy {}", case.tau);
    }
}

/// The density by differences of the distribution function, as only that is public.
#[test]
fn the_mixture_is_as_likely_as_scipys() {
    let Mixture { values, log_likelihood } = fixture().unwrap().mixture;
    let marginal = Marginal::fit(&values).unwrap();
    let between = 1.0 - marginal.at_low - marginal.at_high;
    let inner = values.iter().filter(|x| **x > 0.0 && **x < 1.0);
    let log = |x: &f64| ((marginal.cdf(x + 1e-6) - marginal.cdf(x - 1e-6)) / 2e-6 / between).ln();
    let found: f64 = inner.map(log).sum();
    assert!(found > log_likelihood - 0.05, "{found}, scipy {log_likelihood}");
}

#[test]
fn what_thresholds_give_equals_quadrature() {
    for case in fixture().unwrap().expected {
        let found = case.model.expect(&case.thresholds).unwrap();
        let close = |a: f64, b: f64| (a - b).abs() < 2e-6 * (1.0 + b.abs());
        let Expected { deferral_rate, quality, cost } = case.expected;
        assert!(close(found.deferral_rate, deferral_rate), "{found:?} {:?}", case.expected);
        assert!(close(found.quality, quality), "{found:?} {:?}", case.expected);
        assert!(close(found.cost, cost), "{found:?} {:?}", case.expected);
    }
}

#[test]
fn tuned_thresholds_lose_no_more_than_scipys() {
    for case in fixture().unwrap().tuned {
        let Expected { quality, cost, .. } = case.model.tune(case.price).expected;
        let loss = 1.0 - quality + case.price * cost;
        assert!(loss < case.loss + 2e-6, "at {}: {loss}, scipy {}", case.price, case.loss);
    }
}
