//! Measures against scikit-learn, scipy and numpy: `fixtures/measures.py` says how each value was made.

use margay_evaluation::measures::*;
use margay_evaluation::pairing::{Pair, Pairing};
use serde::Deserialize;

const BINS: usize = 10;

#[derive(Deserialize)]
struct Case {
    name: String,
    probability: Vec<f64>,
    small: Vec<f64>,
    large: Vec<f64>,
    small_flops: Vec<f64>,
    large_flops: Vec<f64>,
    auroc: f64,
    benefit_auroc: f64,
    fpr95: f64,
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
    cpt: Vec<Option<f64>>,
    rates: Vec<f64>,
    quality_at: Vec<f64>,
    flops_at: Vec<f64>,
}

fn cases() -> serde_json::Result<Vec<Case>> {
    serde_json::from_str(include_str!("fixtures/measures.json"))
}

fn assert_close(case: &Case, measure: &str, ours: Option<f64>, theirs: f64) {
    let close = ours.is_some_and(|ours| (ours - theirs).abs() <= 1e-9 * theirs.abs().max(1.0));
    assert!(close, "{measure} on `{}`: {ours:?}, reference {theirs}", case.name);
}

#[test]
fn confidence_measures_equal_scikit_learn() {
    for case in cases().unwrap() {
        let p = &case.probability;
        let right: Vec<bool> = case.small.iter().map(|quality| *quality >= 0.5).collect();
        let large_right: Vec<bool> = case.large.iter().map(|quality| *quality >= 0.5).collect();
        let losses: Vec<f64> = case.small.iter().map(|quality| 1.0 - quality).collect();
        assert_close(&case, "auroc", auroc(p, &right), case.auroc);
        assert_close(&case, "benefit auroc", benefit_auroc(p, &right, &large_right), case.benefit_auroc);
        assert_close(&case, "fpr95", fpr95(p, &right), case.fpr95);
        assert_close(&case, "aurc", aurc(p, &losses), case.aurc);
        assert_close(&case, "augrc", augrc(p, &losses), case.augrc);
        assert_close(&case, "ece, equal width", ece_width(p, &right, BINS), case.ece_width);
        assert_close(&case, "ece, equal mass", ece_mass(p, &right, BINS), case.ece_mass);
        assert_close(&case, "mce", mce(p, &right, BINS), case.mce);
        assert_close(&case, "brier", brier(p, &right), case.brier);
        assert_close(&case, "nll", nll(p, &right), case.nll);
    }
}

#[test]
fn deferral_curves_equal_brute_force_in_numpy() {
    for case in cases().unwrap() {
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
        assert_close(&case, "audc", Some(audc(&curve)), case.audc);
        assert_close(&case, "ideal audc", Some(audc_ideal(&pairing)), case.audc_ideal);
        assert_close(&case, "auroc of the sample", pairing.sample().auroc(), case.auroc);
        assert_close(&case, "benefit auroc of the sample", pairing.sample().benefit_auroc(), case.benefit_auroc);
        let (low, high) = case.cost_interval;
        let points = || curve.points().iter().map(|point| (point.mean_flops, point.quality));
        assert_close(&case, "aiq", aiq(points(), low, high), case.aiq);
        assert_close(&case, "error-cost area", error_cost_area(points(), low, high), case.error_cost_area);
        for (share, expected) in [0.2, 0.5, 0.8].into_iter().zip(&case.cpt) {
            match expected {
                Some(expected) => assert_close(&case, "cpt", cpt(&curve, share), *expected),
                None => assert_eq!(cpt(&curve, share), None, "{}", case.name),
            }
        }
        for ((rate, quality), flops) in case.rates.iter().zip(&case.quality_at).zip(&case.flops_at) {
            assert_close(&case, "quality at a rate", Some(curve.at(*rate).quality), *quality);
            assert_close(&case, "cost at a rate", Some(curve.at(*rate).mean_flops), *flops);
        }
    }
}
