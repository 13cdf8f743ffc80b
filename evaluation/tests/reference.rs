//! Measures against scikit-learn, scipy and numpy: `fixtures/measures.py` says how each value was made.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

mod python;

use margay_evaluation::measures::*;
use margay_evaluation::pairing::{Pair, Pairing};
use serde::Deserialize;
use serde_json::Value;

const BINS: usize = 10;

#[derive(Deserialize)]
struct Case {
    name: String,
    probability: Vec<f64>,
    small: Vec<f64>,
    large: Vec<f64>,
    small_flops: Vec<f64>,
    large_flops: Vec<f64>,
    auroc: Option<f64>,
    benefit_auroc: Option<f64>,
    fpr95: Option<f64>,
    aurc: f64,
    augrc: f64,
    ece_width: f64,
    ece_mass: f64,
    mce: f64,
    brier: f64,
    nll: f64,
    audc: f64,
    audc_ideal: f64,
    cost_interval: (f64, f64),
    aiq: f64,
    error_cost_area: f64,
    shares: Vec<f64>,
    cpt: Vec<Option<f64>>,
    rates: Vec<f64>,
    quality_at: Vec<f64>,
    flops_at: Vec<f64>,
}

fn fixed() -> serde_json::Result<Vec<Case>> {
    serde_json::from_str(include_str!("fixtures/measures.json"))
}

fn assert_close(case: &Case, measure: &str, ours: Option<f64>, theirs: impl Into<Option<f64>>) {
    let theirs = theirs.into();
    let close = match (ours, theirs) {
        (Some(ours), Some(theirs)) => (ours - theirs).abs() <= 1e-9 * theirs.abs().max(1.0),
        (ours, theirs) => ours == theirs,
    };
    assert!(close, "{measure} on `{}`: {ours:?}, reference {theirs:?}", case.name);
}

#[test]
fn measures_equal_scikit_learn_and_brute_force_in_numpy() {
    for case in fixed().unwrap() {
        confidence_measures(&case);
        deferral_curves(&case);
    }
}

/// Against the packages themselves, on cases that are made for the occasion.
#[test]
#[ignore = "installs scikit-learn and scipy (150 MB): `cargo test -p margay-evaluation --test reference -- --ignored`"]
fn measures_equal_scikit_learn_on_adversarial_cases() {
    for seed in 0..5 {
        let cases: Vec<Case> = serde_json::from_str(&python::run("measures.py", &[&seed.to_string()])).unwrap();
        assert_eq!(cases.len(), 240);
        for case in cases {
            confidence_measures(&case);
            deferral_curves(&case);
        }
    }
}

#[test]
#[ignore = "installs scikit-learn and scipy (150 MB): `cargo test -p margay-evaluation --test reference -- --ignored`"]
fn every_fixture_is_what_its_script_makes() {
    for name in ["measures", "fits", "guarantees", "tuning"] {
        let made: Value = serde_json::from_str(&python::run(&format!("{name}.py"), &[])).unwrap();
        let kept = std::fs::read_to_string(python::fixtures().join(format!("{name}.json"))).unwrap();
        assert_alike(name, &made, &serde_json::from_str(&kept).unwrap());
    }
}

fn confidence_measures(case: &Case) {
    let p = &case.probability;
    let right: Vec<bool> = case.small.iter().map(|quality| *quality >= 0.5).collect();
    let large_right: Vec<bool> = case.large.iter().map(|quality| *quality >= 0.5).collect();
    let losses: Vec<f64> = case.small.iter().map(|quality| 1.0 - quality).collect();
    assert_close(case, "auroc", auroc(p, &right), case.auroc);
    assert_close(case, "benefit auroc", benefit_auroc(p, &right, &large_right), case.benefit_auroc);
    assert_close(case, "fpr95", fpr95(p, &right), case.fpr95);
    assert_close(case, "aurc", aurc(p, &losses), case.aurc);
    assert_close(case, "augrc", augrc(p, &losses), case.augrc);
    assert_close(case, "ece, equal width", ece_width(p, &right, BINS), case.ece_width);
    assert_close(case, "ece, equal mass", ece_mass(p, &right, BINS), case.ece_mass);
    assert_close(case, "mce", mce(p, &right, BINS), case.mce);
    assert_close(case, "brier", brier(p, &right), case.brier);
    assert_close(case, "nll", nll(p, &right), case.nll);
}

fn deferral_curves(case: &Case) {
    let pairs = (0..case.probability.len()).map(|i| Pair {
        query: format!("{i}"),
        score: case.probability[i],
        small_quality: case.small[i],
        large_quality: case.large[i],
        small_flops: case.small_flops[i],
        large_flops: case.large_flops[i],
        small_latency_ms: None,
        large_latency_ms: None,
    });
    let pairing = Pairing::new(pairs.collect()).unwrap();
    let curve = pairing.curve();
    assert_close(case, "audc", Some(audc(&curve)), case.audc);
    assert_close(case, "ideal audc", Some(audc_ideal(&pairing)), case.audc_ideal);
    assert_close(case, "auroc of the sample", pairing.sample().auroc(), case.auroc);
    assert_close(case, "benefit auroc of the sample", pairing.sample().benefit_auroc(), case.benefit_auroc);
    let (low, high) = case.cost_interval;
    let points = || curve.points().iter().map(|point| (point.mean_flops, point.quality));
    assert_close(case, "aiq", aiq(points(), low, high), case.aiq);
    assert_close(case, "error-cost area", error_cost_area(points(), low, high), case.error_cost_area);
    for (share, expected) in case.shares.iter().zip(&case.cpt) {
        match expected {
            Some(expected) => assert_close(case, "cpt", cpt(&curve, *share), *expected),
            None => assert_eq!(cpt(&curve, *share), None, "{}", case.name),
        }
    }
    for ((rate, quality), flops) in case.rates.iter().zip(&case.quality_at).zip(&case.flops_at) {
        assert_close(case, "quality at a rate", Some(curve.at(*rate).quality), *quality);
        assert_close(case, "cost at a rate", Some(curve.at(*rate).mean_flops), *flops);
    }
}

/// The same document but for the last digits of its numbers, which another machine's arithmetic may round otherwise.
fn assert_alike(place: &str, made: &Value, kept: &Value) {
    match (made, kept) {
        (Value::Number(made), Value::Number(kept)) => {
            let (made, kept) = (made.as_f64().unwrap(), kept.as_f64().unwrap());
            assert!((made - kept).abs() <= 1e-9 * kept.abs().max(1.0), "{place}: {made}, kept {kept}");
        }
        (Value::Array(made), Value::Array(kept)) => {
            assert_eq!(made.len(), kept.len(), "{place}");
            made.iter().zip(kept).enumerate().for_each(|(at, (a, b))| assert_alike(&format!("{place}[{at}]"), a, b));
        }
        (Value::Object(made), Value::Object(kept)) => {
            assert!(made.keys().eq(kept.keys()), "{place}");
            made.iter().for_each(|(key, a)| assert_alike(&format!("{place}.{key}"), a, &kept[key]));
        }
        (made, kept) => assert_eq!(made, kept, "{place}"),
    }
}
